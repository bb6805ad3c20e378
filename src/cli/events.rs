//! `train --json`: the events of a run on standard output, a JSON object a line, for scripts.

use std::cell::RefCell;
use std::io;

use serde_json::{Value, json};

use super::say;
use crate::engine::Result;
use crate::engine::observer::{Begin, End, Eval, Observer, Step};
use crate::fsx::{self, WriteError};
use crate::machine::memory_mib;
use crate::report::run_folder::{BadImageLine, LeftOutLine, RunFolder, SharesLine};

/// Prints the events of a run. Each object has `event` and, while a part of the run is under way, its `run`.
#[derive(Debug, Default)]
pub(super) struct Events {
    run: RefCell<Option<String>>,
}

impl Events {
    fn print(&self, event: &str, fields: Value) -> Result<()> {
        let mut object = serde_json::Map::new();
        object.insert("event".to_owned(), event.into());
        if let Some(run) = &*self.run.borrow() {
            object.insert("run".to_owned(), run.as_str().into());
        }
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        let lost = |source: io::Error| WriteError { path: fsx::STDOUT.into(), source };
        Ok(say(Value::Object(object).to_string()).map_err(lost)?)
    }
}

impl Observer for Events {
    fn begin(&self, begin: &Begin<'_>) -> Result<()> {
        *self.run.borrow_mut() = Some(begin.label.to_owned());
        let &Begin { folder, step, total, resumed, evaluate_every, .. } = begin;
        self.print(
            "begin",
            json!({
                "folder": folder.path().display().to_string(),
                "step": step,
                "total": total,
                "resumed": resumed,
                "evaluate_every": evaluate_every,
            }),
        )
    }

    fn step(&self, event: &Step<'_>) -> Result<()> {
        let losses: serde_json::Map<String, Value> =
            event.terms.iter().map(|term| (term.name.clone(), term.weighted.into())).collect();
        self.print(
            "step",
            json!({
                "step": event.step,
                "total": event.total,
                "epoch": event.epoch,
                "lr": event.lr,
                "loss": event.terms.iter().map(|term| term.weighted).sum::<f64>(),
                "losses": losses,
                "gradient_norm": event.gradient_norm,
                "images": event.images,
                "ms": 1e3 * event.took.as_secs_f64(),
                "data_wait_ms": 1e3 * event.waited.as_secs_f64(),
                "memory_mib": memory_mib(),
            }),
        )
    }

    fn left_out(&self, line: &LeftOutLine) -> Result<()> {
        self.print("left_out", json!(line))
    }

    fn bad_image(&self, line: &BadImageLine) -> Result<()> {
        self.print("bad_image", json!(line))
    }

    fn eval(&self, event: &Eval<'_>) -> Result<()> {
        self.print(
            "eval",
            json!({
                "step": event.step,
                "epoch": event.epoch,
                "score": event.weights.headline,
                "is_best": !event.best.is_empty(),
                "eval": event.weights.logged,
                "ema": event.average.map(|average| &average.logged),
                "ms": 1e3 * event.took.as_secs_f64(),
            }),
        )
    }

    fn shares(&self, line: &SharesLine) -> Result<()> {
        self.print("shares", json!(line))
    }

    fn note(&self, note: &str) {
        // An output that is lost shows at the next event that may end the run.
        let _ = self.print("note", json!({ "text": note.trim_end() }));
    }

    fn end(&self, end: &End) -> Result<()> {
        let fields = match end {
            End::Finished { step } => json!({ "how": "finished", "step": step }),
            End::Interrupted { step } => json!({ "how": "interrupted", "step": step }),
            End::Failed { step, message } => json!({ "how": "failed", "step": step, "message": message }),
        };
        self.print("end", fields)?;
        *self.run.borrow_mut() = None;
        Ok(())
    }

    fn finished(&self, folder: &RunFolder) -> Result<()> {
        let summary = std::fs::read_to_string(folder.summary()).ok();
        let summary = summary.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        let folder = folder.path().display().to_string();
        self.print("finished", json!({ "folder": folder, "summary": summary }))
    }
}
