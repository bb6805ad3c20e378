//! Tests of the kernels, in one binary.

mod support;

mod alignment;
mod antialias;
mod channels;
mod conv;
mod eight_bits;
mod elementwise;
#[cfg(feature = "cuda")]
mod families;
mod linear;
mod losses;
mod maps;
#[cfg(feature = "cuda")]
mod nccl;
mod norm;
mod optimisers;
mod passes;
mod pattern;
mod pool;
mod ranking;
mod relations;
mod roi_align;
mod row_losses;
#[cfg(feature = "cuda")]
mod stored;
mod upload;
mod upsample;
mod windows;
