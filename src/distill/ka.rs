//! Kernel alignment of two matrices with the same rows (RCKA; Zhou et al., arXiv 2401.11824), as methods set it.

use candle_core::Tensor;
use ckd_kernels::{Value, alignment};
use ckd_settings::choices;

use super::distiller::DistillError;

/// Kernel of two rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Column means are removed first (centred kernel alignment, CKA). The authors' code does not.
    pub center: bool,
    /// Effect of the length of a row.
    pub row_norm: RowNorm,
}

impl Default for Kernel {
    fn default() -> Self {
        Self { center: false, row_norm: RowNorm::Off }
    }
}

choices! {
    /// Effect of the length of a row on the similarities of rows.
    pub enum RowNorm {
        /// K_ij = x_i·x_j.
        Off = "off",
        /// K_ij = x_i·x_j / |x_i|, not symmetric (the authors' choice for logits).
        Rows = "rows",
        /// K_ij = x_i·x_j / (|x_i| |x_j|): the cosine.
        Cosine = "cosine",
    }
}

impl From<Kernel> for alignment::Kernel {
    fn from(Kernel { center, row_norm }: Kernel) -> Self {
        let row_norm = match row_norm {
            RowNorm::Off => alignment::RowNorm::Off,
            RowNorm::Rows => alignment::RowNorm::Rows,
            RowNorm::Cosine => alignment::RowNorm::Cosine,
        };
        Self { center, row_norm }
    }
}

/// The kernel alignment of a teacher's rows `x` with a student's rows `y`.
///
/// # Shapes
/// `x` (N, P), `y` (N, Q); a scalar in [0, 1].
///
/// # Errors
/// Other ranks, or different numbers of rows.
pub fn ka(x: &Tensor, y: &Value, kernel: Kernel) -> Result<Value, DistillError> {
    Ok(alignment::alignment(x, y, kernel.into())?)
}

/// 1 - [`ka`]: what alignment lacks. Its gradient is that of the authors' -ka. Without rows there is nothing
/// to align, and it is 0.
///
/// # Shapes
/// `x` (N, P), `y` (N, Q); a scalar.
pub(super) fn misalignment(x: &Tensor, y: &Value, kernel: Kernel) -> Result<Value, DistillError> {
    Ok(alignment::misalignment(x, y, kernel.into())?)
}
