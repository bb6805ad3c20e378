//! The length of a training: `train.minutes` before its end, `train.patience` at it.

use std::time::Duration;

use super::Training;
use super::pace::ENOUGH;
use crate::engine::Result;
use crate::engine::outcome::Ended;
use crate::engine::ranks::from_first;
use crate::engine::task::Task;

/// Wall times that decide how many updates fit into a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) step: Duration,
    /// An evaluation.
    pub(super) evaluation: Duration,
    /// Updates from one evaluation to the next, if there are more than the last.
    pub(super) every: Option<u64>,
}

impl Times {
    /// Updates that fit into `left`, with their evaluations and the last one.
    pub(super) fn updates_in(&self, left: Duration) -> u64 {
        let evaluation = self.evaluation.as_secs_f64();
        let between = self.every.map_or(0.0, |every| evaluation / every.max(1) as f64);
        let each = (self.step.as_secs_f64() + between).max(1e-9);
        ((left.as_secs_f64() - evaluation) / each).max(0.0) as u64
    }
}

/// So many minutes.
pub(super) fn minutes(minutes: f64) -> Duration {
    Duration::try_from_secs_f64(60.0 * minutes).unwrap_or(Duration::MAX)
}

impl<T: Task> Training<'_, T> {
    /// Updates from one evaluation to the next.
    pub(super) fn evaluate_every(&self) -> Option<u64> {
        self.run().train.eval_every.map(|every| (every * self.rate.unit_steps()).max(1))
    }

    /// Takes in that an update took so long. Whether the length of the run was decided now, by `train.minutes`: once, when
    /// the first updates have told the time of one.
    pub(super) fn fit(&mut self, took: Duration) -> Result<bool> {
        let budget = self.run().train.minutes.filter(|_| self.state.total.is_none());
        let Some(budget) = budget.map(minutes) else { return Ok(false) };
        self.pace.add(took);
        // The first process has the clock.
        let is_enough = self.around.ranks.is_first() && self.pace.is_enough(ENOUGH.min(budget / 20));
        if !self.agreed(is_enough)? {
            return Ok(false);
        }
        let (step, every) = (self.pace.mean(), self.evaluate_every());
        let evaluation = self.time_of_evaluation()?;
        let (done, whole) = (self.state.step, self.rate.total_steps());
        let total = from_first(self.around.ranks, || {
            let more =
                Times { step, evaluation, every }.updates_in(budget.saturating_sub(self.began.elapsed()));
            Ok(done.saturating_add(more).clamp(done.min(whole), whole))
        })?;
        self.state.total = Some(total);
        self.rate = self.rate.clone().shortened(total);
        self.around.observers.note(&format!(
            "{}: a step takes {:.3} s, an evaluation {:.1} s: {total} of {whole} steps fit into train.minutes{}",
            self.job.label,
            step.as_secs_f64(),
            evaluation.as_secs_f64(),
            if total < whole { "; milestones and warm-up are shortened in proportion" } else { "" }
        ));
        Ok(true)
    }

    /// Whether the last evaluations were no better than the best, as many as `train.patience` allows.
    pub(super) fn is_out_of_patience(&self) -> bool {
        self.run().train.patience.is_some_and(|patience| self.state.since_best >= patience)
    }

    /// The reason why the run ended; says so where that is not its schedule.
    pub(super) fn ended(&self) -> Ended {
        let (step, total) = (self.state.step, self.rate.total_steps());
        if step >= total || !self.is_out_of_patience() {
            return Ended::Schedule;
        }
        let best =
            self.state.best.map_or(String::new(), |best| format!(" than the one at step {}", best.step));
        self.around.observers.note(&format!(
            "{} ends at step {step} of {total}: the last {} evaluations were no better{best} (train.patience)",
            self.job.label, self.state.since_best
        ));
        Ended::Patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_updates_fit_as_leave_time_for_their_evaluations() {
        let [second, ten] = [1, 10].map(Duration::from_secs);
        let times = Times { step: second, evaluation: ten, every: None };
        assert_eq!(times.updates_in(Duration::from_secs(110)), 100);
        // One in ten updates is followed by an evaluation, which doubles its time.
        let often = Times { every: Some(10), ..times };
        assert_eq!(often.updates_in(Duration::from_secs(110)), 50);
        assert_eq!((times.updates_in(second), times.updates_in(Duration::ZERO)), (0, 0));
        assert_eq!(minutes(f64::MAX), Duration::MAX);
    }
}
