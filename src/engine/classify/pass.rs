//! One batch of labelled images: the teacher looks, the student learns.

use std::time::{Duration, Instant};

use ckd_detectors::classifier::{Classifier, smoothed_cross_entropy};
use ckd_detectors::images::Images;
use ckd_detectors::nn::Mode;
use ckd_detectors::taps::Tap;
use rand::RngCore;

use super::network::to_device;
use super::sources::LabelledSets;
use crate::config::{Bn, Task};
use crate::data::LabelledBatch;
use crate::distill::{Lesson, Parts};
use crate::engine::distillation::Distillation;
use crate::engine::pass::{GradientSink, Pass, timed, walk_back};
use crate::engine::task::Setting;
use crate::engine::{EngineError, Result};

/// Selection of the terms of a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// All terms.
    All,
    /// The classification loss.
    Task,
    /// The terms of the method of this label.
    Method(&'a str),
}

/// Runs teacher and student on one batch at `step` and gives the gradients to `gradients`.
pub(super) fn training_pass(
    setting: &Setting<'_, LabelledSets>,
    mut batch: LabelledBatch,
    step: u64,
    gradients: &mut GradientSink<'_>,
) -> Result<Pass> {
    let images = to_device(&mut batch, setting.device)?;
    pass_of(Part::All, setting, (&images, &batch), step, gradients)
}

/// Runs teacher and student on one batch at `step` and gives the gradients of one part of the loss to `gradients`.
pub(super) fn pass_of(
    part: Part<'_>,
    setting: &Setting<'_, LabelledSets>,
    (images, batch): (&Images, &LabelledBatch),
    step: u64,
    gradients: &mut GradientSink<'_>,
) -> Result<Pass> {
    let started = Instant::now();
    let mut teaching = Duration::ZERO;
    let lessons = setting.lessons.filter(|lessons| lessons.is_active(step));
    let side = batch.side;
    // The teacher goes first: its activations are gone before the student's are kept.
    let taught = timed(&mut teaching, || {
        let look = |lessons: &Distillation<Classifier>| match lessons.wants_preactivations() {
            true => lessons.teacher().with_preactivations(images),
            false => lessons.teacher().forward(images, Mode::Inference),
        };
        lessons.map(look).transpose()
    })?;
    let taps = match (setting.config.run.task, setting.config.probe.bn) {
        (Task::Probe, Bn::Frozen) => setting.student.forward_probing(images, Mode::Inference)?,
        (Task::Probe, Bn::Adapt) => setting.student.forward_probing(images, Mode::Train)?,
        (Task::Classify | Task::Detect | Task::Cohort | Task::Pretrain, _) => {
            setting.student.forward(images, Mode::Train)?
        }
    };
    let logits = taps.require(Tap::Logits).map_err(EngineError::missing_tap)?;
    let loss = smoothed_cross_entropy(logits, &batch.labels, setting.config.labelled.label_smoothing)?;
    let mut terms = vec![("loss_classifier".to_owned(), loss, setting.config.labelled.loss_weight)];
    if matches!(part, Part::Method(_)) {
        terms.clear();
    }
    if let (Some(lessons), Some(taught)) = (lessons, &taught) {
        let lesson = Lesson {
            labels: &batch.labels,
            image_size: (side, side),
            samples: &batch.indices,
            seed: setting.random().next_u64(),
            parts: setting.parts,
            ..Lesson::new(taught, &taps)
        };
        terms.extend(match part {
            Part::All => lessons.terms(&lesson, step, |_| Ok(None))?,
            Part::Task => Vec::new(),
            Part::Method(label) => lessons.terms_of(label, &lesson, step)?,
        });
        if setting.parts.is_some_and(Parts::is_for_rows_alone) {
            return Ok(Pass::for_rows_alone());
        }
        if part == Part::All {
            lessons.after_step(&lesson, step)?;
        }
    }
    drop((taught, taps));
    walk_back(terms, step, started, teaching, gradients)
}
