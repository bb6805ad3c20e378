//! One batch of images without labels: the teacher looks, the student learns.

use std::time::{Duration, Instant};

use ckd_detectors::images::Images;
use ckd_detectors::nn::Mode;
use rand::RngCore;

use super::sources::UnlabelledSets;
use crate::data::LabelledBatch;
use crate::distill::{Lesson, Parts};
use crate::engine::classify::to_device;
use crate::engine::pass::{GradientSink, Pass, timed, walk_back};
use crate::engine::task::Setting;
use crate::engine::{EngineError, Result};

/// Runs teacher and student on one batch at `step` and gives the gradients to `gradients`.
pub(super) fn training_pass(
    setting: &Setting<'_, UnlabelledSets>,
    mut batch: LabelledBatch,
    step: u64,
    gradients: &mut GradientSink<'_>,
) -> Result<Pass> {
    let images = to_device(&mut batch, setting.device)?;
    pass_of(None, setting, (&images, &batch), step, gradients)
}

/// Runs teacher and student on one batch at `step` and gives the gradients of all methods, or of the one of the label `only`, to
/// `gradients`.
pub(super) fn pass_of(
    only: Option<&str>,
    setting: &Setting<'_, UnlabelledSets>,
    (images, batch): (&Images, &LabelledBatch),
    step: u64,
    gradients: &mut GradientSink<'_>,
) -> Result<Pass> {
    let (started, mut teaching) = (Instant::now(), Duration::ZERO);
    let Some(lessons) = setting.lessons.filter(|lessons| lessons.is_active(step)) else {
        let reason = format!("it has no method that counts at step {step}, and nothing else to learn from");
        return Err(EngineError::Run { path: setting.config.run.name.clone().into(), reason });
    };
    // The teacher goes first: its activations are gone before the student's are kept.
    let taught = timed(&mut teaching, || match lessons.wants_preactivations() {
        true => lessons.teacher().with_preactivations(images),
        false => lessons.teacher().forward(images, Mode::Inference),
    })?;
    let taps = setting.student.forward(images, Mode::Train)?;
    let lesson = Lesson {
        image_size: (batch.side, batch.side),
        samples: &batch.indices,
        seed: setting.random().next_u64(),
        parts: setting.parts,
        ..Lesson::new(&taught, &taps)
    };
    let terms = match only {
        Some(label) => lessons.terms_of(label, &lesson, step)?,
        None => lessons.terms(&lesson, step, |_| Ok(None))?,
    };
    if setting.parts.is_some_and(Parts::is_for_rows_alone) {
        return Ok(Pass::for_rows_alone());
    }
    if only.is_none() {
        lessons.after_step(&lesson, step)?;
    }
    drop((taught, taps));
    walk_back(terms, step, started, teaching, gradients)
}
