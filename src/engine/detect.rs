//! The task of a detector: COCO data, a detector's step, COCO metrics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;
use ckd_detectors::Detector;

use super::distillers::MethodSetting;
use super::evaluate::{detect_all, score, teacher_images, to_device};
use super::job::{Job, Surroundings};
use super::outcome::ClassResult;
use super::pass::{Distillation, Pass, Views, training_pass};
use super::picture::draw_detections;
use super::sources::{DataSets, Inputs, find_initial};
use super::task::{Gathered, Measured, Network, RunSettings, Setting, Settings, Task, parameters_of};
use super::{Result, build, classes};
use crate::config::{Config, Distill, Loaded, Resize, Train};
use crate::data::loader::BoxedImages;
use crate::data::sampler::Grouping;
use crate::data::{Batch, LoaderConfig, Purpose, Workforce};
use crate::eval::BoxMetrics;
use crate::report::table::ModelRow;
use crate::weights::agree::{self, Role};
use crate::weights::card::categories_of;
use crate::weights::{ModelCard, WeightsFile, load};

impl Settings for Config {
    type Task = DataSets;

    fn of_the_run(&self) -> RunSettings<'_> {
        let Self { name, output, seed, optim, schedule, train, engine, data, teacher, .. } = self;
        RunSettings {
            name,
            output,
            seed: *seed,
            optim,
            schedule,
            train,
            engine,
            workforce: Workforce { workers: data.workers, batches_ahead: data.queue },
            has_teacher: teacher.is_some(),
        }
    }

    fn on_data_of(&self, other: &Self) -> Self {
        Self { data: other.data.clone(), ..self.clone() }
    }

    fn speed(&mut self) -> (&mut usize, &mut usize, &mut Train) {
        (&mut self.data.workers, &mut self.data.queue, &mut self.train)
    }

    fn distill(&self) -> &[Distill] {
        &self.distill
    }

    fn without_teacher(&self) -> Self {
        super::experiment::without_teacher(self)
    }

    fn seen_by_teacher(&self) -> Self {
        let mut own = self.clone();
        own.input.resize = self.teacher_resize();
        own
    }
}

impl Task for DataSets {
    type Config = Config;
    type Model = Detector;
    type Source = BoxedImages;
    type Measured = MeasuredDetector;

    const HEADLINE: &'static str = "ap";

    fn gather(loaded: &Loaded) -> Result<Gathered<Self>> {
        let Inputs { data, init, teacher } = Inputs::find(loaded)?;
        let task = data.load()?;
        let notes = task.reports.iter().map(ToString::to_string).collect();
        Ok(Gathered { task, init, teacher, notes })
    }

    fn initial_weights(loaded: &Loaded) -> Result<Option<PathBuf>> {
        find_initial(loaded)
    }

    fn student(&self, config: &Config, device: &Device) -> Result<Detector> {
        build::student(config, self.train.categories.len(), device)
    }

    fn teacher(&self, config: &Config, device: &Device) -> Result<Option<Detector>> {
        let Some(settings) = &config.teacher else { return Ok(None) };
        build::teacher(config, settings, self.train.categories.len(), device).map(Some)
    }

    fn networks(model: &Detector) -> Vec<Network<'_>> {
        vec![Network::only(model.params())]
    }

    fn initialise(&self, config: &Config, model: &Detector, file: &WeightsFile) -> Result<Vec<String>> {
        agree::check(file, config, Role::StudentInit)?;
        Ok(load::init(model.params(), file)?)
    }

    fn load_teacher(&self, config: &Config, model: &Detector, file: WeightsFile) -> Result<()> {
        let categories = &self.train.categories;
        let file = file.for_categories(&categories_of(categories))?;
        // Weights from elsewhere do not say which classes they know; their number is checked by the shapes.
        if let Ok(card) = ModelCard::of(&file) {
            let what = format!("the teacher {}", file.path.display());
            classes::check_same((&what, &card.categories), ("the data", categories))?;
        }
        agree::check(&file, config, Role::Teacher)?;
        Ok(load::strict(model.params(), &file)?)
    }

    fn method_setting<'d>(
        &self,
        config: &Config,
        _teacher: &Detector,
        device: &'d Device,
    ) -> Result<MethodSetting<'d>> {
        MethodSetting::of_detectors(config, self.train.categories.len(), device)
    }

    fn source(&self, config: &Config) -> Result<BoxedImages> {
        Ok(BoxedImages::new(self.train.clone(), loader_config(config))?)
    }

    fn images(batch: &Batch) -> usize {
        batch.batch
    }

    fn pass(&self, setting: &Setting<'_, Self>, mut batch: Batch, step: u64) -> Result<Pass> {
        let teachers = teacher_images(&mut batch, setting.device)?;
        let (images, targets) = to_device(batch, setting.device)?;
        let views = Views { student: &images, teacher: teachers.as_ref().unwrap_or(&images) };
        training_pass(setting.student, setting.lessons, views, &targets, step, &mut setting.random())
    }

    fn measure(
        &self,
        config: &Config,
        model: &Detector,
        _lessons: Option<&Distillation>,
        device: &Device,
    ) -> Result<MeasuredDetector> {
        let evaluation = detect_all(model, &self.val, config, device, |_, _| {})?;
        let metrics = score(&evaluation, &self.val_annotations)?;
        let (ms_per_image, gflops) = (evaluation.ms_per_image, evaluation.gflops);
        Ok(MeasuredDetector { metrics, ms_per_image, gflops })
    }

    fn card(
        &self,
        config: &Config,
        _network: usize,
        provenance: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let categories = categories_of(&self.train.categories);
        ModelCard { config: config.clone(), categories, provenance }.to_metadata()
    }

    fn picture(&self, students: &[&Job<'_>], folder: &Path, around: &Surroundings<'_>) -> Result<()> {
        draw_detections(students, &folder.join("detections.png"), around)
    }
}

/// Metrics and cost of one evaluation of a detector.
#[derive(Debug, Clone)]
pub struct MeasuredDetector {
    /// COCO's numbers.
    pub metrics: BoxMetrics,
    /// Median wall time of one image, in milliseconds.
    pub ms_per_image: f64,
    /// Multiply-adds of one image, in 10^9.
    pub gflops: f64,
}

impl Measured for MeasuredDetector {
    type Row = ModelRow;

    fn headline(&self) -> f64 {
        self.metrics.stats[0]
    }

    fn told(&self) -> String {
        let [ap, ap50, ap75] = [0, 1, 2].map(|index| 100.0 * self.metrics.stats[index]);
        format!("AP {ap:.1}  AP50 {ap50:.1}  AP75 {ap75:.1}")
    }

    fn logged(&self) -> serde_json::Value {
        self.metrics.stats.to_vec().into()
    }

    fn written(&self) -> serde_json::Value {
        serde_json::to_value(&self.metrics).expect("metrics have a JSON form")
    }

    fn row(&self, name: &str, networks: &[Network<'_>]) -> ModelRow {
        ModelRow {
            name: name.to_owned(),
            stats: self.metrics.stats,
            parameters: parameters_of(networks),
            gflops: self.gflops,
            ms_per_image: self.ms_per_image,
        }
    }

    fn per_class(&self) -> Vec<ClassResult> {
        let classes = self.metrics.per_class.iter();
        classes
            .map(|class| ClassResult { name: class.name.clone(), ap: class.ap, ap50: class.ap50 })
            .collect()
    }
}

/// How a teacher sees the images, if there is one that sees them otherwise than the student.
fn teacher_resize(config: &Config) -> Option<Resize> {
    let own = config.teacher_resize();
    (own != config.input.resize && !config.distill.is_empty()).then_some(own)
}

fn loader_config(config: &Config) -> LoaderConfig {
    let Config { input, data, train, seed, .. } = config;
    LoaderConfig {
        purpose: Purpose::Training {
            seed: *seed,
            flip_probability: input.flip_probability,
            short_sides_px: input.short_side_px.clone(),
            grouping: if data.group_by_aspect { Grouping::ByAspect } else { Grouping::None },
        },
        long_side_max_px: input.long_side_px,
        resize: input.resize,
        teacher_resize: teacher_resize(config),
        images_per_batch: train.batch_size,
        size_divisor: input.size_divisor as usize,
        workers: data.workers,
        batches_ahead: data.queue,
    }
}
