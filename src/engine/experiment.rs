//! An experiment: the teacher, the student alone, the student distilled, and what came of it.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use candle_core::Device;
use serde::Serialize;

use super::Result;
use super::distillers::MethodSetting;
use super::job::{Job, Start, Surroundings};
use super::outcome::Outcome;
use super::pass::Distillation;
use super::picture::draw_detections;
use super::sources::{Inputs, resolved};
use super::teacher::{Teacher, set_aside};
use crate::config::{Config, Loaded};
use crate::fsx;
use crate::report::table::Comparison;
use crate::weights::WeightsFile;

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
    Student(Box<Outcome>),
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
}

/// Runs the whole experiment; missing data or weights are reported before anything is loaded.
///
/// An earlier run of the same name is kept beside the new one. To resume is to go through the same stages: what
/// is finished is not done again.
pub fn run(loaded: &Loaded, request: &Request) -> Result<Finished> {
    let inputs = Inputs::find(loaded)?;
    let config = &resolved(loaded)?;
    let data = inputs.data.load()?;
    let around = Surroundings {
        data: &data,
        device: request.device,
        quiet: request.quiet,
        stop: request.stop,
        command: request.command,
    };
    data.reports.iter().for_each(|report| around.note(&report.to_string()));
    let init = inputs.init.as_deref().map(WeightsFile::read).transpose()?;
    let teacher = Teacher::prepare(config, loaded, &inputs, &around)?;
    let folder = config.output.join(&config.name);
    if request.start == Start::Anew {
        set_aside(&folder, &around)?;
    }

    let alone_config = without_teacher(config);
    let alone = Job {
        config: &alone_config,
        folder: folder.join("alone"),
        label: "student alone".to_owned(),
        init: init.as_ref(),
        distillation: None,
        teacher_hash: None,
    };
    let compare = config.train.compare_alone && teacher.is_some();
    let alone_outcome = compare.then(|| finish(&alone, request.start, &around)).transpose()?;

    let (teacher_row, distillation, teacher_hash) = match teacher {
        Some(Teacher { row, detector, hash }) => {
            let classes = data.train.categories.len();
            let setting = MethodSetting::of_detectors(config, classes, request.device)?;
            (row, Distillation::new(&config.distill, detector, &setting)?, hash)
        }
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
    let outcome = finish(&job, request.start, &around)?;

    let finding = match (teacher_row, alone_outcome) {
        (Some(teacher), Some(student_alone)) => Finding::Comparison(Box::new(Comparison {
            teacher,
            student_alone: student_alone.row,
            student_distilled: outcome.row,
        })),
        _ => Finding::Student(Box::new(outcome)),
    };
    write_summary(&folder, config, &finding)?;
    let students: Vec<&Job> = if compare { vec![&alone, &job] } else { vec![&job] };
    draw_detections(&students, &folder.join("detections.png"), &around)?;
    Ok(Finished { finding, folder })
}

/// Runs the job, unless it is to be resumed and came to its end before.
fn finish(job: &Job, start: Start, around: &Surroundings) -> Result<Outcome> {
    match job.finished() {
        Some(outcome) if start == Start::Resume => Ok(outcome),
        _ => job.run(start, around),
    }
}

/// The same experiment for a student on its own.
pub fn without_teacher(config: &Config) -> Config {
    let mut config = config.clone();
    config.teacher = None;
    config.distill.clear();
    config.train.compare_alone = false;
    config
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
        Finding::Student(outcome) => (None, Some(&**outcome)),
    };
    let summary = Summary { name: &config.name, seed: config.seed, comparison, student };
    let json = serde_json::to_vec_pretty(&summary).expect("a summary has a JSON form");
    Ok(fsx::write_atomic(&folder.join("summary.json"), &json)?)
}
