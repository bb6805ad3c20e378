//! All tests of the program and its library, in one binary: twenty would link the library and candle twenty times.
//!
//! They share a process, so none changes an environment variable, the current folder or rayon's global pool.

mod architecture;
mod bench;
mod book;
mod classify;
mod classify_data;
mod cli;
mod cohort;
mod commands;
mod compare;
mod config;
mod config_properties;
mod data;
mod distill;
mod distill_runs;
mod eight_bits;
mod eval_coco;
mod examples;
mod export;
mod export_classifiers;
mod faults;
mod fuzz;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "cuda")]
mod gpus;
mod hugging_face;
mod length;
mod new;
mod numbers;
mod observer;
mod optim;
mod outputs;
mod pages;
mod pretrain;
mod properties;
mod pseudo_labels;
mod published;
mod ranks;
mod recipes;
mod results_files;
mod resume;
mod soak;
mod support;
mod taught;
mod train;
mod weights;
mod weights_classifiers;
mod weights_import;
mod weights_real;
mod weights_selection;
