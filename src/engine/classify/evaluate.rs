//! A classifier over a data set.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Device;
use ckd_detectors::classifier::Classifier;
use ckd_detectors::images::Images;
use ckd_detectors::nn::Mode;
use ckd_detectors::taps::Tap;
use ckd_kernels::flops;
use ckd_kernels::memory::numbers;
use ckd_kernels::resample::bytes_to_unit;
use ckd_kernels::upload::Uploads;
use image::RgbImage;
use serde_json::json;

use super::network::to_device;
use super::sources::LabelledSets;
use crate::config::ClassifyConfig;
use crate::data::draws::Draws;
use crate::data::label_order::BatchOrder;
use crate::data::position::Share;
use crate::data::{DataError, Labelled, LabelledBatch, LabelledImages, Loader, Position, Workforce};
use crate::engine::distillation::Distillation;
use crate::engine::outcome::ClassResult;
use crate::engine::ranks::{Packet, Reader, evaluation_share, merged};
use crate::engine::task::{Evaluating, Measured, Network, parameters_of};
use crate::engine::{EngineError, Result, stop};
use crate::eval::{Accuracy, AccuracyMeter};
use crate::report::table::ClassifierRow;

/// Accuracies and cost of one evaluation of a classifier.
#[derive(Debug, Clone)]
pub struct MeasuredClassifier {
    /// The accuracies.
    pub accuracy: Accuracy,
    /// The first guess for each image.
    pub guesses: Vec<u32>,
    /// Whether the first guess for each image is right.
    pub hits: Vec<bool>,
    /// Median wall time of one image, in milliseconds.
    pub ms_per_image: f64,
    /// Multiply-adds of one image, in 10^9.
    pub gflops: f64,
}

/// Runs `model` over the first `eval.max_images` images of `set`; `teacher` is what a teacher guesses for each. Each process of
/// a run computes some batches.
///
/// # Errors
/// Images that cannot be read; [`EngineError::Stopped`] soon after the user wants to stop.
pub fn measure(
    model: &Classifier,
    set: &Arc<Labelled>,
    config: &ClassifyConfig,
    teacher: Option<Vec<u32>>,
    around: Evaluating<'_>,
) -> Result<MeasuredClassifier> {
    measure_each(model, set, config, teacher, around, |_, _| Ok(()))
}

/// Measures as [`measure`], and tells `hear` of each image: its place in `set`, and its logits.
///
/// # Errors
/// Errors of [`measure`] and of `hear`.
pub fn measure_each(
    model: &Classifier,
    set: &Arc<Labelled>,
    config: &ClassifyConfig,
    teacher: Option<Vec<u32>>,
    around: Evaluating<'_>,
    mut hear: impl FnMut(usize, &[f32]) -> Result<()>,
) -> Result<MeasuredClassifier> {
    let own = classify_batches(model, set, config, around);
    let batches = merged(around.ranks, own, Classified::write, Classified::read)?;
    let mut meter = AccuracyMeter::new(set.classes.len(), teacher);
    let (mut times, mut work, mut seen) = (Vec::new(), 0, 0);
    for batch in batches {
        meter.add(&batch.logits, &batch.labels)?;
        for (&image, logits) in batch.indices.iter().zip(batch.logits.chunks_exact(set.classes.len().max(1)))
        {
            hear(image as usize, logits)?;
        }
        times.push(batch.ms);
        work += batch.multiply_adds;
        seen += batch.seen;
    }
    times.sort_by(f64::total_cmp);
    Ok(MeasuredClassifier {
        accuracy: meter.accuracy(),
        guesses: meter.guesses().to_vec(),
        hits: meter.hits().to_vec(),
        ms_per_image: times.get(times.len() / 2).copied().unwrap_or(0.0),
        gflops: work as f64 / 1e9 / seen.max(1) as f64,
    })
}

/// Findings on a batch.
struct Classified {
    /// Logits of the images that count, row by row.
    logits: Vec<f32>,
    labels: Vec<u32>,
    /// Places of the images in the set.
    indices: Vec<u32>,
    /// Images computed.
    seen: u64,
    /// Milliseconds of an image.
    ms: f64,
    multiply_adds: u64,
}

impl Classified {
    fn write(&self, packet: &mut Packet) {
        packet.singles(&self.logits);
        packet.wholes(&self.labels);
        packet.wholes(&self.indices);
        packet.whole(self.seen);
        packet.real(self.ms);
        packet.whole(self.multiply_adds);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self {
            logits: reader.singles()?,
            labels: reader.wholes()?,
            indices: reader.wholes()?,
            seen: reader.whole()?,
            ms: reader.real()?,
            multiply_adds: reader.whole()?,
        })
    }
}

/// Findings on the batches of this process's share, in their order.
fn classify_batches(
    model: &Classifier,
    set: &Arc<Labelled>,
    config: &ClassifyConfig,
    Evaluating { device, ranks, stop }: Evaluating<'_>,
) -> Result<Vec<Classified>> {
    let limit = config.run.eval.max_images.unwrap_or(usize::MAX).min(set.len());
    let (share, size) = (evaluation_share(ranks), config.run.eval.batch_size);
    let (mut batches, mut first) = (Vec::new(), share.index as usize * size);
    let mut loader = share_of_batches(set, config, share, Uploads::to(device)?)?;
    while first < limit {
        let Some(batch) = loader.next() else { break };
        let mut batch = batch?;
        let images = to_device(&mut batch, device)?;
        let start = Instant::now();
        let (values, multiply_adds) = flops::counted(|| logits(model, &images));
        let mut values = values?;
        let ms = start.elapsed().as_secs_f64() * 1e3 / batch.labels.len() as f64;
        let seen = batch.labels.len() as u64;
        let [mut labels, mut indices] = [batch.labels, batch.indices];
        [&mut labels, &mut indices].into_iter().for_each(|of_image| of_image.truncate(limit - first));
        values.truncate(labels.len() * set.classes.len());
        batches.push(Classified { logits: values, labels, indices, seen, ms, multiply_adds });
        first += share.of as usize * size;
        if first < limit {
            stop::check(stop)?;
        }
    }
    Ok(batches)
}

/// `set` in order, as a classifier of `config` is shown it when it is measured.
///
/// # Errors
/// If the set is empty, or the configuration's numbers of images and threads are 0.
pub fn evaluation_batches(
    set: &Arc<Labelled>,
    config: &ClassifyConfig,
) -> std::result::Result<Loader<LabelledImages>, DataError> {
    share_of_batches(set, config, Share::WHOLE, None)
}

fn share_of_batches(
    set: &Arc<Labelled>,
    config: &ClassifyConfig,
    share: Share,
    uploads: Option<Uploads>,
) -> std::result::Result<Loader<LabelledImages>, DataError> {
    let batch = NonZeroUsize::new(config.run.eval.batch_size)
        .ok_or_else(|| DataError::Setting("eval.batch_size must be at least 1".to_owned()))?;
    let order = BatchOrder::Sequential { batch };
    let source =
        LabelledImages::new(set.clone(), order, config.labelled.input.evaluation(), config.run.seed)?;
    let workforce =
        Workforce { workers: config.labelled.data.workers, batches_ahead: config.labelled.data.queue };
    Loader::uploading(source, workforce, Position::default(), share, uploads)
}

/// Prepares an image as a classifier of `config` sees it at evaluation.
///
/// # Errors
/// If the device has no room.
pub fn seen_as(image: RgbImage, config: &ClassifyConfig, device: &Device) -> Result<Images> {
    let augmentation = config.labelled.input.evaluation();
    // An evaluation leaves nothing to chance.
    let image = augmentation.apply(image, &mut Draws::new(config.run.seed, "augment", &[0, 0]));
    let mut pixels = vec![0f32; image.as_raw().len()];
    bytes_to_unit(image.as_raw(), &mut pixels);
    let side = augmentation.side_px as usize;
    to_device(&mut LabelledBatch { pixels: pixels.into(), side, labels: vec![0], indices: vec![0] }, device)
}

/// The logits of `model`, (N, classes) row by row.
///
/// # Errors
/// If a tensor operation fails.
pub fn logits(model: &Classifier, images: &Images) -> Result<Vec<f32>> {
    let taps = model.forward(images, Mode::Inference)?;
    let logits = taps.require(Tap::Logits).map_err(EngineError::missing_tap)?;
    Ok(numbers(logits.tensor())?)
}

/// Measures on the held-out images as [`measure`], with the teacher's guesses, which are computed once.
pub(super) fn measure_beside_teacher(
    sets: &LabelledSets,
    config: &ClassifyConfig,
    model: &Classifier,
    lessons: Option<&Distillation<Classifier>>,
    around: Evaluating<'_>,
) -> Result<MeasuredClassifier> {
    let teacher = match lessons {
        None => None,
        Some(lessons) => match sets.teacher_guesses.get() {
            Some(guesses) => Some(guesses.clone()),
            None => {
                let guesses = measure(lessons.teacher(), &sets.val, config, None, around)?.guesses;
                Some(sets.teacher_guesses.get_or_init(|| guesses).clone())
            }
        },
    };
    measure(model, &sets.val, config, teacher, around)
}

impl Measured for MeasuredClassifier {
    type Row = ClassifierRow;

    fn headline(&self) -> f64 {
        self.accuracy.top1
    }

    fn told(&self) -> String {
        use crate::report::table::Row;
        self.line("").told()
    }

    fn logged(&self) -> serde_json::Value {
        let Accuracy { top1, top5, ece, nll, agreement, .. } = self.accuracy;
        let mut line = json!({ "top1": top1, "top5": top5, "ece": ece, "nll": nll });
        if let Some(agreement) = agreement {
            line["agreement"] = agreement.into();
        }
        line
    }

    fn written(&self) -> serde_json::Value {
        serde_json::to_value(&self.accuracy).expect("accuracies have a JSON form")
    }

    fn row(&self, name: &str, networks: &[Network<'_>]) -> ClassifierRow {
        ClassifierRow { parameters: parameters_of(networks), ..self.line(name) }
    }

    fn hits(&self) -> Vec<&[bool]> {
        vec![&self.hits]
    }

    fn per_class(&self) -> Vec<ClassResult> {
        Vec::new()
    }
}

impl MeasuredClassifier {
    /// The line of a table without the number of parameters.
    fn line(&self, name: &str) -> ClassifierRow {
        let Accuracy { top1, top5, ece, agreement, .. } = self.accuracy;
        let (gflops, ms_per_image) = (self.gflops, self.ms_per_image);
        ClassifierRow {
            name: name.to_owned(),
            top1,
            top5,
            ece,
            agreement,
            parameters: 0,
            gflops,
            ms_per_image,
        }
    }
}
