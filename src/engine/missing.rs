//! What a run needs and does not find: collected, then told all at once.

use std::path::{Path, PathBuf};

use super::task::{Settings, Task};
use super::{EngineError, Result};
use crate::config::Loaded;
use crate::report::run_folder::RunFolder;
use crate::weights::WeightsFile;

/// Weights files that an experiment begins with.
#[derive(Debug)]
pub(super) struct Beginning {
    /// The student's initial weights.
    pub(super) init: Option<PathBuf>,
    /// The teacher's weights, unless an experiment trains it.
    pub(super) teacher: Option<PathBuf>,
}

impl Beginning {
    /// The files that `loaded` names; an experiment that has yet to train the teacher needs its own, too.
    pub(super) fn find<C: Settings>(loaded: &Loaded<C>, missing: &mut Vec<String>) -> Self {
        let teacher = C::Task::teacher_weights(loaded, missing);
        let init = C::Task::initial_weights(loaded, missing);
        if let Some(experiment) = &loaded.teacher_experiment {
            let run = experiment.config.run();
            if !RunFolder::at(run.output.join(&run.name)).last().exists() {
                C::Task::initial_weights(experiment, missing);
            }
        }
        Self { init, teacher }
    }
}

/// The initial weights of the student of `loaded`, if it has any.
///
/// # Errors
/// If they are missing or damaged.
pub(super) fn initial_weights<C: Settings>(loaded: &Loaded<C>) -> Result<Option<WeightsFile>> {
    let mut missing = Vec::new();
    let found = C::Task::initial_weights(loaded, &mut missing);
    refuse(missing)?;
    Ok(found.as_deref().map(WeightsFile::read).transpose()?)
}

/// The weights file at `path`, which `key` names; `None` if it is missing, which is fine only if random ones will do.
pub(super) fn weights<C: Settings>(
    loaded: &Loaded<C>,
    (key, path): (&str, &Path),
    random_will_do: bool,
    help: &str,
    missing: &mut Vec<String>,
) -> Option<PathBuf> {
    let found = loaded.resolve(path);
    if found.exists() {
        return Some(found);
    }
    if !random_will_do {
        missing.push(format!(
            "weights that {} needs are missing: {key} = {path:?}\nlooked at:\n{}\n{help}",
            loaded.config.run().name,
            places(loaded, path),
        ));
    }
    None
}

/// Refuses to go on if anything is `missing`.
///
/// # Errors
/// [`EngineError::Missing`] with all of it.
pub(super) fn refuse(missing: Vec<String>) -> Result<()> {
    if missing.is_empty() { Ok(()) } else { Err(EngineError::Missing(missing.join("\n\n"))) }
}

/// The places where `path` was looked for, one a line.
pub(super) fn places<C>(loaded: &Loaded<C>, path: &Path) -> String {
    let places = loaded.places(path);
    let absolute = |place: &PathBuf| std::path::absolute(place).unwrap_or_else(|_| place.clone());
    places.iter().map(|place| format!("  {}", absolute(place).display())).collect::<Vec<_>>().join("\n")
}
