//! The network of a configuration, and a batch as it takes it.

use candle_core::Device;
use ckd_detectors::classifier::{Classifier, ClassifierConfig};
use ckd_detectors::images::Images;
use ckd_detectors::param::Builder;

use crate::config::ClassifyConfig;
use crate::data::LabelledBatch;
use crate::engine::Result;

/// Returns whether the parameter `name` is of `model`, but not of its last layer.
pub(in crate::engine) fn backbone_has(model: &Classifier, name: &str) -> bool {
    let head = format!("{}.", model.head_prefix());
    model.params().get(name).is_some() && !name.starts_with(&head)
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
