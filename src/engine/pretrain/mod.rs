//! The task of a backbone that learns from a frozen one: images without labels, two backbones, the cosine of their features.
//!
//! | file | what lives there |
//! |---|---|
//! | `sources` | images and weights, found before anything is loaded |
//! | `backbone` | a classifier without its last layer |
//! | `pass` | one batch: teacher, student, methods, gradients |
//! | `shares` | whose gradient moves the student |
//! | `evaluate` | a backbone beside its teacher on held-out images |

mod backbone;
mod evaluate;
mod pass;
mod shares;
mod sources;

pub use backbone::Backbone;
pub use evaluate::MeasuredBackbone;
pub use sources::UnlabelledSets;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use candle_core::Device;
use ckd_detectors::param::Builder;

use super::Result;
use super::classify::widths;
use super::distillation::Distillation;
use super::pass::{GradientSink, Pass};
use super::task::{Evaluating, Gathered, Network, Setting, Settings, Task, blake3_of};
use crate::config::{Document, Loaded, PretrainConfig, Run};
use crate::data::label_order::BatchOrder;
use crate::data::unlabelled_images::MixedImages;
use crate::data::{DataError, LabelledBatch, LabelledImages, Workforce};
use crate::distill::{Distill, MethodSetting};
use crate::weights::WeightsFile;

impl Settings for PretrainConfig {
    type Task = UnlabelledSets;

    fn run(&self) -> &Run {
        &self.run
    }

    fn workforce(&self) -> Workforce {
        Workforce { workers: self.data.workers, batches_ahead: self.data.queue }
    }

    fn has_teacher(&self) -> bool {
        !self.distill.is_empty()
    }

    fn on_data_of(&self, other: &Self) -> Self {
        Self { data: other.data.clone(), ..self.clone() }
    }

    fn speed(&mut self) -> (&mut usize, &mut usize, &mut Run) {
        (&mut self.data.workers, &mut self.data.queue, &mut self.run)
    }

    fn distill(&self) -> &[Distill] {
        &self.distill
    }

    fn without_teacher(&self) -> Self {
        Self { distill: Vec::new(), ..self.clone() }
    }
}

/// Entry of a weights file that names its experiment.
const CONFIG: &str = "ckd_det.pretrain_config";
const PROVENANCE: &str = "ckd_det.provenance";

impl Task for UnlabelledSets {
    type Config = PretrainConfig;
    type Model = Backbone;
    type Source = MixedImages;
    type Measured = MeasuredBackbone;

    const LEARNER: &'static str = "backbone";
    const TAUGHT: &'static str = "backbone";
    const HEADLINE: &'static str = "cosine";

    fn gather(loaded: &Loaded<PretrainConfig>) -> Result<Gathered<Self>> {
        sources::gather(loaded)
    }

    fn blake3(&self) -> String {
        blake3_of(&[self.train.blake3(), self.val.blake3()])
    }

    fn initial_weights(loaded: &Loaded<PretrainConfig>, missing: &mut Vec<String>) -> Option<PathBuf> {
        sources::initial_weights(loaded, missing)
    }

    fn teacher_weights(loaded: &Loaded<PretrainConfig>, missing: &mut Vec<String>) -> Option<PathBuf> {
        sources::teacher_weights(loaded, missing)
    }

    fn student(&self, config: &PretrainConfig, device: &Device) -> Result<Backbone> {
        Backbone::new(Builder::new(config.run.seed, device), config.student.network, config.normalization)
    }

    fn teacher(&self, config: &PretrainConfig, device: &Device) -> Result<Option<Backbone>> {
        let builder = Builder::new(config.run.seed, device).frozen();
        Backbone::new(builder, config.teacher.network, config.normalization).map(Some)
    }

    fn networks(model: &Backbone) -> Vec<Network<'_>> {
        vec![Network::only(model.params())]
    }

    fn in_backbone(model: &Backbone, name: &str) -> bool {
        model.params().get(name).is_some()
    }

    fn initialise(&self, _: &PretrainConfig, model: &Backbone, file: &WeightsFile) -> Result<Vec<String>> {
        model.load(file)?;
        Ok(Vec::new())
    }

    fn load_teacher(&self, _: &PretrainConfig, model: &Backbone, file: WeightsFile) -> Result<()> {
        Ok(model.load(&file)?)
    }

    fn method_setting<'d>(
        &self,
        config: &PretrainConfig,
        teacher: &Backbone,
        device: &'d Device,
    ) -> Result<MethodSetting<'d>> {
        // Its weights do not matter, only the shapes of what it finds.
        let student = Backbone::new(
            Builder::new(config.run.seed, device).frozen(),
            config.student.network,
            config.normalization,
        )?;
        let side = config.input.side_px as usize;
        let (theirs, ours) = (teacher.tap_shapes((side, side))?, student.tap_shapes((side, side))?);
        Ok(MethodSetting {
            seed: config.run.seed,
            device,
            widths: widths(&theirs, &ours),
            anchors: None,
            images: self.train.len(),
            classes: Vec::new(),
        })
    }

    fn source(&self, config: &PretrainConfig) -> Result<MixedImages> {
        let batch = NonZeroUsize::new(config.run.train.batch_size)
            .ok_or_else(|| DataError::Setting("train.batch_size must be at least 1".to_owned()))?;
        let seed = config.run.seed;
        let order = BatchOrder::Shuffled { seed, batch };
        let images = LabelledImages::new(self.train.clone(), order, config.input.training(), seed)?;
        Ok(MixedImages::new(images, config.mix_up.then_some(seed)))
    }

    fn held_out(&self) -> usize {
        self.val.len()
    }

    fn images(batch: &LabelledBatch) -> usize {
        batch.labels.len()
    }

    fn image_ids(batch: &LabelledBatch) -> Vec<u64> {
        batch.indices.iter().map(|&index| index.into()).collect()
    }

    fn pass(
        &self,
        setting: &Setting<'_, Self>,
        batch: LabelledBatch,
        step: u64,
        gradients: &mut GradientSink<'_>,
    ) -> Result<Pass> {
        pass::training_pass(setting, batch, step, gradients)
    }

    fn gradient_norms(
        &self,
        setting: &Setting<'_, Self>,
        batch: LabelledBatch,
        step: u64,
    ) -> Result<BTreeMap<String, f64>> {
        shares::gradient_norms(setting, batch, step)
    }

    fn measure(
        &self,
        config: &PretrainConfig,
        model: &Backbone,
        lessons: Option<&Distillation<Backbone>>,
        around: Evaluating<'_>,
    ) -> Result<MeasuredBackbone> {
        evaluate::measure(self, config, model, lessons, around)
    }

    fn card(
        &self,
        config: &PretrainConfig,
        _network: usize,
        provenance: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let provenance = serde_json::to_string(&provenance).expect("texts have a JSON form");
        BTreeMap::from([
            ("format".to_owned(), "pt".to_owned()),
            (CONFIG.to_owned(), config.to_toml()),
            (PROVENANCE.to_owned(), provenance),
        ])
    }
}
