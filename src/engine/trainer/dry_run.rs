//! The time and disk of a job, by a few of its updates and held-out images.

use std::time::{Duration, Instant};

use super::{Training, rehearse, slots};
use crate::engine::Result;
use crate::engine::checkpoint;
use crate::engine::estimate::Estimate;
use crate::engine::job::{Job, Start, Surroundings};
use crate::engine::task::{Settings, Task};

/// Updates that are timed at most.
const UPDATES: u32 = 10;

/// Held-out images that are timed at most.
const IMAGES: usize = 64;

/// Time after which no more is timed, of updates and of images.
const ENOUGH: Duration = Duration::from_secs(2);

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
        let run = self.config.run();
        let steps = training.rate.total_steps();
        let between = run.train.eval_every.map(|every| (every * training.rate.unit_steps()).max(1));
        let held_out = around.data.held_out().min(run.eval.max_images.unwrap_or(usize::MAX));
        Ok(Estimate {
            label: self.label.clone(),
            steps,
            step,
            evaluations: between.map_or(1, |between| steps.div_ceil(between)),
            images: held_out as u64,
            image: training.time_of_image(held_out)?,
            checkpoint: checkpoint::size(
                &self.trained(&training.student),
                &slots(&*training.optimizer, training.ema.as_ref()),
            ),
        })
    }
}

impl<T: Task> Training<'_, T> {
    /// The mean time of an update.
    fn time_of_update(&mut self) -> Result<Duration> {
        let mut update = || -> Result<Duration> {
            let started = Instant::now();
            self.drawn.clear();
            self.update()?;
            self.refuse_if(self.wants_to_stop())?;
            Ok(started.elapsed())
        };
        update()?;
        let (mut timed, mut updates) = (update()?, 1);
        while timed < ENOUGH && updates < UPDATES {
            timed += update()?;
            updates += 1;
        }
        Ok(timed / updates)
    }

    /// The mean time of the evaluation of one of `held_out` images.
    fn time_of_image(&self, held_out: usize) -> Result<Duration> {
        let time = |images: usize| -> Result<Duration> {
            let started = Instant::now();
            rehearse(self.job, self.around, &self.student, images)?;
            Ok(started.elapsed())
        };
        // What a run makes before its first step has warmed up.
        let one = time(1)?.as_secs_f64().max(1e-9);
        let images = ((ENOUGH.as_secs_f64() / one) as usize).clamp(1, IMAGES.min(held_out.max(1)));
        Ok(time(images)? / images as u32)
    }
}
