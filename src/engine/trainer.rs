//! The training loop of one student.

mod begin;
mod budget;
mod dry_run;
mod evaluation;
mod non_finite;
mod pace;
mod parts;
mod saving;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ckd_kernels::Gradients;

use super::checkpoint::TrainState;
use super::job::{Job, Row, Start, Surroundings};
use super::observer::{End, Step};
use super::outcome::Outcome;
use super::pass::{LossTerm, PartTimes, non_finite};
use super::ranks::Plan;
use super::task::{Further, Setting, Settings, Task};
use super::update::Update;
use super::{EngineError, Result, spikes};
use crate::config::{OnNonFinite, Run};
use crate::data::{BadImage, DataError, Loader, Source};
use crate::distill::Parts;
use crate::optim::{Ema, LearningRate, Optimizer};
use crate::report::run_folder::{BadImageLine, SharesLine};
use pace::Pace;

/// A job under way.
pub(super) struct Training<'a, T: Task> {
    job: &'a Job<'a, T>,
    around: &'a Surroundings<'a, T>,
    student: T::Model,
    optimizer: Box<dyn Optimizer>,
    ema: Option<Ema>,
    state: TrainState,
    rate: LearningRate,
    loader: Loader<T::Source>,
    /// Time that the measuring of shares took, of the update under way.
    measuring: Duration,
    batches_per_epoch: u64,
    /// Images of the batches that this process has drawn for the step under way.
    drawn: Vec<Vec<u64>>,
    /// Images of all batches of that step, up to one whose numbers are not finite.
    seen: Vec<u64>,
    /// Images that turned out broken and were not told of yet.
    broken: Vec<BadImage>,
    /// Bad images that the log names.
    bad_images: BTreeSet<PathBuf>,
    /// The losses of the last update.
    terms: Vec<LossTerm>,
    /// Durations of the parts of the update under way, of this process's batches.
    times: PartTimes,
    /// Time of the latest checkpoint.
    saved: Instant,
    /// The order in which gradients travel between processes.
    plan: Rc<Plan>,
    /// Updates after which all processes were last found to hold the same weights and state.
    compared: Cell<Option<u64>>,
    /// Time of the beginning.
    began: Instant,
    pace: Pace,
}

impl<T: Task> Job<'_, T> {
    /// Trains to the end, evaluates, and writes everything into the job's folder.
    ///
    /// # Errors
    /// [`EngineError::Interrupted`] once the state is saved, when the user wants
    /// to stop; a non-finite loss; data that cannot be read; a checkpoint that does not fit or is damaged.
    pub fn run(&self, start: Start, around: &Surroundings<'_, T>) -> Result<Outcome<Row<T>>> {
        Training::begin(self, start, around)?.finish()
    }
}

/// The summed gradients of one update's batches.
struct Accumulated<B> {
    /// Means over the batches.
    terms: Vec<LossTerm>,
    gradients: Gradients,
    images: usize,
    /// The last batch, if another update follows.
    kept: Option<B>,
}

type BatchOf<T> = <<T as Task>::Source as Source>::Batch;

impl<'a, T: Task> Training<'a, T> {
    /// Trains to the end, evaluates, writes weights and outcome.
    pub(super) fn finish(mut self) -> Result<Outcome<Row<T>>> {
        let outcome = self.train();
        let step = self.state.step;
        let end = match &outcome {
            Ok(_) => End::Finished { step },
            Err(EngineError::Interrupted { .. }) => End::Interrupted { step },
            Err(error) => End::Failed { step, message: error.to_string() },
        };
        let heard = self.around.observers.end(&end);
        let outcome = outcome?;
        heard?;
        Ok(outcome)
    }

    /// The settings of the run.
    fn run(&self) -> &'a Run {
        self.job.config.run()
    }

    fn train(&mut self) -> Result<Outcome<Row<T>>> {
        let run = self.run();
        let evaluate_every = self.evaluate_every();
        let by_clock =
            Duration::try_from_secs_f64(60.0 * run.train.checkpoint_minutes).unwrap_or(Duration::MAX);
        let is_late = |saved: Instant| !by_clock.is_zero() && saved.elapsed() >= by_clock;
        let mut last = None;
        if run.train.on_non_finite == OnNonFinite::Rewind && self.state.step == 0 {
            self.save()?;
        }
        let mut stop = self.agreed(self.wants_to_stop())?;
        loop {
            if self.state.evaluation_due {
                let evaluation = self.evaluate()?;
                self.state.evaluation_due = false;
                self.save()?;
                last = Some(evaluation);
                stop = self.agreed(self.wants_to_stop())?;
            }
            if self.state.step >= self.rate.total_steps() || self.is_out_of_patience() {
                break;
            }
            self.refuse_if(stop)?;
            self.refuse_if_lost()?;
            let started = Instant::now();
            self.step()?;
            let fitted = self.fit(started.elapsed().saturating_sub(self.measuring))?;
            let step = self.state.step;
            let due = |every: Option<u64>| every.is_some_and(|every| every > 0 && step.is_multiple_of(every));
            self.state.evaluation_due = due(evaluate_every) || step >= self.rate.total_steps();
            // Before the evaluation: whatever happens there costs no step.
            stop = self.agreed(self.wants_to_stop())?;
            // The first process has the clock.
            let late = self.agreed(self.around.ranks.is_first() && is_late(self.saved))?;
            let save = fitted || self.state.evaluation_due || due(run.train.checkpoint_every) || late;
            if save || stop {
                if let Err(error) = self.check_weights() {
                    self.after_non_finite(error, None)?;
                    continue;
                }
                self.save()?;
            }
            self.refuse_if(stop)?;
        }
        let evaluation = match last {
            Some(evaluation) => evaluation,
            // The run ended between its last checkpoint and its outcome.
            None => self.measure()?,
        };
        self.conclude(evaluation)
    }

    /// Whether the user wants this process to stop.
    fn wants_to_stop(&self) -> bool {
        self.around.stop.load(Ordering::Relaxed)
    }

    /// Whether any process of the run says `mine`.
    fn agreed(&self, mine: bool) -> Result<bool> {
        self.around.ranks.any(mine).map_err(|source| self.lost(source))
    }

    /// The error of an operation over all processes.
    fn lost(&self, source: ckd_collective::Error) -> EngineError {
        EngineError::RankLost { step: self.state.step, source }
    }

    /// Ends the run if the user wants it to stop; its state must be on the disk.
    fn refuse_if(&self, stop: bool) -> Result<()> {
        if stop { Err(self.interrupted()) } else { Ok(()) }
    }

    fn interrupted(&self) -> EngineError {
        EngineError::Interrupted { step: self.state.step, command: self.around.command.to_owned() }
    }

    /// The next training batch of this process.
    fn draw(&mut self) -> Result<BatchOf<T>> {
        let batch = self.loader.next().transpose()?.ok_or_else(|| {
            DataError::Setting("the training batches ended, which they never should".to_owned())
        })?;
        self.broken.extend(self.loader.take_broken());
        self.drawn.push(T::image_ids(&batch));
        Ok(batch)
    }

    /// Tells of images that turned out broken.
    fn tell_broken(&mut self, broken: &[BadImage]) -> Result<()> {
        for BadImage { reason, .. } in broken {
            self.around.observers.note(&format!("{reason}; other images take its place"));
        }
        self.log_bad_images(broken, self.state.step + 1)
    }

    /// Logs images that cannot be used and that the log does not name yet.
    fn log_bad_images(&mut self, images: &[BadImage], step: u64) -> Result<()> {
        for BadImage { path, reason } in images {
            if self.bad_images.insert(path.clone()) {
                let line = BadImageLine { step, bad_image: path.clone(), reason: reason.clone() };
                self.around.observers.bad_image(&line)?;
            }
        }
        Ok(())
    }

    /// Makes an update of the weights.
    fn update(&mut self) -> Result<()> {
        let started = Instant::now();
        let waited_before = self.loader.data_wait();
        let step = self.state.step;
        self.times = PartTimes::default();
        let Accumulated { terms, gradients, images, kept } = self.accumulate()?;
        if let Some(factor) = self.run().train.spike_factor {
            let loss = terms.iter().map(|term| term.weighted).sum();
            if let Some(median) = spikes::exceeded(&mut self.state.losses, loss, factor) {
                let what = format!(
                    "the loss, above {factor} (train.spike_factor) times its running median {median:.4},"
                );
                return Err(non_finite(step, &what, loss, &terms));
            }
        }
        let scale = 1.0 / self.parts() as f64;
        let lr = self.rate.at(step);
        let update = Update { gradients: &gradients, lr, scale, step, of: "gradient", terms: &terms };
        let settings = &self.run().optim;
        let gradient_norm = update.apply(&mut *self.optimizer, settings)?;
        drop(gradients);
        self.state.step += 1;
        self.terms.clone_from(&terms);
        if let Some(kept) = kept {
            self.further(kept, lr, &terms)?;
        }
        if let Some(ema) = &mut self.ema {
            ema.update(self.state.step)?;
        }
        self.tell_shares()?;
        self.around.observers.step(&Step {
            step: self.state.step,
            total: self.rate.total_steps(),
            lr,
            terms: &terms,
            gradient_norm,
            images,
            epoch: self.epoch(),
            took: started.elapsed().saturating_sub(self.measuring),
            waited: self.loader.data_wait() - waited_before,
            times: self.times,
        })
    }

    /// Reports whose gradient reached the student in the measured steps, after the last one.
    fn tell_shares(&mut self) -> Result<()> {
        let step = self.state.step;
        if self.state.shares.passes == 0 || step < self.run().train.share_steps().min(self.rate.total_steps())
        {
            return Ok(());
        }
        let shares = std::mem::take(&mut self.state.shares);
        let observers = self.around.observers;
        observers.note(&shares.to_string());
        let lessons = self.job.distillation.iter();
        lessons.flat_map(|lessons| lessons.unbalanced(&shares)).for_each(|warning| observers.note(&warning));
        observers.shares(&SharesLine { step, shares })
    }

    /// The update that follows the one just made.
    fn further(&mut self, kept: BatchOf<T>, lr: f64, terms: &[LossTerm]) -> Result<()> {
        let step = self.state.step;
        let setting = self.setting(step * self.parts() - 1);
        let further = self.around.data.after_update(&setting, kept, lr)?;
        let Further { gradients, lr } = &further;
        let update = Update { gradients, lr: *lr, scale: 1.0, step, of: "meta-gradient", terms };
        let settings = &self.run().optim;
        update.apply(&mut *self.optimizer, settings)?;
        Ok(())
    }

    fn setting(&self, batch: u64) -> Setting<'_, T> {
        self.setting_among(batch, None)
    }

    /// Context of a pass that may look at the other `parts` of the update.
    fn setting_among<'s>(&'s self, batch: u64, parts: Option<&'s dyn Parts>) -> Setting<'s, T> {
        Setting {
            config: self.job.config,
            student: &self.student,
            lessons: self.job.distillation,
            device: self.around.device,
            batch,
            parts,
        }
    }

    /// Passes over the training images so far, to a thousandth.
    fn epoch(&self) -> f64 {
        let batches = (self.state.step * self.parts()) as f64;
        (1e3 * batches / self.batches_per_epoch as f64).round() / 1e3
    }
}
