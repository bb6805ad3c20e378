//! From head outputs to the detections of an image.
//!
//! torchvision's `RoIHeads.postprocess_detections` (Faster R-CNN: softmax with background in column 0, a box
//! for each class) and `RetinaNet.postprocess_detections` (sigmoid, a box for each anchor).

use ckd_kernels::boxes::{DetectionRules, Found};
use ckd_kernels::ranking::Best;
use ckd_settings::choices;

use crate::box_coder::{BoxCoder, LARGEST_LOG_RATIO};
use crate::boxes::{self, GeometryError, Xyxy};
use crate::nms::{batched_nms_first, largest_f32_up_to};
use crate::proposals::sigmoid;
use crate::retinanet::RetinaSettings;
use crate::roi_heads::RoiConfig;

/// The side in pixels that a clipped detection of Faster R-CNN must reach.
const MIN_SIZE: f32 = 1e-2;

/// The detections of one image by descending score.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Detections {
    /// Boxes, clipped to the image.
    pub boxes: Vec<Xyxy>,
    /// Probabilities.
    pub scores: Vec<f32>,
    /// Foreground class indices, 0..K: no background.
    pub labels: Vec<u32>,
}

impl Detections {
    /// Number of detections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.boxes.len()
    }

    /// Whether nothing was detected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.boxes.is_empty()
    }

    /// Maps the detections to an image of another size: `from_hw` is the network's input (height, width,
    /// without padding), `to_hw` usually the original image.
    ///
    /// # Errors
    /// When `from_hw` has no pixels.
    pub fn resized(mut self, from_hw: (usize, usize), to_hw: (usize, usize)) -> Result<Self, GeometryError> {
        boxes::resize(&mut self.boxes, from_hw, to_hw)?;
        Ok(self)
    }

    /// Detections of a GPU.
    pub(crate) fn of(found: &[Found]) -> Self {
        Self {
            boxes: found.iter().map(|found| found.corners).collect(),
            scores: found.iter().map(|found| found.score).collect(),
            labels: found.iter().map(|found| found.label).collect(),
        }
    }

    pub(crate) fn push(&mut self, b: Xyxy, score: f32, label: u32) {
        self.boxes.push(b);
        self.scores.push(score);
        self.labels.push(label);
    }

    /// Clips the detections to the image and drops those outside.
    fn clipped(self, image_hw: (usize, usize)) -> Self {
        let mut detections = Self::default();
        for ((b, &score), &label) in self.boxes.iter().zip(&self.scores).zip(&self.labels) {
            let clipped = boxes::clip(b, image_hw);
            if clipped[2] > clipped[0] && clipped[3] > clipped[1] {
                detections.push(clipped, score, label);
            }
        }
        detections
    }

    /// The best `limit` that survive suppression within each class.
    pub(crate) fn suppressed(&self, nms_threshold: f64, limit: usize) -> Result<Self, GeometryError> {
        let kept = batched_nms_first(&self.boxes, &self.scores, &self.labels, nms_threshold, limit)?;
        let mut detections = Self::default();
        for k in kept {
            detections.push(self.boxes[k], self.scores[k], self.labels[k]);
        }
        Ok(detections)
    }
}

impl RoiConfig {
    /// Detections of one image. Labels are foreground indices: logit column minus 1.
    ///
    /// # Shapes
    /// R `proposals`, `class_logits` (R, K + 1) with background in column 0, `box_regression`
    /// (R, (K + 1) * 4) to be decoded by `coder`; `image_hw` is the image's (height, width) without padding.
    ///
    /// # Errors
    /// When the lengths don't fit together.
    pub fn detect(
        &self,
        class_logits: &[f32],
        box_regression: &[f32],
        proposals: &[Xyxy],
        coder: &BoxCoder,
        image_hw: (usize, usize),
    ) -> Result<Detections, GeometryError> {
        let columns = columns("class logits of the box head", class_logits, proposals.len())?;
        GeometryError::check_length(
            "box regression of the box head",
            4 * class_logits.len(),
            box_regression.len(),
        )?;
        if columns == 0 {
            return Ok(Detections::default());
        }
        let (deltas, _) = box_regression.as_chunks::<4>();
        let threshold = self.score_threshold as f32;
        let mut candidates = Detections::default();
        let mut probabilities = vec![0.0; columns];
        let rows = class_logits.chunks_exact(columns).zip(deltas.chunks_exact(columns)).zip(proposals);
        for ((logits, deltas), proposal) in rows {
            softmax_into(logits, &mut probabilities);
            for (label, (&score, deltas)) in (0_u32..).zip(probabilities.iter().zip(deltas).skip(1)) {
                if score > threshold {
                    let clipped = boxes::clip(&coder.decode(deltas, proposal), image_hw);
                    if boxes::is_large_enough(&clipped, MIN_SIZE) {
                        candidates.push(clipped, score, label);
                    }
                }
            }
        }
        candidates.suppressed(self.nms_threshold, self.detections_per_image)
    }

    /// These rules, as detections are made by on a GPU.
    pub(crate) fn rules(&self) -> DetectionRules {
        DetectionRules {
            per_image: self.detections_per_image,
            iou: largest_f32_up_to(self.nms_threshold),
            score: (self.score_threshold as f32).next_up(),
            side: MIN_SIZE,
            clips: true,
            log_ratio: Some(LARGEST_LOG_RATIO),
        }
    }
}

choices! {
    /// Time of clipping detections to the image: before or after NMS.
    pub enum Clip {
        /// Clips detections as soon as they are decoded: torchvision.
        BeforeNms = "before_nms",
        /// Clips the final detections and drops those without area: Detectron2.
        AfterNms = "after_nms",
    }
}

/// The outputs of RetinaNet's head for one level of one image.
///
/// # Shapes
/// A `anchors`, `class_logits` (A, K), `box_regression` (A, 4).
#[derive(Debug, Clone, Copy)]
pub struct RetinaLevel<'a> {
    /// Class logits, one for each anchor and class.
    pub class_logits: &'a [f32],
    /// dx, dy, dw, dh of each anchor, coder weights 1.
    pub box_regression: &'a [f32],
    /// The level's anchors.
    pub anchors: &'a [Xyxy],
}

impl RetinaSettings {
    /// Detections of one image; a label is its logit column. `image_hw` is (height, width) without padding.
    ///
    /// # Errors
    /// When the lengths within a level don't fit together.
    pub fn detect(
        &self,
        levels: &[RetinaLevel<'_>],
        image_hw: (usize, usize),
    ) -> Result<Detections, GeometryError> {
        let (mut classes, mut best) = (0, Vec::with_capacity(levels.len()));
        for level in levels {
            let columns =
                columns("class logits of the RetinaNet head", level.class_logits, level.anchors.len())?;
            let what = "box regression of the RetinaNet head";
            GeometryError::check_length(what, 4 * level.anchors.len(), level.box_regression.len())?;
            let floor = logit_floor(self.score_threshold);
            let RetinaLevel { class_logits, box_regression, .. } = *level;
            best.push(Best::of(class_logits, columns, box_regression, self.topk_candidates, floor));
            classes = classes.max(columns);
        }
        self.among(best.iter().zip(levels.iter().map(|level| level.anchors)), classes, image_hw)
    }

    /// Detections of one image among the best logits of each level, whose companion are the deltas.
    ///
    /// # Errors
    /// None for boxes and scores of one length.
    pub(crate) fn among<'a>(
        &self,
        best: impl Iterator<Item = (&'a Best, &'a [Xyxy])>,
        classes: usize,
        image_hw: (usize, usize),
    ) -> Result<Detections, GeometryError> {
        let mut candidates = Detections::default();
        for (best, anchors) in best {
            let (deltas, _) = best.rows.as_chunks::<4>();
            for ((&place, &logit), deltas) in best.places.iter().zip(&best.values).zip(deltas) {
                let score = sigmoid(logit);
                if score > self.score_threshold as f32 {
                    let (anchor, label) = (place as usize / classes, place as usize % classes);
                    let decoded = BoxCoder::ANCHORS.decode(deltas, &anchors[anchor]);
                    let seen = match self.clip {
                        Clip::BeforeNms => boxes::clip(&decoded, image_hw),
                        Clip::AfterNms => decoded,
                    };
                    candidates.push(seen, score, label as u32);
                }
            }
        }
        let kept = candidates.suppressed(self.nms_threshold, self.detections_per_image)?;
        Ok(self.seen(kept, image_hw))
    }

    /// Detections that survived suppression, within the image.
    pub(crate) fn seen(&self, kept: Detections, image_hw: (usize, usize)) -> Detections {
        match self.clip {
            Clip::BeforeNms => kept,
            Clip::AfterNms => kept.clipped(image_hw),
        }
    }

    /// These rules, as detections are made by on a GPU.
    pub(crate) fn rules(&self) -> DetectionRules {
        DetectionRules {
            per_image: self.detections_per_image,
            iou: largest_f32_up_to(self.nms_threshold),
            score: (self.score_threshold as f32).next_up(),
            side: f32::NEG_INFINITY,
            clips: self.clip == Clip::BeforeNms,
            log_ratio: Some(LARGEST_LOG_RATIO),
        }
    }
}

/// A logit a little below that of `probability`: most of the up to 16 million logits are below, and need no exponential.
pub(crate) fn logit_floor(probability: f64) -> f32 {
    match (probability / (1.0 - probability)).ln() {
        logit if logit.is_finite() => logit as f32 - 0.01,
        _ => f32::NEG_INFINITY,
    }
}

/// Columns of a matrix with this many rows; 0 for no rows.
pub(crate) fn columns(what: &'static str, matrix: &[f32], rows: usize) -> Result<usize, GeometryError> {
    let columns = matrix.len().checked_div(rows).unwrap_or(0);
    GeometryError::check_length(what, rows * columns.max(usize::from(rows > 0)), matrix.len())?;
    Ok(columns)
}

fn softmax_into(logits: &[f32], out: &mut [f32]) {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for (p, &logit) in out.iter_mut().zip(logits) {
        *p = (logit - highest).exp();
        sum += *p;
    }
    for p in out {
        *p /= sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOX: Xyxy = [0.0, 0.0, 10.0, 10.0];

    fn roi(logits: &[f32], regression: &[f32], proposals: &[Xyxy]) -> Detections {
        RoiConfig::default()
            .detect(logits, regression, proposals, &BoxCoder::PROPOSALS, (20, 20))
            .expect("lengths fit")
    }

    #[test]
    fn the_first_foreground_class_has_index_0_and_background_is_never_reported() {
        let found = roi(&[9.0, 0.0, 0.0, 0.0, 9.0, 0.0], &[0.0; 24], &[BOX; 2]);
        assert_eq!((found.labels.clone(), found.len()), (vec![0], 1));
        assert_eq!(found.boxes, [BOX]);
    }

    #[test]
    fn what_lies_beyond_the_image_counts_in_suppression_only_if_clipped_after_it() {
        // Alike within the image of 20 pixels, unlike beyond it.
        let anchors = [[10.0, 0.0, 20.0, 10.0], [10.0, 0.0, 60.0, 10.0], [30.0, 0.0, 40.0, 10.0]];
        let logits = [3.0, 2.0, 1.0];
        let level = RetinaLevel { class_logits: &logits, box_regression: &[0.0; 12], anchors: &anchors };
        let found = |clip| {
            let found = RetinaSettings { clip, ..RetinaSettings::default() }
                .detect(&[level], (20, 20))
                .expect("lengths fit");
            found.boxes
        };
        let edge = [10.0, 0.0, 20.0, 10.0];
        assert_eq!(found(Clip::BeforeNms), [edge, [20.0, 0.0, 20.0, 10.0]]);
        assert_eq!(found(Clip::AfterNms), [edge, edge]);
    }

    #[test]
    fn no_proposals_and_no_levels_give_no_detections() {
        assert!(roi(&[], &[], &[]).is_empty());
        assert!(RetinaSettings::default().detect(&[], (20, 20)).expect("lengths fit").is_empty());
        let empty = RetinaLevel { class_logits: &[], box_regression: &[], anchors: &[] };
        assert!(RetinaSettings::default().detect(&[empty], (20, 20)).expect("lengths fit").is_empty());
    }

    #[test]
    fn unequal_lengths_are_refused() {
        let fails = |l: usize, r: usize, p: usize| {
            let (logits, deltas, boxes) = (vec![0.0; l], vec![0.0; r], vec![BOX; p]);
            RoiConfig::default().detect(&logits, &deltas, &boxes, &BoxCoder::PROPOSALS, (20, 20)).is_err()
        };
        assert!(fails(5, 20, 2) && fails(6, 20, 2) && fails(6, 24, 0) && fails(0, 0, 2) && fails(1, 4, 2));
        let level = |l, r| RetinaLevel { class_logits: l, box_regression: r, anchors: &[BOX, BOX] };
        assert!(RetinaSettings::default().detect(&[level(&[0.0; 3], &[0.0; 8])], (20, 20)).is_err());
        assert!(RetinaSettings::default().detect(&[level(&[0.0; 4], &[0.0; 4])], (20, 20)).is_err());
    }

    #[test]
    fn hostile_outputs_give_finite_detections() {
        let hostile = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 0.0];
        for logit in hostile {
            for delta in hostile {
                let level =
                    RetinaLevel { class_logits: &[logit, 0.0], box_regression: &[delta; 4], anchors: &[BOX] };
                let all = [
                    roi(&[logit, 0.0, logit], &[delta; 12], &[BOX]),
                    roi(&[0.0, logit, 0.0], &[0.0, 0.0, delta, delta].repeat(3), &[BOX]),
                    RetinaSettings::default().detect(&[level], (20, 20)).expect("lengths fit"),
                ];
                for found in all {
                    assert!(found.boxes.iter().flatten().chain(&found.scores).all(|v| v.is_finite()));
                }
            }
        }
    }

    #[test]
    fn a_threshold_of_zero_or_one_is_taken_literally() {
        let level = RetinaLevel { class_logits: &[-80.0, 3.0], box_regression: &[0.0; 4], anchors: &[BOX] };
        let count = |score_threshold| {
            RetinaSettings { score_threshold, ..RetinaSettings::default() }
                .detect(&[level], (20, 20))
                .expect("lengths fit")
                .len()
        };
        assert_eq!((count(0.0), count(1.0), count(-1.0), count(2.0)), (2, 0, 2, 0));
    }

    #[test]
    fn detections_return_to_the_original_image() {
        let found = roi(&[0.0, 9.0], &[0.0; 8], &[BOX]);
        let back = found.resized((20, 20), (40, 60)).expect("sizes are positive");
        assert_eq!(back.boxes, [[0.0, 0.0, 30.0, 20.0]]);
    }
}
