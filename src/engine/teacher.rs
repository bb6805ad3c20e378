//! The teacher of an experiment: loaded, or trained first.

use std::path::{Path, PathBuf};

use ckd_detectors::Detector;

use super::job::{Job, Start, Surroundings};
use super::outcome::Outcome;
use super::sources::{Inputs, find_initial, resolved};
use super::{EngineError, Result, build, classes};
use crate::config::{Config, Loaded};
use crate::fsx;
use crate::report::table::ModelRow;
use crate::weights::agree::{self, Role};
use crate::weights::card::categories_of;
use crate::weights::{ModelCard, WeightsFile, load};

/// A teacher, ready to teach.
pub struct Teacher {
    /// Its line of a table, if the experiment compares.
    pub row: Option<ModelRow>,
    /// The network; nothing in it is trainable.
    pub detector: Detector,
    /// BLAKE3 of its weights; `None` if they are random.
    pub hash: Option<String>,
}

impl Teacher {
    /// The teacher of `config`, if it has one: loaded from its weights, or trained first if the experiment
    /// `loaded` does that.
    ///
    /// # Errors
    /// Weights that do not fit or know other classes than the data has; everything that stops its training.
    pub fn prepare(
        config: &Config,
        loaded: &Loaded,
        inputs: &Inputs,
        around: &Surroundings,
    ) -> Result<Option<Self>> {
        let Some(settings) = &config.teacher else { return Ok(None) };
        let (path, trained) = match &loaded.teacher_experiment {
            Some(experiment) => {
                let (path, outcome) = train(config, experiment, around)?;
                (Some(path), Some(outcome))
            }
            None => (inputs.teacher.clone(), None),
        };
        let categories = &around.data.train.categories;
        let detector = build::teacher(config, settings, categories.len(), around.device)?;
        let mut hash = None;
        if let Some(path) = path {
            let file = WeightsFile::read(&path)?.for_categories(&categories_of(categories))?;
            // Weights from elsewhere do not say which classes they know; their number is checked by the shapes.
            if let Ok(card) = ModelCard::of(&file) {
                let what = format!("the teacher {}", path.display());
                classes::check_same((&what, &card.categories), ("the data", categories))?;
            }
            agree::check(&file, config, Role::Teacher)?;
            load::strict(detector.params(), &file)?;
            hash = Some(file.hash);
        }
        let row = match trained {
            Some(outcome) => Some(ModelRow { name: "teacher".to_owned(), ..outcome.row }),
            None if config.train.compare_alone => {
                Some(around.measure(&detector, config)?.row("teacher", &detector))
            }
            None => None,
        };
        Ok(Some(Self { row, detector, hash }))
    }
}

/// Trains the teacher's own experiment on the data of `config`, or finds what an earlier run of it left.
fn train(config: &Config, experiment: &Loaded, around: &Surroundings) -> Result<(PathBuf, Outcome)> {
    let mut own = resolved(experiment)?;
    own.data = config.data.clone();
    let folder = own.output.join(&own.name);
    if folder == config.output.join(&config.name) {
        return Err(EngineError::Run {
            path: folder,
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
        around.note(&format!("the teacher was trained before: {}", job.weights().display()));
        return Ok((job.weights(), outcome));
    }
    let init = find_initial(experiment)?.as_deref().map(WeightsFile::read).transpose()?;
    let job = Job { init: init.as_ref(), ..job };
    // An interrupted teacher goes on; one of another configuration is set aside.
    let outcome = match job.run(Start::Resume, around) {
        Err(EngineError::Run { .. }) => {
            set_aside(&job.folder, around)?;
            job.run(Start::Anew, around)?
        }
        other => other?,
    };
    Ok((job.weights(), outcome))
}

/// Moves an earlier run in `folder` out of the way: nothing is ever overwritten.
pub(super) fn set_aside(folder: &Path, around: &Surroundings) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let kept = (1..)
        .map(|number| folder.with_file_name(format!("{name}.{number}")))
        .find(|path| !path.exists())
        .expect("there is always a next number");
    fsx::rename(folder, &kept)?;
    around.note(&format!("the earlier run is kept as {}", kept.display()));
    Ok(())
}
