//! The differentiable operations that ckd-det trains on, over candle tensors.
//!
//! | module | what lives there |
//! |---|---|
//! | [`allocator`] | large blocks stay in the process |
//! | [`flops`] | counting the work of a forward pass |
//! | [`graph`] | [`Value`]: a tensor and how it came about; [`Value::backward`] |
//! | [`conv`] | 2-D convolution with a fused epilogue |
//! | [`input`] | pixels to a network's input |
//! | [`mod@linear`] | fully connected layers |
//! | [`elementwise`] | sums, scalings, views and gathers |
//! | [`norm`] | frozen and training batch norm, group norm |
//! | [`pool`] | max pooling with padding, average pooling |
//! | [`upsample`], [`resize`] | nearest (and the FPN's top-down sum), bilinear |
//! | [`resample`] | images to a batch's rows, bilinear |
//! | [`patches`], [`gram`] | maps cut into patches; products of rows |
//! | [`roi_align`] | RoIAlign, on one map or a pyramid |
//! | [`losses`] | losses: value and gradient in one pass |
//! | [`precision`] | f32 or bf16 products |
//! | [`resample`], [`antialias`] | images in a batch: torchvision's resizing, Pillow's |
//! | [`reduce`] | sums and exponentials of rows |
//! | [`simd`] | the level of vector instructions in use |
//! | [`peak`] | the most that the processor can do |
//! | [`memory`] | tensors as slices and back, channels last |
//! | [`normalize`] | unit rows, log-softmax |
//!
//! Activations are NCHW in shape and channels-last in memory: an operation returns its NHWC buffer as
//! a permuted view, and the next one reads it without a copy. Any other layout works, at the price of
//! a copy. Every operation is a plain forward function that records its gradient on the graph if one
//! of its inputs is tracked; a frozen network tracks nothing, and so keeps nothing.

mod activation;
pub mod adamw;
pub mod allocator;
pub mod antialias;
pub mod conv;
mod dispatch;
pub mod elementwise;
pub mod ema;
mod error;
pub mod flops;
pub mod gram;
pub mod graph;
pub mod in_place;
pub mod input;
mod lanes;
pub mod linear;
pub mod losses;
pub mod memory;
mod microkernel;
pub mod norm;
pub mod normalize;
mod panels;
pub mod patches;
pub mod peak;
mod pointwise;
pub mod pool;
pub mod precision;
pub mod product;
pub mod reduce;
pub mod resample;
pub mod resize;
pub mod roi_align;
pub mod sgd;
pub mod simd;
mod transpose;
pub mod upsample;
pub mod windows;

pub use activation::Activation;
pub use conv::{Conv2dConfig, Epilogue, conv2d};
pub use error::{Error, Result};
pub use graph::{Gradients, Value};
pub use linear::linear;
pub use precision::Precision;
pub use simd::Simd;
