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
use crate::memory::{both_written, elements, from_elements, on_host};
use crate::reduce::multiply;
use crate::{Error, Result, Value};

/// What a sum over rows is divided by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Divisor<'a> {
    /// All rows by one number.
    All(f64),
    /// Runs of rows, one after another: how many, and by what. An image's rows by the number of its objects, say.
    Parts(&'a [(usize, f64)]),
}

impl From<f64> for Divisor<'_> {
    fn from(divisor: f64) -> Self {
        Self::All(divisor)
    }
}

impl Divisor<'_> {
    /// Runs of rows, as [`Divisor::Parts`]; those of `rows` rows.
    fn parts(self, operation: &'static str, rows: usize) -> Result<Vec<(usize, f64)>> {
        let parts = match self {
            Self::All(divisor) => vec![(rows, divisor)],
            Self::Parts(parts) => parts.to_vec(),
        };
        expect_count(
            operation,
            "rows in the parts of the divisor",
            rows,
            parts.iter().map(|part| part.0).sum(),
        )?;
        match parts.iter().find(|(rows, divisor)| *rows > 0 && !(divisor.is_finite() && *divisor > 0.0)) {
            Some((_, divisor)) => Err(Error::invalid(
                operation,
                format!("the divisor must be positive and finite, got {divisor}"),
            )),
            None => Ok(parts),
        }
    }
}

/// The scalar sum_i loss(row i) / `divisor` of an input whose rows have `width` elements.
///
/// `row` gets a row's number and elements, and the row of the gradient, filled with zeros, to write its
/// derivatives to; it returns the row's loss.
fn sum_over_rows(
    operation: &'static str,
    input: &Value,
    width: usize,
    divisor: Divisor<'_>,
    row: impl Fn(usize, &[f32], &mut [f32]) -> f64 + Sync,
) -> Result<Value> {
    let rows = input.tensor().elem_count().checked_div(width).unwrap_or(0);
    let parts = divisor.parts(operation, rows)?;
    let host = on_host(input.tensor())?;
    let x = elements(&host)?;
    let rows_a_task = CHUNK.div_ceil(width.max(1));
    let (mut gradient, losses) = both_written(rows, (width, 1), rows_a_task, |first, gradient, losses| {
        let (gradient, end) = (gradient.zeros(), first + losses.len());
        let mut part = 0..0;
        for &(rows, divisor) in &parts {
            part = part.end..part.end + rows;
            let ours = part.start.max(first)..part.end.min(end);
            if ours.is_empty() {
                continue;
            }
            let gradient = &mut gradient[(ours.start - first) * width..(ours.end - first) * width];
            for (i, gradient) in ours.zip(gradient.chunks_exact_mut(width)) {
                losses.extend(std::iter::once(row(i, &x[i * width..][..width], gradient) / divisor));
            }
            let scale = divisor.recip() as f32;
            multiply(gradient, scale);
        }
    });
    drop(x);
    let loss = losses.iter().sum::<f64>();
    let loss = from_elements(vec![loss as f32], (), input.tensor())?;
    let shape = input.tensor().shape().clone();
    Ok(Value::operation(&[input], loss, move |incoming| {
        let factor = incoming.reshape(())?.to_scalar::<f32>()?;
        if factor != 1.0 {
            gradient.par_chunks_mut(CHUNK).for_each(|part| multiply(part, factor));
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
