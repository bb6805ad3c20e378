//! The number of passes that fit into a time, from a few steps that are timed.

use super::wish::write;
use crate::cli::{Context, say};
use crate::config::Experiment;
use crate::engine::estimate::{Estimate, dry_run};
use crate::engine::experiment::Request;
use crate::engine::job::Start;
use crate::engine::observer::Observers;
use crate::fsx;

/// Time of a run: of a pass over the training images by all that is trained, and of what comes once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Time {
    /// Seconds of a pass.
    pub(super) pass: f64,
    /// Seconds of the evaluations.
    pub(super) once: f64,
}

/// More passes than this teach a network from scratch nothing new on the small sets that fit into so short a time.
const MOST_PASSES: u64 = 100;

/// Fewer passes than this teach a network from scratch next to nothing.
pub(super) const FEW_PASSES: u64 = 12;

impl Time {
    /// Says so where the passes are few.
    pub(super) fn warn(&self, passes: u64) -> std::io::Result<()> {
        if passes >= FEW_PASSES {
            return Ok(());
        }
        let plural = if passes == 1 { "pass teaches" } else { "passes teach" };
        say(format!(
            "note: {passes} {plural} networks that begin at random little; --minutes {:.0} gives {FEW_PASSES}",
            self.minutes(FEW_PASSES).ceil()
        ))
    }

    /// Passes that fit into so many minutes, at least one.
    pub(super) fn passes_in(&self, minutes: f64) -> u64 {
        let passes = (60.0 * minutes - self.once) / self.pass.max(1e-9);
        (passes.floor() as u64).clamp(1, MOST_PASSES)
    }

    /// Minutes of a run of so many passes.
    pub(super) fn minutes(&self, passes: u64) -> f64 {
        (self.pass * passes as f64 + self.once) / 60.0
    }
}

/// Times the configuration `text` of one pass: it is written to `out` for that, and taken away where it cannot train.
pub(super) fn measure(out: &std::path::Path, text: &str, context: &Context) -> anyhow::Result<Time> {
    let measured = write(out, text).and_then(|experiment| estimates(&experiment, context));
    if measured.is_err() {
        // What cannot be used is not left behind.
        fsx::remove(out)?;
    }
    let parts = measured?;
    let pass = parts.iter().map(|part| part.step.as_secs_f64() * part.steps as f64).sum();
    let whole: f64 = parts.iter().map(|part| part.whole().as_secs_f64()).sum();
    Ok(Time { pass, once: whole - pass })
}

fn estimates(experiment: &Experiment, context: &Context) -> anyhow::Result<Vec<Estimate>> {
    let request = Request {
        device: &context.device,
        ranks: &*context.ranks,
        observers: &Observers::none(),
        start: Start::Anew,
        stop: context.interrupt.flag(),
        command: "",
        methods: &[],
    };
    Ok(match experiment {
        Experiment::Detect(loaded) => dry_run(loaded.as_ref(), &request)?,
        Experiment::Classify(loaded) => dry_run(loaded.as_ref(), &request)?,
        Experiment::Cohort(loaded) => dry_run(loaded.as_ref(), &request)?,
        Experiment::Pretrain(loaded) => dry_run(loaded.as_ref(), &request)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_passes_are_planned_as_fit_and_at_least_one() {
        let time = Time { pass: 30.0, once: 60.0 };
        assert_eq!((time.passes_in(10.0), time.minutes(18)), (18, 10.0));
        assert_eq!((time.passes_in(0.01), time.passes_in(1e6)), (1, MOST_PASSES));
    }
}
