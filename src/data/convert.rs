//! Common rules of writing a boxed data set in a format: classes told by name, images copied.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::instances::Instances;
use crate::fsx::{self, WriteError};

/// Why a data set could not be written in another format.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The format cannot hold the data set, or the target holds another one.
    #[error("{0}")]
    Target(String),
}

/// The names of the classes in their order, for a format that tells classes by name.
pub(super) fn checked_names(instances: &Instances) -> Result<Vec<String>, ConvertError> {
    let mut categories: Vec<_> = instances.categories.iter().collect();
    categories.sort_by_key(|category| category.id);
    let mut seen = BTreeSet::new();
    for category in &categories {
        if !seen.insert(&category.name) {
            return Err(ConvertError::Target(format!(
                "two categories are named \"{}\"; give each its own name",
                category.name
            )));
        }
    }
    Ok(categories.into_iter().map(|category| category.name.clone()).collect())
}

/// Copies the image `name` of `folder` to `to`, unless `to` is that image already.
pub(super) fn place_image(folder: &Path, name: &str, to: &Path) -> Result<(), ConvertError> {
    let stays_inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if !stays_inside || name.is_empty() {
        return Err(ConvertError::Target(format!(
            "the image {name:?} lies outside its folder {}; move it there and name it without `..`",
            folder.display()
        )));
    }
    let from = folder.join(name);
    let same = |from: &PathBuf| Some(from.canonicalize().ok()? == to.canonicalize().ok()?);
    if same(&from) == Some(true) {
        return Ok(());
    }
    Ok(fsx::copy(&from, to)?)
}
