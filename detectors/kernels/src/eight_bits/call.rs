//! Operands of a level's kernels: sizes and pointers, every access of which was checked.

use super::grid::{Grid, Rounding};
use crate::activation::Activation;
use crate::microkernel::Segment;

/// Addend of the result, element by element, at the offsets of the target.
#[derive(Clone, Copy)]
pub(super) enum Residual<'a> {
    None,
    Real(&'a [f32]),
    Steps(&'a [u8], Grid),
}

/// Operands of the product; every access was checked.
pub(super) struct Call<'a> {
    pub(super) left: *const u32,
    /// Starts of the rows, as many as `out_starts`.
    pub(super) left_starts: &'a [usize],
    pub(super) segments: &'a [Segment],
    pub(super) panel: *const u32,
    pub(super) first: *const i32,
    pub(super) scale: *const f32,
    pub(super) shift: *const f32,
    pub(super) out: Out,
    pub(super) out_starts: &'a [usize],
    pub(super) columns: usize,
    pub(super) residual: Residual<'a>,
    pub(super) activation: Activation,
}

/// Start of the memory that results are written to.
#[derive(Clone, Copy)]
pub(super) enum Out {
    /// Whole vectors are written past the caches if they `stream`; all their places are multiples of 64 bytes then.
    Real { out: *mut f32, stream: bool },
    /// As steps of a grid.
    Steps { out: *mut u8, rule: Rounding },
}
