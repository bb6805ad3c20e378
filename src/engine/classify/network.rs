//! The network of a configuration, and a batch as it takes it.

use std::collections::BTreeMap;

use candle_core::Device;
use ckd_detectors::classifier::{Classifier, ClassifierConfig};
use ckd_detectors::images::Images;
use ckd_detectors::param::Builder;
use ckd_detectors::taps::Tap;

use crate::config::ClassifyConfig;
use crate::data::LabelledBatch;
use crate::distill::{Width, Widths};
use crate::engine::Result;

/// Returns whether the parameter `name` is of `model`, but not of its last layer.
pub(in crate::engine) fn backbone_has(model: &Classifier, name: &str) -> bool {
    let head = format!("{}.", model.head_prefix());
    model.params().get(name).is_some() && !name.starts_with(&head)
}

/// Channels at the taps that both networks offer, by the shapes there.
pub(in crate::engine) fn widths(
    theirs: &BTreeMap<Tap, Vec<usize>>,
    ours: &BTreeMap<Tap, Vec<usize>>,
) -> Widths {
    let width = |(tap, shape): (&Tap, &Vec<usize>)| {
        // The teacher's pre-activations are compared with what the student's stages put out.
        let own = match *tap {
            Tap::PreActivation(stage) => Tap::Backbone(stage),
            tap => tap,
        };
        Some((*tap, Width { teacher: *shape.get(1)?, student: *ours.get(&own)?.get(1)? }))
    };
    theirs.iter().filter_map(width).collect()
}

/// Builds the student of `config` in `builder`.
///
/// # Errors
/// If the network cannot be built.
pub fn student(config: &ClassifyConfig, classes: usize, builder: Builder) -> Result<Classifier> {
    let settings = ClassifierConfig {
        architecture: config.student.network,
        classes,
        normalization: config.student_normalization(),
    };
    Ok(Classifier::new(builder, &settings)?)
}

/// Moves a batch to `device` as the networks take it; its pixels are moved out.
///
/// # Errors
/// If the device has no room.
pub fn to_device(batch: &mut LabelledBatch, device: &Device) -> Result<Images> {
    let (images, side) = (batch.labels.len(), batch.side);
    let pixels = std::mem::take(&mut batch.pixels).into_tensor((images, side, side, 3), device)?;
    Ok(Images { pixels: pixels.permute((0, 3, 1, 2))?, sizes: vec![(side, side); images] })
}
