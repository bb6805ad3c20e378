//! The user's wish: the folder, the networks, the file, the time.

use std::path::{Path, PathBuf};

use crate::cli::UsageError;
use crate::config::Experiment;
use crate::fsx;

/// A configuration to write, and where.
pub(super) struct Wish {
    /// The folder in full.
    pub(super) folder: PathBuf,
    pub(super) teacher: Option<String>,
    pub(super) student: Option<String>,
    pub(super) out: PathBuf,
    pub(super) minutes: f64,
    pub(super) seed: u64,
}

impl Wish {
    /// Name of the runs: the configuration's, without its ending.
    pub(super) fn name(&self) -> String {
        self.out.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// A file of the split that is written down beside the configuration, in full.
    pub(super) fn split_file(&self, name: &str) -> PathBuf {
        let folder = self.out.with_file_name(format!("{}-split", self.name()));
        let path = folder.join(name);
        std::path::absolute(&path).unwrap_or(path)
    }
}

/// Share of the images that are held out where there is no validation part.
pub(super) const HELD_OUT: f64 = 0.2;

/// A network's word and the channels of its first layer.
pub(super) fn network(given: &str) -> Result<(String, Option<usize>), UsageError> {
    let Some((word, width)) = given.split_once(':') else { return Ok((given.to_owned(), None)) };
    let width = width.parse().ok().filter(|width| *width > 0);
    let wrong = || {
        UsageError(format!(
            "{given:?} names no network: write NETWORK, or NETWORK:CHANNELS, as in resnet34:32"
        ))
    };
    Ok((word.to_owned(), Some(width.ok_or_else(wrong)?)))
}

/// Writes the configuration and loads it as `train` will.
pub(super) fn write(out: &Path, text: &str) -> anyhow::Result<Experiment> {
    fsx::write_atomic(out, text.as_bytes())?;
    Ok(Experiment::load(out, &[])?)
}

/// A text as TOML writes it.
pub(super) fn toml_text(text: impl AsRef<std::ffi::OsStr>) -> String {
    toml::Value::String(text.as_ref().to_string_lossy().into_owned()).to_string()
}
