//! Where a run begins: at step 0, or at its last checkpoint.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ckd_detectors::param::ParamStore;
use ckd_kernels::upload::Uploads;

use super::Training;
use super::pace::Pace;
use super::saving::{slots, tensors_of};
use crate::data::position::Share;
use crate::data::{Loader, Position, Source};
use crate::engine::checkpoint::{self, Restored, TrainState};
use crate::engine::job::{Job, Start, Surroundings, another_log};
use crate::engine::observer::Begin;
use crate::engine::pass::PartTimes;
use crate::engine::ranks::{Plan, from_first, own_parts, spread};
use crate::engine::recorded::{self, Record};
use crate::engine::task::{Settings, Task};
use crate::engine::{EngineError, Result, room};
use crate::optim::groups::grouped;
use crate::optim::{Ema, LearningRate};
use crate::report::log::digest;
use crate::report::run_folder::{Line, RunFolder};
use crate::report::shares::Shares;

impl<'a, T: Task> Training<'a, T> {
    /// At step 0 of the job, or where its last checkpoint is.
    pub(super) fn begin(job: &'a Job<'a, T>, start: Start, around: &'a Surroundings<'a, T>) -> Result<Self> {
        let began = Instant::now();
        let Job { config, folder, .. } = job;
        let (ranks, checkpoints) = (around.ranks, folder.checkpoints());
        let record = match start {
            Start::Resume if ranks.is_first() && checkpoint::is_any(&checkpoints)? => {
                Some(recorded::check_same(folder, *config)?)
            }
            _ => None,
        };
        let student = around.data.student(config, around.device)?;
        let run = config.run();
        let in_backbone = |name: &str| T::in_backbone(&student, name);
        let optimizer = run.optim.over(grouped(&job.trained(&student), &run.optim, in_backbone))?;
        let networks: Vec<&ParamStore> =
            T::networks(&student).into_iter().map(|network| network.params).collect();
        let ema = run.train.ema_decay.map(|decay| Ema::over(&networks, decay)).transpose()?;
        let mut notes = Vec::new();
        let (stores, own_slots) = (job.trained(&student), slots(&*optimizer, ema.as_ref()));
        let state = from_first(ranks, || match &record {
            Some(record) => {
                let restored = checkpoint::restore(&checkpoints, &stores, &own_slots)?;
                resumed(job, around.data, record, restored, &mut notes)
            }
            None => anew(job, around.data, start, &student, &mut notes),
        })?;
        spread(ranks, tensors_of(&stores, &own_slots))?;
        if ranks.is_first() {
            let bytes = checkpoint::size(&stores, &own_slots);
            notes.extend(room::check(job.claim.folder().path(), bytes)?);
        }
        drop((stores, own_slots));
        let source = around.data.source(config)?;
        let batches_per_epoch = source.batches_per_epoch().max(1) as u64;
        let parts = run.train.parts() as u64;
        let steps_per_epoch = (batches_per_epoch / parts).max(1);
        let mut rate = LearningRate::new(run.optim.lr, &run.schedule, steps_per_epoch);
        if let Some(total) = state.total {
            rate = rate.shortened(total);
        }
        if state.step < rate.total_steps() {
            rehearse(job, around, &student, 1)?;
        }
        let loader =
            loader_from::<T>(source, config, around, position(batches_per_epoch, state.step * parts))?;
        around.observers.begin(&Begin {
            label: &job.label,
            folder,
            step: state.step,
            total: rate.total_steps(),
            resumed: record.is_some(),
            evaluation_due: state.evaluation_due,
            evaluate_every: run.train.eval_every.map(|every| every * rate.unit_steps()),
            log_every: run.train.log_every,
        })?;
        if ranks.is_first() && state.log.is_some() && state.log != digest(&folder.log())? {
            notes.push(another_log(folder));
        }
        notes.iter().for_each(|note| around.observers.note(note));
        let plan = Rc::new(Plan::of(optimizer.parameters()));
        let (drawn, terms, saved) = (Vec::new(), Vec::new(), Instant::now());
        let bad_images = if ranks.is_first() { bad_images_in(folder) } else { BTreeSet::new() };
        let mut training = Self {
            job,
            around,
            student,
            optimizer,
            ema,
            state,
            rate,
            loader,
            measuring: Duration::ZERO,
            batches_per_epoch,
            drawn,
            seen: Vec::new(),
            broken: Vec::new(),
            bad_images,
            terms,
            times: PartTimes::default(),
            saved,
            plan,
            compared: Cell::new(None),
            began,
            pace: Pace::default(),
        };
        training.log_bad_images(around.bad_images, training.state.step)?;
        Ok(training)
    }
}

/// Evaluates the first `images` held-out images: what the last evaluation needs is found to be wrong now, not then.
pub(super) fn rehearse<T: Task>(
    job: &Job<'_, T>,
    around: &Surroundings<'_, T>,
    student: &T::Model,
    images: usize,
) -> Result<()> {
    let mut config = job.config.clone();
    let (.., run) = config.speed();
    run.eval.max_images = Some(images);
    match around.data.measure(&config, student, None, around.evaluating()) {
        // Nothing was begun; the loop says so.
        Err(EngineError::Stopped) => Ok(()),
        measured => measured.map(drop),
    }
}

/// The bad images that the log of a run names.
pub(super) fn bad_images_in(folder: &RunFolder) -> BTreeSet<PathBuf> {
    let lines = folder.lines().unwrap_or_default().into_iter();
    lines
        .filter_map(|line| match line {
            Line::BadImage(line) => Some(line.bad_image),
            _ => None,
        })
        .collect()
}

/// Position of the loader after so many batches.
pub(super) fn position(batches_per_epoch: u64, seen: u64) -> Position {
    Position { epoch: seen / batches_per_epoch, batch: (seen % batches_per_epoch) as usize }
}

/// The loader of the batches from `at` on that this process makes, and sends to its GPU.
pub(super) fn loader_from<T: Task>(
    source: T::Source,
    config: &T::Config,
    Surroundings { ranks, device, .. }: &Surroundings<'_, T>,
    at: Position,
) -> Result<Loader<T::Source>> {
    let ranks = *ranks;
    let own = own_parts(ranks, config.run().train.parts() as u64)?;
    let share = Share { index: ranks.rank() as u64, of: ranks.size() as u64, run: own.end - own.start };
    Ok(Loader::uploading(source, config.workforce(), at, share, Uploads::to(device)?)?)
}

/// The state at step 0, with the configuration recorded and the initial weights in place.
pub(super) fn anew<T: Task>(
    job: &Job<'_, T>,
    task: &T,
    start: Start,
    student: &T::Model,
    notes: &mut Vec<String>,
) -> Result<TrainState> {
    if start == Start::Resume {
        notes.push(format!(
            "{} has no checkpoint to go on from: starting at step 0",
            job.folder.path().display()
        ));
    }
    recorded::record(&job.folder, job.config, task)?;
    if let Some(init) = job.init {
        let random = task.initialise(job.config, student, init)?;
        if !random.is_empty() {
            notes.push(format!("{}: {}", init.path.display(), of_random(&random)));
        }
    }
    let threads = rayon::current_num_threads();
    Ok(TrainState {
        step: 0,
        threads,
        best: None,
        since_best: 0,
        total: job.fitted,
        networks: Vec::new(),
        teacher: job.teacher_hash.clone(),
        evaluation_due: false,
        config: Some(recorded::hash(job.config)),
        log: None,
        left_out: Vec::new(),
        losses: Vec::new(),
        shares: Shares::default(),
    })
}

/// The state of a checkpoint that was restored, if it is one of this job.
///
/// # Errors
/// If it is one of other settings, or of another teacher.
pub(super) fn resumed<T: Task>(
    job: &Job<'_, T>,
    task: &T,
    record: &Record,
    restored: Option<Restored>,
    notes: &mut Vec<String>,
) -> Result<TrainState> {
    let Some(Restored { path, mut state, notes: found }) = restored else {
        let reason = "its checkpoints are gone while it was about to be resumed".to_owned();
        return Err(EngineError::Run { path: job.folder.checkpoints(), reason });
    };
    notes.extend(found);
    let own = recorded::hash(job.config);
    if let Record::Lost(reason) = record {
        if state.config.as_ref() != Some(&own) {
            return Err(recorded::lost(&job.folder, reason));
        }
        notes.push(format!(
            "{}: {reason}; {} says that the run was started with these settings, so it is written anew",
            job.folder.config().display(),
            path.display()
        ));
        recorded::record(&job.folder, job.config, task)?;
    }
    state.config = Some(own);
    if state.teacher != job.teacher_hash {
        let reason = "the run was started with another teacher; use that one, or start anew without --resume"
            .to_owned();
        return Err(EngineError::Run { path, reason });
    }
    let threads = rayon::current_num_threads();
    if state.threads != threads {
        notes.push(format!(
            "the run was started with {} threads and goes on with {threads}: results agree closely, not bit for bit",
            state.threads
        ));
        state.threads = threads;
    }
    Ok(state)
}

/// Summary in a line of the tensors that initial weights leave random.
pub(super) fn of_random(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = match names.len() {
        ..=SHOWN => String::new(),
        count => format!(" and {} more", count - SHOWN),
    };
    format!("these tensors do not come from it and start at random: {shown}{more}")
}
