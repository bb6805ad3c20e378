//! From the RPN's outputs to proposals: the boxes of an image that the second stage looks at.
//!
//! Ren et al., "Faster R-CNN", section 3.3; torchvision's `RegionProposalNetwork.filter_proposals`. Boxes are
//! decoded only for the anchors that survive the selection by objectness, a few thousand of 270,000.

use ckd_kernels::boxes::ProposalRules;
use ckd_kernels::ranking::Best;

use crate::box_coder::{BoxCoder, LARGEST_LOG_RATIO};
use crate::boxes::{self, GeometryError, Xyxy};
use crate::dense::{by_level, segments};
use crate::nms::{batched_nms_first, largest_f32_up_to};

/// Filter of proposals: numbers kept before and after NMS, thresholds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProposalFilter {
    /// Anchors of each level that are decoded, by objectness (torchvision: 2000 in training, 1000 in tests).
    pub pre_nms_top_n: usize,
    /// Proposals of an image that are kept (2000 and 1000).
    pub post_nms_top_n: usize,
    /// IoU above which the lower-scored of two proposals of one level goes (0.7).
    pub nms_threshold: f64,
    /// Objectness probability that a proposal must reach (0).
    pub score_threshold: f64,
    /// Side in pixels that a clipped proposal must reach (0.001).
    pub min_size: f64,
}

/// Proposals of one image by descending score.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Proposals {
    /// Clipped to the image.
    pub boxes: Vec<Xyxy>,
    /// Objectness probabilities.
    pub scores: Vec<f32>,
}

impl ProposalFilter {
    /// Decodes, clips, filters and suppresses the RPN's outputs of one image.
    ///
    /// # Shapes
    /// `objectness` (A) logits, `deltas` (A, 4) of coder weights 1, `anchors` (A), all in the anchors' order;
    /// `anchors_per_level` sums to A; `image_hw` is the image's own (height, width), without padding.
    ///
    /// # Errors
    /// When the lengths don't fit together.
    pub fn propose(
        &self,
        objectness: &[f32],
        deltas: &[f32],
        anchors: &[Xyxy],
        anchors_per_level: &[usize],
        image_hw: (usize, usize),
    ) -> Result<Proposals, GeometryError> {
        GeometryError::check_length("RPN box deltas", 4 * anchors.len(), deltas.len())?;
        GeometryError::check_length("RPN objectness", anchors.len(), objectness.len())?;
        GeometryError::check_length("RPN objectness", anchors_per_level.iter().sum(), objectness.len())?;
        let best: Vec<Best> = segments(anchors_per_level, 1)
            .into_iter()
            .map(|level| {
                let deltas = &deltas[4 * level.start..4 * level.end];
                Best::of(&objectness[level], 1, deltas, self.pre_nms_top_n, f32::NEG_INFINITY)
            })
            .collect();
        self.among(by_level(&best, anchors, anchors_per_level), image_hw)
    }

    /// These rules, as boxes are made by on a GPU.
    pub(crate) fn rules(&self) -> ProposalRules {
        ProposalRules {
            per_level: self.pre_nms_top_n,
            per_image: self.post_nms_top_n,
            iou: largest_f32_up_to(self.nms_threshold),
            score: self.score_threshold as f32,
            side: self.min_size as f32,
            log_ratio: LARGEST_LOG_RATIO,
        }
    }

    /// Proposals of one image among the best anchors of each level, whose companion are the deltas.
    ///
    /// # Errors
    /// None for boxes and scores of one length.
    pub(crate) fn among<'a>(
        &self,
        best: impl Iterator<Item = (&'a Best, &'a [Xyxy])>,
        image_hw: (usize, usize),
    ) -> Result<Proposals, GeometryError> {
        let (score_threshold, min_size) = (self.score_threshold as f32, self.min_size as f32);
        let (mut boxes, mut scores, mut levels) = (Vec::new(), Vec::new(), Vec::new());
        for (level, (best, anchors)) in (0_u32..).zip(best) {
            let (deltas, _) = best.rows.as_chunks::<4>();
            for ((&anchor, &logit), deltas) in best.places.iter().zip(&best.values).zip(deltas) {
                let decoded = BoxCoder::ANCHORS.decode(deltas, &anchors[anchor as usize]);
                let (clipped, score) = (boxes::clip(&decoded, image_hw), sigmoid(logit));
                if boxes::is_large_enough(&clipped, min_size) && score >= score_threshold {
                    boxes.push(clipped);
                    scores.push(score);
                    levels.push(level);
                }
            }
        }
        let kept = batched_nms_first(&boxes, &scores, &levels, self.nms_threshold, self.post_nms_top_n)?;
        Ok(Proposals {
            boxes: kept.iter().map(|&k| boxes[k]).collect(),
            scores: kept.iter().map(|&k| scores[k]).collect(),
        })
    }
}

/// 1 / (1 + e^-x) in f32.
#[inline]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTER: ProposalFilter = ProposalFilter {
        pre_nms_top_n: 10,
        post_nms_top_n: 10,
        nms_threshold: 0.7,
        score_threshold: 0.0,
        min_size: 1e-3,
    };

    fn square(x: f32) -> Xyxy {
        [x, 0.0, x + 10.0, 10.0]
    }

    #[test]
    fn levels_do_not_suppress_each_other() {
        let proposals = FILTER
            .propose(&[4.0, 3.0, 2.0, 1.0], &[0.0; 16], &[square(0.0); 4], &[2, 2], (20, 20))
            .expect("lengths fit");
        assert_eq!(proposals.scores, [sigmoid(4.0), sigmoid(2.0)]);
    }

    #[test]
    fn only_the_best_of_each_level_become_proposals() {
        let filter = ProposalFilter { pre_nms_top_n: 1, ..FILTER };
        let anchors: Vec<Xyxy> = (0..4).map(|k| square(k as f32)).collect();
        let proposals = filter
            .propose(&[0.0, 1.0, 5.0, 4.0], &[0.0; 16], &anchors, &[2, 2], (20, 20))
            .expect("lengths fit");
        assert_eq!(proposals.boxes, [square(2.0), square(1.0)]);
    }

    #[test]
    fn hostile_outputs_never_become_proposals() {
        let hostile = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e38];
        let anchors = [square(0.0); 4];
        for logit in hostile {
            for delta in hostile {
                let proposals =
                    FILTER.propose(&[logit; 4], &[delta; 16], &anchors, &[4], (20, 20)).expect("lengths fit");
                assert!(proposals.boxes.iter().flatten().all(|c| c.is_finite()));
                assert!(proposals.scores.iter().all(|s| s.is_finite()));
            }
        }
    }

    #[test]
    fn empty_and_unequal_inputs() {
        let none = FILTER.propose(&[], &[], &[], &[0, 0], (20, 20)).expect("lengths fit");
        assert_eq!(none, Proposals::default());
        assert!(FILTER.propose(&[0.0], &[0.0; 4], &[], &[1], (20, 20)).is_err());
        assert!(FILTER.propose(&[0.0], &[0.0; 4], &[square(0.0)], &[2], (20, 20)).is_err());
        assert!(FILTER.propose(&[0.0, 1.0], &[0.0; 4], &[square(0.0)], &[1], (20, 20)).is_err());
    }
}
