//! `ckd-det`: train, distil, evaluate and export object detectors without Python.

pub mod fsx;
