//! Kernels of rows, and what is wanted of their alignment.

use crate::Value;

/// Kernel of two rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Column means are removed first (centred kernel alignment, CKA). The authors' code does not.
    pub center: bool,
    /// Effect of the length of a row.
    pub row_norm: RowNorm,
}

/// Effect of the length of a row on the similarities of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowNorm {
    /// K_ij = x_i·x_j.
    Off,
    /// K_ij = x_i·x_j / |x_i|, not symmetric (the authors' choice for logits).
    Rows,
    /// K_ij = x_i·x_j / (|x_i| |x_j|): the cosine.
    Cosine,
}

/// `offset` + `sign` · alignment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sense {
    pub(super) offset: f64,
    pub(super) sign: f64,
}

impl Sense {
    /// The alignment itself.
    pub(super) const PLAIN: Self = Self { offset: 0.0, sign: 1.0 };
    /// 1 - alignment.
    pub(super) const LACK: Self = Self { offset: 1.0, sign: -1.0 };
}

/// Parts of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Value,
    ValueAndGradient,
}

impl Wanted {
    pub(super) fn of(y: &Value) -> Self {
        if y.is_tracked() { Self::ValueAndGradient } else { Self::Value }
    }
}
