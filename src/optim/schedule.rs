//! The learning rate over time, a pure function of the step.

use std::f64::consts::PI;

use ckd_settings::{Check, choices, section};

choices! {
    /// The learning rate over time, after warm-up.
    pub enum ScheduleKind {
        /// Times `gamma` at every milestone.
        MultiStep = "multi_step",
        /// Half a cosine from lr to lr * `final_lr_factor`.
        Cosine = "cosine",
        /// lr throughout.
        Constant = "constant",
    }
}

section! {
    /// How long, and the learning rate over time: exactly one of `steps` and `epochs`. A layer that
    /// gives the other one replaces it, and the milestones and `train.eval_every` in its unit.
    pub struct Schedule {
        /// Optimiser steps.
        pub steps: Option<u64>,
        /// Passes over the training images.
        pub epochs: Option<u64>,
        /// The learning rate over time, after warm-up.
        pub kind: ScheduleKind = ScheduleKind::MultiStep,
        /// multi_step: when the learning rate drops, ascending, in the unit of steps or epochs; those
        /// after the end never come.
        pub milestones: Vec<f64> = Vec::new(),
        /// multi_step: what the learning rate is multiplied with.
        pub gamma: f64 = 0.1,
        /// The learning rate rises linearly over this many steps.
        pub warmup_steps: u64 = 1000,
        /// Initial learning rate of the warmup, as a factor on lr.
        pub warmup_factor: f64 = 0.001,
        /// cosine: it ends at lr * `final_lr_factor`.
        pub final_lr_factor: f64 = 0.0,
    }
}

/// Length of a run; also the unit of `milestones` and `eval_every`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Optimiser steps.
    Steps(u64),
    /// Passes over the training images.
    Epochs(u64),
}

impl Schedule {
    fn check(&self, check: &mut Check<'_>) {
        match (self.steps, self.epochs) {
            (Some(_), Some(_)) => {
                check.that(false, "epochs", "and schedule.steps are both given", "keep one of the two");
            }
            (None, None) => {
                check.that(false, "steps", "is missing, and so is schedule.epochs", "give one of the two");
            }
            (Some(steps), None) => check.at_least_one("steps", steps),
            (None, Some(epochs)) => check.at_least_one("epochs", epochs),
        }
        let milestones = &self.milestones;
        if self.kind == ScheduleKind::MultiStep {
            check.that(
                !milestones.is_empty(),
                "milestones",
                "is empty, but schedule.kind = \"multi_step\"",
                "say when the learning rate drops (in the unit of steps or epochs), or set kind = \"constant\"",
            );
        }
        let ascending = milestones.windows(2).all(|pair| pair[0] < pair[1]);
        check.that(
            ascending && milestones.iter().all(|milestone| *milestone > 0.0),
            "milestones",
            format!("is not ascending from above 0: {milestones:?}"),
            "give the steps (or epochs) in order, each once",
        );
        check.positive("gamma", self.gamma);
        check.fraction("warmup_factor", self.warmup_factor);
        check.fraction("final_lr_factor", self.final_lr_factor);
    }

    /// Length of the run.
    pub fn length(&self) -> Length {
        match (self.steps, self.epochs) {
            (Some(steps), _) => Length::Steps(steps),
            // A validated configuration has exactly one of the two.
            (None, epochs) => Length::Epochs(epochs.unwrap_or_default()),
        }
    }
}

/// The learning rate of each step of a run.
#[derive(Debug, Clone)]
pub struct LearningRate {
    base: f64,
    schedule: Schedule,
    total: u64,
    steps_per_unit: f64,
}

impl LearningRate {
    /// The schedule of a run with `steps_per_epoch` updates an epoch.
    pub fn new(base: f64, schedule: &Schedule, steps_per_epoch: u64) -> Self {
        let (total, steps_per_unit) = match schedule.length() {
            Length::Steps(steps) => (steps, 1.0),
            Length::Epochs(epochs) => (epochs * steps_per_epoch, steps_per_epoch as f64),
        };
        Self { base, schedule: schedule.clone(), total, steps_per_unit }
    }

    /// The schedule with `total` updates, no more than it has: milestones and warm-up in proportion.
    #[must_use]
    pub fn shortened(mut self, total: u64) -> Self {
        let total = total.min(self.total);
        let share = total as f64 / self.total.max(1) as f64;
        self.schedule.milestones.iter_mut().for_each(|milestone| *milestone *= share);
        self.schedule.warmup_steps = (self.schedule.warmup_steps as f64 * share).round() as u64;
        self.total = total;
        self
    }

    /// Updates in the whole run.
    pub fn total_steps(&self) -> u64 {
        self.total
    }

    /// Steps of one unit of the schedule: 1 for a schedule in steps, an epoch's for one in epochs.
    pub fn unit_steps(&self) -> u64 {
        self.steps_per_unit as u64
    }

    /// The learning rate of `step`, counted from 0.
    ///
    /// Warm-up is linear from `warmup_factor` to 1 and multiplies whatever the schedule says (Goyal et al.
    /// 2017, arXiv 1706.02677, section 2.2, as in Detectron2).
    pub fn at(&self, step: u64) -> f64 {
        let Schedule { kind, gamma, warmup_steps, warmup_factor, final_lr_factor, .. } = self.schedule;
        let warm = match step < warmup_steps {
            true => {
                let done = step as f64 / warmup_steps as f64;
                warmup_factor * (1.0 - done) + done
            }
            false => 1.0,
        };
        let factor = match kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::MultiStep => {
                let passed = |milestone: &&f64| step as f64 >= (**milestone * self.steps_per_unit).round();
                gamma.powi(self.schedule.milestones.iter().filter(passed).count() as i32)
            }
            ScheduleKind::Cosine => {
                let done = step as f64 / self.total.max(1) as f64;
                final_lr_factor + (1.0 - final_lr_factor) * 0.5 * (1.0 + (PI * done).cos())
            }
        };
        self.base * warm * factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind, milestones: &[f64]) -> Schedule {
        Schedule {
            steps: None,
            epochs: Some(12),
            kind,
            milestones: milestones.to_vec(),
            gamma: 0.1,
            warmup_steps: 10,
            warmup_factor: 0.001,
            final_lr_factor: 0.0,
        }
    }

    #[test]
    fn milestones_are_in_the_schedules_own_unit_and_take_effect_at_their_first_step() {
        let rate = LearningRate::new(0.02, &schedule(ScheduleKind::MultiStep, &[8.0, 11.0]), 100);
        assert_eq!(rate.total_steps(), 1200);
        assert_eq!(rate.at(799), 0.02);
        assert!((rate.at(800) - 0.002).abs() < 1e-15);
        assert!((rate.at(1100) - 0.0002).abs() < 1e-15);
    }

    #[test]
    fn warm_up_starts_at_its_factor_and_ends_at_the_full_rate() {
        let rate = LearningRate::new(1.0, &schedule(ScheduleKind::Constant, &[]), 100);
        assert!((rate.at(0) - 0.001).abs() < 1e-12);
        assert!((rate.at(5) - 0.5005).abs() < 1e-12);
        assert_eq!(rate.at(10), 1.0);
    }

    #[test]
    fn cosine_halves_at_the_middle_and_vanishes_at_the_end() {
        let rate = LearningRate::new(1.0, &schedule(ScheduleKind::Cosine, &[]), 100);
        assert!((rate.at(600) - 0.5).abs() < 1e-12);
        assert!(rate.at(1200) < 1e-12);
    }
}
