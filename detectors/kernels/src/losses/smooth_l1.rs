//! Smooth L1, the loss of box deltas (Girshick, Fast R-CNN, 2015; with Detectron's beta).

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;

use super::sums::{Divisor, Sum, expect_count, recorded, rows_of, sum_over_rows, zero_if_finite};
use crate::dispatch::Host;
use crate::{Error, Result, Value};

/// Smooth L1 loss of boxes or box deltas (Girshick 2015).
///
/// The sum over all coordinates of d² / (2 beta) where |d| < beta, |d| - beta / 2 elsewhere, over `divisor`;
/// d = pred - target. With beta 0 it is L1. The derivative at d = 0 is exactly 0.
///
/// # Shapes
/// `pred` (M, 4), `target` M rows; a scalar.
///
/// # Errors
/// Shapes that differ; a negative beta; a divisor that is not positive (unless M is 0).
pub fn smooth_l1<'d>(
    pred: &Value,
    target: &[[f32; 4]],
    beta: f64,
    divisor: impl Into<Divisor<'d>>,
) -> Result<Value> {
    const NAME: &str = "smooth_l1";
    expect_count(NAME, "target rows", rows_of(NAME, pred, 4)?, target.len())?;
    if !(beta >= 0.0 && beta.is_finite()) {
        return Err(Error::invalid(NAME, format!("beta must not be negative, got {beta}")));
    }
    let parts = divisor.into().parts(NAME, target.len())?;
    recorded(pred, SmoothL1 { pred: pred.tensor(), target, beta, parts: &parts })
}

struct SmoothL1<'a> {
    pred: &'a Tensor,
    target: &'a [[f32; 4]],
    beta: f64,
    parts: &'a [(usize, f64)],
}

impl Host for SmoothL1<'_> {
    type Output = Sum;

    fn on_host(self) -> Result<Sum> {
        let Self { pred, target, beta, parts } = self;
        sum_over_rows(pred, 4, parts, |i, pred, gradient| {
            let mut sum = f64::from(zero_if_finite(pred));
            for ((pred, target), gradient) in pred.iter().zip(&target[i]).zip(gradient) {
                let d = f64::from(*pred) - f64::from(*target);
                let (value, derivative) = if d.abs() < beta {
                    (0.5 * d * d / beta, d / beta)
                } else if d == 0.0 {
                    (0.0, 0.0)
                } else {
                    (d.abs() - 0.5 * beta, d.signum())
                };
                sum += value;
                *gradient = derivative as f32;
            }
            sum
        })
    }
}
