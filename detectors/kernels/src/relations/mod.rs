//! Relations of rows, and of rows to their batch: losses that look at more than one row at a time.
//!
//! | file | what lives there |
//! |---|---|
//! | `correlation` | Pearson's correlation of probabilities, over the classes of a row or the rows of a class |
//! | `distances` | distances of all pairs of rows, relative to their mean |
//! | `angles` | angles of all triples of rows |
//! | `mutual` | divergence of two distributions, neither of which is constant; a trained scale |
//! | `mixture` | matrices mixed by a softmax of weights, row by row |

mod angles;
mod correlation;
mod distances;
#[cfg(feature = "cuda")]
mod gpu;
mod mixture;
mod mutual;

use candle_core::Tensor;

use crate::{Error, Result, Value};

pub use angles::angles;
pub use correlation::{Probabilities, Relation, correlation};
pub use distances::relative_distances;
pub use mixture::mixture;
pub use mutual::{mutual_divergence, times_exponential};

/// Rows, and widths of two matrices with the same rows.
fn same_rows(operation: &'static str, target: &Tensor, x: &Value) -> Result<(usize, usize, usize)> {
    match (target.dims(), x.dims()) {
        (&[b, p], &[rows, q]) if b == rows && b * p * q > 0 => Ok((b, p, q)),
        (target, x) => Err(Error::invalid(
            operation,
            format!("matrices (B, P) and (B, Q) of the same rows expected, got {target:?} and {x:?}"),
        )),
    }
}

/// Huber's function of a difference with its corner at 1, and its derivative.
fn huber(difference: f64) -> (f64, f64) {
    match difference.abs() {
        size if size < 1.0 => (0.5 * difference * difference, difference),
        size => (size - 0.5, difference.signum()),
    }
}
