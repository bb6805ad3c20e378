//! The observer that shows people how a run goes, on stderr.

use std::cell::RefCell;

use super::event::{Begin, End, Eval, Observer, Step};
use crate::engine::error::Result;
use crate::report::progress::{Progress, StepReport, Verbosity, tell};
use crate::report::run_folder::LeftOutLine;

/// Shows a bar on a terminal, and lines elsewhere: every tenth of the run, every evaluation, every note.
#[derive(Default)]
pub struct ShowProgress {
    run: RefCell<Option<(Progress, String)>>,
    /// Name of the experiment, where several are shown at once.
    name: Option<String>,
}

impl ShowProgress {
    /// Lines that begin with the name of the experiment, which is one of several that run at once.
    pub fn of(name: impl Into<String>) -> Self {
        Self { run: RefCell::default(), name: Some(name.into()) }
    }

    /// The text with the experiment's name before it.
    fn named(&self, text: &str) -> String {
        match &self.name {
            Some(name) => format!("{name}: {text}"),
            None => text.to_owned(),
        }
    }
}

impl Observer for ShowProgress {
    fn begin(&self, begin: &Begin<'_>) -> Result<()> {
        // Without a terminal: a line every tenth of the run, log.jsonl has the rest.
        let every = (begin.total / 10).max(1);
        let verbosity = match self.name {
            Some(_) => Verbosity::Lines { every },
            None => Verbosity::for_stderr(every),
        };
        let label = self.named(begin.label);
        let progress =
            Progress::new(begin.total, begin.step, &label, verbosity).evaluating(begin.evaluate_every);
        *self.run.borrow_mut() = Some((progress, label));
        Ok(())
    }

    fn step(&self, event: &Step<'_>) -> Result<()> {
        let mut run = self.run.borrow_mut();
        let Some((progress, _)) = &mut *run else { return Ok(()) };
        let losses: Vec<(&str, f64)> =
            event.terms.iter().map(|term| (term.name.as_str(), term.weighted)).collect();
        let &Step { lr, images, epoch, waited, total, .. } = event;
        progress.set_total(total);
        progress.step(&StepReport { losses: &losses, learning_rate: lr, images, epoch, data_wait: waited });
        Ok(())
    }

    fn left_out(&self, line: &LeftOutLine) -> Result<()> {
        if let Some((progress, label)) = &mut *self.run.borrow_mut() {
            let LeftOutLine { step, left_out, images } = line;
            progress.note(&format!("{label} step {step} is left out: {left_out} (images {images:?})"));
        }
        Ok(())
    }

    fn eval(&self, event: &Eval<'_>) -> Result<()> {
        let mut run = self.run.borrow_mut();
        let Some((progress, label)) = &mut *run else { return Ok(()) };
        progress.evaluated(event.took, event.weights.headline);
        progress.note(&format!("{label} step {}: {}", event.step, event.weights.told));
        if let Some(average) = event.average {
            progress.note(&format!("{label} step {}, average of the weights: {}", event.step, average.told));
        }
        Ok(())
    }

    fn note(&self, note: &str) {
        match &mut *self.run.borrow_mut() {
            Some((progress, _)) => progress.note(&self.named(note.trim_end())),
            None => tell(&self.named(note.trim_end())),
        }
    }

    fn end(&self, _: &End) -> Result<()> {
        if let Some((progress, _)) = self.run.borrow_mut().take() {
            progress.finish();
        }
        Ok(())
    }
}
