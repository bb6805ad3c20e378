//! The time and disk of a job, by a few of its updates and held-out images.

use std::time::{Duration, Instant};

use super::Training;
use super::begin::rehearse;
use super::budget::{Times, minutes};
use super::pace::{ENOUGH, Pace};
use super::saving::slots;
use crate::engine::Result;
use crate::engine::checkpoint;
use crate::engine::estimate::Estimate;
use crate::engine::job::{Job, Start, Surroundings};
use crate::engine::ranks::from_first;
use crate::engine::task::{Settings, Task};

/// Held-out images that are timed at most.
const IMAGES: usize = 64;

impl<T: Task> Job<'_, T> {
    /// Makes updates and evaluates images, of each at least one that is not timed, since it makes room in memory, and one
    /// that is.
    ///
    /// # Errors
    /// Errors of a run.
    pub(in crate::engine) fn estimate(&self, around: &Surroundings<'_, T>) -> Result<Estimate> {
        let mut training = Training::begin(self, Start::Anew, around)?;
        let step = training.time_of_update()?;
        training.check_weights()?;
        let (every, images) = (training.evaluate_every(), training.held_out());
        let image = training.time_of_image()?;
        let mut steps = training.rate.total_steps();
        if let Some(budget) = self.config.run().train.minutes {
            let times = Times { step, evaluation: image * images as u32, every };
            steps = steps.min(times.updates_in(minutes(budget)).max(1));
        }
        Ok(Estimate {
            label: self.label.clone(),
            steps,
            step,
            evaluations: every.map_or(1, |every| steps.div_ceil(every)),
            images: images as u64,
            image,
            checkpoint: checkpoint::size(
                &self.trained(&training.student),
                &slots(&*training.optimizer, training.ema.as_ref()),
            ),
        })
    }
}

impl<T: Task> Training<'_, T> {
    /// Mean time of an update.
    fn time_of_update(&mut self) -> Result<Duration> {
        let mut pace = Pace::default();
        while !pace.is_enough(ENOUGH) {
            let started = Instant::now();
            self.drawn.clear();
            self.update()?;
            pace.add(started.elapsed().saturating_sub(self.measuring));
            self.refuse_if(self.wants_to_stop())?;
        }
        Ok(pace.mean())
    }

    /// Images of an evaluation.
    fn held_out(&self) -> usize {
        self.around.data.held_out().min(self.run().eval.max_images.unwrap_or(usize::MAX))
    }

    /// Forecast of the time of an evaluation.
    pub(super) fn time_of_evaluation(&self) -> Result<Duration> {
        Ok(self.time_of_image()? * self.held_out() as u32)
    }

    /// Mean time of the evaluation of a held-out image, by some of them.
    fn time_of_image(&self) -> Result<Duration> {
        let time = |images: usize| -> Result<Duration> {
            let started = Instant::now();
            rehearse(self.job, self.around, &self.student, images)?;
            Ok(started.elapsed())
        };
        // What a run makes before its first step has warmed up.
        let one = time(1)?.as_secs_f64().max(1e-9);
        let images = ((ENOUGH.as_secs_f64() / one) as usize).clamp(1, IMAGES.min(self.held_out().max(1)));
        // All processes evaluate the same images.
        let images = from_first(self.around.ranks, || Ok(images))?;
        Ok(time(images)? / images as u32)
    }
}
