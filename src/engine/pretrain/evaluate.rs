//! A backbone on held-out images: how alike its features are to its teacher's.

use std::num::NonZeroUsize;
use std::time::Instant;

use ckd_detectors::nn::Mode;
use ckd_kernels::flops;
use ckd_kernels::upload::Uploads;
use serde_json::{Value, json};

use super::backbone::Backbone;
use super::sources::UnlabelledSets;
use crate::config::PretrainConfig;
use crate::data::label_order::BatchOrder;
use crate::data::{DataError, LabelledImages, Loader, Position, Workforce};
use crate::distill::Lesson;
use crate::engine::classify::to_device;
use crate::engine::distillation::Distillation;
use crate::engine::outcome::ClassResult;
use crate::engine::ranks::{Packet, Reader, evaluation_share, merged};
use crate::engine::task::{Evaluating, Measured, Network, parameters_of};
use crate::engine::{Result, stop};
use crate::report::backbone_table::BackboneRow;

/// Likeness and cost of one evaluation of a backbone.
#[derive(Debug, Clone)]
pub struct MeasuredBackbone {
    /// Mean cosine with the teacher's features, over images, and methods that project the student's.
    pub cosine: f64,
    /// Median wall time of one image, in milliseconds.
    pub ms_per_image: f64,
    /// Multiply-adds of one image, in 10^9.
    pub gflops: f64,
}

/// Findings on a batch.
struct Compared {
    /// Sum of the cosines of its images.
    cosines: f64,
    images: u64,
    /// Milliseconds of an image.
    ms: f64,
    multiply_adds: u64,
}

impl Compared {
    fn write(&self, packet: &mut Packet) {
        packet.real(self.cosines);
        packet.whole(self.images);
        packet.real(self.ms);
        packet.whole(self.multiply_adds);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (cosines, images) = (reader.real()?, reader.whole()?);
        Ok(Self { cosines, images, ms: reader.real()?, multiply_adds: reader.whole()? })
    }
}

/// Compares `model` with its teacher on the first `eval.max_images` held-out images. Each process of a run compares some
/// batches.
pub(super) fn measure(
    sets: &UnlabelledSets,
    config: &PretrainConfig,
    model: &Backbone,
    lessons: Option<&Distillation<Backbone>>,
    around: Evaluating<'_>,
) -> Result<MeasuredBackbone> {
    let own = compare_batches(sets, config, model, lessons, around);
    let batches = merged(around.ranks, own, Compared::write, Compared::read)?;
    let images: u64 = batches.iter().map(|batch| batch.images).sum();
    let of_image = |sum: f64| sum / images.max(1) as f64;
    let mut times: Vec<f64> = batches.iter().map(|batch| batch.ms).collect();
    times.sort_by(f64::total_cmp);
    let multiply_adds: u64 = batches.iter().map(|batch| batch.multiply_adds).sum();
    Ok(MeasuredBackbone {
        cosine: of_image(batches.iter().map(|batch| batch.cosines).sum()),
        ms_per_image: times.get(times.len() / 2).copied().unwrap_or(0.0),
        gflops: of_image(multiply_adds as f64 / 1e9),
    })
}

/// Findings on the batches of this process's share, in their order.
fn compare_batches(
    sets: &UnlabelledSets,
    config: &PretrainConfig,
    model: &Backbone,
    lessons: Option<&Distillation<Backbone>>,
    Evaluating { device, ranks, stop }: Evaluating<'_>,
) -> Result<Vec<Compared>> {
    let size = NonZeroUsize::new(config.run.eval.batch_size)
        .ok_or_else(|| DataError::Setting("eval.batch_size must be at least 1".to_owned()))?;
    let limit = config.run.eval.max_images.unwrap_or(usize::MAX).min(sets.val.len());
    let order = BatchOrder::Sequential { batch: size };
    let source = LabelledImages::new(sets.val.clone(), order, config.input.evaluation(), config.run.seed)?;
    let workforce = Workforce { workers: config.data.workers, batches_ahead: config.data.queue };
    let share = evaluation_share(ranks);
    let mut loader = Loader::uploading(source, workforce, Position::default(), share, Uploads::to(device)?)?;
    let (mut batches, mut first) = (Vec::new(), share.index as usize * size.get());
    while first < limit {
        let Some(batch) = loader.next() else { break };
        let mut batch = batch?;
        let (images, side) = (to_device(&mut batch, device)?, batch.side);
        let started = Instant::now();
        let (taps, multiply_adds) = flops::counted(|| model.forward(&images, Mode::Inference));
        let taps = taps?;
        let count = batch.labels.len();
        let ms = started.elapsed().as_secs_f64() * 1e3 / count as f64;
        let mut cosine = 0.0;
        if let Some(lessons) = lessons {
            let taught = lessons.teacher().forward(&images, Mode::Inference)?;
            let lesson = Lesson { image_size: (side, side), ..Lesson::new(&taught, &taps) };
            cosine = lessons.cosine(&lesson)?.unwrap_or(0.0);
        }
        batches.push(Compared { cosines: cosine * count as f64, images: count as u64, ms, multiply_adds });
        first += share.of as usize * size.get();
        if first < limit {
            stop::check(stop)?;
        }
    }
    Ok(batches)
}

impl Measured for MeasuredBackbone {
    type Row = BackboneRow;

    fn headline(&self) -> f64 {
        self.cosine
    }

    fn told(&self) -> String {
        format!("cosine {:.2}", 100.0 * self.cosine)
    }

    fn logged(&self) -> Value {
        json!({ "cosine": self.cosine })
    }

    fn written(&self) -> Value {
        self.logged()
    }

    fn row(&self, name: &str, networks: &[Network<'_>]) -> BackboneRow {
        let Self { cosine, ms_per_image, gflops } = *self;
        let parameters = parameters_of(networks);
        BackboneRow { name: name.to_owned(), cosine, parameters, gflops, ms_per_image }
    }

    fn per_class(&self) -> Vec<ClassResult> {
        Vec::new()
    }
}
