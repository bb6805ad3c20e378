//! The observer that writes a run's numbers: `log.jsonl`, and a file an evaluation.

use std::cell::RefCell;
use std::time::Duration;

use super::event::{Begin, Eval, Evaluated, Observer, Step};
use crate::engine::error::Result;
use crate::fsx;
use crate::report::log::{LogPoint, MetricsLog};
use crate::report::run_folder::{BadImageLine, EvalLine, LeftOutLine, RunFolder, SharesLine, StepLine};

/// Writes `log.jsonl` and `eval/`.
#[derive(Default)]
pub struct Log {
    open: RefCell<Option<(MetricsLog, RunFolder, u64)>>,
}

impl Observer for Log {
    fn begin(&self, begin: &Begin<'_>) -> Result<()> {
        let point = LogPoint { step: begin.step, before_evaluation: begin.evaluation_due };
        let log = MetricsLog::open(&begin.folder.log(), begin.resumed.then_some(point))?;
        *self.open.borrow_mut() = Some((log, begin.folder.clone(), begin.log_every.max(1)));
        Ok(())
    }

    fn step(&self, event: &Step<'_>) -> Result<()> {
        let mut open = self.open.borrow_mut();
        let Some((log, _, every)) = &mut *open else { return Ok(()) };
        let &Step { step, total, lr, terms, gradient_norm, images, took, waited } = event;
        if !step.is_multiple_of(*every) && step != total {
            return Ok(());
        }
        Ok(log.write(&StepLine {
            step,
            lr,
            loss: terms.iter().map(|term| term.weighted).sum(),
            losses: terms.iter().map(|term| (term.name.clone(), term.weighted.into())).collect(),
            gradient_norm,
            images,
            ms: milliseconds(took),
            data_wait_ms: milliseconds(waited),
        })?)
    }

    fn left_out(&self, line: &LeftOutLine) -> Result<()> {
        let mut open = self.open.borrow_mut();
        let Some((log, ..)) = &mut *open else { return Ok(()) };
        Ok(log.write(line)?)
    }

    fn bad_image(&self, line: &BadImageLine) -> Result<()> {
        let mut open = self.open.borrow_mut();
        let Some((log, ..)) = &mut *open else { return Ok(()) };
        Ok(log.write(line)?)
    }

    fn eval(&self, event: &Eval<'_>) -> Result<()> {
        let mut open = self.open.borrow_mut();
        let Some((log, folder, _)) = &mut *open else { return Ok(()) };
        let &Eval { step, weights, average, .. } = event;
        let ema = average.map(|average| average.logged.clone());
        log.write(&EvalLine { step, eval: weights.logged.clone(), ema })?;
        let json =
            |found: &Evaluated| serde_json::to_vec_pretty(&found.written).expect("metrics have a JSON form");
        fsx::write_atomic(&folder.evaluation(step), &json(weights))?;
        if let Some(average) = average {
            fsx::write_atomic(&folder.evaluation_of_average(step), &json(average))?;
        }
        Ok(())
    }

    fn shares(&self, shares: &SharesLine) -> Result<()> {
        let mut open = self.open.borrow_mut();
        let Some((log, ..)) = &mut *open else { return Ok(()) };
        Ok(log.write(shares)?)
    }
}

/// Rounded to tenths.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}
