//! Image files named on the command line.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use image::RgbImage;

use super::UsageError;
use super::output::Output;
use crate::data::decode::DecodeError;
use crate::data::image_folder;
use crate::engine::EngineError;
use crate::fsx;
use crate::report::progress::tell;

/// The files that `arguments` name: files, the images in folders, where `recursive` those below them too, and patterns
/// (`*`, `?`, `[..]`, `**`) that the shell has left. A file that is named twice is taken once.
///
/// # Errors
/// Missing data: a folder or pattern without an image.
pub(super) fn named(arguments: &[PathBuf], recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for argument in arguments {
        let text = argument.to_string_lossy();
        if argument.is_dir() {
            let mut found = image_folder::images_below(argument)?;
            let all = found.len();
            if !recursive {
                found.retain(|path| path.parent() == Some(argument));
            }
            if found.is_empty() {
                let below = match all {
                    0 => String::new(),
                    _ => format!(" itself; --recursive takes the {all} images below it"),
                };
                return Err(EngineError::Missing(format!("no image is in the folder {text}{below}")).into());
            }
            files.extend(found);
        } else if !argument.exists() && text.contains(['*', '?', '[']) {
            let pattern =
                glob::glob(&text).map_err(|error| UsageError(format!("the pattern {text}: {error}")))?;
            let found: Vec<PathBuf> = pattern.filter_map(Result::ok).filter(|path| path.is_file()).collect();
            if found.is_empty() {
                return Err(EngineError::Missing(format!("no file fits the pattern {text}")).into());
            }
            files.extend(found);
        } else {
            files.push(argument.clone());
        }
    }
    let mut seen = HashSet::new();
    files.retain(|path| seen.insert(path.clone()));
    Ok(files)
}

/// Image files that could not be read.
#[must_use]
pub(super) struct Unread {
    names: Vec<String>,
    of: usize,
    /// Whether none of them is there.
    are_missing: bool,
}

/// Passes each image that `read` reads to `show`, with its index and the name of its file. A file that cannot be read is
/// reported and left out.
///
/// # Errors
/// The arguments of `show`.
pub(super) fn for_each_image(
    paths: &[PathBuf],
    read: impl Fn(usize, &Path) -> Result<RgbImage, DecodeError>,
    mut show: impl FnMut(usize, String, RgbImage) -> anyhow::Result<()>,
) -> anyhow::Result<Unread> {
    let (mut names, mut are_missing) = (Vec::new(), true);
    for (index, path) in paths.iter().enumerate() {
        let name = path.display().to_string();
        match read(index, path) {
            Ok(image) => show(index, name, image)?,
            Err(error) => {
                tell(&format!("error: {error}"));
                are_missing &= matches!(
                    &error,
                    DecodeError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound
                );
                names.push(name);
            }
        }
    }
    Ok(Unread { names, of: paths.len(), are_missing })
}

impl Unread {
    /// Has `results` written by `write`, and fails if there are unread images: the results are without them.
    /// If one of the files is of an earlier command, all are then left as they are, and where no image was read
    /// nothing is written.
    ///
    /// # Errors
    /// Lists the images.
    pub(super) fn settle(
        self,
        results: &[&Output],
        write: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Self { names, of, are_missing } = self;
        let is_kept = !names.is_empty()
            && (names.len() == of || results.iter().any(|results| fsx::is_replaced(results.path())));
        if !is_kept {
            write()?;
        }
        let what = if is_kept { "so nothing was written to" } else { "and are not in" };
        let results: Vec<String> = results.iter().map(|results| results.told()).collect();
        let (count, results) = (names.len(), results.join(", "));
        let unread =
            format!("{count} of the {of} images could not be read {what} {results}: {}", names.join(", "));
        match (count, are_missing) {
            (0, _) => Ok(()),
            (_, true) => Err(EngineError::Missing(unread).into()),
            (_, false) => anyhow::bail!(unread),
        }
    }
}
