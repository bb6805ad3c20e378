//! One student to train: where it starts, what it learns from, and where its files go.

use std::sync::atomic::AtomicBool;

use candle_core::Device;
use ckd_detectors::param::ParamStore;

use super::distillation::Distillation;
use super::observer::Observers;
use super::outcome::Outcome;
use super::recorded;
use super::task::{Measured, Task};
use crate::report::run_folder::RunFolder;
use crate::weights::WeightsFile;

/// One student to train.
pub struct Job<'a, T: Task> {
    /// The experiment.
    pub config: &'a T::Config,
    /// Where its files go.
    pub folder: RunFolder,
    /// What the progress calls it.
    pub label: String,
    /// Its initial weights, if not random.
    pub init: Option<&'a WeightsFile>,
    /// What it learns from a teacher.
    pub distillation: Option<&'a Distillation<T::Model>>,
    /// BLAKE3 of that teacher's weights.
    pub teacher_hash: Option<String>,
}

/// What all jobs of a run share.
pub struct Surroundings<'a, T: Task> {
    /// The data.
    pub data: &'a T,
    /// Where to compute.
    pub device: &'a Device,
    /// Told of everything on the way.
    pub observers: &'a Observers<'a>,
    /// Set when the user wants the run to stop.
    pub stop: &'a AtomicBool,
    /// What goes on with the run, for the advice.
    pub command: &'a str,
}

/// How a job begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At step 0.
    Anew,
    /// At its last checkpoint, or at step 0 if it has none.
    Resume,
}

impl<T: Task> Job<'_, T> {
    /// The outcome, if the job came to its end before, with this configuration and this teacher.
    pub fn finished(&self) -> Option<Outcome<Row<T>>> {
        let outcome = Outcome::read(&self.folder)?;
        let same = outcome.teacher == self.teacher_hash && recorded::is_same(&self.folder, self.config);
        (same && outcome.is_complete(&self.folder)).then_some(outcome)
    }

    /// The tensors of `student`, and of what is trained beside it: all that a checkpoint holds and the optimiser sees.
    pub(super) fn trained<'s>(&'s self, student: &'s T::Model) -> Vec<&'s ParamStore> {
        let beside = self.distillation.into_iter().flat_map(Distillation::params);
        let networks = T::networks(student).into_iter().map(|network| network.params);
        networks.chain(T::beside(student)).chain(beside).collect()
    }
}

/// The line of a table that a task's networks have.
pub type Row<T> = <<T as Task>::Measured as Measured>::Row;
