//! One student to train: where it starts, what it learns from, and where its files go.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use candle_core::Device;
use ckd_detectors::param::ParamStore;

use super::Result;
use super::outcome::Outcome;
use super::pass::Distillation;
use super::sources::DataSets;
use super::task::{Measured, Task};
use super::trainer::Training;
use super::{recorded, trainer};
use crate::weights::WeightsFile;

/// One student to train.
pub struct Job<'a, T: Task = DataSets> {
    /// The experiment.
    pub config: &'a T::Config,
    /// Where its files go.
    pub folder: PathBuf,
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
pub struct Surroundings<'a, T: Task = DataSets> {
    /// The data.
    pub data: &'a T,
    /// Where to compute.
    pub device: &'a Device,
    /// Whether to say nothing on the way.
    pub quiet: bool,
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
    /// The weights after the last step, of a run's only network.
    pub fn weights(&self) -> PathBuf {
        weights_of_run(&self.folder)
    }

    /// The outcome, if the job came to its end before, with this configuration and this teacher.
    pub fn finished(&self) -> Option<Outcome<Row<T>>> {
        let outcome = Outcome::read(&self.folder)?;
        let same = outcome.teacher == self.teacher_hash && recorded::is_same(&self.folder, self.config);
        (same && outcome.is_complete(&self.folder)).then_some(outcome)
    }

    /// Trains to the end, evaluates, and writes everything into the job's folder.
    ///
    /// # Errors
    /// [`EngineError::Interrupted`](super::EngineError::Interrupted) once the state is saved, when the user wants
    /// to stop; a non-finite loss; data that cannot be read; a checkpoint that does not fit or is damaged.
    pub fn run(&self, start: Start, around: &Surroundings<'_, T>) -> Result<Outcome<Row<T>>> {
        Training::begin(self, start, around)?.finish()
    }

    /// The tensors of `student`, and of what is trained beside it: all that a checkpoint holds and the optimiser sees.
    pub(super) fn trained<'s>(&'s self, student: &'s T::Model) -> Vec<&'s ParamStore> {
        let beside = self.distillation.into_iter().flat_map(Distillation::params);
        let networks = T::networks(student).into_iter().map(|network| network.params);
        networks.chain(T::beside(student)).chain(beside).collect()
    }

    /// The job's folder for checkpoints.
    pub(super) fn checkpoints(&self) -> PathBuf {
        self.folder.join(trainer::CHECKPOINTS)
    }
}

/// The line of a table that a task's networks have.
pub type Row<T> = <<T as Task>::Measured as Measured>::Row;

/// A network's file after the last step.
pub(super) const LAST: &str = "last.safetensors";

/// The weights after the last step of the run in `folder`: there once the run is finished.
pub fn weights_of_run(folder: &Path) -> PathBuf {
    folder.join(LAST)
}

impl<T: Task> Surroundings<'_, T> {
    /// Tells the user something, unless they want quiet.
    pub fn note(&self, note: &str) {
        if !self.quiet {
            eprintln!("{}", note.trim_end());
        }
    }
}
