//! `ckd-det`: train, distil, evaluate and export object detectors without Python.

pub mod cli;
pub mod config;
pub mod fsx;
