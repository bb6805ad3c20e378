//! Image files named on the command line.

use std::path::{Path, PathBuf};

use image::RgbImage;

use super::UsageError;
use crate::data::{decode, image_folder};
use crate::report::progress::tell;

/// The files that `arguments` name: files, all images in and below folders, and patterns (`*`, `?`, `[..]`)
/// that the shell has left.
///
/// # Errors
/// A folder or pattern without an image.
pub(super) fn named(arguments: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for argument in arguments {
        let text = argument.to_string_lossy();
        if argument.is_dir() {
            let found = image_folder::images_below(argument)?;
            if found.is_empty() {
                return Err(UsageError(format!("no image is in the folder {text}")).into());
            }
            files.extend(found);
        } else if !argument.exists() && text.contains(['*', '?', '[']) {
            let pattern =
                glob::glob(&text).map_err(|error| UsageError(format!("the pattern {text}: {error}")))?;
            let found: Vec<PathBuf> = pattern.filter_map(Result::ok).filter(|path| path.is_file()).collect();
            if found.is_empty() {
                return Err(UsageError(format!("no file fits the pattern {text}")).into());
            }
            files.extend(found);
        } else {
            files.push(argument.clone());
        }
    }
    Ok(files)
}

/// Image files that could not be read.
#[must_use]
pub(super) struct Unread {
    names: Vec<String>,
    of: usize,
}

/// Passes each image to `show`, with its index and the name of its file. A file that cannot be read is
/// reported and left out.
///
/// # Errors
/// Those of `show`.
pub(super) fn for_each_image(
    paths: &[PathBuf],
    mut show: impl FnMut(usize, String, RgbImage) -> anyhow::Result<()>,
) -> anyhow::Result<Unread> {
    let mut names = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let name = path.display().to_string();
        match decode::read(path) {
            Ok(image) => show(index, name, image)?,
            Err(error) => {
                tell(&format!("error: {error}"));
                names.push(name);
            }
        }
    }
    Ok(Unread { names, of: paths.len() })
}

impl Unread {
    /// Has results written to `results` by `write`, and fails if there are unread images: the results are
    /// without them. Those of an earlier command are then left as they are, and where no image was read
    /// nothing is written.
    ///
    /// # Errors
    /// Lists the images.
    pub(super) fn settle(
        self,
        results: &Path,
        write: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Self { names, of } = self;
        let is_kept = !names.is_empty() && (names.len() == of || results.exists());
        if !is_kept {
            write()?;
        }
        let what = if is_kept { "so nothing was written to" } else { "and are not in" };
        match names.len() {
            0 => Ok(()),
            count => anyhow::bail!(
                "{count} of the {of} images could not be read {what} {}: {}",
                results.display(),
                names.join(", ")
            ),
        }
    }
}
