//! The observer that writes a run's numbers: `log.jsonl`, `log.csv`, and a file an evaluation.

use std::cell::RefCell;
use std::time::Duration;

use super::clock::now;
use super::event::{Begin, End, Eval, Evaluated, Observer, Step};
use crate::engine::error::Result;
use crate::eval::STAT_NAMES;
use crate::fsx;
use crate::machine::memory_mib;
use crate::report::csv::csv;
use crate::report::log::{LogPoint, MetricsLog};
use crate::report::run_folder::{BadImageLine, EvalLine, LeftOutLine, RunFolder, SharesLine, StepLine};

/// Writes `log.jsonl` and `eval/`, and after each evaluation `log.csv`.
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
        let &Step { step, total, lr, terms, gradient_norm, images, epoch, took, waited, times } = event;
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
            epoch: Some(epoch),
            ms: milliseconds(took),
            data_wait_ms: milliseconds(waited),
            teacher_ms: Some(milliseconds(times.teacher)),
            forward_ms: Some(milliseconds(times.student_forward)),
            backward_ms: Some(milliseconds(times.backward)),
            time: Some(now()),
            memory_mib: memory(),
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
        let &Eval { step, weights, average, epoch, took, .. } = event;
        let ema = average.map(|average| average.logged.clone());
        log.write(&EvalLine {
            step,
            eval: weights.logged.clone(),
            ema,
            epoch: Some(epoch),
            ms: Some(milliseconds(took)),
            time: Some(now()),
            memory_mib: memory(),
        })?;
        write_table(folder)?;
        let json =
            |found: &Evaluated| serde_json::to_vec_pretty(&found.written).expect("metrics have a JSON form");
        fsx::write_atomic(&folder.evaluation(step), &json(weights))?;
        if let Some(average) = average {
            fsx::write_atomic(&folder.evaluation_of_average(step), &json(average))?;
        }
        Ok(())
    }

    fn end(&self, _: &End) -> Result<()> {
        match &*self.open.borrow() {
            Some((_, folder, _)) => write_table(folder),
            None => Ok(()),
        }
    }

    fn shares(&self, shares: &SharesLine) -> Result<()> {
        let mut open = self.open.borrow_mut();
        let Some((log, ..)) = &mut *open else { return Ok(()) };
        Ok(log.write(shares)?)
    }
}

/// Writes the lines of the log as a table.
fn write_table(folder: &RunFolder) -> Result<()> {
    Ok(fsx::write_atomic(&folder.csv(), csv(&folder.lines()?, &STAT_NAMES).as_bytes())?)
}

/// Memory in MiB, rounded to tenths.
fn memory() -> Option<f64> {
    memory_mib().map(|memory| (memory * 10.0).round() / 10.0)
}

/// Rounded to tenths.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}
