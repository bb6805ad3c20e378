//! The task of a classifier: labelled images, a classifier's step, accuracies. A probe is a classifier of which the last
//! layer alone trains.
//!
//! | file | what lives there |
//! |---|---|
//! | `sources` | data and weights, found before anything is loaded |
//! | `pass` | one batch: teacher, student, losses, gradients |
//! | `shares` | whose gradient moves the student |
//! | `network` | the network of a configuration, and a batch as it takes it |
//! | `evaluate` | a classifier over a data set |
//! | `weights` | weights of classifiers: what travels with them, and whose last layer may differ |

mod evaluate;
mod network;
mod pass;
mod shares;
mod sources;
mod weights;

pub use evaluate::{MeasuredClassifier, evaluation_batches, logits, measure, measure_each, seen_as};
pub(super) use network::{backbone_has, widths};
pub use network::{student, to_device};
pub(super) use shares::length_at;
pub use sources::{LabelledSets, held_out, learned_from, load_split, read_split};
pub use weights::{ClassifierCard, load_body, load_weights};

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use candle_core::Device;
use ckd_detectors::classifier::{Classifier, ClassifierConfig};
use ckd_detectors::param::Builder;

use super::Result;
use super::distillation::Distillation;
use super::pass::{GradientSink, Pass};
use super::task::{Evaluating, Gathered, Network, Setting, Settings, Task, blake3_of};
use crate::config::{ClassifyConfig, Loaded, Run};
use crate::data::{DataError, LabelledBatch, LabelledImages, Workforce};
use crate::distill::{Distill, MethodSetting};
use crate::weights::WeightsFile;

impl Settings for ClassifyConfig {
    type Task = LabelledSets;

    fn run(&self) -> &Run {
        &self.run
    }

    fn workforce(&self) -> Workforce {
        Workforce { workers: self.labelled.data.workers, batches_ahead: self.labelled.data.queue }
    }

    fn has_teacher(&self) -> bool {
        self.teacher.is_some()
    }

    fn on_data_of(&self, other: &Self) -> Self {
        let mut config = self.clone();
        config.labelled.data = other.labelled.data.clone();
        config
    }

    fn speed(&mut self) -> (&mut usize, &mut usize, &mut Run) {
        let data = &mut self.labelled.data;
        (&mut data.workers, &mut data.queue, &mut self.run)
    }

    fn distill(&self) -> &[Distill] {
        &self.distill
    }

    fn without_teacher(&self) -> Self {
        let mut config = self.clone();
        config.teacher = None;
        config.distill.clear();
        config.run.train.compare_alone = false;
        config
    }
}

impl Task for LabelledSets {
    type Config = ClassifyConfig;
    type Model = Classifier;
    type Source = LabelledImages;
    type Measured = MeasuredClassifier;

    const HEADLINE: &'static str = "top1";

    fn gather(loaded: &Loaded<ClassifyConfig>) -> Result<Gathered<Self>> {
        sources::gather(loaded)
    }

    fn blake3(&self) -> String {
        blake3_of(&[self.train.blake3(), self.val.blake3()])
    }

    fn initial_weights(loaded: &Loaded<ClassifyConfig>, missing: &mut Vec<String>) -> Option<PathBuf> {
        sources::initial_weights(loaded, missing)
    }

    fn teacher_weights(loaded: &Loaded<ClassifyConfig>, missing: &mut Vec<String>) -> Option<PathBuf> {
        sources::teacher_weights(loaded, missing)
    }

    fn student(&self, config: &ClassifyConfig, device: &Device) -> Result<Classifier> {
        student(config, self.train.classes.len(), Builder::new(config.run.seed, device))
    }

    fn teacher(&self, config: &ClassifyConfig, device: &Device) -> Result<Option<Classifier>> {
        let Some(teacher) = &config.teacher else { return Ok(None) };
        let settings = ClassifierConfig {
            architecture: teacher.network,
            classes: self.train.classes.len(),
            normalization: config.teacher_normalization(),
        };
        Ok(Some(Classifier::new(Builder::new(config.run.seed, device).frozen(), &settings)?))
    }

    fn networks(model: &Classifier) -> Vec<Network<'_>> {
        vec![Network::only(model.params())]
    }

    fn in_backbone(model: &Classifier, name: &str) -> bool {
        backbone_has(model, name)
    }

    fn initialise(&self, _: &ClassifyConfig, model: &Classifier, file: &WeightsFile) -> Result<Vec<String>> {
        Ok(weights::load(model, file, weights::Head::MayDiffer)?)
    }

    fn load_teacher(&self, _: &ClassifyConfig, model: &Classifier, file: WeightsFile) -> Result<()> {
        if let Some(card) = ClassifierCard::of(&file)? {
            card.check_classes(&file.path, &self.train.classes)?;
        }
        weights::load(model, &file, weights::Head::Fits)?;
        Ok(())
    }

    fn method_setting<'d>(
        &self,
        config: &ClassifyConfig,
        teacher: &Classifier,
        device: &'d Device,
    ) -> Result<MethodSetting<'d>> {
        // Its weights do not matter, only the shapes of what it finds.
        let student =
            student(config, self.train.classes.len(), Builder::new(config.run.seed, device).frozen())?;
        let side = config.labelled.input.side_px as usize;
        let (theirs, ours) = (teacher.tap_shapes((side, side))?, student.tap_shapes((side, side))?);
        Ok(MethodSetting {
            seed: config.run.seed,
            device,
            widths: widths(&theirs, &ours),
            anchors: None,
            images: self.train.len(),
            classes: self.train.labels.clone(),
        })
    }

    fn source(&self, config: &ClassifyConfig) -> Result<LabelledImages> {
        let batch = NonZeroUsize::new(config.run.train.batch_size)
            .ok_or_else(|| DataError::Setting("train.batch_size must be at least 1".to_owned()))?;
        let seed = config.run.seed;
        let order = config.labelled.data.order.batches_of(batch, seed);
        let augmentation = config.labelled.input.training();
        Ok(LabelledImages::new(self.train.clone(), order, augmentation, seed)?)
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
        config: &ClassifyConfig,
        model: &Classifier,
        lessons: Option<&Distillation<Classifier>>,
        around: Evaluating<'_>,
    ) -> Result<MeasuredClassifier> {
        evaluate::measure_beside_teacher(self, config, model, lessons, around)
    }

    fn card(
        &self,
        config: &ClassifyConfig,
        _network: usize,
        provenance: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        ClassifierCard { config: config.clone(), classes: self.train.classes.clone(), provenance }
            .to_metadata()
    }
}
