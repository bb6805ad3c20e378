//! Binary cross-entropy of logits.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;

use super::sums::{Divisor, Sum, expect_count, recorded, sum_over_rows, zero_if_finite};
use crate::dispatch::Host;
use crate::{Result, Value};

/// Binary cross-entropy with logits, exact for logits of any size.
///
/// sum_i [ -t_i log sigmoid(x_i) - (1 - t_i) log(1 - sigmoid(x_i)) ] / `divisor`.
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
    let parts = divisor.into().parts(NAME, targets.len())?;
    recorded(logits, Bce { logits: logits.tensor(), targets, parts: &parts })
}

struct Bce<'a> {
    logits: &'a Tensor,
    targets: &'a [f32],
    parts: &'a [(usize, f64)],
}

impl Host for Bce<'_> {
    type Output = Sum;

    fn on_host(self) -> Result<Sum> {
        let targets = self.targets;
        sum_over_rows(self.logits, 1, self.parts, |i, x, gradient| {
            let poison = f64::from(zero_if_finite(x));
            let (x, t) = (f64::from(x[0]), f64::from(targets[i]));
            // e <= 1: nothing overflows on either side.
            let e = (-x.abs()).exp();
            let p = if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) };
            gradient[0] = (p - t) as f32;
            x.max(0.0) - x * t + e.ln_1p() + poison
        })
    }
}
