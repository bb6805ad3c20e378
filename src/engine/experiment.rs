//! An experiment: the teacher, the student alone, the student distilled, and what came of it.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use candle_core::Device;
use ckd_collective::Collective;
use serde::Serialize;

use super::distillation::Distillation;
use super::job::{Job, Row, Start, Surroundings, claimed};
use super::missing::{Beginning, refuse};
use super::observer::Observers;
use super::outcome::Outcome;
use super::ranks::{check_statistics, from_first, own_parts, set_patience};
use super::task::{Gathered, Settings, Task, Trained};
use super::teacher::{self, Teacher, check_folders, folder_of};
use super::{EngineError, Result, recorded};
use crate::config::{Loaded, Run};
use crate::distill::{Distill, DistillError, Distiller, MethodSetting};
use crate::fsx;
use crate::report::run_folder::RunFolder;
use crate::report::table::{Comparison, Row as _};
use crate::weights::WeightsFile;

/// A maker of a method beside those of the configuration, for the networks and the data of a run.
pub type MakeMethod<'a> =
    dyn Fn(&MethodSetting<'_>) -> std::result::Result<Box<dyn Distiller>, DistillError> + 'a;

/// Settings of one execution of an experiment.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Device of all computations.
    pub device: &'a Device,
    /// The processes of the run: [`Solo`](ckd_collective::Solo), if there is one only.
    pub ranks: &'a dyn Collective,
    /// Told of everything on the way. [`Observers::of_files`] write the log and the best weights.
    pub observers: &'a Observers<'a>,
    /// Anew or from the last checkpoint.
    pub start: Start,
    /// Set when the user wants the run to stop.
    pub stop: &'a AtomicBool,
    /// Command that resumes the run after an interruption.
    pub command: &'a str,
    /// Methods beside those of the configuration.
    pub methods: &'a [Box<MakeMethod<'a>>],
}

/// Result of an experiment.
#[derive(Debug, Clone)]
pub enum Finding<R> {
    /// A student, without anything to compare it with.
    Student(Box<Outcome<R>>),
    /// All three.
    Comparison(Box<Comparison<R>>),
}

/// A finished experiment.
#[derive(Debug, Clone)]
pub struct Finished<R> {
    /// The numbers.
    pub finding: Finding<R>,
    /// The student's, whatever it was compared with.
    pub student: Outcome<R>,
    /// Folder of all results.
    pub folder: PathBuf,
}

/// Runs the whole experiment; missing data or weights are reported before anything is loaded.
///
/// An earlier run of the same name is kept beside the new one. To resume is to go through the same stages: what
/// is finished is not done again.
pub fn run<C: Settings>(loaded: &Loaded<C>, request: &Request) -> Result<Finished<Row<C::Task>>> {
    run_gathered(C::Task::gather(loaded)?, loaded, request)
}

/// Runs the whole experiment on data in memory instead of the configuration's; a teacher that is trained first learns
/// from it, too.
///
/// # Errors
/// As [`run`].
pub fn run_on<C: Settings>(
    task: C::Task,
    loaded: &Loaded<C>,
    request: &Request,
) -> Result<Finished<Row<C::Task>>> {
    let mut missing = Vec::new();
    let Beginning { init, teacher } = Beginning::find(loaded, &mut missing);
    refuse(missing)?;
    run_gathered(Gathered { task, init, teacher, notes: Vec::new(), bad_images: Vec::new() }, loaded, request)
}

fn run_gathered<C: Settings>(
    gathered: Gathered<C::Task>,
    loaded: &Loaded<C>,
    request: &Request,
) -> Result<Finished<Row<C::Task>>> {
    let config = &loaded.resolved();
    let ranks = request.ranks;
    request.observers.set_apart(!ranks.is_first());
    set_patience(ranks, config.run().train.rank_timeout_s);
    refuse_what_ranks_cannot_share(config, ranks)?;
    let around = Surroundings {
        data: &gathered.task,
        bad_images: &gathered.bad_images,
        device: request.device,
        ranks: request.ranks,
        observers: request.observers,
        stop: request.stop,
        command: request.command,
    };
    gathered.notes.iter().for_each(|note| around.observers.note(note));
    let init = gathered.init.as_deref().map(WeightsFile::read).transpose()?;
    check_folders(config, loaded)?;
    let (settings, folder) = (config.run(), folder_of(config));
    let mut claim = claimed(&folder, &around)?;
    // A teacher that is trained is a part of the run; one that only is loaded may still be refused.
    let (is_new, trains_teacher) = (request.start == Start::Anew, loaded.teacher_experiment.is_some());
    if is_new {
        // Nothing finished is moved before all that can be refused has been.
        check_parts(config, loaded, init.as_ref(), (&around, request))?;
    }
    if is_new && trains_teacher {
        claim = claim.emptied(around.observers)?;
    }
    if ranks.is_first() && trains_teacher && (is_new || !folder.config().exists()) {
        recorded::record(&folder, config, &gathered.task)?;
    }
    let teacher = Teacher::prepare(config, loaded, gathered.teacher.as_deref(), &around)?;
    if is_new {
        claim = claim.emptied(around.observers)?;
    }

    let alone_config = config.without_teacher();
    let alone = Job {
        config: &alone_config,
        folder: folder.alone(),
        claim: &claim,
        label: "student alone".to_owned(),
        init: init.as_ref(),
        distillation: None,
        teacher_hash: None,
        fitted: None,
    };
    let compare = settings.train.compare_alone && teacher.is_some();
    let alone_outcome = compare.then(|| finish(&alone, request.start, &around)).transpose()?;

    let (teacher_row, distillation, teacher_hash) = match teacher {
        Some(Teacher { row, model, hash }) => (row, methods(config, model, (&around, request))?, hash),
        None => (None, None, None),
    };
    let job = Job {
        config,
        folder: folder.clone(),
        claim: &claim,
        label: if distillation.is_some() { C::Task::TAUGHT } else { C::Task::LEARNER }.to_owned(),
        init: init.as_ref(),
        distillation: distillation.as_ref(),
        teacher_hash,
        fitted: alone_outcome.as_ref().and_then(|alone| alone.fitted),
    };
    let outcome = finish(&job, request.start, &around)?;

    let finding = match (teacher_row, alone_outcome) {
        (Some(teacher), Some(student_alone)) => Finding::Comparison(Box::new(Comparison {
            teacher: teacher.called("teacher"),
            student_alone: student_alone.row,
            student_distilled: outcome.row.clone(),
        })),
        _ => Finding::Student(Box::new(outcome.clone())),
    };
    if ranks.is_first() {
        write_summary(&folder, settings, &finding)?;
        let students = compare.then_some(&alone).into_iter().chain([&job]);
        let students: Vec<(&str, &RunFolder)> =
            students.map(|job| (job.label.as_str(), &job.folder)).collect();
        gathered.task.picture(&Trained {
            config,
            teacher: distillation.as_ref().map(Distillation::teacher),
            init: init.as_ref(),
            students: &students,
            folder: &folder,
            device: request.device,
            step: outcome.steps,
        })?;
        request.observers.finished(&folder)?;
    }
    if !claim.is_held() {
        let state = "what it had written by then is gone".to_owned();
        return Err(EngineError::Lost { path: folder.path().to_owned(), state });
    }
    Ok(Finished { finding, student: outcome, folder: folder.path().to_owned() })
}

/// Makes each part of the experiment once, and lets it go: networks with their initial weights, and methods.
///
/// # Errors
/// Whatever does not fit.
fn check_parts<T: Task>(
    config: &T::Config,
    loaded: &Loaded<T::Config>,
    init: Option<&WeightsFile>,
    (around, request): (&Surroundings<'_, T>, &Request),
) -> Result<()> {
    if let Some(experiment) = &loaded.teacher_experiment {
        teacher::check(config, experiment, around)?;
    }
    if let Some(init) = init {
        let student = around.data.student(config, around.device)?;
        around.data.initialise(config, &student, init)?;
    }
    if config.has_teacher()
        && let Some(teacher) = around.data.teacher(config, around.device)?
    {
        methods(config, teacher, (around, request))?;
    }
    Ok(())
}

/// The methods of the configuration and of the request.
fn methods<T: Task>(
    config: &T::Config,
    teacher: T::Model,
    (around, request): (&Surroundings<'_, T>, &Request),
) -> Result<Option<Distillation<T::Model>>> {
    let setting = around.data.method_setting(config, &teacher, request.device)?;
    let own = request.methods.iter().map(|make| make(&setting));
    let own = own.collect::<std::result::Result<_, _>>()?;
    Distillation::new(config.distill(), own, teacher, &setting)
}

/// Refuses what several processes cannot compute as one would.
fn refuse_what_ranks_cannot_share<C: Settings>(config: &C, ranks: &dyn Collective) -> Result<()> {
    own_parts(ranks, config.run().train.parts() as u64)?;
    check_statistics(ranks, &config.run().train)?;
    let remembers = |entry: &&Distill| entry.word() == "crd" && !entry.is_off();
    match config.distill().iter().find(remembers) {
        Some(_) if !ranks.is_alone() => Err(EngineError::Alone(
            "crd moves its memories and their normalisers within an update, from part to part, so several processes cannot \
             share it: train it with one process"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

/// The folder of the runs of an experiment.
pub fn run_folder<C: Settings>(loaded: &Loaded<C>) -> RunFolder {
    folder_of(&loaded.resolved())
}

/// Runs the job, unless it is to be resumed and came to its end before.
fn finish<T: Task>(job: &Job<'_, T>, start: Start, around: &Surroundings<'_, T>) -> Result<Outcome<Row<T>>> {
    match start {
        Start::Resume => match from_first(around.ranks, || Ok(job.finished(around.observers)))? {
            Some(outcome) => Ok(outcome),
            None => job.run(start, around),
        },
        Start::Anew => job.run(start, around),
    }
}

#[derive(Serialize)]
struct Summary<'a, R: Serialize> {
    name: &'a str,
    seed: u64,
    #[serde(flatten)]
    comparison: Option<&'a Comparison<R>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    student: Option<&'a Outcome<R>>,
}

fn write_summary<R: Serialize>(folder: &RunFolder, run: &Run, finding: &Finding<R>) -> Result<()> {
    let (comparison, student) = match finding {
        Finding::Comparison(comparison) => (Some(&**comparison), None),
        Finding::Student(outcome) => (None, Some(&**outcome)),
    };
    let summary = Summary { name: &run.name, seed: run.seed, comparison, student };
    let json = serde_json::to_vec_pretty(&summary).expect("a summary has a JSON form");
    Ok(fsx::write_atomic(&folder.summary(), &json)?)
}
