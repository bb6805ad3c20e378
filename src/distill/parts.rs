//! Negatives from all parts of an update: rows of the other parts beside those of the part at hand.
//!
//! An update is several parts (`train.accumulate`), computed one after the other or by several processes. Its gradient is the mean
//! of the parts' gradients. A loss over the rows of the whole update is therefore computed in every part, with gradients through the
//! rows of that part alone, times the number of parts: the mean is the gradient of the one loss.

use std::fmt::Debug;

use candle_core::Tensor;
use ckd_kernels::Value;
use ckd_kernels::elementwise::{concatenate, scale};
use ckd_settings::choices;

choices! {
    /// The rows among which a contrast looks for negatives.
    pub enum NegativesFrom {
        /// The batch: a part of the update, as the authors' programs do per GPU.
        Part = "part",
        /// All parts of the update (`train.accumulate`), whichever process computes them.
        Update = "update",
    }
}

/// Access of a part of an update to the rows of all parts.
pub trait Parts: Debug {
    /// The rows called `name` of all parts, in order of the parts; `own` are those of this part.
    ///
    /// # Errors
    /// Another part that does not come, or has no such rows.
    fn rows(&self, name: &str, own: &Tensor) -> Result<AllRows, PartsError>;

    /// Whether this pass is made for its rows alone, before the parts are computed: nothing is learned from it.
    fn is_for_rows_alone(&self) -> bool {
        false
    }
}

/// Rows of all parts of an update could not be brought together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartsError {
    /// Rows of another part did not come.
    #[error("the rows of another part of the update are not there: {reason}")]
    Lost {
        /// The reason.
        reason: String,
    },
    /// An operation failed.
    #[error(transparent)]
    Kernel(#[from] ckd_kernels::Error),
}

/// Rows of all parts of an update.
#[derive(Debug, Clone)]
pub struct AllRows {
    /// Rows of each part.
    pub parts: Vec<Tensor>,
    /// Place of the part at hand.
    pub own: usize,
}

/// `rows` of this part and those of all other `parts`, in order of the parts.
///
/// # Shapes
/// (B, ...), as in all parts; (the sum of all B, ...).
///
/// # Errors
/// Parts whose rows have other shapes, or that do not come.
pub fn of_all(parts: &dyn Parts, name: &str, rows: &Value) -> Result<Value, PartsError> {
    let AllRows { parts: all, own } = parts.rows(name, rows.tensor())?;
    let factor = all.len() as f64;
    let live = Value::operation(&[rows], rows.tensor().clone(), move |g| {
        Ok(vec![Some(scale(&Value::constant(g.clone()), factor)?.tensor().clone())])
    });
    let mut all: Vec<Value> = all.into_iter().map(Value::constant).collect();
    if let Some(place) = all.get_mut(own) {
        *place = live;
    }
    Ok(concatenate(&all, 0)?)
}
