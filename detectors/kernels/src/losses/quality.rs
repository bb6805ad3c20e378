//! Quality focal loss towards another network's probabilities (Li et al. 2020, arXiv 2006.04388, in the form of Wang et al. 2024,
//! arXiv 2306.11369): |p - q|^beta BCE(x, q), p = sigmoid(x), q = sigmoid(target).
//!
//! The focus is differentiated too: with d = p - q,
//! the derivative is |d|^beta d + beta |d|^(beta - 1) sign(d) p (1 - p) BCE(x, q).

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;

use super::sums::{Divisor, Sum, expect_count, recorded, sum_over_rows};
use crate::dispatch::Host;
use crate::memory::{elements, on_host};
use crate::reduce::{exp_of_negative, log_of_one_plus};
use crate::simd::for_each_level;
use crate::{Error, Result, Value};

const NAME: &str = "quality_focal_loss";

/// Quality focal loss of logits towards the sigmoids of `target`, summed over the rows that `counts` marks, over `divisor`.
///
/// 0 where both agree; a `beta` of 0 leaves the binary cross-entropy, whose least value is the target's entropy.
///
/// # Shapes
/// `logits` and `target` (M, K), M of `counts`; a scalar.
///
/// # Errors
/// Shapes that differ; a negative beta; a divisor that is not positive (unless M is 0).
pub fn quality_focal_loss(
    logits: &Value,
    target: &Tensor,
    counts: &[bool],
    beta: f64,
    divisor: f64,
) -> Result<Value> {
    let &[m, k] = logits.dims() else {
        return Err(Error::invalid(NAME, format!("(M, K) expected, got {:?}", logits.dims())));
    };
    if target.dims() != logits.dims() {
        let reason = format!("target {:?} for logits {:?}", target.dims(), logits.dims());
        return Err(Error::invalid(NAME, reason));
    }
    expect_count(NAME, "rows marked", m, counts.len())?;
    if !(beta >= 0.0 && beta.is_finite()) {
        return Err(Error::invalid(NAME, format!("beta must not be negative, got {beta}")));
    }
    let parts = Divisor::All(divisor).parts(NAME, if k == 0 { 0 } else { m })?;
    let (logits_of, beta) = (logits.tensor(), beta as f32);
    recorded(logits, Quality { logits: logits_of, target, counts, beta, parts: &parts })
}

struct Quality<'a> {
    logits: &'a Tensor,
    target: &'a Tensor,
    counts: &'a [bool],
    beta: f32,
    parts: &'a [(usize, f64)],
}

impl Host for Quality<'_> {
    type Output = Sum;

    fn on_host(self) -> Result<Sum> {
        let Self { logits, target, counts, beta, parts } = self;
        let (_, k) = logits.dims2()?;
        let target = on_host(target)?;
        let target = elements(&target)?;
        let target: &[f32] = &target;
        // The usual exponent avoids `powf`, which no vector instruction does.
        let sum_of_row = if beta == 1.0 { sum_of_row_with_lengths } else { sum_of_row_with_powers };
        sum_over_rows(logits, k, parts, |row, x, gradient| match counts[row] {
            true => sum_of_row(x, &target[row * k..][..k], gradient, beta),
            false => 0.0,
        })
    }
}

for_each_level! {
    /// The losses of a row and their derivatives; beta is 1.
    fn sum_of_row_with_lengths(x: &[f32], t: &[f32], gradient: &mut [f32], _beta: f32) -> f64 {
        let mut sum = 0.0;
        for ((x, t), gradient) in x.iter().zip(t).zip(gradient) {
            let (value, derivative) = term(*x, *t, |d| (d.abs(), if d == 0.0 { 0.0 } else { d.signum() }));
            sum += f64::from(value);
            *gradient = derivative;
        }
        sum
    }

    /// The losses of a row and their derivatives with any beta.
    fn sum_of_row_with_powers(x: &[f32], t: &[f32], gradient: &mut [f32], beta: f32) -> f64 {
        let focus = |d: f32| {
            let slope = if d == 0.0 || beta == 0.0 { 0.0 } else { beta * d.abs().powf(beta - 1.0) * d.signum() };
            (d.abs().powf(beta), slope)
        };
        let mut sum = 0.0;
        for ((x, t), gradient) in x.iter().zip(t).zip(gradient) {
            let (value, derivative) = term(*x, *t, focus);
            sum += f64::from(value);
            *gradient = derivative;
        }
        sum
    }
}

/// The loss of a logit `x` towards sigmoid(`t`) and its derivative; `focus` gives |d|^beta and its derivative.
#[inline(always)]
fn term(x: f32, t: f32, focus: impl Fn(f32) -> (f32, f32)) -> (f32, f32) {
    let sigmoid = |x: f32| {
        let e = exp_of_negative(x.abs());
        let large = 1.0 / (1.0 + e);
        let small = e * large;
        if x >= 0.0 { (large, small, e) } else { (small, large, e) }
    };
    let ((p, rest, e), (q, _, _)) = (sigmoid(x), sigmoid(t));
    // 0 x is 0, or NaN where x is not finite; likewise of t.
    let entropy = x.max(0.0) - x * q + log_of_one_plus(e) + 0.0 * x + 0.0 * t;
    let d = p - q;
    let (focus, slope) = focus(d);
    (focus * entropy, focus * d + slope * p * rest * entropy)
}
