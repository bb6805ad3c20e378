//! Tests of the networks, in one binary.

use ckd_golden as golden;

mod support;

mod backbones;
#[cfg(feature = "cuda")]
mod bf16;
mod candle_module;
mod classifier;
mod detections;
mod eight_bits;
mod geometry;
mod gradients;
mod heads;
mod mobilenet;
mod models;
mod networks;
mod parameters;
mod proposals;
mod variants;
