//! Which ground-truth box an anchor or a proposal belongs to.
//!
//! Ren et al., "Faster R-CNN", section 3.1.2; torchvision's `Matcher`, computed in a stream over the
//! candidates: for 200,000 anchors and 100 boxes no matrix of 20 million overlaps is ever held.

use crate::boxes::{BoxLanes, GeometryError, Xyxy, area, coverage};
use ckd_kernels::simd::{Loops, at_level};
use ckd_settings::Check;
use rayon::prelude::*;

/// The share of a candidate's own area in an ignored (crowd) box from which on it is not used as a negative.
pub const IGNORED_COVERAGE: f32 = 0.5;

/// Candidates that one thread treats together; their overlaps with one box stay in the first-level cache.
const CHUNK: usize = 1024;

/// Result of the matcher for an anchor or a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Match {
    /// A positive of the ground-truth box with this index.
    Gt(u32),
    /// A negative.
    Background,
    /// Neither: takes no part in the loss.
    Between,
}

/// Assigns candidates (anchors or proposals) to ground-truth boxes by IoU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Matcher {
    high: f32,
    low: f32,
    low_quality: bool,
}

impl Matcher {
    /// IoU >= `high` is a positive, < `low` a negative, what is between takes no part.
    ///
    /// # Errors
    /// Unless 0 <= `low` <= `high` <= 1.
    pub fn new(high: f64, low: f64) -> Result<Self, GeometryError> {
        for (what, got) in [("matcher: high threshold", high), ("matcher: low threshold", low)] {
            if !(0.0..=1.0).contains(&got) {
                return Err(GeometryError::Parameter { what, rule: "in 0..=1", got });
            }
        }
        if low > high {
            let what = "matcher: low threshold";
            return Err(GeometryError::Parameter { what, rule: "at most the high threshold", got: low });
        }
        // torch compares an f32 tensor with the threshold rounded to f32.
        Ok(Self { high: high as f32, low: low as f32, low_quality: false })
    }

    /// Every candidate that reaches a ground-truth box's best IoU (all of them on a tie) is a positive too, of
    /// the box that it overlaps most: an object that no anchor fits is still learned. For RPN and RetinaNet.
    #[must_use]
    pub fn with_low_quality_matches(self) -> Self {
        Self { low_quality: true, ..self }
    }

    /// The match of every candidate.
    ///
    /// A candidate belongs to the box of highest IoU, the first one on a tie. Without ground truth all are
    /// background. Ground truth without area, or not finite, matches nothing (torchvision refuses such a target).
    ///
    /// `ignored` are crowd regions. A candidate that is no positive and lies with at least
    /// [`IGNORED_COVERAGE`] of its own area in one of them becomes [`Match::Between`]: never a positive, and
    /// never punished for firing on one of the objects there. This is our policy, torchvision knows no crowds;
    /// with an empty `ignored` the result is torchvision's.
    #[must_use]
    pub fn match_boxes(&self, ground_truth: &[Xyxy], ignored: &[Xyxy], candidates: &[Xyxy]) -> Vec<Match> {
        let best: Vec<ChunkBest> =
            candidates.par_chunks(CHUNK).map(|chunk| ChunkBest::find(ground_truth, chunk)).collect();
        let mut best_of_gt = vec![0.0_f32; ground_truth.len()];
        for chunk in &best {
            for (best, &here) in best_of_gt.iter_mut().zip(&chunk.best_of_gt) {
                *best = best.max(here);
            }
        }
        let mut matches = vec![Match::Background; candidates.len()];
        let chunks = matches.par_chunks_mut(CHUNK).zip(candidates.par_chunks(CHUNK)).zip(&best);
        chunks.for_each(|((matches, candidates), best)| {
            if !ground_truth.is_empty() {
                self.apply_thresholds(best, matches);
            }
            if self.low_quality {
                best.restore_low_quality(ground_truth, &best_of_gt, candidates, matches);
            }
            spare_ignored(ignored, candidates, matches);
        });
        matches
    }

    fn apply_thresholds(&self, best: &ChunkBest, matches: &mut [Match]) {
        for ((m, &iou), &gt) in matches.iter_mut().zip(&best.iou).zip(&best.gt) {
            *m = if iou < self.low {
                Match::Background
            } else if iou < self.high {
                Match::Between
            } else {
                Match::Gt(gt)
            };
        }
    }
}

/// The best overlaps within one chunk of candidates.
struct ChunkBest {
    /// Highest IoU of each candidate, and the first ground-truth box that has it.
    iou: Vec<f32>,
    gt: Vec<u32>,
    /// Highest IoU of each ground-truth box.
    best_of_gt: Vec<f32>,
}

impl ChunkBest {
    fn find(ground_truth: &[Xyxy], candidates: &[Xyxy]) -> Self {
        let lanes = BoxLanes::from_boxes(candidates);
        let mut row = vec![0.0; candidates.len()];
        let mut best =
            Self { iou: vec![0.0; candidates.len()], gt: vec![0; candidates.len()], best_of_gt: Vec::new() };
        for (g, gt) in (0_u32..).zip(ground_truth) {
            lanes.iou_into(gt, &mut row);
            let (best_iou, best_gt) = (&mut best.iou[..], &mut best.gt[..]);
            best.best_of_gt.push(at_level(KeepBest { row: &row, g, best_iou, best_gt }));
        }
        best
    }

    fn restore_low_quality(
        &self,
        ground_truth: &[Xyxy],
        best_of_gt: &[f32],
        candidates: &[Xyxy],
        matches: &mut [Match],
    ) {
        let reached = |g: &usize| self.best_of_gt[*g] == best_of_gt[*g] && area(&ground_truth[*g]) > 0.0;
        let reached: Vec<usize> = (0..ground_truth.len()).filter(reached).collect();
        if reached.is_empty() {
            return;
        }
        let lanes = BoxLanes::from_boxes(candidates);
        let mut row = vec![0.0; candidates.len()];
        for g in reached {
            lanes.iou_into(&ground_truth[g], &mut row);
            // Few candidates reach it: whole blocks are passed over.
            const BLOCK: usize = 64;
            let wanted = best_of_gt[g];
            for (block, ious) in row.chunks(BLOCK).enumerate() {
                if ious.iter().fold(false, |any, &iou| any | (iou == wanted)) {
                    let places = (block * BLOCK..).zip(ious).filter(|&(_, &iou)| iou == wanted);
                    places.for_each(|(i, _)| matches[i] = Match::Gt(self.gt[i]));
                }
            }
        }
    }
}

/// Raises each candidate's best to its IoU with box `g` where that is higher, and gives the highest of these.
struct KeepBest<'a> {
    row: &'a [f32],
    g: u32,
    best_iou: &'a mut [f32],
    best_gt: &'a mut [u32],
}

impl Loops for KeepBest<'_> {
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        const LANES: usize = 16;
        let Self { row, g, best_iou, best_gt } = self;
        for ((best_iou, best_gt), &iou) in best_iou.iter_mut().zip(best_gt).zip(row) {
            let better = iou > *best_iou;
            *best_iou = if better { iou } else { *best_iou };
            *best_gt = if better { g } else { *best_gt };
        }
        let (blocks, rest) = row.as_chunks::<LANES>();
        let mut highest = [0.0_f32; LANES];
        for block in blocks {
            for (highest, &iou) in highest.iter_mut().zip(block) {
                *highest = if iou > *highest { iou } else { *highest };
            }
        }
        highest.iter().chain(rest).fold(0.0, |highest, &iou| if iou > highest { iou } else { highest })
    }
}

/// Checks the keys `fg_iou` and `bg_iou` of a section.
pub(crate) fn check_ious(check: &mut Check<'_>, fg: f64, bg: f64) {
    check.fraction("fg_iou", fg);
    check.fraction("bg_iou", bg);
    let message = format!("is above fg_iou: {bg} > {fg}");
    check.that(bg <= fg, "bg_iou", message, "background must overlap less than objects do");
}

/// Makes background candidates that lie in one of `ignored` neither positive nor negative.
pub(crate) fn spare_ignored(ignored: &[Xyxy], candidates: &[Xyxy], matches: &mut [Match]) {
    if ignored.is_empty() {
        return;
    }
    for (m, candidate) in matches.iter_mut().zip(candidates) {
        if *m == Match::Background
            && ignored.iter().any(|crowd| coverage(candidate, crowd) >= IGNORED_COVERAGE)
        {
            *m = Match::Between;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boxes::iou;
    use proptest::prelude::*;

    fn rpn() -> Matcher {
        Matcher::new(0.7, 0.3).expect("valid").with_low_quality_matches()
    }

    fn square(x: f32, side: f32) -> Xyxy {
        [x, 0.0, x + side, side]
    }

    #[test]
    fn thresholds_are_inclusive_below_and_exclusive_above() {
        let gt = [[0.0, 0.0, 10.0, 10.0]];
        // IoU exactly 0.5, exactly 0.4, just below
        let candidates = [[0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 4.0], [0.0, 0.0, 10.0, 3.9]];
        let matches = Matcher::new(0.5, 0.4).expect("valid").match_boxes(&gt, &[], &candidates);
        assert_eq!(matches, [Match::Gt(0), Match::Between, Match::Background]);
    }

    #[test]
    fn every_candidate_that_ties_for_a_boxs_best_is_kept() {
        let gt = [square(0.0, 4.0)];
        let candidates = [[0.0, 0.0, 4.0, 1.0], [0.0, 3.0, 4.0, 4.0], [0.0, 0.0, 4.0, 0.5]];
        assert_eq!(rpn().match_boxes(&gt, &[], &candidates), [Match::Gt(0), Match::Gt(0), Match::Background]);
        let plain = Matcher::new(0.7, 0.3).expect("valid");
        assert_eq!(plain.match_boxes(&gt, &[], &candidates), [Match::Background; 3]);
    }

    #[test]
    fn a_low_quality_candidate_belongs_to_the_box_that_it_overlaps_most() {
        // The candidate is the best that box 1 has, but overlaps box 0 more.
        let gt = [square(0.0, 10.0), square(9.0, 10.0)];
        let candidates = [square(1.0, 10.0)];
        assert_eq!(rpn().match_boxes(&gt, &[], &candidates), [Match::Gt(0)]);
    }

    #[test]
    fn the_first_of_equal_boxes_wins() {
        let gt = [square(0.0, 10.0), square(0.0, 10.0)];
        assert_eq!(rpn().match_boxes(&gt, &[], &[square(0.0, 10.0)]), [Match::Gt(0)]);
    }

    #[test]
    fn without_ground_truth_everything_is_background() {
        assert_eq!(rpn().match_boxes(&[], &[], &[square(0.0, 1.0); 3]), [Match::Background; 3]);
        assert!(rpn().match_boxes(&[square(0.0, 1.0)], &[], &[]).is_empty());
    }

    #[test]
    fn a_crowd_box_is_never_a_positive_and_shields_what_lies_in_it() {
        let crowd = [[0.0, 0.0, 100.0, 10.0]];
        let gt = [square(40.0, 10.0)];
        // in the crowd, half in it, less than half in it, on the ground truth, far away
        let candidates = [
            square(0.0, 10.0),
            [0.0, 5.0, 10.0, 15.0],
            [0.0, 6.0, 10.0, 16.0],
            square(40.0, 10.0),
            [300.0, 0.0, 310.0, 10.0],
        ];
        let want = [Match::Between, Match::Between, Match::Background, Match::Gt(0), Match::Background];
        assert_eq!(rpn().match_boxes(&gt, &crowd, &candidates), want);
        let alone = rpn().match_boxes(&[], &crowd, &candidates);
        assert_eq!(alone[0], Match::Between);
        assert_eq!(alone[4], Match::Background);
    }

    #[test]
    fn hostile_boxes_match_nothing() {
        let nan = [f32::NAN; 4];
        let point = [5.0, 5.0, 5.0, 5.0];
        let candidates = [square(0.0, 10.0), nan, [0.0, 0.0, f32::INFINITY, f32::INFINITY]];
        for gt in [nan, point, [10.0, 10.0, 0.0, 0.0]] {
            let matches = Matcher::new(0.5, 0.3).expect("valid").match_boxes(&[gt], &[nan], &candidates);
            assert_eq!(matches, [Match::Background; 3]);
        }
        assert_eq!(rpn().match_boxes(&[point, nan], &[], &candidates), [Match::Background; 3]);
    }

    #[test]
    fn thresholds_outside_their_range_are_refused() {
        for (high, low) in [(0.3, 0.7), (1.1, 0.5), (0.5, -0.1), (f64::NAN, 0.3), (0.5, f64::NAN)] {
            assert!(Matcher::new(high, low).is_err(), "{high} {low}");
        }
    }

    /// torchvision's text, word by word, on the whole matrix.
    fn reference(matcher: &Matcher, gt: &[Xyxy], candidates: &[Xyxy]) -> Vec<Match> {
        let best_of_gt: Vec<f32> =
            gt.iter().map(|g| candidates.iter().map(|c| iou(g, c)).fold(0.0, f32::max)).collect();
        let one = |c: &Xyxy| {
            let ious: Vec<f32> = gt.iter().map(|g| iou(g, c)).collect();
            let best = ious.iter().copied().fold(0.0, f32::max);
            let first = ious.iter().position(|&v| v == best).expect("some ground truth") as u32;
            let low_quality = matcher.low_quality && ious.iter().zip(&best_of_gt).any(|(a, b)| a == b);
            if low_quality || best >= matcher.high {
                Match::Gt(first)
            } else if best < matcher.low {
                Match::Background
            } else {
                Match::Between
            }
        };
        candidates.iter().map(one).collect()
    }

    fn grid_box() -> impl Strategy<Value = Xyxy> {
        (0_u8..12, 0_u8..12, 1_u8..9, 1_u8..9).prop_map(|(x, y, w, h)| {
            [f32::from(x), f32::from(y), f32::from(x) + f32::from(w), f32::from(y) + f32::from(h)]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_stream_equals_the_matrix(
            gt in proptest::collection::vec(grid_box(), 1..6),
            candidates in proptest::collection::vec(grid_box(), 1..80),
            copies in 1_usize..40,
        ) {
            let candidates = candidates.repeat(copies);
            for matcher in [rpn(), Matcher::new(0.5, 0.5).expect("valid")] {
                let got = matcher.match_boxes(&gt, &[], &candidates);
                prop_assert_eq!(got, reference(&matcher, &gt, &candidates));
            }
        }
    }
}
