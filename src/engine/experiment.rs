//! An experiment: the teacher, the student alone, the student distilled, and what came of it.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use candle_core::Device;
use ckd_detectors::Detector;
use serde::Serialize;

use super::evaluate::{detect_all, score, to_device};
use super::pass::Distillation;
use super::sources::{DataPaths, DataSets, class_list, find_weights};
use super::trainer::{Job, Measured, Outcome, Start, Surroundings};
use super::{EngineError, Result, build};
use crate::config::{Config, Loaded};
use crate::data::transform::ResizeRule;
use crate::data::{Batch, ClassIndex, Dataset, decode};
use crate::fsx;
use crate::report::draw::{DrawnBox, Panel, grid, save_png};
use crate::report::table::{Comparison, ModelRow};
use crate::weights::{ModelCard, WeightsFile, load};

/// How to run an experiment.
pub struct Request<'a> {
    /// Where to compute.
    pub device: &'a Device,
    /// Whether to say nothing on the way.
    pub quiet: bool,
    /// Anew or from the last checkpoint.
    pub start: Start,
    /// Set when the user wants the run to stop.
    pub stop: &'a AtomicBool,
    /// What the user typed.
    pub command: &'a str,
}

/// What an experiment gave.
#[derive(Debug, Clone)]
pub enum Finding {
    /// A student, without anything to compare it with.
    Student(Outcome),
    /// All three.
    Comparison(Box<Comparison>),
}

/// A finished experiment.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The numbers.
    pub finding: Finding,
    /// Where everything is.
    pub folder: PathBuf,
    /// What was noticed on the way, for the user.
    pub notes: Vec<String>,
}

/// Runs the whole experiment; missing data or weights are reported before anything is loaded.
pub fn run(loaded: &Loaded, request: &Request) -> Result<Finished> {
    let config = &loaded.config;
    let files = Files::find(loaded)?;
    let paths = DataPaths::find(loaded)?;
    let data = paths.load()?;
    let mut notes: Vec<String> = data.reports.iter().map(ToString::to_string).collect();
    if !request.quiet {
        notes.drain(..).for_each(|note| eprintln!("{}", note.trim_end()));
    }
    let folder = config.output.join(&config.name);
    let around = Surroundings {
        data: &data,
        device: request.device,
        quiet: request.quiet,
        stop: request.stop,
        command: request.command,
    };
    let init = files.init.as_deref().map(WeightsFile::read).transpose()?;
    let teacher = prepare_teacher(loaded, &files, &around)?;
    if request.start == Start::Anew {
        notes.extend(set_aside(&folder)?);
    }

    let alone_config = plain(config);
    let alone = Job {
        config: &alone_config,
        folder: folder.join("alone"),
        label: "student alone".to_owned(),
        init: init.as_ref(),
        distillation: None,
        teacher_hash: None,
    };
    let alone_outcome = match (&teacher, config.train.compare_alone) {
        (Some(_), true) => Some(match alone.finished() {
            Some(outcome) => outcome,
            None => alone.run(request.start, &around)?,
        }),
        _ => None,
    };

    let (teacher_row, distillation, teacher_hash) = match teacher {
        Some(Teacher { row, detector, hash }) => (row, Distillation::new(config, detector)?, hash),
        None => (None, None, None),
    };
    let job = Job {
        config,
        folder: folder.clone(),
        label: if distillation.is_some() { "student distilled" } else { "student" }.to_owned(),
        init: init.as_ref(),
        distillation: distillation.as_ref(),
        teacher_hash,
    };
    let outcome = match job.finished() {
        Some(outcome) if request.start == Start::Resume => outcome,
        _ => job.run(request.start, &around)?,
    };

    let finding = match (teacher_row, alone_outcome) {
        (Some(teacher), Some(student_alone)) => Finding::Comparison(Box::new(Comparison {
            teacher,
            student_alone: student_alone.row,
            student_distilled: outcome.row,
        })),
        _ => Finding::Student(outcome),
    };
    write_summary(&folder, config, &finding)?;
    draw_detections(loaded, &folder, &data, &alone, &job, request.device)?;
    Ok(Finished { finding, folder, notes })
}

/// The same experiment without a teacher.
fn plain(config: &Config) -> Config {
    Config { teacher: None, distill: Vec::new(), ..config.clone() }
}

/// Weights that the configuration names.
struct Files {
    init: Option<PathBuf>,
    teacher: Option<PathBuf>,
}

impl Files {
    fn find(loaded: &Loaded) -> Result<Self> {
        let find = |key: &str, path: &Option<PathBuf>, may_be_random: bool| -> Result<Option<PathBuf>> {
            match path {
                Some(path) if may_be_random && !loaded.resolve(path).exists() => Ok(None),
                Some(path) => find_weights(loaded, key, path).map(Some),
                None => Ok(None),
            }
        };
        let student = &loaded.config.student;
        Ok(Self {
            init: find("student.init", &student.init, student.network.allow_random_weights)?,
            teacher: match &loaded.config.teacher {
                Some(teacher) => {
                    find("teacher.weights", &teacher.weights, teacher.network.allow_random_weights)?
                }
                None => None,
            },
        })
    }
}

struct Teacher {
    row: Option<ModelRow>,
    detector: Detector,
    hash: Option<String>,
}

/// Loads the teacher, or trains it first if an experiment does that.
fn prepare_teacher(loaded: &Loaded, files: &Files, around: &Surroundings) -> Result<Option<Teacher>> {
    let config = &loaded.config;
    let Some(settings) = &config.teacher else { return Ok(None) };
    let mut row = None;
    let path = match (&loaded.teacher_experiment, &files.teacher) {
        (Some(experiment), _) => {
            let (path, outcome) = train_teacher(experiment, around)?;
            row = Some(ModelRow { name: "teacher".to_owned(), ..outcome.row });
            Some(path)
        }
        (None, path) => path.clone(),
    };
    let categories = &around.data.train.categories;
    let detector = build::teacher(config, settings, categories.len(), around.device)?;
    let mut hash = None;
    if let Some(path) = path {
        let file = WeightsFile::read(&path)?;
        if let Ok(card) = ModelCard::of(&file) {
            let theirs: Vec<(u64, &str)> = card.categories.iter().map(|c| (c.id, c.name.as_str())).collect();
            let ours: Vec<(u64, &str)> = categories.iter().map(|(id, name)| (id.0, name)).collect();
            if theirs != ours {
                return Err(EngineError::Classes {
                    what: format!("the teacher {}", path.display()),
                    ours: class_list(theirs.iter().map(|(_, name)| *name)),
                    other: "the data set".to_owned(),
                    theirs: class_list(ours.iter().map(|(_, name)| *name)),
                });
            }
        }
        load::strict(detector.params(), &file)?;
        hash = Some(file.hash);
    }
    if row.is_none() && config.train.compare_alone {
        let evaluation = detect_all(&detector, &around.data.val, config, around.device, |_, _| {})?;
        let metrics = score(&evaluation, &around.data.val_annotations)?;
        let measured = Measured { metrics, ms_per_image: evaluation.ms_per_image, gflops: evaluation.gflops };
        row = Some(measured.row("teacher", &detector));
    }
    Ok(Some(Teacher { row, detector, hash }))
}

/// Trains the teacher's own experiment, or finds what an earlier run of it left.
fn train_teacher(experiment: &Loaded, around: &Surroundings) -> Result<(PathBuf, Outcome)> {
    let config = &experiment.config;
    let files = Files::find(experiment)?;
    let init = files.init.as_deref().map(WeightsFile::read).transpose()?;
    let job = Job {
        config,
        folder: config.output.join(&config.name),
        label: "teacher".to_owned(),
        init: init.as_ref(),
        distillation: None,
        teacher_hash: None,
    };
    if let Some(outcome) = job.finished() {
        if !around.quiet {
            eprintln!("the teacher was trained before: {}", job.weights().display());
        }
        return Ok((job.weights(), outcome));
    }
    // An interrupted teacher goes on; one of another configuration is set aside.
    let outcome = match job.run(Start::Resume, around) {
        Err(EngineError::Run { .. }) => {
            set_aside(&job.folder)?;
            job.run(Start::Anew, around)?
        }
        other => other?,
    };
    Ok((job.weights(), outcome))
}

/// Moves an earlier run out of the way; nothing is ever overwritten.
fn set_aside(folder: &Path) -> Result<Option<String>> {
    if !folder.exists() {
        return Ok(None);
    }
    let kept = (1..)
        .map(|number| {
            folder.with_file_name(format!(
                "{}.{number}",
                folder.file_name().unwrap_or_default().to_string_lossy()
            ))
        })
        .find(|path| !path.exists())
        .expect("there is always a next number");
    fsx::rename(folder, &kept)?;
    Ok(Some(format!("the earlier run is kept as {}", kept.display())))
}

#[derive(Serialize)]
struct Summary<'a> {
    name: &'a str,
    seed: u64,
    #[serde(flatten)]
    comparison: Option<&'a Comparison>,
    #[serde(skip_serializing_if = "Option::is_none")]
    student: Option<&'a Outcome>,
}

fn write_summary(folder: &Path, config: &Config, finding: &Finding) -> Result<()> {
    let (comparison, student) = match finding {
        Finding::Comparison(comparison) => (Some(&**comparison), None),
        Finding::Student(outcome) => (None, Some(outcome)),
    };
    let summary = Summary { name: &config.name, seed: config.seed, comparison, student };
    let json = serde_json::to_vec_pretty(&summary).expect("a summary has a JSON form");
    Ok(fsx::write_atomic(&folder.join("summary.json"), &json)?)
}

/// Images of the picture.
const SHOWN: usize = 4;
/// Scores below this are not drawn.
const DRAWN_SCORE: f32 = 0.5;

/// Writes `detections.png`: the first validation images with the truth and what each model found.
fn draw_detections(
    loaded: &Loaded,
    folder: &Path,
    data: &DataSets,
    alone: &Job,
    job: &Job,
    device: &Device,
) -> Result<()> {
    let config = &loaded.config;
    let classes = data.val.categories.len();
    let mut models = Vec::new();
    for (title, weights) in [("student alone", alone.weights()), (job.label.as_str(), job.weights())] {
        if weights.exists() {
            let detector = build::frozen_student(config, classes, device)?;
            load::strict(detector.params(), &WeightsFile::read(&weights)?)?;
            models.push((title.to_owned(), detector));
        }
    }
    let mut rows = Vec::new();
    for index in
        (0..data.val.images.len()).filter(|&index| !data.val.annotations(index).is_empty()).take(SHOWN)
    {
        let image = decode::read(&data.val.images[index].path).map_err(crate::data::DataError::from)?;
        let mut row = vec![Panel {
            title: "ground truth".to_owned(),
            image: image.clone(),
            boxes: truth(&data.val, index),
        }];
        let rule = ResizeRule {
            short_side_px: config.input.eval_short_side(),
            long_side_max_px: config.input.long_side_px,
        };
        let batch = Batch::of_images(std::slice::from_ref(&image), rule, config.input.size_divisor as usize);
        let (images, _) = to_device(batch, device)?;
        for (title, detector) in &models {
            let original = (image.height() as usize, image.width() as usize);
            let found = detector.detect(&images)?.pop().unwrap_or_default();
            let found = found.resized(images.sizes[0], original).map_err(ckd_detectors::Error::from)?;
            let name =
                |label: u32| data.val.categories.name(ClassIndex(label)).unwrap_or_default().to_owned();
            let boxes = found
                .boxes
                .iter()
                .zip(&found.scores)
                .zip(&found.labels)
                .filter(|((_, score), _)| **score >= DRAWN_SCORE)
                .map(|((&xyxy, &score), &label)| DrawnBox {
                    xyxy,
                    class: label as usize,
                    name: name(label),
                    score: Some(score),
                })
                .collect();
            row.push(Panel { title: title.clone(), image: image.clone(), boxes });
        }
        rows.push(row);
    }
    Ok(save_png(&folder.join("detections.png"), &grid(&rows))?)
}

/// The annotated boxes of an image, ready to draw.
fn truth(dataset: &Dataset, index: usize) -> Vec<DrawnBox> {
    dataset
        .annotations(index)
        .iter()
        .map(|annotation| {
            let [x, y, w, h] = annotation.bbox.map(|value| value as f32);
            DrawnBox {
                xyxy: [x, y, x + w, y + h],
                class: annotation.category.0 as usize,
                name: dataset.categories.name(annotation.category).unwrap_or_default().to_owned(),
                score: None,
            }
        })
        .collect()
}
