//! Softmax cross-entropy with class indices.

use super::{expect_count, sum_over_rows, zero_if_finite};
use crate::{Error, Result, Value};

/// sum_i [ logsumexp_k x_ik - x_i,label(i) ] / `divisor`.
///
/// # Shapes
/// `logits` (M, K), `labels` M classes below K; a scalar.
///
/// # Errors
/// Shapes that differ; a label of K or more; a divisor that is not positive (unless M is 0).
pub fn softmax_cross_entropy(logits: &Value, labels: &[u32], divisor: f64) -> Result<Value> {
    const NAME: &str = "softmax_cross_entropy";
    let &[m, k] = logits.dims() else {
        return Err(Error::invalid(NAME, format!("(M, K) expected, got {:?}", logits.dims())));
    };
    expect_count(NAME, "labels", m, labels.len())?;
    if let Some((row, label)) = labels.iter().enumerate().find(|&(_, &label)| label as usize >= k) {
        return Err(Error::invalid(NAME, format!("label {label} in row {row}, of {k} classes")));
    }
    sum_over_rows(NAME, logits, k, divisor, |i, x, gradient| {
        let label = labels[i] as usize;
        let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let shifted = |x: f32| f64::from(x) - f64::from(largest);
        let total: f64 = x.iter().map(|&x| shifted(x).exp()).sum();
        for (gradient, &x) in gradient.iter_mut().zip(x) {
            *gradient = (shifted(x).exp() / total) as f32;
        }
        gradient[label] -= 1.0;
        total.ln() - shifted(x[label]) + f64::from(zero_if_finite(x))
    })
}
