//! The lines of a job's `log.jsonl`.

use std::time::Duration;

use serde::Serialize;

use super::pass::LossTerm;
use super::shares::Shares;

/// One update. `ms` and `data_wait_ms` are wall time and differ from run to run; all else is a function
/// of the configuration and the data.
#[derive(Debug, Serialize)]
pub(super) struct StepLine {
    /// Updates so far, this one included.
    pub(super) step: u64,
    pub(super) lr: f64,
    /// The sum of `losses`.
    pub(super) loss: f64,
    /// Each term as it enters the sum, mean over the accumulated batches.
    pub(super) losses: serde_json::Map<String, serde_json::Value>,
    /// Before clipping.
    pub(super) gradient_norm: f64,
    pub(super) images: usize,
    pub(super) ms: f64,
    pub(super) data_wait_ms: f64,
}

/// One evaluation.
#[derive(Debug, Serialize)]
pub(super) struct EvalLine {
    pub(super) step: u64,
    /// A detector's twelve COCO numbers; a classifier's accuracies by name.
    pub(super) eval: serde_json::Value,
}

/// The shares of the losses in the gradient, over the first steps.
#[derive(Debug, Serialize)]
pub(super) struct SharesLine<'a> {
    pub(super) step: u64,
    pub(super) shares: &'a Shares,
}

/// What an update was and took.
pub(super) struct Update<'a> {
    pub(super) lr: f64,
    pub(super) gradient_norm: f64,
    pub(super) terms: &'a [LossTerm],
    pub(super) images: usize,
    pub(super) took: Duration,
    pub(super) waited: Duration,
}

impl StepLine {
    pub(super) fn new(step: u64, update: &Update) -> Self {
        let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1e4).round() / 10.0;
        let Update { lr, gradient_norm, terms, images, took, waited } = *update;
        Self {
            step,
            lr,
            loss: terms.iter().map(|term| term.weighted).sum(),
            losses: terms.iter().map(|term| (term.name.clone(), term.weighted.into())).collect(),
            gradient_norm,
            images,
            ms: milliseconds(took),
            data_wait_ms: milliseconds(waited),
        }
    }
}
