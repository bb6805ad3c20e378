//! What is trained: the seam between the training loop, which is one, and its tasks.
//!
//! A [`Task`] is data together with what a network, a batch, a step and an evaluation are there:
//! [`DataSets`](super::detect::DataSets) for detectors, [`LabelledSets`](super::classify::LabelledSets) for classifiers,
//! [`UnlabelledSets`](super::pretrain::UnlabelledSets) for backbones that learn without labels.
//! Order, learning rate, update, log, checkpoints, resuming, teachers and comparisons know nothing else of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use candle_core::{Device, Tensor};
use ckd_collective::Collective;
use ckd_detectors::param::ParamStore;
use ckd_kernels::Gradients;
use image::RgbImage;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Result;
use super::distillation::Distillation;
use super::outcome::ClassResult;
use super::pass::{GradientSink, Pass};
use crate::config::{Document, Loaded, Run};
use crate::data::{BadImage, Source, Workforce};
use crate::distill::{Distill, MethodSetting, Parts};
use crate::eval::Detection;
use crate::report::run_folder::RunFolder;
use crate::report::table::Row;
use crate::weights::WeightsFile;

/// The configuration of a task's experiments.
pub trait Settings: Document + Clone + PartialEq + Serialize {
    /// The task.
    type Task: Task<Config = Self>;

    /// The settings of the run: name, folder, optimiser, schedule and loops.
    fn run(&self) -> &Run;

    /// Threads that prepare data.
    fn workforce(&self) -> Workforce;

    /// Whether there is a teacher.
    fn has_teacher(&self) -> bool {
        false
    }

    /// Returns this experiment on the data of `other`: a teacher trains on its student's data.
    fn on_data_of(&self, other: &Self) -> Self;

    /// Settings of speed and reporting, which may change on resume: workers and queue of the loader, and the run's.
    fn speed(&mut self) -> (&mut usize, &mut usize, &mut Run);

    /// Distillation methods of the student.
    fn distill(&self) -> &[Distill] {
        &[]
    }

    /// Returns this experiment without a teacher, for the student alone.
    fn without_teacher(&self) -> Self {
        self.clone()
    }

    /// Returns this experiment with images as the teacher sees them.
    fn seen_by_teacher(&self) -> Self {
        self.clone()
    }
}

/// Data, and what training on it means.
pub trait Task: Sized {
    /// The configuration of an experiment.
    type Config: Settings<Task = Self>;
    /// The network.
    type Model;
    /// Source of the training batches.
    type Source: Source;
    /// Result of an evaluation.
    type Measured: Measured;

    /// Name of the trained network in the progress, without a teacher.
    const LEARNER: &'static str = "student";

    /// Name of the learner in messages where it learns from a teacher.
    const TAUGHT: &'static str = "student distilled";

    /// The name of [`Measured::headline`] in a weights file.
    const HEADLINE: &'static str;

    /// Finds everything that the experiment reads, then loads its data.
    ///
    /// # Errors
    /// [`EngineError::Missing`](super::EngineError::Missing) names everything that is missing, before anything is loaded.
    fn gather(loaded: &Loaded<Self::Config>) -> Result<Gathered<Self>>;

    /// BLAKE3 of the data, hexadecimal: what annotations and labels say of it.
    fn blake3(&self) -> String;

    /// The student's initial weights, if it has any. What is not there is added to `missing`.
    fn initial_weights(loaded: &Loaded<Self::Config>, missing: &mut Vec<String>) -> Option<PathBuf>;

    /// The teacher's weights, if it has any and no experiment trains it. What is not there is added to `missing`.
    fn teacher_weights(loaded: &Loaded<Self::Config>, missing: &mut Vec<String>) -> Option<PathBuf>;

    /// The student with random weights.
    fn student(&self, config: &Self::Config, device: &Device) -> Result<Self::Model>;

    /// The teacher with random weights, nothing in it trainable; `None` without one.
    fn teacher(&self, config: &Self::Config, device: &Device) -> Result<Option<Self::Model>>;

    /// Networks of the model that are written to files: one, or each of several that train together.
    fn networks(model: &Self::Model) -> Vec<Network<'_>>;

    /// Parameters that belong to the training state alone: trained or remembered beside the networks.
    fn beside(_model: &Self::Model) -> Vec<&ParamStore> {
        Vec::new()
    }

    /// Whether the parameter `name` belongs to the backbone of `model`: its learning rate is multiplied by
    /// `optim.backbone_lr_factor`.
    fn in_backbone(model: &Self::Model, name: &str) -> bool;

    /// Puts initial weights into the student and names what stays random.
    fn initialise(
        &self,
        config: &Self::Config,
        model: &Self::Model,
        file: &WeightsFile,
    ) -> Result<Vec<String>>;

    /// Puts a teacher's weights into it.
    ///
    /// # Errors
    /// Weights that do not fit, or of other classes.
    fn load_teacher(&self, config: &Self::Config, model: &Self::Model, file: WeightsFile) -> Result<()>;

    /// Makes a loaded teacher ready to teach: its arithmetic, where the configuration asks for another than training's.
    ///
    /// # Errors
    /// Images that cannot be read; a network that cannot compute so.
    fn ready_teacher(&self, _config: &Self::Config, _model: &Self::Model) -> Result<()> {
        Ok(())
    }

    /// Facts about the networks and the data that methods need before the first step.
    fn method_setting<'d>(
        &self,
        config: &Self::Config,
        teacher: &Self::Model,
        device: &'d Device,
    ) -> Result<MethodSetting<'d>>;

    /// The training batches.
    fn source(&self, config: &Self::Config) -> Result<Self::Source>;

    /// Held-out images.
    fn held_out(&self) -> usize;

    /// Images in a batch.
    fn images(batch: &<Self::Source as Source>::Batch) -> usize;

    /// The images of a batch: ids of a detector's, numbers from 0 of a classifier's.
    fn image_ids(batch: &<Self::Source as Source>::Batch) -> Vec<u64>;

    /// Whether losses at `step` look at rows of all parts of an update.
    fn looks_at_all_parts(&self, setting: &Setting<'_, Self>, step: u64) -> bool {
        setting.lessons.is_some_and(|lessons| lessons.looks_at_all_parts(step))
    }

    /// Losses of one batch at `step`; its gradients go to `gradients`. A pass [for its rows
    /// alone](Parts::is_for_rows_alone) has no gradients.
    fn pass(
        &self,
        setting: &Setting<'_, Self>,
        batch: <Self::Source as Source>::Batch,
        step: u64,
        gradients: &mut GradientSink<'_>,
    ) -> Result<Pass>;

    /// The length of the gradient of each part of the losses of one batch at `step`: those of the task, and of each method that
    /// counts. Empty where no method has a part of its own.
    fn gradient_norms(
        &self,
        _setting: &Setting<'_, Self>,
        _batch: <Self::Source as Source>::Batch,
        _step: u64,
    ) -> Result<BTreeMap<String, f64>> {
        Ok(BTreeMap::new())
    }

    /// Whether something follows the update after which `updates` are finished.
    fn keeps(_config: &Self::Config, _updates: u64) -> bool {
        false
    }

    /// What [`after_update`](Self::after_update) needs of the last batch of an update, where `updates` are finished; `None`
    /// if nothing follows.
    fn kept(
        _config: &Self::Config,
        _batch: &<Self::Source as Source>::Batch,
        _updates: u64,
    ) -> Option<<Self::Source as Source>::Batch> {
        None
    }

    /// What one more update changes, after one with learning rate `lr`: parameters that the losses of
    /// [`pass`](Self::pass) do not reach. All others are afterwards as they were, bit for bit.
    fn after_update(
        &self,
        _setting: &Setting<'_, Self>,
        _kept: <Self::Source as Source>::Batch,
        _lr: f64,
    ) -> Result<Further> {
        Ok(Further { gradients: Gradients::new(), lr: 0.0 })
    }

    /// Measures `model` on the held-out images, beside its teacher if it has one.
    ///
    /// # Errors
    /// [`EngineError::Stopped`](super::EngineError::Stopped) soon after the user wants to stop.
    fn measure(
        &self,
        config: &Self::Config,
        model: &Self::Model,
        lessons: Option<&Distillation<Self::Model>>,
        around: Evaluating<'_>,
    ) -> Result<Self::Measured>;

    /// Metadata of the weights of a network, by its place in [`networks`](Self::networks).
    fn card(
        &self,
        config: &Self::Config,
        network: usize,
        provenance: BTreeMap<String, String>,
    ) -> BTreeMap<String, String>;

    /// Picture of what an evaluation found on some held-out images, beside the truth, where the task has one.
    ///
    /// # Errors
    /// Images that cannot be read.
    fn evaluation_picture(&self, _measured: &Self::Measured) -> Result<Option<RgbImage>> {
        Ok(None)
    }

    /// Draws results of the finished networks of an experiment into files of its folder; nothing by default.
    ///
    /// # Errors
    /// Weights or images that cannot be read; a file that cannot be written.
    fn picture(&self, _trained: &Trained<'_, Self>) -> Result<()> {
        Ok(())
    }
}

/// The finished networks of an experiment.
pub struct Trained<'a, T: Task> {
    /// The experiment.
    pub config: &'a T::Config,
    /// The network that was learned from, if there was one.
    pub teacher: Option<&'a T::Model>,
    /// The weights that the students began with, if not random ones.
    pub init: Option<&'a WeightsFile>,
    /// Label and files of each student; the last one is the experiment's own.
    pub students: &'a [(&'a str, &'a RunFolder)],
    /// Folder of the experiment.
    pub folder: &'a RunFolder,
    /// Device of all computations.
    pub device: &'a Device,
    /// Updates of the last student.
    pub step: u64,
}

/// A network as it is written to a file.
#[derive(Debug, Clone)]
pub struct Network<'m> {
    /// The folder of its files below the run's; empty for a run's only network.
    pub folder: String,
    /// Prefix of its parameter names in training, absent in its files.
    pub prefix: String,
    /// Parameters of the network.
    pub params: &'m ParamStore,
}

impl<'m> Network<'m> {
    /// The only network of a run.
    pub fn only(params: &'m ParamStore) -> Self {
        Self { folder: String::new(), prefix: String::new(), params }
    }

    /// Copies of its tensors under the names of its files.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let named = |(name, tensor): (String, Tensor)| match name.strip_prefix(&self.prefix) {
            Some(own) => (own.to_owned(), tensor),
            None => (name, tensor),
        };
        Ok(self.params.snapshot()?.into_iter().map(named).collect())
    }
}

/// BLAKE3 of the hashes of the splits of a data set, hexadecimal.
pub(super) fn blake3_of(splits: &[String]) -> String {
    blake3::hash(splits.join(" ").as_bytes()).to_hex().to_string()
}

/// Weights of all `networks`.
pub fn parameters_of(networks: &[Network<'_>]) -> u64 {
    networks.iter().map(|network| network.params.weight_count() as u64).sum()
}

/// An update that follows another one.
#[derive(Debug)]
pub struct Further {
    /// The gradients of what it changes.
    pub gradients: Gradients,
    /// Learning rate.
    pub lr: f64,
}

/// Everything that an experiment reads.
#[derive(Debug)]
pub struct Gathered<T> {
    /// The data.
    pub task: T,
    /// The student's initial weights.
    pub init: Option<PathBuf>,
    /// The teacher's weights, unless an experiment trains it.
    pub teacher: Option<PathBuf>,
    /// Remarks on the data for the user.
    pub notes: Vec<String>,
    /// Images that were left out.
    pub bad_images: Vec<BadImage>,
}

/// Context of a training pass.
pub struct Setting<'a, T: Task> {
    /// The experiment.
    pub config: &'a T::Config,
    /// The network that trains.
    pub student: &'a T::Model,
    /// Distillation methods, if there is a teacher.
    pub lessons: Option<&'a Distillation<T::Model>>,
    /// Device of all computations.
    pub device: &'a Device,
    /// The number of the batch over the whole run: names its random numbers.
    pub batch: u64,
    /// The other parts of the update, where a method looks at them.
    pub parts: Option<&'a dyn Parts>,
}

impl<T: Task> Setting<'_, T> {
    /// The random numbers of this batch.
    pub fn random(&self) -> ChaCha8Rng {
        use rand::SeedableRng;
        let name = format!("sample/{}", self.batch);
        ChaCha8Rng::seed_from_u64(ckd_detectors::init::stream(self.config.run().seed, &name))
    }
}

/// Context of an evaluation: where it is computed, who shares it, when it is given up.
#[derive(Debug, Clone, Copy)]
pub struct Evaluating<'a> {
    /// Device of all computations.
    pub device: &'a Device,
    /// The processes that share it. Each computes some batches, and all learn of all.
    pub ranks: &'a dyn Collective,
    /// Set when the user wants to stop.
    pub stop: &'a AtomicBool,
}

/// Result of an evaluation.
pub trait Measured {
    /// Type of a line of a table.
    type Row: Row + Clone + Serialize + DeserializeOwned;

    /// The one number that decides which weights are the best, from 0 to 1.
    fn headline(&self) -> f64;

    /// Headline score and log record of each network; empty unless several train together.
    fn each(&self) -> Vec<(f64, serde_json::Value)> {
        Vec::new()
    }

    /// The numbers in one short line.
    fn told(&self) -> String;

    /// Record of the evaluation in `log.jsonl`.
    fn logged(&self) -> serde_json::Value;

    /// Full record of the evaluation, for `eval/`.
    fn written(&self) -> serde_json::Value;

    /// The line of a table for what was measured, which is `networks`.
    fn row(&self, name: &str, networks: &[Network<'_>]) -> Self::Row;

    /// Detections on the held-out images, where the task has boxes: kept with the run.
    fn detections(&self) -> Option<&[Detection]> {
        None
    }

    /// Whether each network's first guess for each held-out image is right, where images have labels: kept with the run.
    fn hits(&self) -> Vec<&[bool]> {
        Vec::new()
    }

    /// Results of each class, where the outcome lists them.
    fn per_class(&self) -> Vec<ClassResult>;
}
