//! One batch of labelled images: the teacher looks, the student learns.

use std::time::{Duration, Instant};

use ckd_detectors::classifier::smoothed_cross_entropy;
use ckd_detectors::nn::Mode;
use ckd_detectors::taps::Tap;
use rand::RngCore;

use super::{LabelledSets, to_device};
use crate::config::{Bn, Task};
use crate::data::LabelledBatch;
use crate::distill::Lesson;
use crate::engine::pass::{Pass, timed, walk_back};
use crate::engine::task::Setting;
use crate::engine::{EngineError, Result};

/// Runs teacher and student on one batch at `step` and computes the gradients.
pub(super) fn training_pass(
    setting: &Setting<'_, LabelledSets>,
    mut batch: LabelledBatch,
    step: u64,
) -> Result<Pass> {
    let started = Instant::now();
    let mut teaching = Duration::ZERO;
    let lessons = setting.lessons.filter(|lessons| lessons.is_active(step));
    let (images, side) = (to_device(&mut batch, setting.device)?, batch.side);
    // The teacher goes first: its activations are gone before the student's are kept.
    let taught = timed(&mut teaching, || {
        lessons.map(|lessons| lessons.teacher().forward(&images, Mode::Inference)).transpose()
    })?;
    let taps = match (setting.config.task, setting.config.probe.bn) {
        (Task::Probe, Bn::Frozen) => setting.student.forward_probing(&images, Mode::Inference)?,
        (Task::Probe, Bn::Adapt) => setting.student.forward_probing(&images, Mode::Train)?,
        (Task::Classify | Task::Detect | Task::Cohort, _) => setting.student.forward(&images, Mode::Train)?,
    };
    let logits = taps.require(Tap::Logits).map_err(EngineError::missing_tap)?;
    let loss = smoothed_cross_entropy(logits, &batch.labels, setting.config.label_smoothing)?;
    let mut terms = vec![("loss_classifier".to_owned(), loss, setting.config.loss_weight)];
    if let (Some(lessons), Some(taught)) = (lessons, &taught) {
        let lesson = Lesson {
            labels: &batch.labels,
            image_size: (side, side),
            samples: &batch.indices,
            seed: setting.random().next_u64(),
            ..Lesson::new(taught, &taps)
        };
        terms.extend(lessons.terms(&lesson, step, |_| Ok(None))?);
    }
    drop((taught, taps, images));
    walk_back(terms, step, started, teaching)
}
