//! `ckd-det eval --gt GT.json --dt RESULTS.json [--json]`: scores any COCO results file.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use clap::ValueEnum;

use crate::data::{Instances, coco};
use crate::eval::{self, Detection, EvalError, GroundTruth, Results};
use crate::report::progress::tell;

/// Extent of the printed summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Summary {
    /// The twelve numbers, AP by class, rows that were left out, time
    Full,
    /// The twelve lines of pycocotools' summarize(), byte for byte, and no other
    Pycocotools,
}

/// Scores the results file `dt` against the annotation file `gt` and prints pycocotools' twelve lines,
/// and remarks, the lines alone as `summary` says, or, with `json`, one JSON object `{"stats": [the 12 numbers], ...}`. `max_dets` are the three limits of
/// detections an image and class. A row that names a file is on the image of that name.
///
/// # Errors
/// A file that cannot be read or is not what it should be; detections of images that `gt` does not list.
pub(super) fn run(
    gt: &Path,
    dt: &Path,
    max_dets: Option<[usize; 3]>,
    (json, summary): (bool, Summary),
) -> anyhow::Result<()> {
    let instances = coco::read(gt).map_err(EvalError::from)?;
    let truth = GroundTruth::of(&instances)?;
    let detections = Results::read(dt)?.on(&instances)?;
    if let Some(note) = reaching_outside(&instances, &detections) {
        tell(&note);
    }
    let mut options = eval::Options::default();
    options.max_dets = max_dets.unwrap_or(options.max_dets);
    let metrics = eval::evaluate(&truth, &detections, &options)?;
    // Not `print!`, which panics when the reader of a pipe has gone.
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&metrics)?)?;
    } else if summary == Summary::Pycocotools {
        write!(out, "{}", metrics.summary())?;
    } else {
        write!(out, "{metrics}")?;
    }
    Ok(())
}

/// A note if more than a tenth of the detections reach outside their images by more than rounding: another size, or another
/// side up.
fn reaching_outside(instances: &Instances, detections: &[Detection]) -> Option<String> {
    let sized = instances.images.iter().filter(|image| image.width > 0 && image.height > 0);
    let sizes: HashMap<u64, [f64; 2]> =
        sized.map(|image| (image.id, [f64::from(image.width), f64::from(image.height)])).collect();
    let is_outside = |detection: &&Detection| {
        let Some(size) = sizes.get(&detection.image_id) else { return false };
        let [x, y, width, height] = detection.bbox;
        [(x, width), (y, height)].into_iter().zip(size).any(|((start, length), side)| {
            let slack = 1.0 + 0.02 * side;
            start < -slack || start + length > side + slack
        })
    };
    let (outside, all) = (detections.iter().filter(is_outside).count(), detections.len());
    (10 * outside > all).then(|| {
        format!(
            "note: {outside} of the {all} detections reach outside their images: were they made on images of another size, \
             or on images that EXIF turns? `ckd-det predict --annotations GT` looks at the pixels that were annotated"
        )
    })
}
