//! Outputs as the command line names them: files, `-` for standard output, folders.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

use super::{UsageError, say};
use crate::fsx;
use crate::report::progress::tell;

/// A file that a verb writes, or standard output.
#[derive(Debug, Clone)]
pub(super) struct Output(PathBuf);

impl FromStr for Output {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(if text == "-" { fsx::STDOUT } else { text }.into()))
    }
}

impl From<PathBuf> for Output {
    fn from(path: PathBuf) -> Self {
        Self(path)
    }
}

impl Output {
    /// The path to write to.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The path in words.
    pub(super) fn told(&self) -> String {
        match self.0 == Path::new(fsx::STDOUT) {
            true => "standard output".to_owned(),
            false => self.0.display().to_string(),
        }
    }

    /// Refuses an output that cannot be written, before any work is done for it.
    ///
    /// # Errors
    /// Bad usage: a folder, a disk, a folder without permission.
    pub(super) fn check(&self) -> Result<(), UsageError> {
        fsx::check_output(&self.0).map_err(|error| UsageError(error.to_string()))
    }

    /// Writes `content` as JSON, and the end of a line.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write_json(&self, content: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(content)?;
        text.push(b'\n');
        Ok(fsx::write_atomic(&self.0, &text)?)
    }

    /// Prints a line of a verb's words; where standard output has the content, words go to standard error.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(super) fn say(&self, line: impl AsRef<str>) -> io::Result<()> {
        if fsx::is_stdout(&self.0) {
            tell(line.as_ref());
            return Ok(());
        }
        say(line)
    }
}

/// A folder that a verb writes files into.
pub(super) fn folder(text: &str) -> Result<PathBuf, String> {
    match text {
        "-" => {
            Err("a folder is wanted, and `-` is standard output; ./- names a folder of that name".to_owned())
        }
        _ => Ok(text.into()),
    }
}
