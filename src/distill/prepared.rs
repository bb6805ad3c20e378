//! Rows before a method compares them: standardised (Sun et al., CVPR 2024, arXiv 2403.01427) or centred.
//!
//! ```text
//! standardised  z = (x - mean x) / (1e-7 + std x)      per row over the classes, std with n - 1
//! centred       x - mean x
//! ```
//!
//! A standardised student need not have the teacher's range of logits: the loss does not change under x -> c x + k, c > 0, on
//! either side. The temperature then acts on logits of deviation 1.

use ckd_kernels::Value;
use ckd_kernels::standardize::{center_rows, standardize_rows};

use super::distiller::{DistillError, Widths};
use super::place::Rows;

/// The authors'.
const EPSILON: f64 = 1e-7;
/// A deviation below this counts as this: the gradient is its inverse, 1e7 at a classifier that starts from 0.
const FLOOR: f64 = 1e-2;

/// A way to prepare rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// Each row minus its mean, over its deviation.
    Standardized,
    /// Each row minus its mean.
    Centred,
}

impl Prepared {
    /// The rows, prepared for `method`.
    ///
    /// # Shapes
    /// (B, C) to the same.
    ///
    /// # Errors
    /// Rows that are no matrix; two classes, or one, to standardise: all that is left of them is a sign.
    pub fn of(self, method: &'static str, rows: &Value) -> Result<Value, DistillError> {
        match self {
            Self::Centred => Ok(center_rows(rows)?),
            Self::Standardized => {
                refuse_two_classes(method, rows.dims().last().copied().unwrap_or(0))?;
                Ok(standardize_rows(rows, EPSILON, FLOOR)?)
            }
        }
    }
}

/// Standardised rows for `method`, if its entry asks for them: checked beforehand where the classes are known.
pub(super) fn standardized(
    method: &'static str,
    asked: bool,
    rows: &Rows,
    widths: &Widths,
) -> Result<Option<Prepared>, DistillError> {
    if asked && let Some(width) = widths.get(&rows.at.tap()) {
        refuse_two_classes(method, width.student)?;
    }
    Ok(asked.then_some(Prepared::Standardized))
}

fn refuse_two_classes(method: &'static str, classes: usize) -> Result<(), DistillError> {
    if classes > 2 {
        return Ok(());
    }
    let reason = format!(
        "standardize = true over {classes} classes (the background is one) leaves a sign and no gradient; leave it out"
    );
    Err(DistillError::invalid(method, reason))
}
