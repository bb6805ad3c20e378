//! The parts of an update: each process makes some, and all learn of all.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ckd_collective::Tree;
use ckd_kernels::Gradients;
use ckd_kernels::deferred::collected;
use ckd_kernels::graph::{add_into, untracked};

use super::begin::position;
use super::{Accumulated, BatchOf, Training};
use crate::data::BadImage;
use crate::distill::Parts;
use crate::engine::pass::{GradientSink, LossTerm, with_arithmetic};
use crate::engine::ranks::{
    Collecting, PartReport, Report, Rows, Summing, effects_over_ranks, own_parts, with_statistics,
};
use crate::engine::task::{Setting, Settings, Task};
use crate::engine::{EngineError, Result};

impl<'a, T: Task> Training<'a, T> {
    /// Batches of an update.
    pub(super) fn parts(&self) -> u64 {
        self.run().train.parts() as u64
    }

    /// Whether the parts of the gradient of the step under way are measured.
    fn is_measured(&self) -> bool {
        let step = self.state.step;
        step < self.run().train.share_steps()
            && self.job.distillation.is_some_and(|lessons| lessons.is_active(step))
    }

    /// The gradients of one update's batches, summed as a tree over them, and their side effects.
    ///
    /// Gradients of this process's last batch leave the walk back, and their sums over all processes begin, while the walk
    /// goes on.
    pub(super) fn accumulate(&mut self) -> Result<Accumulated<BatchOf<T>>> {
        let (config, ranks, parts, step) =
            (self.job.config, self.around.ranks, self.parts(), self.state.step);
        let (mut told, mut effects, mut kept) = (Vec::new(), Vec::new(), None);
        let (mut tree, mut summing) = (Some(Tree::new(added)), Summing::over(ranks, self.plan.clone()));
        let own = own_parts(ranks, parts)?;
        let (mut batches, rows) = self.rows_of_all(own.clone())?;
        let (measured, mut measuring) = (self.is_measured(), Duration::ZERO);
        for part in own.clone() {
            let batch = batches.pop_front().map_or_else(|| self.draw(), Ok)?;
            let mut report = PartReport::drawn(T::image_ids(&batch), T::images(&batch));
            if part + 1 == parts {
                kept = T::kept(config, &batch, step + 1);
            }
            let mut gradients = Gradients::new();
            let earlier = if part + 1 == own.end { tree.take() } else { None };
            let sink: &mut GradientSink<'_> = match earlier {
                Some(earlier) => {
                    summing.follow(earlier.into_sums());
                    &mut summing
                }
                None => &mut gradients,
            };
            let among = rows.as_ref().map(|rows| rows.of_part(part));
            let seen = among.as_ref().map(|among| among as &dyn Parts);
            let setting = self.setting_among(step * parts + part, seen);
            let run = config.run();
            let mut shares = BTreeMap::new();
            let pass = || {
                if measured {
                    let started = Instant::now();
                    shares = gradient_norms(&setting, self.around.data, &batch, step)?;
                    measuring += started.elapsed();
                }
                self.around.data.pass(&setting, batch, step, sink)
            };
            let (pass, waiting) =
                collected(|| with_arithmetic(&run.engine, || with_statistics(ranks, &run.train, pass)));
            let pass = match among {
                Some(among) => among.checked(pass),
                None => pass,
            };
            match pass {
                Ok(pass) => {
                    report.computed(&pass.terms, &shares);
                    self.times.add(pass.times);
                    tree.iter_mut().try_for_each(|tree| tree.add(std::mem::take(&mut gradients)))?;
                    effects.push(waiting);
                    told.push(report);
                }
                Err(error) => {
                    report.failed(self.with_step(error))?;
                    told.push(report);
                    break;
                }
            }
        }
        self.measuring = measuring;
        let mut report = Report::of(step, told, std::mem::take(&mut self.broken));
        report.left = summing.send_all().map_err(|error| self.with_step(error))?.to_vec();
        report.effects = effects.first().map_or(0, Vec::len);
        let all = report.shared(ranks).map_err(|error| self.with_step(error))?;
        // Also where a number was not finite: what was started is finished, on all processes.
        let wanted = |place: usize| all.iter().any(|report| report.left.contains(&place));
        let gradients = summing.finish(wanted).map_err(|error| self.with_step(error))?;
        let mut sum = self.learned(&all)?;
        sum.gradients = gradients;
        if !self.plan.is_observed {
            self.plan = Rc::new(self.plan.observed(&all[0].left));
        }
        effects_over_ranks(ranks, &effects).map_err(|error| self.with_step(error))?;
        if kept.is_none() && T::keeps(config, step + 1) {
            // It was another process's to draw.
            let last = self.loader.build(position(self.batches_per_epoch, (step + 1) * parts - 1))?;
            kept = T::kept(config, &last, step + 1);
        }
        sum.kept = kept;
        Ok(sum)
    }

    /// The rows of all parts of the update, if a method looks at them, and the batches that were drawn for it.
    ///
    /// # Errors
    /// Errors of a pass; a process that is late.
    fn rows_of_all(&mut self, own: Range<u64>) -> Result<(VecDeque<BatchOf<T>>, Option<Rows<'a>>)> {
        let (ranks, parts, step) = (self.around.ranks, self.parts(), self.state.step);
        let mut batches = VecDeque::new();
        if parts == 1 || !self.around.data.looks_at_all_parts(&self.setting(step * parts), step) {
            return Ok((batches, None));
        }
        if own.end - own.start == 1 {
            return Ok((batches, Some(Rows::OfPasses(ranks))));
        }
        let run = self.job.config.run();
        let mut rows = Vec::new();
        for part in own {
            let batch = self.draw()?;
            batches.push_back(batch.clone());
            let collecting = Collecting::default();
            let setting = self.setting_among(step * parts + part, Some(&collecting));
            let pass = || self.around.data.pass(&setting, batch, step, &mut Gradients::new());
            // Statistics and memories move in the pass that follows.
            let (pass, _unmade) = collected(|| untracked(|| with_arithmetic(&run.engine, pass)));
            pass?;
            rows.push(collecting.into_rows());
        }
        let rows = Rows::known(ranks, rows).map_err(|error| self.with_step(error))?;
        Ok((batches, Some(rows)))
    }

    /// Takes in what all processes tell of the parts, in order of the parts.
    ///
    /// # Errors
    /// The first number that is not finite.
    fn learned(&mut self, all: &[Report]) -> Result<Accumulated<BatchOf<T>>> {
        let broken: Vec<BadImage> = all.iter().flat_map(Report::broken).collect();
        self.tell_broken(&broken)?;
        self.seen.clear();
        let mut sum = Accumulated { terms: Vec::new(), gradients: Gradients::new(), images: 0, kept: None };
        for part in all.iter().flat_map(|report| &report.parts) {
            self.seen.extend(&part.ids);
            if let Some(error) = part.failure(self.state.step) {
                return Err(error);
            }
            sum.images += part.images;
            self.state.shares.add(&part.shares());
            for (name, weighted) in part.terms() {
                let share = weighted / self.parts() as f64;
                match sum.terms.iter_mut().find(|known| known.name == name) {
                    Some(known) => known.weighted += share,
                    None => sum.terms.push(LossTerm { name: name.to_owned(), weighted: share }),
                }
            }
        }
        Ok(sum)
    }

    /// Draws what this process has not drawn of the step's batches; the images of all batches of all processes.
    pub(super) fn draw_the_rest(&mut self) -> Result<Vec<u64>> {
        let own = own_parts(self.around.ranks, self.parts())?;
        while (self.drawn.len() as u64) < own.end - own.start {
            self.draw()?;
        }
        let parts = self.drawn.iter().map(|ids| PartReport::drawn(ids.clone(), ids.len())).collect();
        let report = Report::of(self.state.step, parts, std::mem::take(&mut self.broken));
        let all = report.shared(self.around.ranks).map_err(|error| self.with_step(error))?;
        let broken: Vec<BadImage> = all.iter().flat_map(Report::broken).collect();
        self.tell_broken(&broken)?;
        Ok(all.iter().flat_map(|report| &report.parts).flat_map(|part| part.ids.clone()).collect())
    }

    /// An error of the processes, with the step.
    pub(super) fn with_step(&self, error: EngineError) -> EngineError {
        match error {
            EngineError::Collective(source) => self.lost(source),
            EngineError::Damaged(why) => EngineError::RanksDiffer {
                step: self.state.step,
                reason: format!("a message between them is damaged: {why}"),
            },
            other => other,
        }
    }
}

/// The length of the gradient of each part of the losses of `batch`, with each method at its whole weight. Statistics and
/// memories stay: the step is as if it had not been measured.
fn gradient_norms<T: Task>(
    setting: &Setting<'_, T>,
    data: &T,
    batch: &BatchOf<T>,
    step: u64,
) -> Result<BTreeMap<String, f64>> {
    let (norms, _unmade) = collected(|| data.gradient_norms(setting, batch.clone(), step));
    let mut norms = norms?;
    for (label, factor) in setting.lessons.iter().flat_map(|lessons| lessons.counting(step)) {
        norms.entry(label.to_owned()).and_modify(|norm| *norm /= factor);
    }
    Ok(norms)
}

/// The sum of two parts' gradients.
fn added(mut earlier: Gradients, later: Gradients) -> Result<Gradients> {
    for (name, gradient) in later {
        add_into(&mut earlier, name, gradient)?;
    }
    Ok(earlier)
}
