//! `ckd-det`: train, distil, evaluate and export object detectors without Python.

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
pub mod report;
pub mod weights;
