//! Boxes: area, intersection, the project's one IoU, clipping, scaling.
//!
//! A box is `xyxy`: left, top, right, bottom in pixels, without the "+1" of old VOC code. Nothing here panics
//! on NaN, infinite or inverted boxes: they simply overlap nothing. The formulas are torchvision's
//! (`torchvision.ops.boxes`), evaluated in f32 in the same order, so thresholds fall the same way.

use ckd_kernels::simd::{Loops, at_level};
use rayon::prelude::*;

/// Left, top, right, bottom in absolute pixels.
pub type Xyxy = [f32; 4];

/// Errors of the host-side geometry (anchors to detections).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GeometryError {
    /// Two inputs that belong together have different lengths.
    #[error("{what}: {got} values where {expected} belong; pass inputs of the same image and network")]
    Length {
        /// The input that doesn't fit.
        what: &'static str,
        /// Values that the other inputs imply.
        expected: usize,
        /// Values given.
        got: usize,
    },
    /// A parameter outside its range.
    #[error("{what} = {got}: must be {rule}")]
    Parameter {
        /// The parameter.
        what: &'static str,
        /// The range it must lie in.
        rule: &'static str,
        /// The value given.
        got: f64,
    },
}

impl GeometryError {
    /// `Ok` when `got` is `expected`, else a [`GeometryError::Length`] about `what`.
    pub(crate) fn check_length(what: &'static str, expected: usize, got: usize) -> Result<(), Self> {
        if got == expected { Ok(()) } else { Err(Self::Length { what, expected, got }) }
    }
}

/// Width times height; inverted boxes may give a negative area, as in torchvision.
#[must_use]
#[inline(always)]
pub fn area(b: &Xyxy) -> f32 {
    (b[2] - b[0]) * (b[3] - b[1])
}

/// Area that two boxes share; 0 when they don't overlap.
#[must_use]
#[inline(always)]
pub fn intersection(a: &Xyxy, b: &Xyxy) -> f32 {
    positive(min(a[2], b[2]) - max(a[0], b[0])) * positive(min(a[3], b[3]) - max(a[1], b[1]))
}

/// Intersection over union, in [0, 1]; 0 where the union isn't a positive number (empty, NaN or infinite boxes).
#[must_use]
#[inline]
pub fn iou(a: &Xyxy, b: &Xyxy) -> f32 {
    iou_with_areas(a, area(a), b, area(b))
}

/// The share of `inner`'s own area that `outer` covers, in [0, 1]; 0 for an `inner` without area.
/// COCO uses this, not IoU, against crowd regions.
#[must_use]
#[inline]
pub fn coverage(inner: &Xyxy, outer: &Xyxy) -> f32 {
    let own = area(inner);
    if own > 0.0 { intersection(inner, outer) / own } else { 0.0 }
}

/// IoU of every row with every column, row-major.
///
/// For few rows or where the whole matrix is wanted; [`crate::matcher`] streams and never holds one.
///
/// # Shapes
/// `rows.len()` x `columns.len()`.
#[must_use]
pub fn iou_matrix(rows: &[Xyxy], columns: &[Xyxy]) -> Vec<f32> {
    let mut matrix = vec![0.0; rows.len() * columns.len()];
    if !matrix.is_empty() {
        let lanes = BoxLanes::from_boxes(columns);
        matrix.par_chunks_mut(columns.len()).zip(rows).for_each(|(out, row)| lanes.iou_into(row, out));
    }
    matrix
}

/// The box moved inside an image of (height, width); a NaN coordinate stays NaN.
#[must_use]
#[inline]
pub fn clip(b: &Xyxy, image_hw: (usize, usize)) -> Xyxy {
    let (height, width) = (image_hw.0 as f32, image_hw.1 as f32);
    [b[0].clamp(0.0, width), b[1].clamp(0.0, height), b[2].clamp(0.0, width), b[3].clamp(0.0, height)]
}

/// Whether both sides are at least `min_size` pixels; false for NaN.
#[must_use]
#[inline]
pub fn is_large_enough(b: &Xyxy, min_size: f32) -> bool {
    b[2] - b[0] >= min_size && b[3] - b[1] >= min_size
}

/// Scales boxes with the image: from an image of `from_hw` to one of `to_hw` (height, width), each axis by its
/// own ratio, which is rounded to f32 once (torchvision's `resize_boxes`).
///
/// # Errors
/// When `from_hw` has no pixels.
pub fn resize(
    boxes: &mut [Xyxy],
    from_hw: (usize, usize),
    to_hw: (usize, usize),
) -> Result<(), GeometryError> {
    for side in [from_hw.0, from_hw.1] {
        if side == 0 {
            return Err(GeometryError::Parameter { what: "side of the image", rule: "at least 1", got: 0.0 });
        }
    }
    let ratio_y = to_hw.0 as f32 / from_hw.0 as f32;
    let ratio_x = to_hw.1 as f32 / from_hw.1 as f32;
    for b in boxes {
        *b = [b[0] * ratio_x, b[1] * ratio_y, b[2] * ratio_x, b[3] * ratio_y];
    }
    Ok(())
}

/// Boxes column by column with their areas, so that one box meets many at SIMD speed.
#[derive(Debug, Default)]
pub(crate) struct BoxLanes {
    x1: Vec<f32>,
    y1: Vec<f32>,
    x2: Vec<f32>,
    y2: Vec<f32>,
    area: Vec<f32>,
}

impl BoxLanes {
    /// The columns of `boxes`, in their order.
    pub(crate) fn from_boxes(boxes: &[Xyxy]) -> Self {
        let column = |k: usize| boxes.iter().map(|b| b[k]).collect();
        Self {
            x1: column(0),
            y1: column(1),
            x2: column(2),
            y2: column(3),
            area: boxes.iter().map(area).collect(),
        }
    }

    /// Appends one box.
    pub(crate) fn push(&mut self, b: &Xyxy) {
        self.x1.push(b[0]);
        self.y1.push(b[1]);
        self.x2.push(b[2]);
        self.y2.push(b[3]);
        self.area.push(area(b));
    }

    /// Writes the IoU of `b` with each box into `out`, which has a place for each.
    #[inline]
    pub(crate) fn iou_into(&self, b: &Xyxy, out: &mut [f32]) {
        at_level(IouInto { lanes: self, b, out });
    }

    /// Whether the IoU of `b` with any of the boxes is above `threshold`; stops at the first block that has one.
    #[inline]
    pub(crate) fn any_iou_above(&self, b: &Xyxy, threshold: f32) -> bool {
        at_level(AnyIouAbove { lanes: self, b, threshold })
    }
}

struct IouInto<'a> {
    lanes: &'a BoxLanes,
    b: &'a Xyxy,
    out: &'a mut [f32],
}

impl Loops for IouInto<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { lanes, b, out } = self;
        let own = area(b);
        let n = out.len();
        let (x1, y1, x2, y2) = (&lanes.x1[..n], &lanes.y1[..n], &lanes.x2[..n], &lanes.y2[..n]);
        let areas = &lanes.area[..n];
        for i in 0..n {
            out[i] = iou_with_areas(b, own, &[x1[i], y1[i], x2[i], y2[i]], areas[i]);
        }
    }
}

struct AnyIouAbove<'a> {
    lanes: &'a BoxLanes,
    b: &'a Xyxy,
    threshold: f32,
}

impl Loops for AnyIouAbove<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        const BLOCK: usize = 64;
        let Self { lanes, b, threshold } = self;
        let own = area(b);
        let n = lanes.area.len();
        let mut start = 0;
        while start < n {
            let end = (start + BLOCK).min(n);
            let (x1, y1) = (&lanes.x1[start..end], &lanes.y1[start..end]);
            let (x2, y2) = (&lanes.x2[start..end], &lanes.y2[start..end]);
            let areas = &lanes.area[start..end];
            let mut above = 0_u32;
            for i in 0..end - start {
                let overlap = iou_with_areas(b, own, &[x1[i], y1[i], x2[i], y2[i]], areas[i]);
                above |= u32::from(overlap > threshold);
            }
            if above != 0 {
                return true;
            }
            start = end;
        }
        false
    }
}

#[inline(always)]
fn iou_with_areas(a: &Xyxy, area_a: f32, b: &Xyxy, area_b: f32) -> f32 {
    let shared = intersection(a, b);
    let union = area_a + area_b - shared;
    if union > 0.0 { shared / union } else { 0.0 }
}

// One instruction each, unlike f32::max and f32::min, which also order NaN.
#[inline(always)]
fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn min(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[inline(always)]
fn positive(side: f32) -> f32 {
    if side > 0.0 { side } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: Xyxy = [0.0, 0.0, 10.0, 10.0];

    #[test]
    fn iou_of_simple_boxes() {
        assert_eq!(iou(&UNIT, &UNIT), 1.0);
        assert_eq!(iou(&UNIT, &[5.0, 0.0, 15.0, 10.0]), 50.0 / 150.0);
        assert_eq!(iou(&UNIT, &[10.0, 0.0, 20.0, 10.0]), 0.0, "touching isn't overlapping");
        assert_eq!(iou(&UNIT, &[20.0, 20.0, 30.0, 30.0]), 0.0);
    }

    #[test]
    fn hostile_boxes_overlap_nothing() {
        let inf = f32::INFINITY;
        let hostile = [
            [f32::NAN; 4],
            [0.0, 0.0, f32::NAN, 10.0],
            [5.0, 5.0, 5.0, 5.0],
            [10.0, 10.0, 0.0, 0.0],
            [10.0, 0.0, 0.0, 10.0],
            [-inf, -inf, inf, inf],
            [0.0, 0.0, inf, 0.0],
            [f32::MIN, f32::MIN, f32::MAX, f32::MAX],
        ];
        for (k, b) in hostile.iter().enumerate() {
            assert_eq!(iou(&UNIT, b), 0.0, "box {k}");
            assert_eq!(iou(b, &UNIT), 0.0, "box {k}");
            assert!(iou(b, b) == 0.0, "box {k} with itself");
        }
    }

    #[test]
    fn the_matrix_and_the_pairs_agree_to_the_bit() {
        let rows = [UNIT, [3.0, 4.0, 9.0, 20.0], [f32::NAN; 4]];
        let columns: Vec<Xyxy> = (0..77).map(|k| [k as f32 * 0.3, 1.0, 8.0 + k as f32, 9.5]).collect();
        let matrix = iou_matrix(&rows, &columns);
        for (r, row) in rows.iter().enumerate() {
            for (c, column) in columns.iter().enumerate() {
                assert_eq!(matrix[r * columns.len() + c].to_bits(), iou(row, column).to_bits());
            }
        }
        assert!(iou_matrix(&[], &columns).is_empty() && iou_matrix(&rows, &[]).is_empty());
    }

    #[test]
    fn coverage_is_over_the_inner_box() {
        assert_eq!(coverage(&[0.0, 0.0, 2.0, 2.0], &UNIT), 1.0);
        assert_eq!(coverage(&UNIT, &[0.0, 0.0, 2.0, 2.0]), 0.04);
        assert_eq!(coverage(&[1.0, 1.0, 1.0, 1.0], &UNIT), 0.0);
    }

    #[test]
    fn clipping_and_size() {
        assert_eq!(clip(&[-5.0, -1.0, 30.0, 8.0], (10, 20)), [0.0, 0.0, 20.0, 8.0]);
        assert_eq!(clip(&[f32::INFINITY, 0.0, f32::INFINITY, 1.0], (10, 20)), [20.0, 0.0, 20.0, 1.0]);
        assert!(clip(&[f32::NAN; 4], (10, 20))[0].is_nan());
        assert!(is_large_enough(&[0.0, 0.0, 1.0, 1.0], 1.0));
        assert!(!is_large_enough(&[0.0, 0.0, 1.0, 0.5], 1.0));
        assert!(!is_large_enough(&[f32::NAN; 4], 0.0));
    }

    #[test]
    fn boxes_scale_with_each_axis() {
        let mut boxes = vec![[10.0, 10.0, 20.0, 30.0]];
        resize(&mut boxes, (100, 50), (200, 25)).expect("sizes are positive");
        assert_eq!(boxes, [[5.0, 20.0, 10.0, 60.0]]);
        assert!(resize(&mut boxes, (0, 50), (200, 25)).is_err());
    }
}
