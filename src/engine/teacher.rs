//! The teacher of an experiment: loaded, or trained first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::claim::Claim;
use super::job::{Job, Row, Start, Surroundings, claimed, finished};
use super::missing::initial_weights;
use super::observer::Observers;
use super::outcome::Outcome;
use super::ranks::{check_statistics, from_first, own_parts};
use super::task::{Measured, Settings, Task};
use super::{EngineError, Result, recorded};
use crate::config::Loaded;
use crate::report::run_folder::RunFolder;
use crate::weights::WeightsFile;

/// A teacher, ready to teach.
pub struct Teacher<T: Task> {
    /// Line of a table for its evaluation, if the experiment compares.
    pub row: Option<Row<T>>,
    /// The network; nothing in it is trainable.
    pub model: T::Model,
    /// BLAKE3 of its weights; `None` if they are random.
    pub hash: Option<String>,
}

impl<T: Task> Teacher<T> {
    /// The teacher of `config`, if it has one: loaded from `weights`, or trained first if the experiment
    /// `loaded` does that.
    ///
    /// # Errors
    /// Weights that do not fit or know other classes than the data has; everything that stops its training.
    pub fn prepare(
        config: &T::Config,
        loaded: &Loaded<T::Config>,
        weights: Option<&Path>,
        around: &Surroundings<'_, T>,
    ) -> Result<Option<Self>> {
        if !config.has_teacher() {
            return Ok(None);
        }
        let (path, trained) = match &loaded.teacher_experiment {
            Some(experiment) => {
                let (path, outcome) = train(config, experiment, around)?;
                (Some(path), Some(outcome))
            }
            None => (weights.map(Path::to_owned), None),
        };
        let Some(model) = around.data.teacher(config, around.device)? else { return Ok(None) };
        let mut hash = None;
        if let Some(path) = path {
            let file = WeightsFile::read(&path)?;
            hash = Some(file.hash.clone());
            around.data.load_teacher(config, &model, file)?;
        }
        around.data.ready_teacher(config, &model)?;
        let row = match trained {
            Some(outcome) => Some(outcome.row),
            None if config.run().train.compare_alone => {
                // Alone, it sees the images wholly in its own way.
                let seen = config.seen_by_teacher();
                let measured = around.data.measure(&seen, &model, None, around.evaluating())?;
                Some(measured.row("teacher", &T::networks(&model)))
            }
            None => None,
        };
        Ok(Some(Self { row, model, hash }))
    }
}

/// Refuses an experiment whose teacher would write where its student does.
///
/// # Errors
/// [`EngineError::Run`] names the folder.
pub(super) fn check_folders<C: Settings>(config: &C, loaded: &Loaded<C>) -> Result<()> {
    let Some(experiment) = &loaded.teacher_experiment else { return Ok(()) };
    let folder = folder_of(&experiment.resolved());
    if folder != folder_of(config) {
        return Ok(());
    }
    Err(EngineError::Run {
        path: folder.path().to_owned(),
        reason: "teacher and student would write into the same folder; give one of the two configurations another `name`"
            .to_owned(),
    })
}

/// The folder of the runs of `config`.
pub(super) fn folder_of(config: &impl Settings) -> RunFolder {
    let run = config.run();
    RunFolder::at(run.output.join(&run.name))
}

/// The folder where the teacher of `own` settings is, or will be, trained on `data`.
///
/// It is the run's own, or beside it, called after a hash of settings and data, where the run's own holds a teacher that was
/// trained otherwise: neither pushes the other aside.
pub(super) fn place<C: Settings>(own: &C, data: &C::Task) -> RunFolder {
    let named = folder_of(own);
    if named.is_bare() || !recorded::is_other(&named, own, data) {
        return named;
    }
    let hash = blake3::hash(format!("{} {}", recorded::hash(own), data.blake3()).as_bytes()).to_hex();
    let name = named.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    RunFolder::at(named.path().with_file_name(format!("{name}-{}", &hash[..HASH_DIGITS])))
}

/// The lock of those who train the teacher of a folder in this process.
fn turn_of(folder: &RunFolder) -> Arc<Mutex<()>> {
    static TURNS: Mutex<BTreeMap<PathBuf, Arc<Mutex<()>>>> = Mutex::new(BTreeMap::new());
    let path = std::path::absolute(folder.path()).unwrap_or_else(|_| folder.path().to_owned());
    TURNS.lock().unwrap_or_else(PoisonError::into_inner).entry(path).or_default().clone()
}

/// Digits of a hash in a folder's name.
const HASH_DIGITS: usize = 12;

/// Checks that the teacher of `experiment`, if it is still to be trained, can begin on the data of `config`.
///
/// # Errors
/// Initial weights that are missing or do not fit.
pub(super) fn check<T: Task>(
    config: &T::Config,
    experiment: &Loaded<T::Config>,
    around: &Surroundings<'_, T>,
) -> Result<()> {
    let own = experiment.resolved().on_data_of(config);
    let folder = place(&own, around.data);
    if finished::<T>(&folder, &own, None, &Observers::none()).is_some() {
        return Ok(());
    }
    let model = around.data.student(&own, around.device)?;
    match initial_weights(experiment)? {
        Some(init) => around.data.initialise(&own, &model, &init).map(drop),
        None => Ok(()),
    }
}

/// Trains the teacher's own experiment on the data of `config`, or finds what an earlier run of it left.
fn train<T: Task>(
    config: &T::Config,
    experiment: &Loaded<T::Config>,
    around: &Surroundings<'_, T>,
) -> Result<(PathBuf, Outcome<Row<T>>)> {
    let own = experiment.resolved().on_data_of(config);
    let ranks = around.ranks;
    own_parts(ranks, own.run().train.parts() as u64)?;
    check_statistics(ranks, &own.run().train)?;
    let turn = turn_of(&folder_of(&own));
    // Another experiment of this process may train the same teacher: then this one finds it trained.
    let _turn = ranks.is_first().then(|| turn.lock().unwrap_or_else(PoisonError::into_inner));
    let folder = RunFolder::at(from_first(ranks, || Ok(place(&own, around.data).path().to_owned()))?);
    if let Some(outcome) = from_first(ranks, || Ok(finished::<T>(&folder, &own, None, around.observers)))? {
        around.observers.note(&format!("the teacher was trained before: {}", folder.last().display()));
        return Ok((folder.last(), outcome));
    }
    let named = folder_of(&own);
    if folder != named {
        around.observers.note(&format!(
            "{} holds a teacher of other settings or data; this one goes to {}",
            named.path().display(),
            folder.path().display()
        ));
    }
    let others = recorded::other_training(&own, config);
    if !others.is_empty() {
        around.observers.note(&format!(
            "the teacher's training is its own ({}), not its student's (in brackets): {}",
            experiment.source,
            others.join(", ")
        ));
    }
    let init = initial_weights(experiment)?;
    let claim = claimed(&folder, around)?;
    let train = |claim: &Claim, start| {
        let job: Job<'_, T> = Job {
            config: &own,
            folder: folder.clone(),
            claim,
            label: "teacher".to_owned(),
            init: init.as_ref(),
            distillation: None,
            teacher_hash: None,
            fitted: None,
        };
        job.run(start, around)
    };
    // An interrupted teacher goes on; a damaged one is set aside.
    let is_bare = from_first(ranks, || Ok(folder.is_bare()))?;
    let start = if is_bare { Start::Anew } else { Start::Resume };
    let outcome = match train(&claim, start) {
        // Several processes cannot begin anew while others wait for what the first one reads.
        Err(error @ (EngineError::Run { .. } | EngineError::Checkpoint { .. })) if ranks.is_alone() => {
            around.observers.note(&format!("the teacher is trained anew: {error}"));
            train(&claim.emptied(around.observers)?, Start::Anew)?
        }
        other => other?,
    };
    Ok((folder.last(), outcome))
}
