//! The teacher of an experiment: loaded, or trained first.

use std::path::{Path, PathBuf};

use super::job::{Job, Row, Start, Surroundings};
use super::outcome::Outcome;
use super::task::{Measured, Settings, Task};
use super::{EngineError, Result};
use crate::config::Loaded;
use crate::fsx;
use crate::report::run_folder::RunFolder;
use crate::weights::WeightsFile;

/// A teacher, ready to teach.
pub struct Teacher<T: Task> {
    /// Its evaluation, if the experiment compares: its line of a table.
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
        let row = match trained {
            Some(outcome) => Some(outcome.row),
            None if config.run().train.compare_alone => {
                // Alone, it sees the images wholly in its own way.
                let measured = around.data.measure(&config.seen_by_teacher(), &model, None, around.device)?;
                Some(measured.row("teacher", &T::networks(&model)))
            }
            None => None,
        };
        Ok(Some(Self { row, model, hash }))
    }
}

/// Trains the teacher's own experiment on the data of `config`, or finds what an earlier run of it left.
fn train<T: Task>(
    config: &T::Config,
    experiment: &Loaded<T::Config>,
    around: &Surroundings<'_, T>,
) -> Result<(PathBuf, Outcome<Row<T>>)> {
    let own = experiment.resolved().on_data_of(config);
    let folder_of = |config: &T::Config| {
        let run = config.run();
        RunFolder::at(run.output.join(&run.name))
    };
    let folder = folder_of(&own);
    if folder == folder_of(config) {
        return Err(EngineError::Run {
            path: folder.path().to_owned(),
            reason: "teacher and student would write into the same folder; give one of the two configurations another \
                     `name`"
                .to_owned(),
        });
    }
    let job = Job {
        config: &own,
        folder,
        label: "teacher".to_owned(),
        init: None,
        distillation: None,
        teacher_hash: None,
    };
    if let Some(outcome) = job.finished() {
        around.observers.note(&format!("the teacher was trained before: {}", job.folder.last().display()));
        return Ok((job.folder.last(), outcome));
    }
    let init = T::initial_weights(experiment)?.as_deref().map(WeightsFile::read).transpose()?;
    let job: Job<'_, T> = Job { init: init.as_ref(), ..job };
    // An interrupted teacher goes on; one of another configuration is set aside.
    let start = if job.folder.path().exists() { Start::Resume } else { Start::Anew };
    let outcome = match job.run(start, around) {
        Err(EngineError::Run { .. }) => {
            set_aside(job.folder.path(), around)?;
            job.run(Start::Anew, around)?
        }
        other => other?,
    };
    Ok((job.folder.last(), outcome))
}

/// Moves an earlier run in `folder` out of the way: nothing is ever overwritten.
pub(super) fn set_aside<T: Task>(folder: &Path, around: &Surroundings<'_, T>) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let kept = (1..)
        .map(|number| folder.with_file_name(format!("{name}.{number}")))
        .find(|path| !path.exists())
        .expect("there is always a next number");
    fsx::rename(folder, &kept)?;
    around.observers.note(&format!("the earlier run is kept as {}", kept.display()));
    Ok(())
}
