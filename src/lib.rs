//! `ckd-det`: train, distil, evaluate and export object detectors without Python.

pub mod data;
pub mod distill;
pub mod eval;
pub mod fsx;
pub mod report;
