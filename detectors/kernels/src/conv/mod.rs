//! 2-D convolution (cross-correlation) with a fused epilogue, and its gradients.
//!
//! y = activation(scale · (x * w) + shift + residual), per output channel. A frozen batch norm is a scale
//! and a shift, so a frozen-BN residual block stores one activation per convolution.
//!
//! Layout: activations (N, H, W, C), weights (K, R, S, C/groups).
//!
//! - forward: tap (r, s) of output (y, x) is input (y·stride + r·dilation − padding, ...): a `sweep`.
//! - gradient of the input: for stride s the input pixels fall into s·s phases. Within a phase each pixel
//!   sees the same subset of taps at constant offsets in the output gradient, so each phase is a
//!   sweep of stride 1; exact for every parity of H and W.
//! - gradient of the weights: sums of outer products of windows and output gradients; a task owns output
//!   channels, or a fixed share of the pixels, so the bits do not depend on the number of threads.
//! - 3x3 of stride 1: all three in `winograd`'s form where it is faster. One channel a group: `depthwise`.

mod config;
mod dense;
mod depthwise;
mod epilogue;
mod forward;
mod geometry;
#[cfg(feature = "cuda")]
mod gpu;
mod input_gradient;
mod map;
pub(crate) mod pixels;
mod sweep;
mod weight_gradient;
mod winograd;

pub use config::Conv2dConfig;
pub use epilogue::Epilogue;
#[cfg(feature = "cuda")]
pub(crate) use gpu::{code, finish};
pub use winograd::without_winograd;

use crate::piecewise::after;
use crate::{Result, Value};
use dense::convolve;
use geometry::Geometry;

/// 2-D convolution with a fused epilogue.
///
/// # Shapes
/// `x` (N, C, H, W), `weight` (K, C/groups, R, S) to (N, K, H', W'), channels last in memory.
///
/// # Errors
/// If shapes, groups or the kernel's span do not fit.
pub fn conv2d(x: &Value, weight: &Value, config: Conv2dConfig, epilogue: Epilogue) -> Result<Value> {
    let geometry = Geometry::new(x.tensor(), weight.tensor(), config)?;
    let Geometry { n, oh, ow, k, r, s, .. } = geometry;
    crate::flops::count(n * oh * ow * k * r * s * geometry.group_channels().0);
    after(epilogue.activation, |activation| convolve(x, weight, config, Epilogue { activation, ..epilogue }))
}
