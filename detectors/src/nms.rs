//! Non-maximum suppression: of boxes that show the same object, the best one stays.
//!
//! torchvision's semantics to the bit: boxes in descending score, equal scores by lower index; a box is
//! suppressed when its IoU with a kept one is strictly above the threshold, in f32 against the f64 threshold.
//! Classes are kept apart exactly, not by shifting coordinates, which costs precision.

use crate::boxes::{BoxLanes, GeometryError, Xyxy};
use ckd_kernels::ranking::by_descending;

/// The indices of the boxes that stay, by descending score.
///
/// A box with a NaN score or a coordinate that isn't finite is dropped: it neither stays nor suppresses.
///
/// # Errors
/// When `boxes` and `scores` differ in length.
pub fn nms(boxes: &[Xyxy], scores: &[f32], threshold: f64) -> Result<Vec<usize>, GeometryError> {
    suppress(boxes, scores, |_| 0, threshold, usize::MAX)
}

/// [`nms`] within each class; the result of all classes together by descending score, equal scores by lower index.
///
/// # Errors
/// When `boxes`, `scores` and `classes` differ in length.
pub fn batched_nms(
    boxes: &[Xyxy],
    scores: &[f32],
    classes: &[u32],
    threshold: f64,
) -> Result<Vec<usize>, GeometryError> {
    batched_nms_first(boxes, scores, classes, threshold, usize::MAX)
}

/// The first `limit` indices of [`batched_nms`], without the work for the others.
///
/// # Errors
/// As [`batched_nms`].
pub fn batched_nms_first(
    boxes: &[Xyxy],
    scores: &[f32],
    classes: &[u32],
    threshold: f64,
    limit: usize,
) -> Result<Vec<usize>, GeometryError> {
    GeometryError::check_length("classes of the boxes", boxes.len(), classes.len())?;
    let mut distinct = classes.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let group = |i: usize| distinct.partition_point(|&class| class < classes[i]);
    suppress(boxes, scores, group, threshold, limit)
}

/// Walks over all boxes in descending score; a box meets only the kept ones of its group.
fn suppress(
    boxes: &[Xyxy],
    scores: &[f32],
    group_of: impl Fn(usize) -> usize,
    threshold: f64,
    limit: usize,
) -> Result<Vec<usize>, GeometryError> {
    GeometryError::check_length("scores of the boxes", boxes.len(), scores.len())?;
    let threshold = largest_f32_up_to(threshold);
    let mut kept = Vec::new();
    let mut kept_of_group: Vec<BoxLanes> = Vec::new();
    let order = by_descending(scores, |i| boxes[i].iter().all(|c| c.is_finite()));
    for i in order {
        if kept.len() == limit {
            break;
        }
        let group = group_of(i);
        if kept_of_group.len() <= group {
            kept_of_group.resize_with(group + 1, BoxLanes::default);
        }
        if !kept_of_group[group].any_iou_above(&boxes[i], threshold) {
            kept_of_group[group].push(&boxes[i]);
            kept.push(i);
        }
    }
    Ok(kept)
}

/// For an f32 `x`, `x > threshold` in f64 is `x > largest_f32_up_to(threshold)` in f32.
pub(crate) fn largest_f32_up_to(threshold: f64) -> f32 {
    let rounded = threshold as f32;
    if f64::from(rounded) > threshold { rounded.next_down() } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boxes::iou;
    use proptest::prelude::*;

    const A: Xyxy = [0.0, 0.0, 10.0, 10.0];
    /// IoU with A exactly 0.5.
    const HALF: Xyxy = [0.0, 0.0, 10.0, 5.0];

    #[test]
    fn an_iou_of_exactly_the_threshold_suppresses_nothing() {
        assert_eq!(nms(&[A, HALF], &[0.9, 0.8], 0.5), Ok(vec![0, 1]));
        assert_eq!(nms(&[A, HALF], &[0.9, 0.8], 0.5_f64.next_down()), Ok(vec![0]));
        // 0.3 rounds up to f32: an overlap of f32(0.3) is above the f64 threshold.
        let third = [0.0, 0.0, 10.0, 3.0];
        assert_eq!(iou(&A, &third), 0.3_f32);
        assert_eq!(nms(&[A, third], &[0.9, 0.8], 0.3), Ok(vec![0]));
    }

    #[test]
    fn equal_scores_keep_the_lower_index() {
        assert_eq!(nms(&[A, A, A], &[0.5, 0.5, 0.5], 0.5), Ok(vec![0]));
        assert_eq!(nms(&[HALF, A, A], &[0.0, -0.0, 0.5], 0.5), Ok(vec![2, 0]));
    }

    #[test]
    fn a_suppressed_box_suppresses_nothing() {
        let boxes = [[0.0, 0.0, 10.0, 10.0], [3.0, 0.0, 13.0, 10.0], [6.0, 0.0, 16.0, 10.0]];
        assert_eq!(nms(&boxes, &[0.9, 0.8, 0.7], 0.5), Ok(vec![0, 2]));
    }

    #[test]
    fn classes_do_not_suppress_each_other() {
        let (boxes, scores) = ([A, A, A, HALF], [0.5, 0.9, 0.7, 0.9]);
        assert_eq!(batched_nms(&boxes, &scores, &[1, 7, 1, 4_000_000_000], 0.4), Ok(vec![1, 3, 2]));
        assert_eq!(batched_nms_first(&boxes, &scores, &[1, 7, 1, 2], 0.4, 2), Ok(vec![1, 3]));
    }

    #[test]
    fn boxes_without_area_stay_and_broken_ones_are_dropped() {
        let point = [5.0, 5.0, 5.0, 5.0];
        let boxes = [point, point, [f32::NAN, 0.0, 1.0, 1.0], [0.0, 0.0, f32::INFINITY, 1.0], A, A];
        let scores = [0.1, 0.2, 0.9, 0.9, f32::NAN, f32::INFINITY];
        assert_eq!(nms(&boxes, &scores, 0.5), Ok(vec![5, 1, 0]));
    }

    #[test]
    fn empty_and_unequal_inputs() {
        assert_eq!(nms(&[], &[], 0.5), Ok(vec![]));
        assert!(nms(&[A], &[], 0.5).is_err());
        assert!(batched_nms(&[A], &[0.1], &[], 0.5).is_err());
        assert_eq!(nms(&[A, A], &[0.1, 0.2], f64::NAN), Ok(vec![1, 0]), "nothing is above NaN");
    }

    /// The definition, pair by pair.
    fn reference(boxes: &[Xyxy], scores: &[f32], classes: &[u32], threshold: f64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..boxes.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let mut kept: Vec<usize> = Vec::new();
        for i in order {
            let suppresses =
                |&k: &usize| classes[k] == classes[i] && f64::from(iou(&boxes[k], &boxes[i])) > threshold;
            if !kept.iter().any(suppresses) {
                kept.push(i);
            }
        }
        kept
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_walk_equals_the_definition(
            table in proptest::collection::vec((0_u8..20, 0_u8..20, 1_u8..12, 1_u8..12, 0_u8..30, 0_u32..4), 0..200),
            threshold in prop_oneof![Just(0.3), Just(0.5), Just(0.7), 0.0..1.0],
        ) {
            let boxes: Vec<Xyxy> = table.iter()
                .map(|&(x, y, w, h, ..)| [x, y, x + w, y + h].map(f32::from)).collect();
            let scores: Vec<f32> = table.iter().map(|row| f32::from(row.4) / 30.0).collect();
            let classes: Vec<u32> = table.iter().map(|row| row.5).collect();
            let kept = batched_nms(&boxes, &scores, &classes, threshold).expect("equal lengths");
            prop_assert_eq!(kept, reference(&boxes, &scores, &classes, threshold));
        }
    }
}
