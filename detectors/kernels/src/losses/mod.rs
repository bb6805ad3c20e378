//! Losses of detectors and classifiers: value and gradient in one pass over the rows.
//!
//! | file | what lives there |
//! |---|---|
//! | `bce` | [`bce_with_logits`]: binary cross-entropy (the RPN's objectness) |
//! | `focal` | [`sigmoid_focal_loss`] (RetinaNet's classes) |
//! | `smooth_l1` | [`smooth_l1`] (box deltas) |
//! | `giou` | [`giou_loss`] (boxes) |
//! | `cross_entropy` | [`softmax_cross_entropy`] (the box head's classes) |
//!
//! Every loss is a sum over rows divided by a `divisor` that the caller names: each detector averages
//! over something else. No rows at all give 0 with a zero gradient, whatever the divisor is. A logit or
//! box that is not finite makes the loss not finite, so that a training guard sees it.
//! Rows run in parallel; sums are in f64 and in an order that does not depend on the number of threads.

mod bce;
mod cross_entropy;
mod focal;
mod giou;
mod smooth_l1;

pub use bce::bce_with_logits;
pub use cross_entropy::softmax_cross_entropy;
pub use focal::{FocalTargets, RowTarget, sigmoid_focal_loss};
pub use giou::giou_loss;
pub use smooth_l1::smooth_l1;

use rayon::prelude::*;

use crate::elementwise::CHUNK;
use crate::memory::{elements, from_elements, on_host};
use crate::{Error, Result, Value};

/// The scalar sum_i loss(row i) / `divisor` of an input whose rows have `width` elements.
///
/// `row` gets a row's number and elements, and the row of the gradient, filled with zeros, to write its
/// derivatives to; it returns the row's loss.
fn sum_over_rows(
    operation: &'static str,
    input: &Value,
    width: usize,
    divisor: f64,
    row: impl Fn(usize, &[f32], &mut [f32]) -> f64 + Sync,
) -> Result<Value> {
    let count = input.tensor().elem_count();
    if count > 0 && !(divisor.is_finite() && divisor > 0.0) {
        return Err(Error::invalid(
            operation,
            format!("the divisor must be positive and finite, got {divisor}"),
        ));
    }
    let mut gradient = vec![0f32; count];
    let mut loss = 0.0;
    if count > 0 {
        let host = on_host(input.tensor())?;
        let x = elements(&host)?;
        let rows_a_task = CHUNK.div_ceil(width);
        let sums: Vec<f64> = gradient
            .par_chunks_mut(rows_a_task * width)
            .zip(x.par_chunks(rows_a_task * width))
            .enumerate()
            .map(|(task, (gradient, x))| {
                let rows = x.chunks_exact(width).zip(gradient.chunks_exact_mut(width)).enumerate();
                let sum = rows.map(|(i, (x, gradient))| row(task * rows_a_task + i, x, gradient)).sum();
                let scale = divisor.recip() as f32;
                gradient.iter_mut().for_each(|g| *g *= scale);
                sum
            })
            .collect();
        loss = sums.iter().sum::<f64>() / divisor;
    }
    let loss = from_elements(vec![loss as f32], (), input.tensor())?;
    let shape = input.tensor().shape().clone();
    Ok(Value::operation(&[input], loss, move |incoming| {
        let factor = incoming.reshape(())?.to_scalar::<f32>()?;
        if factor != 1.0 {
            gradient.par_chunks_mut(CHUNK).for_each(|part| part.iter_mut().for_each(|g| *g *= factor));
        }
        Ok(vec![Some(from_elements(gradient, shape, incoming)?)])
    }))
}

/// 0 if every value is finite, else NaN. Comparisons and saturating functions lose a NaN or an infinity
/// on the way; adding this keeps it.
fn zero_if_finite(values: &[f32]) -> f32 {
    values.iter().map(|value| 0.0 * value).sum()
}

/// The number of rows of a matrix with `columns` columns, or an error that names both.
fn rows_of(operation: &'static str, input: &Value, columns: usize) -> Result<usize> {
    match *input.dims() {
        [rows, got] if got == columns => Ok(rows),
        _ => Err(Error::invalid(operation, format!("(M, {columns}) expected, got {:?}", input.dims()))),
    }
}

fn expect_count(operation: &'static str, what: &str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::invalid(operation, format!("{expected} {what} expected, got {got}")))
}
