//! Training: from a configuration to a trained, evaluated student.
//!
//! | module | what lives there |
//! |---|---|
//! | [`experiment`] | teacher, student alone, student distilled, and their comparison |
//! | [`sources`], [`teacher`] | data and weights, found before anything is loaded; the teacher, loaded or trained first |
//! | [`job`], `trainer` | one student to train, and the loop: batches, updates, log, evaluation, checkpoints |
//! | [`task`] | what the loop trains: the seam between it and its tasks |
//! | [`detect`], [`classify`] | the tasks: detectors on boxes, classifiers on labels |
//! | [`cohort`] | the task of classifiers that learn from each other |
//! | [`pass`] | one batch of a detector: teacher, student, losses, gradients; the walk back |
//! | [`distillers`], [`shares`] | from `[[distill]]` to the methods; each one's part of the gradient |
//! | [`optim`], [`schedule`] | the update and its learning rate |
//! | [`checkpoint`], `recorded` | the state that a resumed run starts from; the settings it must go on with |
//! | [`evaluate`], [`outcome`] | a detector over a data set; what came of a job |
//! | [`build`], [`classes`] | configuration to network; class lists that must agree |
//! | [`comparison`] | several experiments and seeds, one table |
//! | [`bench`] | how long steps and inference take |
//! | `log_lines`, `picture` | the lines of `log.jsonl`; detections beside the truth |

pub mod bench;
pub mod build;
pub mod checkpoint;
pub mod classes;
pub mod classify;
pub mod cohort;
pub mod comparison;
pub mod detect;
pub mod distillers;
mod error;
pub mod evaluate;
pub mod experiment;
pub mod job;
mod log_lines;
pub mod optim;
pub mod outcome;
pub mod pass;
mod picture;
mod recorded;
pub mod schedule;
pub mod shares;
pub mod sources;
pub mod task;
pub mod teacher;
mod trainer;

pub use error::{EngineError, Result};
