//! Image files named on the command line.

use std::path::{Path, PathBuf};

use image::RgbImage;

use crate::data::decode;

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
                eprintln!("error: {error}");
                names.push(name);
            }
        }
    }
    Ok(Unread { names, of: paths.len() })
}

impl Unread {
    /// Fails if there are any: `results` is without them.
    ///
    /// # Errors
    /// Lists them.
    pub(super) fn refuse(self, results: &Path) -> anyhow::Result<()> {
        let Self { names, of } = self;
        match names.len() {
            0 => Ok(()),
            count => anyhow::bail!(
                "{count} of the {of} images could not be read and are not in {}: {}",
                results.display(),
                names.join(", ")
            ),
        }
    }
}
