//! Binary cross-entropy of logits.

use super::{Divisor, expect_count, sum_over_rows, zero_if_finite};
use crate::{Result, Value};

/// sum_i [ -t_i log sigmoid(x_i) - (1 - t_i) log(1 - sigmoid(x_i)) ] / `divisor`, exact for logits of any size.
///
/// # Shapes
/// `logits` (M) or any shape of M elements, `targets` M values in [0, 1]; a scalar.
///
/// # Errors
/// A count of targets other than M; a divisor that is not positive (unless M is 0).
pub fn bce_with_logits<'d>(
    logits: &Value,
    targets: &[f32],
    divisor: impl Into<Divisor<'d>>,
) -> Result<Value> {
    const NAME: &str = "bce_with_logits";
    expect_count(NAME, "targets", logits.tensor().elem_count(), targets.len())?;
    sum_over_rows(NAME, logits, 1, divisor.into(), |i, x, gradient| {
        let poison = f64::from(zero_if_finite(x));
        let (x, t) = (f64::from(x[0]), f64::from(targets[i]));
        // e <= 1: nothing overflows on either side.
        let e = (-x.abs()).exp();
        let p = if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) };
        gradient[0] = (p - t) as f32;
        x.max(0.0) - x * t + e.ln_1p() + poison
    })
}
