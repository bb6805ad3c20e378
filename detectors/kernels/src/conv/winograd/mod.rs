//! Winograd's minimal filtering F(4x4, 3x3) for 3x3 convolutions of stride 1 (Winograd 1980; Lavin and Gray
//! 2016, arXiv 1509.09308): 36 multiplications for 16 outputs instead of 144.
//!
//! A 6x6 tile of the input and the 3x3 kernel are transformed, multiplied point by point (36 matrix products
//! over channels), and transformed back to 4x4 outputs. The interpolation points are 0, ±3/4, ±3/2 and
//! infinity: the constants of the input's and the output's transform are exact in f32, and the error is
//! smaller than with the textbook's 0, ±1, ±2. Against f64 the largest error is below 3e-5 of the result's
//! root mean square; the tests hold it there, for up to 256 channels.
//!
//! The weights are transformed on every call: with them in cache that is faster than to read ready ones, four
//! times as large, from memory.

mod product;
mod tiles;
mod transforms;
mod weight_gradient;

use std::cell::Cell;

use crate::precision::within;

thread_local! {
    static IS_ON: Cell<bool> = const { Cell::new(true) };
}

/// Runs `f` without Winograd's form, backward passes within it too: every convolution on the CPU is plain sums of products, which
/// round less. For what asks on which side of 0 a number is. A GPU's library chooses its algorithms by itself.
pub fn without_winograd<T>(f: impl FnOnce() -> T) -> T {
    within(&IS_ON, false, f)
}

pub(super) use product::convolve;
pub(super) use tiles::suits;
pub(super) use weight_gradient::{suits as suits_weight_gradient, weight_gradient};
