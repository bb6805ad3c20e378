//! One student to train: where it starts, what it learns from, and where its files go.

use std::sync::atomic::AtomicBool;

use candle_core::Device;
use ckd_collective::Collective;
use ckd_detectors::param::ParamStore;

use super::Result;
use super::claim::Claim;
use super::distillation::Distillation;
use super::observer::Observers;
use super::outcome::Outcome;
use super::recorded;
use super::task::{Evaluating, Measured, Task};
use crate::data::BadImage;
use crate::report::log::digest;
use crate::report::run_folder::RunFolder;
use crate::weights::WeightsFile;

/// Training of one student.
pub struct Job<'a, T: Task> {
    /// The experiment.
    pub config: &'a T::Config,
    /// Folder of its files.
    pub folder: RunFolder,
    /// The sole use of that folder, or of one above it.
    pub claim: &'a Claim,
    /// Label in the progress.
    pub label: String,
    /// Initial weights of the student, if not random.
    pub init: Option<&'a WeightsFile>,
    /// Distillation methods, if there is a teacher.
    pub distillation: Option<&'a Distillation<T::Model>>,
    /// BLAKE3 of that teacher's weights.
    pub teacher_hash: Option<String>,
    /// Updates of the whole schedule, where the `train.minutes` of another job decided that.
    pub fitted: Option<u64>,
}

/// Context that all jobs of a run share.
pub struct Surroundings<'a, T: Task> {
    /// The data.
    pub data: &'a T,
    /// Images that were left out of it.
    pub bad_images: &'a [BadImage],
    /// Device of all computations.
    pub device: &'a Device,
    /// The processes of the run.
    pub ranks: &'a dyn Collective,
    /// Told of everything on the way.
    pub observers: &'a Observers<'a>,
    /// Set when the user wants the run to stop.
    pub stop: &'a AtomicBool,
    /// Command that resumes the run, for error messages.
    pub command: &'a str,
}

/// Start of a job: afresh or by resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At step 0.
    Anew,
    /// At its last checkpoint, or at step 0 if it has none.
    Resume,
}

impl<T: Task> Job<'_, T> {
    /// The outcome, if the job came to its end before, with this configuration and this teacher. `observers` are told of
    /// what is damaged, and so must be made again.
    pub fn finished(&self, observers: &Observers<'_>) -> Option<Outcome<Row<T>>> {
        finished::<T>(&self.folder, self.config, self.teacher_hash.as_ref(), observers)
    }

    /// The tensors of `student`, and of what is trained beside it: all that a checkpoint holds and the optimiser sees.
    pub(super) fn trained<'s>(&'s self, student: &'s T::Model) -> Vec<&'s ParamStore> {
        let beside = self.distillation.into_iter().flat_map(Distillation::params);
        let networks = T::networks(student).into_iter().map(|network| network.params);
        networks.chain(T::beside(student)).chain(beside).collect()
    }
}

impl<'a, T: Task> Surroundings<'a, T> {
    /// Context of the run's evaluations.
    pub(super) fn evaluating(&self) -> Evaluating<'a> {
        Evaluating { device: self.device, ranks: self.ranks, stop: self.stop }
    }
}

/// Claims the folder of a run for all its processes: the first one does.
pub(super) fn claimed<T: Task>(folder: &RunFolder, around: &Surroundings<'_, T>) -> Result<Claim> {
    match around.ranks.is_first() {
        true => Claim::of(folder, around.observers),
        false => Ok(Claim::of_first(folder)),
    }
}

/// The outcome of the job in `folder`, as [`Job::finished`] finds it.
pub(super) fn finished<T: Task>(
    folder: &RunFolder,
    config: &T::Config,
    teacher: Option<&String>,
    observers: &Observers<'_>,
) -> Option<Outcome<Row<T>>> {
    let read = || {
        let Some(outcome) = Outcome::read(folder)? else { return Ok(None) };
        let same = outcome.teacher.as_ref() == teacher && recorded::is_same(folder, config);
        if !same {
            return Ok(None);
        }
        if outcome.log.is_some() && digest(&folder.log()).ok() != Some(outcome.log.clone()) {
            observers.note(&another_log(folder));
        }
        outcome.check_weights(folder).map(|()| Some(outcome))
    };
    read().unwrap_or_else(|damaged: String| {
        observers.note(&format!("{damaged}; it is made again from the last checkpoint"));
        None
    })
}

/// The note on a log that is not what the run wrote.
pub(super) fn another_log(folder: &RunFolder) -> String {
    format!("{} is not what it was: it was damaged or changed", folder.log().display())
}

/// The line of a table that a task's networks have.
pub type Row<T> = <<T as Task>::Measured as Measured>::Row;
