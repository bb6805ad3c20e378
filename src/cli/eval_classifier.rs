//! `ckd-det eval` of a classifier: accuracies of a run's weights on its held-out images.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ckd_collective::Solo;
use ckd_detectors::classifier::Architecture;
use serde::Serialize;

use super::output::Output;
use super::predict_classifier::NAMED;
use super::{Context, say};
use crate::config::{ClassifierTeacher, ClassifyConfig, Loaded};
use crate::data::Labelled;
use crate::data::cifar::Split;
use crate::engine::EngineError;
use crate::engine::classify::{ClassifierCard, load_split, measure_each};
use crate::engine::task::Evaluating;
use crate::export::labeller::{Guess, likeliest};
use crate::export::results::JsonRows;
use crate::weights::recognise::Recognised;
use crate::weights::{WeightsError, WeightsFile};

/// Options of `eval` that apply to classifiers.
pub(super) struct Asked<'a> {
    /// Folder of the data instead of the configuration's.
    pub(super) data_root: Option<&'a Path>,
    /// Number of images, from the first.
    pub(super) max_images: Option<usize>,
    /// Print one JSON object.
    pub(super) json: bool,
    /// File of the likeliest classes of each image.
    pub(super) save: Option<&'a Output>,
}

impl Asked<'_> {
    fn say(&self, line: impl AsRef<str>) -> io::Result<()> {
        match self.save {
            Some(save) => save.say(line),
            None => say(line),
        }
    }
}

/// Answer to a held-out image, as `predict` writes it, with the label.
#[derive(Serialize)]
struct Row<'a> {
    /// Place among the held-out images.
    image_id: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_name: Option<PathBuf>,
    label: &'a str,
    guesses: Vec<Guess>,
}

impl<'a> Row<'a> {
    fn of(set: &'a Labelled, image_id: usize, logits: &[f32]) -> Self {
        Self {
            image_id,
            // The parts of the path, without those that lead nowhere.
            file_name: set.paths().get(image_id).map(|path| path.components().collect()),
            label: &set.classes[set.labels[image_id] as usize],
            guesses: likeliest(logits, &set.classes, NAMED),
        }
    }
}

/// Measures the network of `file`, which `card` describes.
///
/// # Errors
/// Data that is missing or has other classes.
pub(super) fn run(
    file: &WeightsFile,
    card: ClassifierCard,
    asked: &Asked<'_>,
    context: &Context,
) -> anyhow::Result<()> {
    let loaded = as_asked(Loaded::of_weights(card.config.clone()), asked);
    let set = held_out(file, &loaded)?;
    card.check_classes(&file.path, &set.classes)?;
    measured(file, &ClassifierCard { config: loaded.config, ..card }, set, asked, context)
}

/// Measures the network that the tensors of `file` are of, on the data of an experiment: the network is the experiment's
/// student, its teacher, or another one that sees images as the student does.
///
/// # Errors
/// Tensors of no known classifier; data that is missing or has another number of classes.
pub(super) fn run_imported(
    file: &WeightsFile,
    loaded: Loaded<ClassifyConfig>,
    asked: &Asked<'_>,
    context: &Context,
) -> anyhow::Result<()> {
    let refused = |reason: String| WeightsError::Card { path: file.path.clone(), reason };
    let recognised = Recognised::of(file).map_err(refused)?;
    let network: Architecture =
        recognised.name.parse().map_err(|_| refused(format!("{} is no classifier", recognised.name)))?;
    let mut loaded = as_asked(loaded, asked);
    let config = &mut loaded.config;
    let is_teacher =
        |teacher: &ClassifierTeacher| teacher.network == network && config.student.network != network;
    if config.teacher.as_ref().is_some_and(is_teacher) {
        config.labelled.normalization = Some(config.teacher_normalization());
    }
    config.student.network = network;
    let set = held_out(file, &loaded)?;
    let classes = set.classes.clone();
    let card = ClassifierCard { config: loaded.config, classes, provenance: BTreeMap::new() };
    if !asked.json {
        asked.say(format!("{network}, told from its tensors"))?;
    }
    measured(file, &card, set, asked, context)
}

fn as_asked(mut loaded: Loaded<ClassifyConfig>, asked: &Asked<'_>) -> Loaded<ClassifyConfig> {
    let config = &mut loaded.config;
    if let Some(root) = asked.data_root {
        config.labelled.data.root = root.to_owned();
    }
    config.run.eval.max_images = asked.max_images.or(config.run.eval.max_images);
    loaded
}

fn held_out(file: &WeightsFile, loaded: &Loaded<ClassifyConfig>) -> anyhow::Result<Labelled> {
    let root = loaded.resolve(&loaded.config.labelled.data.root);
    if !root.exists() {
        return Err(EngineError::Missing(format!(
            "the data to measure {} on is not at {}: name its folder with --data-root",
            file.path.display(),
            root.display()
        ))
        .into());
    }
    Ok(load_split(&loaded.config, &root, Split::Test)?)
}

fn measured(
    file: &WeightsFile,
    card: &ClassifierCard,
    set: Labelled,
    asked: &Asked<'_>,
    context: &Context,
) -> anyhow::Result<()> {
    if let Some(save) = asked.save {
        save.check()?;
    }
    let mut rows = asked.save.map(|save| JsonRows::new(save.path()));
    let (model, set) = (card.network(file, &context.device)?, Arc::new(set));
    let (stop, alone) = (AtomicBool::new(false), Solo::default());
    let around = Evaluating { device: &context.device, ranks: &alone, stop: &stop };
    let measured = measure_each(&model, &set, &card.config, None, around, |image, logits| match &mut rows {
        Some(rows) => Ok(rows.push(&Row::of(&set, image, logits))?),
        None => Ok(()),
    })?;
    rows.map_or(Ok(()), JsonRows::finish)?;
    let accuracy = &measured.accuracy;
    if asked.json {
        return Ok(asked.say(serde_json::to_string(accuracy)?)?);
    }
    asked.say(format!("{} on {} images", file.path.display(), accuracy.images))?;
    let [top1, top5, ece] = [accuracy.top1, accuracy.top5, accuracy.ece].map(|fraction| 100.0 * fraction);
    asked.say(format!("top-1 {top1:.2}  top-5 {top5:.2}  ECE {ece:.2}  NLL {:.4}", accuracy.nll))?;
    Ok(asked.say(format!("{:.2} ms an image, {:.3} GFLOPs", measured.ms_per_image, measured.gflops))?)
}
