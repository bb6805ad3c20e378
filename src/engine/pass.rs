//! Results of a training pass, whatever is trained: loss terms, times, and gradients as they leave the walk back.

use std::time::{Duration, Instant};

use candle_core::Tensor;
use ckd_kernels::elementwise::{concatenate, weighted_sum};
use ckd_kernels::memory::numbers;
use ckd_kernels::norm::are_over_parts;
use ckd_kernels::{Algorithms, Precision, Sink, Value};

use super::{EngineError, Result};
use crate::config;

/// Loss term as it enters the sum.
#[derive(Debug, Clone, PartialEq)]
pub struct LossTerm {
    /// torchvision's name of a detection loss, or `METHOD/TAP`.
    pub name: String,
    /// Value of the term times its weight.
    pub weighted: f64,
}

/// Result of a training pass over a batch.
#[derive(Debug)]
pub struct Pass {
    /// Every term of the loss.
    pub terms: Vec<LossTerm>,
    /// Durations of the parts.
    pub times: PartTimes,
}

/// Durations of the parts of a pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartTimes {
    /// The teacher: its pyramid, and its logits of the student's regions.
    pub teacher: Duration,
    /// The student's forward pass and all losses.
    pub student_forward: Duration,
    /// The gradients.
    pub backward: Duration,
}

impl Pass {
    /// Result of a pass that is made for its rows alone.
    pub(super) fn for_rows_alone() -> Self {
        Self { terms: Vec::new(), times: PartTimes::default() }
    }
}

impl PartTimes {
    /// Takes in the durations of one more pass.
    pub(super) fn add(&mut self, pass: Self) {
        self.teacher += pass.teacher;
        self.student_forward += pass.student_forward;
        self.backward += pass.backward;
    }
}

/// Receiver of the gradients of a pass.
pub type GradientSink<'s> = dyn Sink<EngineError> + 's;

/// Gives the gradient of the weighted terms' sum to `gradients`, of a pass that was `started` then and spent `teaching` on
/// the teacher.
pub(super) fn walk_back(
    terms: Vec<(String, Value, f64)>,
    step: u64,
    started: Instant,
    teaching: Duration,
    gradients: &mut GradientSink<'_>,
) -> Result<Pass> {
    let total = weighted_sum(&terms.iter().map(|(_, value, weight)| (value, *weight)).collect::<Vec<_>>())?;
    let values = together(&terms)?;
    let read = || -> Result<Vec<LossTerm>> {
        let term = |((name, _, weight), value): (&(String, Value, f64), f32)| LossTerm {
            name: name.clone(),
            weighted: f64::from(value) * weight,
        };
        let terms: Vec<LossTerm> = terms.iter().zip(numbers(&values)?).map(term).collect();
        check_finite(&terms, step).map(|()| terms)
    };
    let forward = started.elapsed();
    // Norms of other parts wait for the sums of this one's walk, whatever its losses are; nor does a GPU wait for them to be read.
    let walks_first = are_over_parts() || !values.device().is_cpu();
    let early = (!walks_first).then(read).transpose()?;
    total.backward_into(gradients)?;
    let terms = early.map_or_else(read, Ok)?;
    let backward = started.elapsed() - forward;
    let times = PartTimes { teacher: teaching, student_forward: forward - teaching, backward };
    Ok(Pass { terms, times })
}

/// The values of all terms in one tensor: one copy from a GPU.
fn together(terms: &[(String, Value, f64)]) -> Result<Tensor> {
    let flat = terms.iter().map(|(_, value, _)| Ok(Value::constant(value.tensor().reshape(1)?)));
    let flat: Vec<Value> = flat.collect::<Result<_>>()?;
    Ok(concatenate(&flat, 0)?.tensor().clone())
}

/// Runs `work` and adds the time it took to `total`.
pub(super) fn timed<T>(total: &mut Duration, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    *total += started.elapsed();
    result
}

fn check_finite(terms: &[LossTerm], step: u64) -> Result<()> {
    match terms.iter().find(|term| !term.weighted.is_finite()) {
        Some(bad) => Err(non_finite(step, &format!("the loss {}", bad.name), bad.weighted, terms)),
        None => Ok(()),
    }
}

/// The error of `what`, which became `value` at `step`, where the loss had these `terms`.
pub(super) fn non_finite(step: u64, what: &str, value: f64, terms: &[LossTerm]) -> EngineError {
    let losses: Vec<String> =
        terms.iter().map(|term| format!("{} {:.4}", term.name, term.weighted)).collect();
    EngineError::NonFinite {
        step,
        what: what.to_owned(),
        value,
        losses: losses.join(", "),
        advice: String::new(),
    }
}

/// Runs `pass` with the arithmetic of `[engine]`.
pub(crate) fn with_arithmetic<T>(engine: &config::Engine, pass: impl FnOnce() -> T) -> T {
    let algorithms = if engine.autotune { Algorithms::Fastest } else { Algorithms::Repeatable };
    algorithms.scope(|| precision(engine).scope(pass))
}

/// The precision of training's products.
pub fn precision(engine: &config::Engine) -> Precision {
    match engine.precision {
        config::Precision::F32 => Precision::F32,
        config::Precision::Bf16 => Precision::Bf16,
        config::Precision::Tf32 => Precision::Tf32,
    }
}
