//! The differentiable operations that ckd-det trains on, over candle tensors.
//!
//! | module | what lives there |
//! |---|---|
//! | [`graph`] | [`Value`]: a tensor and its place in the autograd graph; [`Value::backward`] |
//! | `dispatch` | the device seam: runs a struct of operands where its tensors lie |
//! | [`conv`] | 2-D convolution with a fused epilogue |
//! | [`mod@linear`], [`product`] | fully connected layers; matrix products of slices |
//! | [`activation`] | [`Activation`]: ReLU, ReLU6 |
//! | [`elementwise`], `pointwise` | sums, scalings, hard swish, views, gathers; the passes they are made of |
//! | [`pattern`], `piecewise` | [`ActivationPattern`](pattern::ActivationPattern): ReLUs and poolings that choose as in another pass |
//! | [`channels`] | channels picked, shuffled and scaled; halved maps |
//! | [`norm`] | frozen and training batch norm, group norm |
//! | [`normalize`], [`standardize`] | unit rows, log-softmax; centred and standardised rows |
//! | [`pool`] | max pooling with padding, average pooling |
//! | [`upsample`], [`resize`] | nearest (and the FPN's top-down sum), bilinear |
//! | [`roi_align`] | RoIAlign, on one map or a pyramid |
//! | [`windows`] | small windows around pixels of a map |
//! | [`losses`] | losses: value and gradient in one pass |
//! | [`similarity`], [`row_losses`] | inner products of rows; a loss for each row, and their mean |
//! | [`relations`] | losses of rows and their batch: correlations, distances, angles, mixtures |
//! | [`bank`] | memory banks of rows |
//! | [`maps`] | comparisons of feature maps: value and gradient |
//! | [`scalar`] | scalars whose gradients are known |
//! | [`sgd`], [`adamw`], [`ema`] | updates of parameters: SGD, AdamW, moving average |
//! | [`in_place`] | writing where an operand lies |
//! | [`input`] | input normalisation |
//! | [`resample`], [`antialias`] | images in a batch: torchvision's resizing, Pillow's |
//! | [`patches`], [`gram`] | maps cut into patches; Gram matrices |
//! | [`ranking`], [`boxes`] | the highest values of segments of rows; boxes of the best anchors and of regions |
//! | [`alignment`], [`unit_rows`] | kernel alignment of matrices and of maps; rows as unit vectors |
//! | [`reduce`] | sums, maxima, exponentials, softmax of rows |
//! | [`memory`] | tensors as slices and back, channels last |
//! | [`flat`], [`deferred`] | tensors as flat vectors; side effects of a pass that wait |
//! | [`eight_bits`] | frozen layers in int8 |
//! | [`precision`], `stored`, `algorithms` | f32 or bf16 products; maps of either type; choice of cuDNN's algorithms |
//! | [`simd`], `lanes` | the level of vector instructions in use; vectors as values |
//! | `microkernel`, `panels`, `transpose` | tiles in registers, packed weights, matrices turned over |
//! | [`upload`], [`transfers`] | copies to a GPU while it computes; copies from it and launches, counted |
//! | [`flops`], [`peak`] | counting the work of a forward pass; the most that the processor can do |
//! | [`allocator`] | large blocks stay in the process |
//! | `error` | [`Error`] |
//!
//! Activations are NCHW in shape and channels-last in memory: an operation returns its NHWC buffer as
//! a permuted view, and the next one reads it without a copy. Any other layout works, at the price of
//! a copy. Every operation is a plain forward function that records its gradient on the graph if one
//! of its inputs is tracked; a frozen network tracks nothing, and so keeps nothing.

pub mod activation;
pub mod adamw;
mod algorithms;
pub mod alignment;
pub mod allocator;
pub mod antialias;
pub mod bank;
pub mod boxes;
pub mod channels;
pub mod conv;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod deferred;
mod dispatch;
pub mod eight_bits;
pub mod elementwise;
pub mod ema;
mod error;
pub mod flat;
pub mod flops;
mod gradient;
pub mod gram;
pub mod graph;
pub mod in_place;
pub mod input;
mod lanes;
pub mod linear;
pub mod losses;
pub mod maps;
pub mod memory;
mod microkernel;
pub mod norm;
pub mod normalize;
mod panels;
pub mod patches;
pub mod pattern;
pub mod peak;
mod piecewise;
mod pointwise;
pub mod pool;
pub mod precision;
pub mod product;
pub mod ranking;
pub mod reduce;
pub mod relations;
pub mod resample;
pub mod resize;
pub mod roi_align;
pub mod row_losses;
pub mod scalar;
pub mod sgd;
pub mod simd;
pub mod similarity;
pub mod standardize;
mod stored;
pub mod trace;
pub mod transfers;
mod transpose;
pub mod unit_rows;
pub mod upload;
pub mod upsample;
pub mod windows;

pub use activation::Activation;
pub use algorithms::Algorithms;
pub use conv::{Conv2dConfig, Epilogue, conv2d};
pub use error::{CompileError, Error, Result};
pub use graph::{Gradients, Sink, Value};
pub use linear::linear;
pub use precision::Precision;
pub use simd::Simd;
