//! The task of a detector: COCO data, a detector's step, COCO metrics.
//!
//! | file | what lives there |
//! |---|---|
//! | [`sources`] | data and weights, found before anything is loaded |
//! | [`batch`] | which batches are loaded, and a batch as tensors |
//! | [`build`] | configuration to network |
//! | [`pass`] | one batch: teacher, student, losses, gradients |
//! | `shares` | each part's share of the gradient at the pyramid |
//! | [`evaluate`] | a detector over a data set |
//! | [`eight_bits`] | a detector in 8 bits, by what goes into its layers |
//! | `picture` | detections beside the truth |
//! | `likeness` | feature maps of students beside the teacher's |
//! | [`mod@bench`] | how long steps and inference take |

pub mod batch;
pub mod bench;
mod box_rows;
pub mod build;
pub mod eight_bits;
pub mod evaluate;
mod heads;
pub mod jitter;
mod likeness;
pub mod pass;
mod picture;
mod shares;
pub mod sources;

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::Device;
use ckd_detectors::Detector;
use ckd_detectors::taps::Tap;
use ckd_kernels::Gradients;
use image::RgbImage;

pub use sources::{DataSets, LoadedSplit};

use self::batch::{teacher_images, to_device, training_batches};
use self::evaluate::{analysed, detect_shared, score};
use self::pass::{Moment, Views, training_pass};
use self::picture::{Extremes, evaluation_picture};
use self::shares::Ledger;
use self::sources::Inputs;
use super::distillation::Distillation;
use super::missing::Beginning;
use super::outcome::ClassResult;
use super::pass::{GradientSink, Pass};
use super::task::{
    Evaluating, Gathered, Measured, Network, Setting, Settings, Task, Trained, blake3_of, parameters_of,
};
use super::{Result, classes};
use crate::config::{Config, Loaded, Run, TeacherPrecision};
use crate::data::boxed_images::BoxedImages;
use crate::data::{Batch, Workforce};
use crate::distill::Width;
use crate::distill::{Distill, MethodSetting};
use crate::eval::{Analysis, BoxMetrics, Detection};
use crate::report::table::ModelRow;
use crate::weights::agree::{self, Role};
use crate::weights::card::categories_of;
use crate::weights::{ModelCard, WeightsFile, load};

/// The beginning of the names of a detector's backbone: all but its pyramid and heads.
pub(super) const BACKBONE: &str = "backbone.body.";

impl Settings for Config {
    type Task = DataSets;

    fn run(&self) -> &Run {
        &self.run
    }

    fn workforce(&self) -> Workforce {
        Workforce { workers: self.data.workers, batches_ahead: self.data.queue }
    }

    fn has_teacher(&self) -> bool {
        self.teacher.is_some()
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
        let mut config = self.clone();
        config.teacher = None;
        config.distill.clear();
        config.run.train.compare_alone = false;
        config
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

    fn gather(loaded: &Loaded<Config>) -> Result<Gathered<Self>> {
        let Inputs { data, beginning: Beginning { init, teacher } } = Inputs::find(loaded)?;
        let task = data.load()?;
        let notes = task.reports.iter().map(ToString::to_string).collect();
        let bad_images = task.reports.iter().flat_map(|report| report.bad_images.clone()).collect();
        Ok(Gathered { task, init, teacher, notes, bad_images })
    }

    fn blake3(&self) -> String {
        blake3_of(&[self.train.blake3(), self.val.blake3()])
    }

    fn initial_weights(loaded: &Loaded<Config>, missing: &mut Vec<String>) -> Option<PathBuf> {
        sources::initial_weights(loaded, missing)
    }

    fn teacher_weights(loaded: &Loaded<Config>, missing: &mut Vec<String>) -> Option<PathBuf> {
        sources::teacher_weights(loaded, missing)
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

    fn in_backbone(_: &Detector, name: &str) -> bool {
        name.starts_with(BACKBONE)
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

    fn ready_teacher(&self, config: &Config, model: &Detector) -> Result<()> {
        match config.teacher.as_ref().map(|teacher| teacher.precision) {
            Some(TeacherPrecision::Int8) => eight_bits::round(model, &self.train, &config.seen_by_teacher()),
            Some(TeacherPrecision::Engine) | None => Ok(()),
        }
    }

    fn method_setting<'d>(
        &self,
        config: &Config,
        _teacher: &Detector,
        device: &'d Device,
    ) -> Result<MethodSetting<'d>> {
        let setting = method_setting(config, self.train.categories.len(), device)?;
        Ok(MethodSetting { images: self.train.images.len(), ..setting })
    }

    fn source(&self, config: &Config) -> Result<BoxedImages> {
        Ok(BoxedImages::new(self.train.clone(), training_batches(config))?)
    }

    fn held_out(&self) -> usize {
        self.val.images.len()
    }

    fn images(batch: &Batch) -> usize {
        batch.batch
    }

    fn image_ids(batch: &Batch) -> Vec<u64> {
        batch.image_ids.iter().map(|id| id.0).collect()
    }

    fn pass(
        &self,
        setting: &Setting<'_, Self>,
        batch: Batch,
        step: u64,
        gradients: &mut GradientSink<'_>,
    ) -> Result<Pass> {
        pass_under(None, setting, batch, step, gradients)
    }

    fn gradient_norms(
        &self,
        setting: &Setting<'_, Self>,
        batch: Batch,
        step: u64,
    ) -> Result<BTreeMap<String, f64>> {
        let ledger = Ledger::default();
        pass_under(Some(&ledger), setting, batch, step, &mut Gradients::new())?;
        Ok(ledger.norms())
    }

    fn measure(
        &self,
        config: &Config,
        model: &Detector,
        _lessons: Option<&Distillation<Detector>>,
        around: Evaluating<'_>,
    ) -> Result<MeasuredDetector> {
        let evaluation = detect_shared(model, &self.val, config, around)?;
        let metrics = score(&evaluation, &self.truth)?;
        let analysis = analysed(&evaluation, &self.truth)?;
        let (ms_per_image, gflops) = (evaluation.ms_per_image, evaluation.gflops);
        let extremes = Extremes::of(&self.val, &evaluation);
        let detections = evaluation.detections;
        Ok(MeasuredDetector { metrics, analysis, ms_per_image, gflops, extremes, detections })
    }

    fn evaluation_picture(&self, measured: &MeasuredDetector) -> Result<Option<RgbImage>> {
        evaluation_picture(&self.val, &measured.detections).map(Some)
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

    fn picture(&self, trained: &Trained<'_, Self>) -> Result<()> {
        picture::draw(&self.val, self, trained)
    }
}

/// Runs teacher and student on `batch`; `ledger` notes whose gradients come back.
fn pass_under(
    ledger: Option<&Ledger>,
    setting: &Setting<'_, DataSets>,
    mut batch: Batch,
    step: u64,
    gradients: &mut GradientSink<'_>,
) -> Result<Pass> {
    let teachers = teacher_images(&mut batch, setting.device)?;
    let (images, targets) = to_device(batch, setting.device)?;
    let views = Views { student: &images, teacher: teachers.as_ref().unwrap_or(&images) };
    let mut random = setting.random();
    let moment = Moment { step, random: &mut random, parts: setting.parts, ledger };
    training_pass(setting.student, setting.lessons, views, &targets, moment, gradients)
}

/// Metrics and cost of one evaluation of a detector.
#[derive(Debug, Clone)]
pub struct MeasuredDetector {
    /// COCO's numbers.
    pub metrics: BoxMetrics,
    /// Curves, errors by kind, classes taken for others.
    pub analysis: Analysis,
    /// Median wall time of one image, in milliseconds.
    pub ms_per_image: f64,
    /// Multiply-adds of one image, in 10^9.
    pub gflops: f64,
    /// The worst and the best images.
    extremes: Extremes,
    /// All detections.
    detections: Vec<Detection>,
}

impl Measured for MeasuredDetector {
    type Row = ModelRow;

    fn headline(&self) -> f64 {
        self.metrics.stats[0]
    }

    fn told(&self) -> String {
        let [ap, ap50, ap75] = [0, 1, 2].map(|index| match self.metrics.stats[index] {
            stat if stat < 0.0 => "-".to_owned(),
            stat => format!("{:.1}", 100.0 * stat),
        });
        let nothing = if self.metrics.stats[0] < 0.0 { "  (no box to measure by)" } else { "" };
        format!("AP {ap}  AP50 {ap50}  AP75 {ap75}{nothing}")
    }

    fn logged(&self) -> serde_json::Value {
        self.metrics.stats.to_vec().into()
    }

    fn written(&self) -> serde_json::Value {
        let mut written = serde_json::to_value(&self.metrics).expect("metrics have a JSON form");
        written["images"] = serde_json::to_value(&self.extremes).expect("numbers have a JSON form");
        written["analysis"] = serde_json::to_value(&self.analysis).expect("an analysis has a JSON form");
        written
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

    fn detections(&self) -> Option<&[Detection]> {
        Some(&self.detections)
    }

    fn per_class(&self) -> Vec<ClassResult> {
        let classes = self.metrics.per_class.iter();
        classes
            .map(|class| ClassResult { name: class.name.clone(), ap: class.ap, ap50: class.ap50 })
            .collect()
    }
}

/// Facts that methods must know of the detectors of `config`, which know `classes` foreground classes.
///
/// # Errors
/// Anchors that cannot be.
pub fn method_setting<'d>(config: &Config, classes: usize, device: &'d Device) -> Result<MethodSetting<'d>> {
    let detector = &config.detector;
    let student = config.student.network.settings(detector).fpn_channels;
    let teacher = config.teacher.as_ref();
    let teacher = teacher.map(|teacher| teacher.network.settings(config.teacher_detector()).fpn_channels);
    let channels = Width { teacher: teacher.unwrap_or(student), student };
    let pyramid = config.pyramid(&config.student.network);
    let levels = config.common_levels().into_iter();
    let both = |width| Width { teacher: width, student: width };
    let rows = [(Tap::RoiLogits, both(classes + 1)), (Tap::AnchorLogits, both(classes))];
    Ok(MethodSetting {
        seed: config.run.seed,
        device,
        widths: levels.map(|level| (Tap::Fpn(level), channels)).chain(rows).collect(),
        anchors: Some(detector.anchors(&pyramid)?),
        images: 0,
        classes: Vec::new(),
    })
}
