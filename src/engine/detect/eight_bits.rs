//! Detectors in 8 bits: the ranges of what goes into their layers, seen on images.

use std::sync::Arc;

use candle_core::Device;
use ckd_detectors::Detector;
use ckd_detectors::eight_bits::InputRanges;

use super::evaluate::detect_share;
use crate::config::Config;
use crate::data::Dataset;
use crate::data::position::Share;
use crate::engine::Result;

/// Training images that the ranges of a teacher are taken from.
const IMAGES: usize = 32;

/// Runs `look` while the inputs of the layers of `detector` are watched, and gives their ranges.
///
/// # Errors
/// If `look` fails.
pub fn watched<E>(
    detector: &Detector,
    look: impl FnOnce() -> std::result::Result<(), E>,
) -> std::result::Result<InputRanges, E> {
    detector.params().watch_inputs(true);
    let looked = look();
    detector.params().watch_inputs(false);
    looked.map(|()| detector.params().input_ranges())
}

/// Lets a frozen detector compute in 8 bits, by what goes into its layers on images from all over `dataset`, which are
/// prepared as `config` prepares images for evaluation: the same images in every run and every process.
///
/// # Errors
/// Images that cannot be read; a detector that is not on the processor.
pub(super) fn round(detector: &Detector, dataset: &Arc<Dataset>, config: &Config) -> Result<()> {
    // Refused before the images are read.
    detector.params().compute_in_8_bits(&InputRanges::new())?;
    let mut config = config.clone();
    config.run.eval.max_images = None;
    let batches = dataset.images.len().div_ceil(config.run.eval.batch_size.max(1));
    let wanted = IMAGES.div_ceil(config.run.eval.batch_size.max(1));
    let share = Share { of: (batches / wanted).max(1) as u64, ..Share::WHOLE };
    let ranges = watched(detector, || detect_share(detector, dataset, &config, (&Device::Cpu, share)))?;
    Ok(detector.params().compute_in_8_bits(&ranges)?)
}
