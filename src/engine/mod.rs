//! Training: from a configuration to a trained, evaluated student.
//!
//! | module | what lives there |
//! |---|---|
//! | [`experiment`] | teacher, student alone, student distilled, and their comparison |
//! | [`claim`] | one run's folder, one process |
//! | [`estimate`] | a dry run |
//! | [`teacher`], `missing`, `room` | the teacher, loaded or trained first; what a run needs and does not find; the disk |
//! | [`job`], `trainer` | one student to train, and the loop: batches, updates, log, evaluation, checkpoints |
//! | [`task`] | what the loop trains: the seam between it and its tasks |
//! | [`detect`], [`classify`] | the tasks: detectors on boxes, classifiers on labels |
//! | [`cohort`] | the task of classifiers that learn from each other |
//! | [`pass`] | what a training pass gives: loss terms, gradients, times |
//! | [`distillation`] | a teacher and the methods that learn from it |
//! | `update`, `spikes` | one update of the weights; losses that leap |
//! | [`checkpoint`], `recorded`, `seal` | the state that a resumed run starts from; the settings it must go on with; hashes |
//! | `ranks` | several processes in one run: what they share and tell each other |
//! | `stop` | giving up work when the user wants the run to stop |
//! | [`observer`] | what hears of steps, evaluations and the end: log, best weights, progress |
//! | [`outcome`], [`classes`] | the numbers a job ended with; class lists that must agree |
//! | [`comparison`] | several experiments and seeds, one table |

mod balance;
pub mod checkpoint;
pub mod claim;
pub mod classes;
pub mod classify;
pub mod cohort;
pub mod comparison;
pub mod detect;
pub mod distillation;
mod error;
pub mod estimate;
pub mod experiment;
pub mod job;
mod missing;
pub mod observer;
pub mod outcome;
pub mod pass;
pub mod pretrain;
mod ranks;
mod recorded;
mod room;
mod seal;
mod spikes;
mod stop;
pub mod task;
pub mod teacher;
mod trainer;
mod update;

pub use error::{EngineError, Result};
#[cfg(feature = "cuda")]
pub use ranks::{Gpus, GpusError};
