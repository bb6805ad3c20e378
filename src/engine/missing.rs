//! What a run needs and does not find: collected, then told all at once.

use std::path::{Path, PathBuf};

use super::task::Settings;
use super::{EngineError, Result};
use crate::config::Loaded;

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
