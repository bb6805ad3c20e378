//! Sums over rows, which every loss is.

#[cfg(feature = "cuda")]
pub(super) mod gpu;

use candle_core::Tensor;

use crate::dispatch::{self, Anywhere};
use crate::memory::{CHUNK, both_written, elements, from_elements, on_host};
use crate::reduce::multiply;
use crate::scalar::with_gradients;
use crate::{Error, Result, Value};

/// Divisor of a sum over rows; infinite of rows that count nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Divisor<'a> {
    /// All rows by one number.
    All(f64),
    /// Runs of rows, one after another: how many, and by what. An image's rows by the number of its objects,
    /// say.
    Parts(&'a [(usize, f64)]),
}

impl From<f64> for Divisor<'_> {
    fn from(divisor: f64) -> Self {
        Self::All(divisor)
    }
}

impl Divisor<'_> {
    /// Runs of rows, as [`Divisor::Parts`]; those of `rows` rows.
    pub(super) fn parts(self, operation: &'static str, rows: usize) -> Result<Vec<(usize, f64)>> {
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
        match parts.iter().find(|(rows, divisor)| *rows > 0 && (divisor.is_nan() || *divisor <= 0.0)) {
            Some((_, divisor)) => {
                Err(Error::invalid(operation, format!("the divisor must be positive, got {divisor}")))
            }
            None => Ok(parts),
        }
    }
}

/// A loss and its gradient, to be divided and recorded.
pub(super) struct Sum {
    /// The loss, a scalar.
    pub(super) loss: Tensor,
    /// The derivatives, of the input's shape and in memory of their own.
    pub(super) gradient: Tensor,
}

/// Records the sum that `work` computes of `input`.
pub(super) fn recorded(input: &Value, work: impl Anywhere<Output = Sum>) -> Result<Value> {
    let Sum { loss, gradient } = dispatch::run(input.tensor(), work)?;
    Ok(with_gradients(&[input], loss, vec![Some(gradient)]))
}

/// sum_i loss(row i) / divisor on the host, of an input whose rows have `width` elements; `parts` are the
/// divisor's.
///
/// `row` gets a row's number and elements, and the row of the gradient, filled with zeros, to write its
/// derivatives to; it returns the row's loss.
pub(super) fn sum_over_rows(
    input: &Tensor,
    width: usize,
    parts: &[(usize, f64)],
    row: impl Fn(usize, &[f32], &mut [f32]) -> f64 + Sync,
) -> Result<Sum> {
    let (loss, gradient) = summed(input, width, parts, row, true)?;
    Ok(Sum { loss, gradient: from_elements(gradient, input.shape(), input)? })
}

/// The loss of [`sum_over_rows`] without its gradient, which no memory is needed for: `row` writes derivatives that are dropped.
pub(super) fn loss_over_rows(
    input: &Tensor,
    width: usize,
    parts: &[(usize, f64)],
    row: impl Fn(usize, &[f32], &mut [f32]) -> f64 + Sync,
) -> Result<Tensor> {
    Ok(summed(input, width, parts, row, false)?.0)
}

/// The loss, and the gradient if it `is_kept`.
fn summed(
    input: &Tensor,
    width: usize,
    parts: &[(usize, f64)],
    row: impl Fn(usize, &[f32], &mut [f32]) -> f64 + Sync,
    is_kept: bool,
) -> Result<(Tensor, Vec<f32>)> {
    let rows = input.elem_count().checked_div(width).unwrap_or(0);
    let host = on_host(input)?;
    let x = elements(&host)?;
    let rows_a_task = CHUNK.div_ceil(width.max(1));
    let ends: Vec<usize> = parts
        .iter()
        .scan(0, |end, part| {
            *end += part.0;
            Some(*end)
        })
        .collect();
    let widths = (if is_kept { width } else { 0 }, 1);
    let (gradient, losses) = both_written(rows, widths, rows_a_task, |first, gradient, losses| {
        let (kept, end) = (gradient.zeros(), first + losses.len());
        let mut dropped = if is_kept { Vec::new() } else { vec![0f32; losses.len() * width] };
        let gradient = if is_kept { kept } else { &mut dropped[..] };
        // There may be as many parts as rows.
        let before = ends.partition_point(|end| *end <= first);
        for (&(rows, divisor), &part_end) in parts.iter().zip(&ends).skip(before) {
            let ours = (part_end - rows).max(first)..part_end.min(end);
            if ours.start >= end {
                break;
            }
            let gradient = &mut gradient[(ours.start - first) * width..(ours.end - first) * width];
            for (i, gradient) in ours.zip(gradient.chunks_exact_mut(width)) {
                losses.extend(std::iter::once(row(i, &x[i * width..][..width], gradient) / divisor));
            }
            let scale = divisor.recip() as f32;
            multiply(gradient, scale);
        }
    });
    let loss = losses.iter().sum::<f64>();
    Ok((from_elements(vec![loss as f32], (), input)?, gradient))
}

/// 0 if every value is finite, else NaN. Comparisons and saturating functions lose a NaN or an infinity
/// on the way; adding this keeps it.
pub(super) fn zero_if_finite(values: &[f32]) -> f32 {
    values.iter().map(|value| 0.0 * value).sum()
}

/// The number of rows of a matrix with `columns` columns, or an error that names both.
pub(super) fn rows_of(operation: &'static str, input: &Value, columns: usize) -> Result<usize> {
    match *input.dims() {
        [rows, got] if got == columns => Ok(rows),
        _ => Err(Error::invalid(operation, format!("(M, {columns}) expected, got {:?}", input.dims()))),
    }
}

/// Fails unless there are as many as expected.
pub(super) fn expect_count(operation: &'static str, what: &str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::invalid(operation, format!("{expected} {what} expected, got {got}")))
}
