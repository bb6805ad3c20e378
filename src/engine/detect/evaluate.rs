//! A detector over a data set.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Device;
use ckd_detectors::Detector;
use ckd_detectors::postprocess::Detections;
use ckd_kernels::flops;
use image::RgbImage;

use super::batch::{evaluation_batches, to_device};
use crate::config::Config;
use crate::data::transform::ResizeRule;
use crate::data::{Batch, CategoryMap, ClassIndex, Dataset, Loader, Position};
use crate::engine::Result;
use crate::eval::{self, BoxMetrics, Detection, GroundTruth, Options};

/// Detections of a detector on a data set, with its speed.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Every detection, in pixels of the original images.
    pub detections: Vec<Detection>,
    /// Ids of the images.
    pub image_ids: Vec<u64>,
    /// Median wall time of one image, from pixels in memory to boxes, in milliseconds.
    pub ms_per_image: f64,
    /// Multiply-adds of one image, in 10^9, mean over the images.
    pub gflops: f64,
}

/// Runs `detector` over `dataset` (its first `eval.max_images` images) as `config` prepares images;
/// `progress` hears of every batch how many images are done, and of how many; its error ends the evaluation.
///
/// # Errors
/// Images that cannot be read; whatever `progress` says.
pub fn detect_all(
    detector: &Detector,
    dataset: &Arc<Dataset>,
    config: &Config,
    device: &Device,
    mut progress: impl FnMut(usize, usize) -> Result<()>,
) -> Result<Evaluation> {
    let limit = config.run.eval.max_images.unwrap_or(usize::MAX).min(dataset.images.len());
    let mut evaluation =
        Evaluation { detections: Vec::new(), image_ids: Vec::new(), ms_per_image: 0.0, gflops: 0.0 };
    let (mut times, mut multiply_adds) = (Vec::new(), 0);
    if limit > 0 {
        for batch in Loader::new(dataset.clone(), evaluation_batches(config), Position::default())? {
            let batch = batch?;
            let (ids, originals) = (batch.image_ids.clone(), batch.original_sizes.clone());
            let (images, _) = to_device(batch, device)?;
            let start = Instant::now();
            let (found, work) = flops::counted(|| detector.detect(&images));
            let found = found?;
            times.push(start.elapsed().as_secs_f64() * 1e3 / ids.len() as f64);
            multiply_adds += work;
            for (((found, id), original), &size) in
                found.into_iter().zip(ids).zip(originals).zip(&images.sizes)
            {
                if evaluation.image_ids.len() == limit {
                    break;
                }
                let original = (original.0 as usize, original.1 as usize);
                let found = found.resized(size, original).map_err(ckd_detectors::Error::from)?;
                evaluation.detections.extend(to_coco(&found, id.0, &dataset.categories));
                evaluation.image_ids.push(id.0);
            }
            progress(evaluation.image_ids.len(), limit)?;
            if evaluation.image_ids.len() == limit {
                break;
            }
        }
    }
    times.sort_by(f64::total_cmp);
    evaluation.ms_per_image = times.get(times.len() / 2).copied().unwrap_or(0.0);
    evaluation.gflops = multiply_adds as f64 / 1e9 / evaluation.image_ids.len().max(1) as f64;
    Ok(evaluation)
}

/// Detections of `detector` on one image, prepared as `config` says; boxes are in pixels of `image`.
///
/// # Errors
/// If a tensor operation fails.
pub fn detect_one(
    detector: &Detector,
    image: &RgbImage,
    config: &Config,
    device: &Device,
) -> Result<Detections> {
    Ok(detect_images(detector, &[image], config, device)?.pop().unwrap_or_default())
}

/// Detections of `detector` on each of `images`, as one batch; boxes are in pixels of each image.
///
/// # Errors
/// If a tensor operation fails.
pub fn detect_images<I: Borrow<RgbImage>>(
    detector: &Detector,
    images: &[I],
    config: &Config,
    device: &Device,
) -> Result<Vec<Detections>> {
    if images.is_empty() {
        return Ok(Vec::new());
    }
    let input = &config.input;
    let rule = ResizeRule {
        short_side_px: input.eval_short_side(),
        long_side_max_px: input.long_side_px,
        resize: input.resize,
    };
    let batch = Batch::of_images(images, rule, input.size_divisor as usize);
    let originals = batch.original_sizes.clone();
    let (images, _) = to_device(batch, device)?;
    let found = detector.detect(&images)?.into_iter().zip(&images.sizes).zip(originals);
    found
        .map(|((found, &size), (height, width))| {
            Ok(found.resized(size, (height as usize, width as usize)).map_err(ckd_detectors::Error::from)?)
        })
        .collect()
}

/// COCO metrics of an evaluation against the ground truth of its data set.
pub fn score(evaluation: &Evaluation, truth: &GroundTruth) -> Result<BoxMetrics> {
    let options = Options { image_ids: Some(evaluation.image_ids.clone()), ..Options::default() };
    Ok(eval::evaluate(truth, &evaluation.detections, &options)?)
}

/// Detections of one image as COCO results; `found` is in pixels of the original image.
pub fn to_coco<'a>(
    found: &'a Detections,
    image_id: u64,
    categories: &'a CategoryMap,
) -> impl Iterator<Item = Detection> + 'a {
    found.boxes.iter().zip(&found.scores).zip(&found.labels).filter_map(move |((b, &score), &label)| {
        let category_id = categories.id(ClassIndex(label))?.0;
        let [x1, y1, x2, y2] = b.map(f64::from);
        Some(Detection { image_id, category_id, bbox: [x1, y1, x2 - x1, y2 - y1], score: f64::from(score) })
    })
}
