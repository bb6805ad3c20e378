//! One student to train: where it starts, what it learns from, and where its files go.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use candle_core::Device;
use ckd_detectors::Detector;
use ckd_detectors::param::ParamStore;

use super::Result;
use super::evaluate::{detect_all, score};
use super::outcome::{Measured, Outcome};
use super::pass::Distillation;
use super::sources::DataSets;
use super::trainer::Training;
use super::{recorded, trainer};
use crate::config::Config;
use crate::weights::WeightsFile;

/// One student to train.
pub struct Job<'a> {
    /// The experiment.
    pub config: &'a Config,
    /// Where its files go.
    pub folder: PathBuf,
    /// What the progress calls it.
    pub label: String,
    /// Its initial weights, if not random.
    pub init: Option<&'a WeightsFile>,
    /// What it learns from a teacher.
    pub distillation: Option<&'a Distillation>,
    /// BLAKE3 of that teacher's weights.
    pub teacher_hash: Option<String>,
}

/// What all jobs of a run share.
pub struct Surroundings<'a> {
    /// The data.
    pub data: &'a DataSets,
    /// Where to compute.
    pub device: &'a Device,
    /// Whether to say nothing on the way.
    pub quiet: bool,
    /// Set when the user wants the run to stop.
    pub stop: &'a AtomicBool,
    /// What the user typed to start the run, for the advice how to go on.
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

impl Job<'_> {
    /// The weights after the last step.
    pub fn weights(&self) -> PathBuf {
        weights_of_run(&self.folder)
    }

    /// The outcome, if the job came to its end before, with this configuration and this teacher.
    pub fn finished(&self) -> Option<Outcome> {
        let outcome = Outcome::read(&self.folder)?;
        let same = outcome.teacher == self.teacher_hash && recorded::is_same(&self.folder, self.config);
        (same && self.weights().exists()).then_some(outcome)
    }

    /// Trains to the end, evaluates, and writes everything into the job's folder.
    ///
    /// # Errors
    /// [`EngineError::Interrupted`](super::EngineError::Interrupted) once the state is saved, when the user wants
    /// to stop; a non-finite loss; data that cannot be read; a checkpoint that does not fit or is damaged.
    pub fn run(&self, start: Start, around: &Surroundings) -> Result<Outcome> {
        Training::begin(self, start, around)?.finish()
    }

    /// The tensors of `student`, and of what is trained beside it: all that a checkpoint holds and the optimiser sees.
    pub(super) fn trained<'s>(&'s self, student: &'s Detector) -> Vec<&'s ParamStore> {
        let beside = self.distillation.into_iter().flat_map(Distillation::params);
        [student.params()].into_iter().chain(beside).collect()
    }

    /// The job's folder for checkpoints.
    pub(super) fn checkpoints(&self) -> PathBuf {
        self.folder.join(trainer::CHECKPOINTS)
    }
}

/// The weights after the last step of the run in `folder`: there once the run is finished.
pub fn weights_of_run(folder: &Path) -> PathBuf {
    folder.join("last.safetensors")
}

impl Surroundings<'_> {
    /// Tells the user something, unless they want quiet.
    pub fn note(&self, note: &str) {
        if !self.quiet {
            eprintln!("{}", note.trim_end());
        }
    }

    /// Runs `detector` over the validation images and scores it.
    pub fn measure(&self, detector: &Detector, config: &Config) -> Result<Measured> {
        let evaluation = detect_all(detector, &self.data.val, config, self.device, |_, _| {})?;
        let metrics = score(&evaluation, &self.data.val_annotations)?;
        Ok(Measured { metrics, ms_per_image: evaluation.ms_per_image, gflops: evaluation.gflops })
    }
}
