//! Convolutions and linear layers in 8 bits, for frozen networks on a processor.
//!
//! Activations are asymmetric unsigned steps with a scale for each tensor, weights symmetric signed ones with a
//! scale for each output channel, sums are exact in 32 bits (Jacob et al. 2018, arXiv 1712.05877): the
//! arithmetic of ONNX's `QuantizeLinear`, `Conv`, `DequantizeLinear`. What follows a sum (bias or folded norm, residual,
//! activation, rounding to the next layer's grid) happens while it is in registers, in f32.
//!
//! | file | what lives there |
//! |---|---|
//! | `grid` | [`Grid`]: 256 steps of a range; rows of weights in 8 bits |
//! | `map` | [`Map`]: a feature map in f32 or in [`Steps`] |
//! | `conv` | [`Conv2dInt8`]: a layer with packed weights |
//! | `sweep` | bands of result rows, their source brought together in cache |
//! | `call`, `dot`, `avx512`, `avx2`, `scalar` | tiles of 12 x 32 sums in registers |
//!
//! Every level of vector instructions gives the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod call;
mod conv;
mod dot;
mod grid;
mod map;
mod scalar;
mod sweep;

pub use conv::Conv2dInt8;
pub use grid::{Grid, range_of, rounded_rows};
pub use map::{Map, Steps};
