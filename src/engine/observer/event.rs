//! Events of a training run, and the trait of those who hear of them.

use std::collections::BTreeMap;
use std::time::Duration;

use image::RgbImage;

use crate::engine::error::Result;
use crate::engine::pass::{LossTerm, PartTimes};
use crate::engine::task::Network;
use crate::report::run_folder::{BadImageLine, LeftOutLine, RunFolder, SharesLine};

/// A listener to a training run. Each method does nothing by default; an error ends the run. An observer that remembers
/// does so in a cell: it is told through a shared reference.
///
/// A run of several parts (a teacher, a student alone, a student distilled) begins and ends once for each.
pub trait Observer {
    /// Training begins, or goes on from a checkpoint.
    ///
    /// # Errors
    /// Whatever must stop the run.
    fn begin(&self, _begin: &Begin<'_>) -> Result<()> {
        Ok(())
    }

    /// An update was made.
    ///
    /// # Errors
    /// Whatever must stop the run.
    fn step(&self, _step: &Step<'_>) -> Result<()> {
        Ok(())
    }

    /// A step was left out.
    ///
    /// # Errors
    /// Whatever must stop the run.
    fn left_out(&self, _line: &LeftOutLine) -> Result<()> {
        Ok(())
    }

    /// An image was left out, or replaced by others.
    ///
    /// # Errors
    /// Whatever must stop the run.
    fn bad_image(&self, _line: &BadImageLine) -> Result<()> {
        Ok(())
    }

    /// The student was evaluated.
    ///
    /// # Errors
    /// Whatever must stop the run.
    fn eval(&self, _eval: &Eval<'_>) -> Result<()> {
        Ok(())
    }

    /// The shares of the losses in the gradient were measured.
    ///
    /// # Errors
    /// Whatever must stop the run.
    fn shares(&self, _shares: &SharesLine) -> Result<()> {
        Ok(())
    }

    /// Whether it shows the picture of an evaluation, which takes time to make.
    fn wants_picture(&self) -> bool {
        false
    }

    /// Whether it hears on every process of a run, not on the first alone.
    fn is_everywhere(&self) -> bool {
        false
    }

    /// Something that a user should know, in words.
    fn note(&self, _note: &str) {}

    /// Training ended, one way or another.
    ///
    /// # Errors
    /// Whatever must not pass unseen; if training failed, its own error goes before.
    fn end(&self, _end: &End) -> Result<()> {
        Ok(())
    }

    /// All parts of a run are finished, and its summary and its pictures are written.
    ///
    /// # Errors
    /// Whatever must not pass unseen.
    fn finished(&self, _folder: &RunFolder) -> Result<()> {
        Ok(())
    }
}

impl<O: Observer + ?Sized> Observer for &O {
    fn is_everywhere(&self) -> bool {
        (**self).is_everywhere()
    }

    fn wants_picture(&self) -> bool {
        (**self).wants_picture()
    }

    fn begin(&self, begin: &Begin<'_>) -> Result<()> {
        (**self).begin(begin)
    }

    fn step(&self, step: &Step<'_>) -> Result<()> {
        (**self).step(step)
    }

    fn left_out(&self, line: &LeftOutLine) -> Result<()> {
        (**self).left_out(line)
    }

    fn bad_image(&self, line: &BadImageLine) -> Result<()> {
        (**self).bad_image(line)
    }

    fn eval(&self, eval: &Eval<'_>) -> Result<()> {
        (**self).eval(eval)
    }

    fn shares(&self, shares: &SharesLine) -> Result<()> {
        (**self).shares(shares)
    }

    fn note(&self, note: &str) {
        (**self).note(note);
    }

    fn end(&self, end: &End) -> Result<()> {
        (**self).end(end)
    }

    fn finished(&self, folder: &RunFolder) -> Result<()> {
        (**self).finished(folder)
    }
}

/// The beginning of a run.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Begin<'a> {
    /// The student's name for people.
    pub label: &'a str,
    /// The run's files.
    pub folder: &'a RunFolder,
    /// Updates that are done already.
    pub step: u64,
    /// Updates at the end.
    pub total: u64,
    /// Whether the run goes on from a checkpoint.
    pub resumed: bool,
    /// Whether an evaluation comes before the next update.
    pub evaluation_due: bool,
    /// Updates from one evaluation to the next, if there are more than the last.
    pub evaluate_every: Option<u64>,
    /// Updates from one line of the log to the next.
    pub log_every: u64,
}

/// Event of a finished update.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Step<'a> {
    /// Updates so far, this one included.
    pub step: u64,
    /// Updates at the end; fewer than at the beginning once `train.minutes` has shortened the schedule.
    pub total: u64,
    /// The learning rate.
    pub lr: f64,
    /// Each term of the loss, mean over the accumulated batches.
    pub terms: &'a [LossTerm],
    /// The norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Images of the update.
    pub images: usize,
    /// Passes over the training images so far.
    pub epoch: f64,
    /// Wall time of the update.
    pub took: Duration,
    /// Wall time that the update waited for its data.
    pub waited: Duration,
    /// Durations of its parts, of this process's batches.
    pub times: PartTimes,
}

/// Event of a finished evaluation.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Eval<'a> {
    /// Updates before it.
    pub step: u64,
    /// Evaluation of the weights.
    pub weights: &'a Evaluated,
    /// Evaluation of the moving average of the weights, if the run keeps one.
    pub average: Option<&'a Evaluated>,
    /// The networks whose best evaluation this is.
    pub best: &'a [Written<'a>],
    /// Passes over the training images before it.
    pub epoch: f64,
    /// Wall time of the evaluation.
    pub took: Duration,
    /// Picture of detections on some held-out images, beside the truth, if an observer wants it and the task has it.
    pub picture: Option<&'a RgbImage>,
}

/// The findings of an evaluation.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Evaluated {
    /// The one number that decides which weights are the best, from 0 to 1.
    pub headline: f64,
    /// The numbers in a short line.
    pub told: String,
    /// The numbers of a line of the log.
    pub logged: serde_json::Value,
    /// All numbers.
    pub written: serde_json::Value,
}

/// A network and the metadata that travels with its weights.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Written<'a> {
    /// The network.
    pub network: Network<'a>,
    /// The metadata of its file.
    pub metadata: BTreeMap<String, String>,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The last step is done and evaluated.
    Finished {
        /// Updates.
        step: u64,
    },
    /// The run was asked to stop; its state is saved.
    Interrupted {
        /// Updates so far.
        step: u64,
    },
    /// An error stopped the run.
    Failed {
        /// Updates so far.
        step: u64,
        /// The error's message.
        message: String,
    },
}
