//! The task of a cohort: classifiers that train together, on the same batches, and learn from each other (MCL, L-MCL;
//! Yang et al., arXiv 2207.11518).
//!
//! | file | what lives there |
//! |---|---|
//! | `model` | the networks and what is trained beside them |
//! | `pass` | one batch: all networks look, the losses, the gradients |
//! | `meta` | L-MCL's meta step: how the weights of pairs of stages learn |
//! | `evaluate` | each network on the held-out images |
//!
//! A step runs every network once. Checkpoints hold everything; a network's file holds the network alone, and is an
//! ordinary classifier's.

mod evaluate;
mod meta;
mod model;
mod pass;
mod sets;

pub use evaluate::MeasuredCohort;
pub use meta::{MetaBatch, meta_event};
pub use model::{Cohort, Peer};
pub use sets::CohortSets;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use candle_core::Device;
use ckd_detectors::param::ParamStore;

use super::classify::{ClassifierCard, LabelledSets, backbone_has, to_device};
use super::distillation::Distillation;
use super::pass::{GradientSink, Pass};
use super::task::{Evaluating, Further, Gathered, Network, Setting, Settings, Task};
use super::{EngineError, Result};
use crate::config::{ClassifyConfig, CohortConfig, Loaded, Run};
use crate::data::{DataError, LabelledBatch, LabelledImages, Source, Workforce};
use crate::distill::mcl::CohortMethod;
use crate::distill::{MethodSetting, NegativesFrom};
use crate::weights::WeightsFile;

impl Settings for CohortConfig {
    type Task = CohortSets;

    fn run(&self) -> &Run {
        &self.run
    }

    fn workforce(&self) -> Workforce {
        Workforce { workers: self.labelled.data.workers, batches_ahead: self.labelled.data.queue }
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
}

/// The experiment of the first network on its own: what all have in common.
fn alone(config: &CohortConfig) -> Result<ClassifyConfig> {
    let first = config.peer.first().ok_or_else(|| no_such("network"))?;
    Ok(config.alone(first.network))
}

/// Something that only other tasks have was asked for.
fn no_such(what: &str) -> EngineError {
    EngineError::Data(DataError::Setting(format!("a cohort has no {what}")))
}

impl Task for CohortSets {
    type Config = CohortConfig;
    type Model = Cohort;
    type Source = LabelledImages;
    type Measured = MeasuredCohort;

    const HEADLINE: &'static str = LabelledSets::HEADLINE;
    const LEARNER: &'static str = "cohort";

    fn gather(loaded: &Loaded<CohortConfig>) -> Result<Gathered<Self>> {
        let config = alone(&loaded.config)?;
        let of_one = Loaded { config, source: loaded.source.clone(), teacher_experiment: None };
        let Gathered { task, notes, bad_images, .. } = LabelledSets::gather(&of_one)?;
        Ok(Gathered { task: Self(task), init: None, teacher: None, notes, bad_images })
    }

    fn blake3(&self) -> String {
        self.0.blake3()
    }

    fn initial_weights(_: &Loaded<CohortConfig>, _: &mut Vec<String>) -> Option<PathBuf> {
        None
    }

    fn teacher_weights(_: &Loaded<CohortConfig>, _: &mut Vec<String>) -> Option<PathBuf> {
        None
    }

    fn student(&self, config: &CohortConfig, device: &Device) -> Result<Cohort> {
        Cohort::new(config, &self.0.train, device)
    }

    fn teacher(&self, _: &CohortConfig, _: &Device) -> Result<Option<Cohort>> {
        Ok(None)
    }

    fn networks(model: &Cohort) -> Vec<Network<'_>> {
        model.networks()
    }

    fn beside(model: &Cohort) -> Vec<&ParamStore> {
        model.beside()
    }

    fn in_backbone(model: &Cohort, name: &str) -> bool {
        model.peers().iter().any(|peer| backbone_has(peer.classifier(), name))
    }

    fn initialise(&self, _: &CohortConfig, _: &Cohort, _: &WeightsFile) -> Result<Vec<String>> {
        Err(no_such("initial weights"))
    }

    fn load_teacher(&self, _: &CohortConfig, _: &Cohort, _: WeightsFile) -> Result<()> {
        Err(no_such("teacher"))
    }

    fn method_setting<'d>(&self, _: &CohortConfig, _: &Cohort, _: &'d Device) -> Result<MethodSetting<'d>> {
        Err(no_such("teacher"))
    }

    fn source(&self, config: &CohortConfig) -> Result<LabelledImages> {
        let source = self.0.source(&alone(config)?)?;
        if config.cohort.bank.is_none()
            && !has_partners(&contrasted(config, source.batches(0)), &self.0.train.labels)
        {
            let reason = format!(
                "no training image meets another one of its class in a batch of {}, so there is nothing to contrast; set \
                 data.order = \"class_pairs\", or give a larger train.batch_size or more than one image of a class",
                config.run.train.batch_size
            );
            return Err(DataError::Setting(reason).into());
        }
        Ok(source)
    }

    fn held_out(&self) -> usize {
        self.0.val.len()
    }

    fn images(batch: &LabelledBatch) -> usize {
        batch.labels.len()
    }

    fn image_ids(batch: &LabelledBatch) -> Vec<u64> {
        batch.indices.iter().map(|&index| index.into()).collect()
    }

    fn looks_at_all_parts(&self, setting: &Setting<'_, Self>, _step: u64) -> bool {
        setting.config.cohort.negatives_from == NegativesFrom::Update
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

    fn keeps(config: &CohortConfig, updates: u64) -> bool {
        let every = config.cohort.layers.meta_every;
        config.cohort.method == CohortMethod::LMcl && every > 0 && updates.is_multiple_of(every)
    }

    fn kept(config: &CohortConfig, batch: &LabelledBatch, updates: u64) -> Option<LabelledBatch> {
        Self::keeps(config, updates).then(|| batch.clone())
    }

    fn after_update(&self, setting: &Setting<'_, Self>, mut kept: LabelledBatch, lr: f64) -> Result<Further> {
        let drawn = pass::drawn(setting, &kept)?;
        let images = to_device(&mut kept, setting.device)?;
        let batch = MetaBatch { images: &images, labels: &kept.labels, drawn: &drawn };
        let meta = meta_event(setting.config, setting.student, batch, lr)?;
        Ok(Further { gradients: meta.phi, lr: lr * setting.config.cohort.layers.meta_lr_factor })
    }

    fn measure(
        &self,
        config: &CohortConfig,
        model: &Cohort,
        _: Option<&Distillation<Cohort>>,
        around: Evaluating<'_>,
    ) -> Result<MeasuredCohort> {
        evaluate::measure(&self.0, config, model, around)
    }

    fn card(
        &self,
        config: &CohortConfig,
        network: usize,
        provenance: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let mut own = config.alone(config.peer[network].network);
        own.run.name = format!("{}_{}", config.run.name, model::folder(network));
        ClassifierCard { config: own, classes: self.0.train.classes.clone(), provenance }.to_metadata()
    }
}

/// The images of an epoch that are contrasted with each other: those of each batch, or of each update.
fn contrasted(config: &CohortConfig, batches: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
    match config.cohort.negatives_from {
        NegativesFrom::Part => batches,
        NegativesFrom::Update => {
            batches.chunks(config.run.train.parts().max(1)).map(<[Vec<usize>]>::concat).collect()
        }
    }
}

/// Whether any batch holds two images of one class.
fn has_partners(batches: &[Vec<usize>], labels: &[u32]) -> bool {
    let has = |batch: &Vec<usize>| {
        let classes: BTreeSet<u32> = batch.iter().map(|&image| labels[image]).collect();
        classes.len() < batch.len()
    };
    batches.iter().any(has)
}
