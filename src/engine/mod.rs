//! Training: from a configuration to a trained, evaluated student.
//!
//! | module | what lives there |
//! |---|---|
//! | [`build`] | configuration to network |
//! | [`pass`] | one batch: teacher, student, losses, gradients |
//! | [`optim`], [`schedule`] | the update and its learning rate |
//! | [`trainer`] | the loop: batches, updates, log, evaluation, checkpoints |
//! | [`checkpoint`] | the state that a resumed run starts from |
//! | [`evaluate`] | a detector over a data set |
//! | [`experiment`] | teacher, student alone, student distilled, and their comparison |

pub mod build;
pub mod checkpoint;
mod error;
pub mod evaluate;
pub mod experiment;
pub mod optim;
pub mod pass;
pub mod schedule;
pub mod sources;
pub mod trainer;

pub use error::{EngineError, Result};
