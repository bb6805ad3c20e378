//! Ground-truth box of each point: centre sampling and size ranges (Tian et al. 2020, arXiv 2006.09214, section 3).
//!
//! A point is the centre of a square anchor whose side is the level's stride, as in torchvision's `FCOS`. It is a
//! positive of a box if it lies inside, within `radius` strides of the box's centre along both axes, and the farthest
//! side of the box is within the level's range: 4 to 8 strides, without a lower bound on the finest level and without
//! an upper one on the coarsest. Of several such boxes the smallest wins, the first on a tie.

use rayon::prelude::*;

use crate::box_coder::PointCoder;
use crate::boxes::{Xyxy, area};
use crate::matcher::{Match, spare_ignored};

/// Range of the distance to the farthest side that a level is responsible for, in strides.
const RANGE: [f32; 2] = [4.0, 8.0];

/// Match of every point of an image.
///
/// A background point whose anchor lies with at least half of its area in one of `ignored` becomes
/// [`Match::Between`], as an anchor does. Boxes without area, or not finite, match nothing.
///
/// # Shapes
/// `anchors` of all levels, fine to coarse, `per_level` of each.
pub(super) fn match_points(
    boxes: &[Xyxy],
    ignored: &[Xyxy],
    (anchors, per_level): (&[Xyxy], &[usize]),
    radius: f64,
) -> Vec<Match> {
    let mut matches = Vec::with_capacity(anchors.len());
    let mut rest = anchors;
    for (level, &count) in per_level.iter().enumerate() {
        let (own, coarser) = rest.split_at(count);
        rest = coarser;
        let lower = if level == 0 { 0.0 } else { RANGE[0] };
        let upper = if level + 1 == per_level.len() { f32::INFINITY } else { RANGE[1] };
        matches.par_extend(
            own.par_iter().map(|anchor| match_point(boxes, anchor, radius as f32, [lower, upper])),
        );
    }
    spare_ignored(ignored, anchors, &mut matches);
    matches
}

fn match_point(boxes: &[Xyxy], anchor: &Xyxy, radius: f32, [lower, upper]: [f32; 2]) -> Match {
    let stride = anchor[2] - anchor[0];
    let (x, y) = centre(anchor);
    let mut best: Option<(f32, u32)> = None;
    for (index, own) in (0_u32..).zip(boxes) {
        let sides = distances(own, (x, y));
        let nearest = sides.iter().copied().fold(f32::INFINITY, f32::min);
        let farthest = sides.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (centre_x, centre_y) = centre(own);
        let off_centre = (x - centre_x).abs().max((y - centre_y).abs());
        let is_positive = nearest > 0.0
            && off_centre < radius * stride
            && farthest > lower * stride
            && farthest < upper * stride;
        let size = area(own);
        // Of a box that is not finite the area is not, either.
        let is_box = size > 0.0 && size.is_finite();
        if is_positive && is_box && best.is_none_or(|(smallest, _)| size < smallest) {
            best = Some((size, index));
        }
    }
    best.map_or(Match::Background, |(_, index)| Match::Gt(index))
}

/// Centerness of the centre of `anchor` in `own` (paper, equation 3): 1 in the middle, 0 on a side.
pub(super) fn centerness(own: &Xyxy, anchor: &Xyxy) -> f32 {
    PointCoder.centerness(distances(own, centre(anchor)))
}

/// Distances of a point from the left, upper, right and lower side of a box; negative beyond it.
fn distances(own: &Xyxy, (x, y): (f32, f32)) -> [f32; 4] {
    [x - own[0], y - own[1], own[2] - x, own[3] - y]
}

fn centre(b: &Xyxy) -> (f32, f32) {
    (0.5 * (b[0] + b[2]), 0.5 * (b[1] + b[3]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Anchors of stride 8 and 16 around (x, y).
    fn at(x: f32, y: f32) -> ([Xyxy; 2], [usize; 2]) {
        let square = |half: f32| [x - half, y - half, x + half, y + half];
        ([square(4.0), square(8.0)], [1, 1])
    }

    fn matched(boxes: &[Xyxy], x: f32, y: f32) -> Vec<Match> {
        let (anchors, per_level) = at(x, y);
        match_points(boxes, &[], (&anchors, &per_level), 1.5)
    }

    const BACKGROUND: Match = Match::Background;

    #[test]
    fn a_point_near_the_centre_is_a_positive_of_the_level_that_the_box_fits() {
        // Farthest side at 32 strides of 8: the finer level ends below 64, the coarser begins above 64.
        let small = [[0.0, 0.0, 60.0, 40.0]];
        assert_eq!(matched(&small, 30.0, 20.0), [Match::Gt(0), BACKGROUND]);
        let large = [[0.0, 0.0, 200.0, 100.0]];
        assert_eq!(matched(&large, 100.0, 50.0), [BACKGROUND, Match::Gt(0)]);
        // At a bound of both ranges neither level takes it.
        let between = [[0.0, 0.0, 128.0, 128.0]];
        assert_eq!(matched(&between, 64.0, 64.0), [BACKGROUND; 2]);
    }

    #[test]
    fn points_far_from_the_centre_or_outside_are_background() {
        let own = [[0.0, 0.0, 60.0, 40.0]];
        // 1.5 strides of 8 are 12 pixels, which do not count any more.
        assert_eq!(matched(&own, 41.5, 20.0)[0], Match::Gt(0));
        assert_eq!(matched(&own, 42.0, 20.0)[0], BACKGROUND);
        let thin = [[0.0, 0.0, 60.0, 4.0]];
        assert_eq!(matched(&thin, 30.0, 4.0)[0], BACKGROUND, "on the side");
        assert_eq!(matched(&thin, 30.0, 5.0)[0], BACKGROUND, "outside");
    }

    #[test]
    fn the_smallest_box_wins_and_the_first_of_equals() {
        let boxes = [[0.0, 0.0, 60.0, 40.0], [10.0, 10.0, 50.0, 30.0], [10.0, 10.0, 50.0, 30.0]];
        assert_eq!(matched(&boxes, 30.0, 20.0)[0], Match::Gt(1));
    }

    #[test]
    fn hostile_boxes_match_nothing() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let boxes = [
            [nan; 4],
            [0.0, 0.0, nan, 40.0],
            [30.0, 20.0, 30.0, 20.0],
            [60.0, 40.0, 0.0, 0.0],
            [-inf, -inf, inf, inf],
        ];
        for own in boxes {
            assert_eq!(matched(&[own], 30.0, 20.0), [BACKGROUND; 2], "{own:?}");
        }
        assert_eq!(matched(&[], 30.0, 20.0), [BACKGROUND; 2]);
    }

    #[test]
    fn a_point_in_a_crowd_is_neither_positive_nor_negative() {
        let (anchors, per_level) = at(30.0, 20.0);
        let crowd = [[20.0, 10.0, 40.0, 30.0]];
        let matches = match_points(&[], &crowd, (&anchors, &per_level), 1.5);
        assert_eq!(matches, [Match::Between; 2]);
        let own = [[0.0, 0.0, 60.0, 40.0]];
        assert_eq!(match_points(&own, &crowd, (&anchors, &per_level), 1.5)[0], Match::Gt(0));
    }

    #[test]
    fn centerness_is_1_in_the_middle_and_falls_to_the_sides() {
        let anchor = at(30.0, 20.0).0[0];
        assert_eq!(centerness(&[0.0, 0.0, 60.0, 40.0], &anchor), 1.0);
        let expected = (10.0_f32 / 30.0 * (20.0 / 20.0)).sqrt();
        assert!((centerness(&[20.0, 0.0, 60.0, 40.0], &anchor) - expected).abs() < 1e-7);
    }
}
