//! Batches of images with boxes: which are loaded, and a batch as tensors.

use candle_core::Device;
use ckd_detectors::images::{Images, Target};

use crate::config::{Config, Resize};
use crate::data::sampler::Grouping;
use crate::data::{self, Batch, LoaderConfig, Purpose};
use crate::engine::Result;

/// The loader's settings for the training batches of `config`.
pub fn training_batches(config: &Config) -> LoaderConfig {
    let Config { run, input, data, .. } = config;
    let purpose = Purpose::Training {
        seed: run.seed,
        flip_probability: input.flip_probability,
        short_sides_px: input.short_side_px.clone(),
        augment: input.augment.clone(),
        grouping: if data.group_by_aspect { Grouping::ByAspect } else { Grouping::None },
    };
    LoaderConfig { teacher_resize: teacher_resize(config), ..batches(config, purpose, run.train.batch_size) }
}

/// The loader's settings for an evaluation of `config`.
pub fn evaluation_batches(config: &Config) -> LoaderConfig {
    let purpose = Purpose::Evaluation { short_side_px: config.input.eval_short_side() };
    batches(config, purpose, config.run.eval.batch_size)
}

fn batches(config: &Config, purpose: Purpose, images_per_batch: usize) -> LoaderConfig {
    let Config { input, data, .. } = config;
    LoaderConfig {
        purpose,
        long_side_max_px: input.long_side_px,
        resize: input.resize,
        teacher_resize: None,
        images_per_batch,
        size_divisor: input.size_divisor as usize,
        workers: data.workers,
        batches_ahead: data.queue,
    }
}

/// Resize rule of the teacher, if there is one that resizes otherwise than the student.
fn teacher_resize(config: &Config) -> Option<Resize> {
    let own = config.teacher_resize();
    (own != config.input.resize && !config.distill.is_empty()).then_some(own)
}

/// The images of a batch as its teacher sees them, if it resizes otherwise than the student.
pub fn teacher_images(batch: &mut Batch, device: &Device) -> Result<Option<Images>> {
    let Some(pixels) = batch.teacher_pixels.take() else { return Ok(None) };
    let shape = (batch.batch, batch.height, batch.width, 3);
    let pixels = pixels.into_tensor(shape, device)?.permute((0, 3, 1, 2))?;
    Ok(Some(Images { pixels, sizes: batch.sizes.clone() }))
}

/// A batch as the detectors take it.
pub fn to_device(batch: Batch, device: &Device) -> Result<(Images, Vec<Target>)> {
    let shape = (batch.batch, batch.height, batch.width, 3);
    let pixels = batch.pixels.into_tensor(shape, device)?.permute((0, 3, 1, 2))?;
    let target = |target: data::Target| {
        let data::Target { boxes, labels, ignored, weights, background } = target;
        Target { boxes, labels, ignored, weights, background }
    };
    Ok((Images { pixels, sizes: batch.sizes }, batch.targets.into_iter().map(target).collect()))
}
