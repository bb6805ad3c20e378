//! `ckd-det`: train, distil, evaluate and export object detectors without Python.
//!
//! The program and this library are one crate. A program that embeds it usually needs [`train`] or
//! [`Training`], [`export::write`] and [`Student`](export::student::Student).
//!
//! | module | what lives there |
//! |---|---|
//! | [`training`] | training from code |
//! | [`export`] | trained networks in other formats, with proof; [`Student`](export::student::Student) detects |
//! | [`engine`] | the training loop, its tasks, evaluation, checkpoints, comparisons |
//! | [`config`] | configurations: typed, layered, checked |
//! | [`distill`] | methods of distillation: [`Distiller`](distill::Distiller) |
//! | [`data`] | images with boxes or labels, and their batches |
//! | [`eval`] | COCO metrics, accuracies |
//! | [`weights`] | weights of torchvision, Detectron2, MMDetection and others, imported and recognised |
//! | [`report`] | tables, logs, progress, pictures, pages |
//! | [`fsx`] | files written whole or not at all |
//! | `cli` | the command line (feature `cli`) |
//!
//! Networks are in [`ckd_detectors`], operations and their gradients in [`ckd_kernels`]. Tensors are
//! candle's: [`candle_core`] is exported, so that versions agree.
//!
//! # Features
//! | feature | default | what it adds |
//! |---|---|---|
//! | `cli` | yes | the program, and what it alone needs: clap, anyhow, indicatif, signal-hook, mimalloc |
//! | `ndarray` | yes | images and boxes as `ndarray` arrays |
//! | `candle-nn` | no | networks load from a `candle_nn::VarBuilder` and are `candle_nn::Module`s |
//! | `cuda` | no | NVIDIA GPUs (docs/GPU.md) |
//!
//! # Memory
//! Training allocates the same large blocks at every step. The program keeps them in the process, which saves
//! time; a library cannot choose for its host. One line in the host's `main.rs` does:
//!
//! ```
//! use ckd_kernels::allocator::KeepLarge;
//!
//! #[global_allocator]
//! static ALLOCATOR: KeepLarge<std::alloc::System> = KeepLarge::new(std::alloc::System);
//! # fn main() {}
//! ```

#![forbid(unsafe_code)]

#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
pub mod data;
pub mod distill;
pub mod engine;
pub mod eval;
pub mod export;
pub mod fsx;
mod machine;
pub mod optim;
pub mod report;
pub mod training;
pub mod weights;

pub use candle_core;
pub use ckd_detectors;
pub use ckd_kernels;

pub use training::{Training, train};
