//! From the outputs of FCOS to the detections of an image: torchvision's `FCOS.postprocess_detections`.

use ckd_kernels::boxes::DetectionRules;
use ckd_kernels::ranking::{Best, joint_score};

use crate::box_coder::PointCoder;
use crate::boxes::{self, GeometryError, Xyxy};
use crate::nms::largest_f32_up_to;
use crate::postprocess::{Detections, columns, logit_floor};

use super::FcosSettings;

/// Outputs of the head for one level of one image.
///
/// # Shapes
/// A `anchors`, `class_logits` (A, K), `centerness` (A), `distances` (A, 4).
#[derive(Debug, Clone, Copy)]
pub struct PointLevel<'a> {
    /// Logit for each point and class.
    pub class_logits: &'a [f32],
    /// Logit of each point's centerness.
    pub centerness: &'a [f32],
    /// Left, top, right, bottom distance of each point, in sides of its anchor.
    pub distances: &'a [f32],
    /// Anchors whose centres are the level's points.
    pub anchors: &'a [Xyxy],
}

impl FcosSettings {
    /// Detections of one image by descending score, the square root of class probability times centerness.
    ///
    /// `image_hw` is (height, width) without padding; a label is its logit column.
    ///
    /// # Errors
    /// When the lengths within a level don't fit together.
    pub fn detect(
        &self,
        levels: &[PointLevel<'_>],
        image_hw: (usize, usize),
    ) -> Result<Detections, GeometryError> {
        let (mut classes, mut best) = (0, Vec::with_capacity(levels.len()));
        let (logit_floor, score_floor) = self.floors();
        for level in levels {
            let columns = columns("class logits of the FCOS head", level.class_logits, level.anchors.len())?;
            let count = level.anchors.len();
            GeometryError::check_length("centerness of the FCOS head", count, level.centerness.len())?;
            GeometryError::check_length("distances of the FCOS head", 4 * count, level.distances.len())?;
            let score = |(place, &logit): (usize, &f32)| match logit >= logit_floor {
                true => joint_score(logit, level.centerness[place / columns]),
                false => 0.0,
            };
            let scores: Vec<f32> = level.class_logits.iter().enumerate().map(score).collect();
            best.push(Best::of(&scores, columns, level.distances, self.topk_candidates, score_floor));
            classes = classes.max(columns);
        }
        self.among(best.iter().zip(levels.iter().map(|level| level.anchors)), classes, image_hw)
    }

    /// Detections of one image among the best scores of each level, whose companion are the distances.
    ///
    /// # Errors
    /// None for boxes and scores of one length.
    pub(super) fn among<'a>(
        &self,
        best: impl Iterator<Item = (&'a Best, &'a [Xyxy])>,
        classes: usize,
        image_hw: (usize, usize),
    ) -> Result<Detections, GeometryError> {
        let mut candidates = Detections::default();
        for (best, anchors) in best {
            let (distances, _) = best.rows.as_chunks::<4>();
            for ((&place, &score), distances) in best.places.iter().zip(&best.values).zip(distances) {
                let (point, label) = (place as usize / classes, place as usize % classes);
                let decoded = PointCoder.decode(distances, &anchors[point]);
                candidates.push(boxes::clip(&decoded, image_hw), score, label as u32);
            }
        }
        candidates.suppressed(self.nms_threshold, self.detections_per_image)
    }

    /// These rules, as detections are made by on a GPU.
    pub(super) fn rules(&self) -> DetectionRules {
        DetectionRules {
            per_image: self.detections_per_image,
            iou: largest_f32_up_to(self.nms_threshold),
            score: self.floors().1,
            side: f32::NEG_INFINITY,
            clips: true,
            log_ratio: None,
        }
    }

    /// Lowest logit of a class that may be detected, and lowest score of a detection: above the threshold.
    pub(super) fn floors(&self) -> (f32, f32) {
        let threshold = self.score_threshold;
        // Centerness is at most 1: a smaller class probability cannot reach the threshold.
        (logit_floor(threshold * threshold), (threshold as f32).next_up())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANCHORS: [Xyxy; 2] = [[0.0, 0.0, 8.0, 8.0], [16.0, 0.0, 24.0, 8.0]];

    fn detected(class_logits: &[f32], centerness: &[f32]) -> Result<Detections, GeometryError> {
        let level = PointLevel { class_logits, centerness, distances: &[0.5; 8], anchors: &ANCHORS };
        FcosSettings::default().detect(&[level], (6, 40))
    }

    #[test]
    fn the_score_is_the_root_of_class_probability_times_centerness() {
        // Probabilities 0.5 and 0.8: the second point's centerness of 0.2 puts it behind.
        let logit = |p: f32| (p / (1.0 - p)).ln();
        let found = detected(&[logit(0.5), -9.0, -9.0, logit(0.8)], &[logit(0.5), logit(0.2)]).expect("fits");
        assert_eq!(found.labels, [0, 1]);
        assert_eq!(found.boxes, [[0.0, 0.0, 8.0, 6.0], [16.0, 0.0, 24.0, 6.0]], "clipped to the image");
        assert!((found.scores[0] - 0.5).abs() < 1e-6 && (found.scores[1] - 0.4).abs() < 1e-6);
    }

    #[test]
    fn low_scores_and_nan_are_no_detections_and_lengths_are_checked() {
        assert!(detected(&[-3.3; 4], &[50.0; 2]).expect("fits").is_empty(), "below 0.2");
        assert_eq!(detected(&[-3.1; 4], &[50.0; 2]).expect("fits").len(), 4, "above 0.2");
        assert!(detected(&[f32::NAN; 4], &[0.0; 2]).expect("fits").is_empty());
        assert!(detected(&[9.0; 4], &[f32::NAN; 2]).expect("fits").is_empty());
        assert!(detected(&[9.0; 4], &[0.0]).is_err());
        assert!(detected(&[9.0; 3], &[0.0; 2]).is_err());
    }
}
