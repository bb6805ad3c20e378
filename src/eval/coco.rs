//! COCO box average precision and recall (T.-Y. Lin et al., "Microsoft COCO", 2014; the rules are
//! `pycocotools/cocoeval.py`'s).
//!
//! hotcoco matches detections to boxes and makes the precision-recall curves. The means over them are
//! taken here: the same curves also give AP by IoU threshold and by class, and nothing is printed.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use hotcoco::params::IouType;
use hotcoco::{AccumulatedEval, Annotation, COCOeval};
use serde::Serialize;

use super::ground_truth::{GroundTruth, dataset};
use super::{Detection, EvalError};

/// The twelve numbers of [`BoxMetrics::stats`] by name.
pub const STAT_NAMES: [&str; 12] =
    ["AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L"];

/// Options of [`evaluate`]; the default is COCO's protocol.
#[derive(Clone, Debug)]
pub struct Options {
    /// At most this many of the best-scored detections per image and class: the limits of AR1, AR10, AR100
    /// in ascending order. The last one also rules every AP (pycocotools reports -1 as its first number
    /// when that is not 100).
    pub max_dets: [usize; 3],
    /// Class-wise matching (COCO's), or classes pooled.
    pub categories: Categories,
    /// Score these images only.
    pub image_ids: Option<Vec<u64>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_dets: [1, 10, 100], categories: Categories::default(), image_ids: None }
    }
}

/// Treatment of classes in the score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Categories {
    /// Each class is measured alone, then the mean is taken.
    #[default]
    Separate,
    /// Classes are ignored: is there an object or not (pycocotools' `useCats = 0`).
    Pooled,
}

/// COCO's numbers for one set of detections; -1 wherever there was nothing to measure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BoxMetrics {
    /// In pycocotools' order, see [`STAT_NAMES`]: fractions from 0 to 1.
    pub stats: [f64; 12],
    /// Each class of the ground truth, by category id; empty for [`Categories::Pooled`].
    pub per_class: Vec<ClassAp>,
    /// AP at IoU .50, .55, ..., .95.
    pub ap_per_iou: [f64; 10],
    /// The detection limits the recalls were taken at.
    pub max_dets: [usize; 3],
    /// Rows that could not count.
    pub left_out: LeftOut,
}

/// AP of a class in [`BoxMetrics`], over all box sizes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassAp {
    /// The category's id in the annotation file.
    pub category_id: u64,
    /// The category's name in the annotation file.
    pub name: String,
    /// Average precision, mean over the ten IoU thresholds.
    pub ap: f64,
    /// Average precision at IoU .50.
    pub ap50: f64,
    /// Recall with all detections that are allowed (100), mean over the ten IoU thresholds.
    pub ar100: f64,
}

/// Rows that have no place in the data set, and so do not count: pycocotools skips them without a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Detections of a category that the ground truth does not list.
    pub detections_of_unlisted_category: usize,
    /// Annotations of a category that the ground truth does not list.
    pub annotations_of_unlisted_category: usize,
    /// Annotations of an image that the ground truth does not list.
    pub annotations_of_unlisted_image: usize,
    /// Annotations that the ground truth lists a second time.
    pub repeated_annotations: usize,
}

/// Scores `detections` against `truth`. Ties in score are ranked by image id, then by their order in the
/// list.
///
/// ```
/// use ckd_det::data::Instances;
/// use ckd_det::eval::{Detection, GroundTruth, Options, evaluate};
///
/// let mut instances = Instances::of_classes(["cat"]);
/// let image_id = instances.push_image("cat.jpg", (640, 480), [(0, [100.0, 100.0, 200.0, 150.0])]);
/// let truth = GroundTruth::of(&instances)?;
/// let bbox = [101.0, 100.0, 199.0, 150.0]; // x, y, width, height
/// let found = [Detection { image_id, category_id: 1, bbox, score: 0.9 }];
/// let metrics = evaluate(&truth, &found, &Options::default())?;
/// assert!((metrics.stats[0] - 1.0).abs() < 1e-12); // AP
/// # Ok::<(), ckd_det::eval::EvalError>(())
/// ```
///
/// # Errors
/// [`EvalError::UnknownImage`] for a detection on an image the ground truth does not list,
/// [`EvalError::UnknownSubsetImage`], [`EvalError::NotFinite`] for a NaN or infinite score or coordinate.
pub fn evaluate(
    truth: &GroundTruth,
    detections: &[Detection],
    options: &Options,
) -> Result<BoxMetrics, EvalError> {
    let Prepared { mut evaluation, left_out, max_dets } = prepared(truth, detections, options)?;
    evaluation.evaluate()?;
    evaluation.accumulate();
    let curves = Curves(evaluation.accumulated().expect("accumulate() has just run").clone());
    let per_class = match options.categories {
        Categories::Separate => curves.per_class(&truth.categories),
        Categories::Pooled => Vec::new(),
    };
    Ok(BoxMetrics {
        stats: curves.stats(),
        per_class,
        ap_per_iou: std::array::from_fn(|t| curves.precision(t..t + 1, curves.all_classes(), ALL, 2)),
        max_dets,
        left_out,
    })
}

/// Detections and truth, ready to be matched.
pub(super) struct Prepared {
    pub(super) evaluation: COCOeval,
    left_out: LeftOut,
    max_dets: [usize; 3],
}

/// Detections and truth of the images that `options` name, without rows that cannot count.
///
/// # Errors
/// As [`evaluate`].
pub(super) fn prepared(
    truth: &GroundTruth,
    detections: &[Detection],
    options: &Options,
) -> Result<Prepared, EvalError> {
    let subset = subset(truth, options)?;
    let mut left_out = LeftOut {
        annotations_of_unlisted_category: truth.without_category,
        annotations_of_unlisted_image: truth.without_image,
        repeated_annotations: truth.repeated,
        ..LeftOut::default()
    };
    let mut rows = Vec::with_capacity(detections.len());
    for (index, detection) in detections.iter().enumerate() {
        check(truth, index, detection)?;
        if truth.categories.binary_search_by_key(&detection.category_id, |(id, _)| *id).is_err() {
            left_out.detections_of_unlisted_category += 1;
        } else if subset.as_ref().is_none_or(|wanted| wanted.contains(&detection.image_id)) {
            rows.push(annotation(rows.len(), detection));
        }
    }
    let (images, gt) = match &subset {
        Some(wanted) => (wanted, truth.subset(wanted)),
        None => (&truth.images, Arc::clone(&truth.coco)),
    };
    let dt = dataset(images.iter().copied(), &truth.categories, rows);

    let mut max_dets = options.max_dets;
    max_dets.sort_unstable();
    let mut evaluation = COCOeval::new(gt, dt, IouType::Bbox);
    evaluation.params.max_dets = max_dets.to_vec();
    evaluation.params.use_cats = options.categories == Categories::Separate;
    Ok(Prepared { evaluation, left_out, max_dets })
}

fn subset(truth: &GroundTruth, options: &Options) -> Result<Option<BTreeSet<u64>>, EvalError> {
    let Some(ids) = &options.image_ids else { return Ok(None) };
    match ids.iter().find(|id| !truth.images.contains(id)) {
        Some(&image_id) => Err(EvalError::UnknownSubsetImage { image_id }),
        None => Ok(Some(ids.iter().copied().collect())),
    }
}

fn check(truth: &GroundTruth, index: usize, detection: &Detection) -> Result<(), EvalError> {
    let &Detection { image_id, bbox, score, .. } = detection;
    if !truth.images.contains(&image_id) {
        return Err(EvalError::UnknownImage { index, image_id });
    }
    if !score.is_finite() {
        return Err(EvalError::NotFinite { index, image_id, what: "score", value: score });
    }
    match bbox.into_iter().find(|value| !value.is_finite()) {
        Some(value) => Err(EvalError::NotFinite { index, image_id, what: "bbox", value }),
        None => Ok(()),
    }
}

fn annotation(row: usize, detection: &Detection) -> Annotation {
    let [_, _, width, height] = detection.bbox;
    Annotation {
        id: row as u64 + 1,
        image_id: detection.image_id,
        category_id: detection.category_id,
        bbox: Some(detection.bbox),
        area: Some(width * height),
        score: Some(detection.score),
        ..Annotation::default()
    }
}

/// Precision at 101 recalls and the greatest recall, by IoU threshold, class, box size and detection limit.
struct Curves(AccumulatedEval);

/// Box sizes in hotcoco's order, which is pycocotools': all, small, medium, large.
const ALL: usize = 0;

impl Curves {
    fn all_classes(&self) -> std::ops::Range<usize> {
        0..self.0.shape.k
    }

    fn stats(&self) -> [f64; 12] {
        let (every, k) = (0..self.0.shape.t, self.all_classes());
        let ap = |t: std::ops::Range<usize>, size| self.precision(t, k.clone(), size, 2);
        let ar = |size, limit| self.recall(every.clone(), k.clone(), size, limit);
        [
            ap(every.clone(), ALL),
            ap(0..1, ALL),
            ap(5..6, ALL),
            ap(every.clone(), 1),
            ap(every.clone(), 2),
            ap(every.clone(), 3),
            ar(ALL, 0),
            ar(ALL, 1),
            ar(ALL, 2),
            ar(1, 2),
            ar(2, 2),
            ar(3, 2),
        ]
    }

    fn per_class(&self, categories: &[(u64, String)]) -> Vec<ClassAp> {
        // hotcoco's class axis is the category ids ascending, as `categories` is.
        let every = 0..self.0.shape.t;
        categories
            .iter()
            .enumerate()
            .map(|(k, (category_id, name))| ClassAp {
                category_id: *category_id,
                name: name.clone(),
                ap: self.precision(every.clone(), k..k + 1, ALL, 2),
                ap50: self.precision(0..1, k..k + 1, ALL, 2),
                ar100: self.recall(every.clone(), k..k + 1, ALL, 2),
            })
            .collect()
    }

    fn precision(
        &self,
        t: std::ops::Range<usize>,
        k: std::ops::Range<usize>,
        size: usize,
        limit: usize,
    ) -> f64 {
        let Curves(AccumulatedEval { precision, shape, .. }) = self;
        let points = t.flat_map(|t| (0..shape.r).map(move |r| (t, r)));
        mean(
            points.flat_map(|(t, r)| {
                k.clone().map(move |k| precision[shape.precision_idx(t, r, k, size, limit)])
            }),
        )
    }

    fn recall(&self, t: std::ops::Range<usize>, k: std::ops::Range<usize>, size: usize, limit: usize) -> f64 {
        let Curves(AccumulatedEval { recall, shape, .. }) = self;
        mean(t.flat_map(|t| k.clone().map(move |k| recall[shape.recall_idx(t, k, size, limit)])))
    }
}

/// The mean of the values that were measured, -1 if none was.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values
        .filter(|&value| value > -1.0)
        .fold((0.0, 0u64), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { -1.0 } else { sum / count as f64 }
}

impl BoxMetrics {
    /// The twelve lines that pycocotools' `COCOeval.summarize()` prints, byte for byte with COCO's limits of detections.
    pub fn summary(&self) -> String {
        let [one, ten, most] = self.max_dets;
        let rows = [
            ("0.50:0.95", "all", most),
            ("0.50", "all", most),
            ("0.75", "all", most),
            ("0.50:0.95", "small", most),
            ("0.50:0.95", "medium", most),
            ("0.50:0.95", "large", most),
            ("0.50:0.95", "all", one),
            ("0.50:0.95", "all", ten),
            ("0.50:0.95", "all", most),
            ("0.50:0.95", "small", most),
            ("0.50:0.95", "medium", most),
            ("0.50:0.95", "large", most),
        ];
        let mut lines = String::new();
        for (row, ((iou, size, limit), value)) in rows.into_iter().zip(self.stats).enumerate() {
            let title = if row < 6 { "Average Precision  (AP)" } else { "Average Recall     (AR)" };
            lines +=
                &format!(" {title} @[ IoU={iou:<9} | area={size:>6} | maxDets={limit:>3} ] = {value:0.3}\n");
        }
        lines
    }
}

/// The summary, then what was left out, if anything was.
impl fmt::Display for BoxMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())?;
        if self.stats[0] < 0.0 {
            writeln!(f, " nothing to measure: there is no box to find (-1 stands for that)")?;
        }
        let LeftOut {
            detections_of_unlisted_category,
            annotations_of_unlisted_category,
            annotations_of_unlisted_image,
            repeated_annotations,
        } = self.left_out;
        for (count, what) in [
            (detections_of_unlisted_category, "detections of categories that the ground truth does not list"),
            (
                annotations_of_unlisted_category,
                "annotations of categories that the ground truth does not list",
            ),
            (annotations_of_unlisted_image, "annotations of images that the ground truth does not list"),
            (repeated_annotations, "annotations that the ground truth lists a second time"),
        ] {
            if count > 0 {
                writeln!(f, " not counted: {count} {what}")?;
            }
        }
        Ok(())
    }
}
