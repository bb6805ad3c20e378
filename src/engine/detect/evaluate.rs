//! A detector over a data set.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Device;
use ckd_detectors::Detector;
use ckd_detectors::images::Images;
use ckd_detectors::postprocess::Detections;
use ckd_kernels::flops;
use ckd_kernels::upload::Uploads;
use image::RgbImage;

use super::batch::{evaluation_batches, to_device};
use crate::config::Config;
use crate::data::boxed_images::BoxedImages;
use crate::data::position::Share;
use crate::data::transform::ResizeRule;
use crate::data::{Batch, CategoryMap, ClassIndex, Dataset, Loader, Position, Workforce};
use crate::engine::ranks::{Packet, Reader, evaluation_share, merged};
use crate::engine::task::Evaluating;
use crate::engine::{Result, stop};
use crate::eval::{self, Analysis, BoxMetrics, Detection, GroundTruth, Options};

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
    progress: impl FnMut(usize, usize) -> Result<()>,
) -> Result<Evaluation> {
    let batches = detect_batches(detector, dataset, config, (device, Share::WHOLE), progress)?;
    Ok(Evaluation::of(batches))
}

/// Runs `detector` over `dataset` as [`detect_all`]: each process of a run over some batches, and each gets what all found.
///
/// # Errors
/// Images that cannot be read; [`EngineError::Stopped`](crate::engine::EngineError::Stopped) on all processes soon after the
/// user of one wants to stop.
pub(super) fn detect_shared(
    detector: &Detector,
    dataset: &Arc<Dataset>,
    config: &Config,
    Evaluating { device, ranks, stop }: Evaluating<'_>,
) -> Result<Evaluation> {
    let share = evaluation_share(ranks);
    let own = detect_batches(detector, dataset, config, (device, share), |_, _| stop::check(stop));
    let batches = merged(ranks, own, Detected::write, Detected::read)?;
    Ok(Evaluation::of(batches))
}

/// Runs `detector` over the batches of `share`, for what is seen inside it.
///
/// # Errors
/// Images that cannot be read.
pub(super) fn detect_share(
    detector: &Detector,
    dataset: &Arc<Dataset>,
    config: &Config,
    place: (&Device, Share),
) -> Result<()> {
    detect_batches(detector, dataset, config, place, |_, _| Ok(())).map(drop)
}

/// Findings on a batch.
struct Detected {
    detections: Vec<Detection>,
    image_ids: Vec<u64>,
    /// Milliseconds of an image.
    ms: f64,
    multiply_adds: u64,
}

impl Detected {
    fn write(&self, packet: &mut Packet) {
        packet.whole(self.image_ids.len() as u64);
        self.image_ids.iter().for_each(|&id| packet.whole(id));
        packet.whole(self.detections.len() as u64);
        for Detection { image_id, category_id, bbox, score } in &self.detections {
            packet.whole(*image_id);
            packet.whole(*category_id);
            bbox.iter().chain([score]).for_each(|&number| packet.real(number));
        }
        packet.real(self.ms);
        packet.whole(self.multiply_adds);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let image_ids = (0..reader.whole()?).map(|_| reader.whole()).collect::<Result<_>>()?;
        let detection = |reader: &mut Reader<'_>| -> Result<Detection> {
            let (image_id, category_id) = (reader.whole()?, reader.whole()?);
            let bbox = [reader.real()?, reader.real()?, reader.real()?, reader.real()?];
            Ok(Detection { image_id, category_id, bbox, score: reader.real()? })
        };
        let detections = (0..reader.whole()?).map(|_| detection(reader)).collect::<Result<_>>()?;
        Ok(Self { detections, image_ids, ms: reader.real()?, multiply_adds: reader.whole()? })
    }
}

impl Evaluation {
    fn of(batches: Vec<Detected>) -> Self {
        let mut times: Vec<f64> = batches.iter().map(|batch| batch.ms).collect();
        times.sort_by(f64::total_cmp);
        let multiply_adds: u64 = batches.iter().map(|batch| batch.multiply_adds).sum();
        let (mut detections, mut image_ids) = (Vec::new(), Vec::new());
        for batch in batches {
            detections.extend(batch.detections);
            image_ids.extend(batch.image_ids);
        }
        let gflops = multiply_adds as f64 / 1e9 / image_ids.len().max(1) as f64;
        Self {
            detections,
            image_ids,
            ms_per_image: times.get(times.len() / 2).copied().unwrap_or(0.0),
            gflops,
        }
    }
}

/// Findings on the batches of `share`, in their order.
fn detect_batches(
    detector: &Detector,
    dataset: &Arc<Dataset>,
    config: &Config,
    (device, share): (&Device, Share),
    mut progress: impl FnMut(usize, usize) -> Result<()>,
) -> Result<Vec<Detected>> {
    let limit = config.run.eval.max_images.unwrap_or(usize::MAX).min(dataset.images.len());
    let settings = evaluation_batches(config);
    let (size, workforce) = (
        settings.images_per_batch,
        Workforce { workers: settings.workers, batches_ahead: settings.batches_ahead },
    );
    let mut batches = Vec::new();
    if limit == 0 {
        return Ok(batches);
    }
    let source = BoxedImages::new(dataset.clone(), settings)?;
    let mut first = share.index as usize * size;
    let mut loader = Loader::uploading(source, workforce, Position::default(), share, Uploads::to(device)?)?;
    while first < limit {
        let Some(batch) = loader.next() else { break };
        let batch = batch?;
        let (ids, originals) = (batch.image_ids.clone(), batch.original_sizes.clone());
        let (images, _) = to_device(batch, device)?;
        let start = Instant::now();
        let (found, multiply_adds) = flops::counted(|| detector.detect(&images));
        let found = found?;
        let ms = start.elapsed().as_secs_f64() * 1e3 / ids.len() as f64;
        let mut own = Detected { detections: Vec::new(), image_ids: Vec::new(), ms, multiply_adds };
        for (((found, id), original), &size) in
            found.into_iter().zip(ids).zip(originals).zip(&images.sizes).take(limit - first)
        {
            let original = (original.0 as usize, original.1 as usize);
            let found = found.resized(size, original).map_err(ckd_detectors::Error::from)?;
            own.detections.extend(to_coco(&found, id.0, &dataset.categories));
            own.image_ids.push(id.0);
        }
        progress((first + own.image_ids.len()).min(limit), limit)?;
        batches.push(own);
        first += share.of as usize * size;
    }
    Ok(batches)
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
    let batch = batch_of(images, config);
    let originals = batch.original_sizes.clone();
    let (images, _) = to_device(batch, device)?;
    let found = detector.detect(&images)?.into_iter().zip(&images.sizes).zip(originals);
    found
        .map(|((found, &size), (height, width))| {
            Ok(found.resized(size, (height as usize, width as usize)).map_err(ckd_detectors::Error::from)?)
        })
        .collect()
}

/// The images of a network, prepared as `config` says.
pub(super) fn images_of<I: Borrow<RgbImage>>(
    images: &[I],
    config: &Config,
    device: &Device,
) -> Result<Images> {
    Ok(to_device(batch_of(images, config), device)?.0)
}

fn batch_of<I: Borrow<RgbImage>>(images: &[I], config: &Config) -> Batch {
    let input = &config.input;
    let rule = ResizeRule {
        short_side_px: input.eval_short_side(),
        long_side_max_px: input.long_side_px,
        resize: input.resize,
    };
    Batch::of_images(images, rule, input.size_divisor as usize)
}

/// COCO metrics of an evaluation against the ground truth of its data set.
pub fn score(evaluation: &Evaluation, truth: &GroundTruth) -> Result<BoxMetrics> {
    let options = Options { image_ids: Some(evaluation.image_ids.clone()), ..Options::default() };
    Ok(eval::evaluate(truth, &evaluation.detections, &options)?)
}

/// Curves, errors by kind and confusions of an evaluation against the ground truth of its data set.
pub fn analysed(evaluation: &Evaluation, truth: &GroundTruth) -> Result<Analysis> {
    let options = Options { image_ids: Some(evaluation.image_ids.clone()), ..Options::default() };
    Ok(eval::analyse(truth, &evaluation.detections, &options)?)
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
