//! Losses, gradients and weights that are not finite, and losses that leap: the run stops, leaves the step out, or goes back.

use std::time::Instant;

use candle_core::Tensor;
use ckd_detectors::param::{Role, write_in_place};
use ckd_kernels::Gradients;

use super::Training;
use super::begin::{bad_images_in, loader_from, position};
use super::saving::{slots, tensors_of};
use crate::config::OnNonFinite;
use crate::engine::checkpoint::{self, Restored, TrainState};
use crate::engine::job::Job;
use crate::engine::observer::Begin;
use crate::engine::pass::{non_finite, with_arithmetic};
use crate::engine::ranks::{PartReport, Report, from_first, spread};
use crate::engine::task::{Settings, Task};
use crate::engine::{EngineError, Result};
use crate::report::run_folder::LeftOutLine;
use crate::weights::finite;

/// Copies of statistics and memories, store by store.
type Kept = Vec<Vec<Tensor>>;

impl<T: Task> Training<'_, T> {
    /// One step: an update of the weights, or what takes its place where numbers are not finite.
    pub(super) fn step(&mut self) -> Result<()> {
        self.drawn.clear();
        if self.state.left_out.contains(&(self.state.step + 1)) {
            return self.leave_out(
                "numbers were not finite here before the run went back to a checkpoint".to_owned(),
            );
        }
        let skips = self.run().train.on_non_finite == OnNonFinite::Skip;
        let before = skips.then(|| self.moved_by_passes()).transpose()?;
        match self.update() {
            Err(error @ EngineError::NonFinite { .. }) => self.after_non_finite(error, before),
            other => other,
        }
    }

    /// Does what the settings say of numbers that are not finite; `before` is what the passes of the step have moved.
    ///
    /// # Errors
    /// `error`, if the run must stop.
    pub(super) fn after_non_finite(&mut self, error: EngineError, before: Option<Kept>) -> Result<()> {
        let EngineError::NonFinite { step, what, value, losses, .. } = error else { return Err(error) };
        let train = &self.run().train;
        let too_many = self.state.left_out.len() as u64 >= train.non_finite_limit;
        let said = format!("{what} is {value}; the losses were {losses}");
        match (train.on_non_finite, before) {
            (OnNonFinite::Skip, Some(before)) if !too_many && self.state.step == step => {
                self.put_back(&before)?;
                return self.leave_out(said);
            }
            (OnNonFinite::Rewind, _) if !too_many => {
                // Weights that are found unusable after a step were made by it.
                let culprit = if self.state.step == step { step + 1 } else { self.state.step };
                return self.rewind(culprit, &said);
            }
            _ => {}
        }
        let mut advice = self.blamed(step)?;
        if too_many && train.on_non_finite != OnNonFinite::Stop {
            advice = format!(
                "{} steps were left out before, which is train.non_finite_limit. {advice}",
                train.non_finite_limit
            );
        }
        Err(EngineError::NonFinite { step, what, value, losses, advice })
    }

    /// Probable cause of numbers that are not finite after `step` updates, and the remedy.
    fn blamed(&self, step: u64) -> Result<String> {
        const HELP: &str =
            "a lower optim.lr, a longer schedule.warmup_steps or optim.clip_grad_norm usually helps";
        let images = &self.seen;
        let distilled = self.in_words_of_distillation();
        Ok(match (self.unusable_weights()?, step) {
            (report, 0) => format!(
                "No update was made yet, so the learning rate is not to blame: look at the images {images:?} and at the \
                 initial weights{}",
                report.map(|report| format!(" ({report})")).unwrap_or_default()
            ),
            (Some(report), _) => format!(
                "The last update left weights that cannot be used ({report}): {HELP}{distilled}; the last checkpoint is unharmed"
            ),
            (None, _) => format!(
                "The weights are finite: {HELP}{distilled}, if the images {images:?} are in order; the last checkpoint is unharmed"
            ),
        })
    }

    /// The keys of the weights by which methods of distillation enter the loss, which may be too large.
    fn in_words_of_distillation(&self) -> String {
        let entries = self.job.config.distill().iter().enumerate().filter(|(_, entry)| !entry.is_off());
        let keys = entries.flat_map(|(index, entry)| {
            let on = entry.weights().into_iter().filter(|(_, weight)| *weight != 0.0);
            on.map(move |(key, weight)| format!("distill.{index}.{key} = {weight} of {}", entry.word()))
        });
        let keys: Vec<String> = keys.collect();
        match keys.is_empty() || self.job.distillation.is_none() {
            true => String::new(),
            false => format!(", and so do smaller weights of distillation ({})", keys.join(", ")),
        }
    }

    /// Makes no update of this step, and says so.
    fn leave_out(&mut self, why: String) -> Result<()> {
        // The order of the data stays what it is.
        let images = self.draw_the_rest()?;
        self.state.step += 1;
        if !self.state.left_out.contains(&self.state.step) {
            self.state.left_out.push(self.state.step);
        }
        let line = LeftOutLine { step: self.state.step, left_out: why, images };
        self.around.observers.left_out(&line)
    }

    /// Goes back to the newest checkpoint; `culprit` will be left out.
    fn rewind(&mut self, culprit: u64, why: &str) -> Result<()> {
        let mut left_out = self.state.left_out.clone();
        left_out.push(culprit);
        let Job { config, folder, .. } = self.job;
        let ranks = self.around.ranks;
        let (stores, slots) = (self.job.trained(&self.student), slots(&*self.optimizer, self.ema.as_ref()));
        let mut notes = Vec::new();
        let (path, state) = from_first(ranks, || {
            let restored = checkpoint::restore(&folder.checkpoints(), &stores, &slots)?;
            let Some(Restored { path, state, notes: found }) = restored else {
                let reason = format!("there is no checkpoint to go back to, and {why}");
                return Err(EngineError::Run { path: folder.checkpoints(), reason });
            };
            notes = found;
            Ok((path, state))
        })?;
        spread(ranks, tensors_of(&stores, &slots))?;
        drop((stores, slots));
        self.state = TrainState { left_out, total: self.state.total, ..state };
        self.compared.set(None);
        let seen = self.state.step * self.parts();
        let source = self.around.data.source(config)?;
        self.loader = loader_from::<T>(source, config, self.around, position(self.batches_per_epoch, seen))?;
        self.around.observers.begin(&Begin {
            label: &self.job.label,
            folder,
            step: self.state.step,
            total: self.rate.total_steps(),
            resumed: true,
            evaluation_due: self.state.evaluation_due,
            evaluate_every: self.evaluate_every(),
            log_every: self.run().train.log_every,
        })?;
        if ranks.is_first() {
            self.bad_images = bad_images_in(folder);
        }
        self.log_bad_images(self.around.bad_images, self.state.step)?;
        notes.push(format!("back to {}: {why}; step {culprit} will be left out", path.display()));
        notes.iter().for_each(|note| self.around.observers.note(note));
        self.saved = Instant::now();
        Ok(())
    }

    /// Checks the weights that are about to be saved; after the last update, whether they give finite losses, too.
    pub(super) fn check_weights(&mut self) -> Result<()> {
        let step = self.state.step;
        if let Some(report) = self.unusable_weights()? {
            return Err(non_finite(
                step,
                &format!("the magnitude of the weights ({report})"),
                f64::INFINITY,
                &self.terms,
            ));
        }
        if step < self.rate.total_steps() {
            return Ok(());
        }
        // Any other update is checked by the step after it, and the last one by the first process.
        let ranks = self.around.ranks;
        let mut report = PartReport::drawn(Vec::new(), 0);
        if ranks.is_first() {
            self.try_next(step).or_else(|error| report.failed(error))?;
        }
        let all = Report::of(step, vec![report], Vec::new()).shared(ranks)?;
        all.iter()
            .flat_map(|report| &report.parts)
            .try_for_each(|part| part.failure(step).map_or(Ok(()), Err))
    }

    /// Computes the pass after the last update. A batch that cannot be read checks nothing.
    fn try_next(&mut self, step: u64) -> Result<()> {
        let Some(Ok(batch)) = self.loader.next() else { return Ok(()) };
        let before = self.moved_by_passes()?;
        let setting = self.setting(step * self.parts());
        let pass = with_arithmetic(&self.run().engine, || {
            self.around.data.pass(&setting, batch, step, &mut Gradients::new())
        });
        self.put_back(&before)?;
        pass.map(drop)
    }

    /// The weights that are infinite, not numbers, or so large that products are.
    fn unusable_weights(&self) -> Result<Option<String>> {
        let stores = self.job.trained(&self.student);
        let all = stores.iter().flat_map(|store| store.iter());
        Ok(finite::report(all.map(|(name, param)| (&**name, param.value.tensor())), |_| true)?)
    }

    /// Copies of what a pass may change: statistics and memories.
    fn moved_by_passes(&self) -> Result<Kept> {
        let mut kept = Vec::new();
        for store in self.job.trained(&self.student) {
            let moved = store.iter().filter(|(_, param)| param.role != Role::Trainable);
            let copies = moved.map(|(_, param)| param.value.tensor().copy());
            kept.push(copies.collect::<candle_core::Result<Vec<Tensor>>>()?);
        }
        Ok(kept)
    }

    fn put_back(&self, kept: &Kept) -> Result<()> {
        for (store, kept) in self.job.trained(&self.student).into_iter().zip(kept) {
            let moved = store.iter().filter(|(_, param)| param.role != Role::Trainable);
            for ((_, param), before) in moved.zip(kept) {
                write_in_place(param.value.tensor(), before)?;
            }
        }
        Ok(())
    }
}
