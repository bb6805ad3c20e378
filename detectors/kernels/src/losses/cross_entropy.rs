//! Softmax cross-entropy with class indices.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;

use super::sums::{Divisor, Sum, expect_count, recorded, sum_over_rows, zero_if_finite};
use crate::dispatch::Host;
use crate::reduce::{exponentials, largest, multiply};
use crate::{Error, Result, Value};

/// Softmax cross-entropy with class indices: sum_i [ logsumexp_k x_ik - x_i,label(i) ] / `divisor`.
///
/// # Shapes
/// `logits` (M, K), `labels` M classes below K; a scalar.
///
/// # Errors
/// Shapes that differ; a label of K or more; a divisor that is not positive (unless M is 0).
pub fn softmax_cross_entropy<'d>(
    logits: &Value,
    labels: &[u32],
    divisor: impl Into<Divisor<'d>>,
) -> Result<Value> {
    const NAME: &str = "softmax_cross_entropy";
    let &[m, k] = logits.dims() else {
        return Err(Error::invalid(NAME, format!("(M, K) expected, got {:?}", logits.dims())));
    };
    expect_count(NAME, "labels", m, labels.len())?;
    if let Some((row, label)) = labels.iter().enumerate().find(|&(_, &label)| label as usize >= k) {
        return Err(Error::invalid(NAME, format!("label {label} in row {row}, of {k} classes")));
    }
    let parts = divisor.into().parts(NAME, m)?;
    recorded(logits, CrossEntropy { logits: logits.tensor(), labels, parts: &parts })
}

struct CrossEntropy<'a> {
    logits: &'a Tensor,
    labels: &'a [u32],
    parts: &'a [(usize, f64)],
}

impl Host for CrossEntropy<'_> {
    type Output = Sum;

    fn on_host(self) -> Result<Sum> {
        let labels = self.labels;
        let (_, k) = self.logits.dims2()?;
        sum_over_rows(self.logits, k, self.parts, |i, x, gradient| {
            let label = labels[i] as usize;
            let highest = largest(x);
            gradient.copy_from_slice(x);
            let total = exponentials(gradient, highest, 1.0);
            let share = total.recip() as f32;
            multiply(gradient, share);
            gradient[label] -= 1.0;
            total.ln() - (f64::from(x[label]) - f64::from(highest)) + f64::from(zero_if_finite(x))
        })
    }
}
