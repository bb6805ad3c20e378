//! Losses of boxes by their IoU: generalised IoU (Rezatofighi et al., 2019), in torchvision's form, and the logarithm of the IoU.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;

use super::sums::{Divisor, Sum, expect_count, recorded, rows_of, sum_over_rows, zero_if_finite};
use crate::dispatch::Host;
use crate::{Result, Value};

/// torchvision's guard of the two divisions.
const EPS: f64 = 1e-7;

/// GIoU loss of boxes (Rezatofighi et al. 2019): sum_i (1 - GIoU(pred_i, target_i)) / `divisor`.
///
/// Where two edges coincide the derivative is shared between both boxes, half each, as PyTorch does.
///
/// # Shapes
/// `pred` (M, 4) and `target` M rows, boxes xyxy in any one unit; a scalar.
///
/// # Errors
/// Shapes that differ; a divisor that is not positive (unless M is 0).
pub fn giou_loss<'d>(pred: &Value, target: &[[f32; 4]], divisor: impl Into<Divisor<'d>>) -> Result<Value> {
    const NAME: &str = "giou_loss";
    expect_count(NAME, "target rows", rows_of(NAME, pred, 4)?, target.len())?;
    let parts = divisor.into().parts(NAME, target.len())?;
    recorded(pred, Giou { pred: pred.tensor(), target, parts: &parts })
}

/// A smaller IoU, or area, counts as so much and has no gradient.
const LEAST: f64 = 1e-6;

/// Logarithmic IoU loss of boxes (UnitBox; Yu et al. 2016, arXiv 1608.01471): sum_i -ln IoU(pred_i, target_i) / `divisor`. An IoU
/// counts as 1e-6 at least. A formula of candle's on whichever device: FCOS's paper has it, torchvision's FCOS [`giou_loss`].
///
/// # Shapes
/// As [`giou_loss`].
///
/// # Errors
/// As [`giou_loss`].
pub fn log_iou_loss<'d>(pred: &Value, target: &[[f32; 4]], divisor: impl Into<Divisor<'d>>) -> Result<Value> {
    const NAME: &str = "log_iou_loss";
    expect_count(NAME, "target rows", rows_of(NAME, pred, 4)?, target.len())?;
    let parts = divisor.into().parts(NAME, target.len())?;
    if target.is_empty() {
        // candle has no sums over parts of nothing.
        return giou_loss(pred, target, 1.0);
    }
    let weights: Vec<f32> =
        parts.iter().flat_map(|&(rows, divisor)| std::iter::repeat_n(divisor.recip() as f32, rows)).collect();
    let (count, device) = (target.len(), pred.tensor().device());
    let target = Tensor::from_slice(target.as_flattened(), (count, 4), device)?;
    let weights = Tensor::from_vec(weights, (count, 1), device)?;
    let corners =
        |boxes: &Tensor| Ok::<_, candle_core::Error>((boxes.narrow(1, 0, 2)?, boxes.narrow(1, 2, 2)?));
    let area = |sides: &Tensor| sides.narrow(1, 0, 1)? * sides.narrow(1, 1, 1)?;
    Value::from_candle(&[pred], |boxes| {
        let ((lower, upper), (target_lower, target_upper)) = (corners(&boxes[0])?, corners(&target)?);
        let inner = (upper.minimum(&target_upper)? - lower.maximum(&target_lower)?)?.maximum(0.0)?;
        let intersection = area(&inner)?;
        let areas = (area(&(upper - lower)?)? + area(&(target_upper - target_lower)?)?)?;
        let union = (areas - &intersection)?;
        let iou = (intersection / union.maximum(LEAST)?)?.maximum(LEAST)?;
        // A maximum may hide what is not finite.
        let shown = (union * 0.0)?;
        ((shown - iou.log()?)? * weights)?.sum_all()
    })
}

struct Giou<'a> {
    pred: &'a Tensor,
    target: &'a [[f32; 4]],
    parts: &'a [(usize, f64)],
}

impl Host for Giou<'_> {
    type Output = Sum;

    fn on_host(self) -> Result<Sum> {
        let Self { pred, target, parts } = self;
        sum_over_rows(pred, 4, parts, |i, pred, gradient| {
            let p = [pred[0], pred[1], pred[2], pred[3]].map(f64::from);
            let (loss, derivatives) = giou_distance(p, target[i].map(f64::from));
            for (gradient, derivative) in gradient.iter_mut().zip(derivatives) {
                *gradient = derivative as f32;
            }
            loss + f64::from(zero_if_finite(pred)) + f64::from(zero_if_finite(&target[i]))
        })
    }
}

/// 1 - GIoU of two boxes and its derivatives with respect to the first.
fn giou_distance(p: [f64; 4], t: [f64; 4]) -> (f64, [f64; 4]) {
    let (width, height) = (p[2] - p[0], p[3] - p[1]);
    // The intersection: lower corner the larger of both, upper corner the smaller.
    let inner_width = p[2].min(t[2]) - p[0].max(t[0]);
    let inner_height = p[3].min(t[3]) - p[1].max(t[1]);
    let overlap = inner_width > 0.0 && inner_height > 0.0;
    let intersection = if overlap { inner_width * inner_height } else { 0.0 };
    let union = width * height + (t[2] - t[0]) * (t[3] - t[1]) - intersection;
    // The smallest box around both.
    let outer_width = p[2].max(t[2]) - p[0].min(t[0]);
    let outer_height = p[3].max(t[3]) - p[1].min(t[1]);
    let hull = outer_width * outer_height;

    let iou = intersection / (union + EPS);
    let empty = (hull - union) / (hull + EPS);
    // loss = 1 - iou + empty, by its three areas.
    let by_intersection = -1.0 / (union + EPS);
    let by_union = intersection / (union + EPS).powi(2) - 1.0 / (hull + EPS);
    let by_hull = (union + EPS) / (hull + EPS).powi(2);

    // How far each edge of `p` moves an area: the sign of the edge times the other side.
    let sides = [height, width, height, width];
    let inner_sides = [inner_height, inner_width, inner_height, inner_width];
    let outer_sides = [outer_height, outer_width, outer_height, outer_width];
    let mut derivatives = [0.0; 4];
    for edge in 0..4 {
        let upper = edge >= 2;
        let sign = if upper { 1.0 } else { -1.0 };
        let beyond = share_of_maximum(p[edge], t[edge]);
        let (inner_share, outer_share) = if upper { (1.0 - beyond, beyond) } else { (beyond, 1.0 - beyond) };
        let d_intersection = if overlap { sign * inner_share * inner_sides[edge] } else { 0.0 };
        let d_union = sign * sides[edge] - d_intersection;
        let d_hull = sign * outer_share * outer_sides[edge];
        derivatives[edge] = by_intersection * d_intersection + by_union * d_union + by_hull * d_hull;
    }
    (1.0 - iou + empty, derivatives)
}

/// The derivative of max(a, b) with respect to a.
fn share_of_maximum(a: f64, b: f64) -> f64 {
    if a > b {
        1.0
    } else if a < b {
        0.0
    } else {
        0.5
    }
}
