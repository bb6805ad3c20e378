//! One JSON array of many rows, a line a row.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use ckd_settings::printable;
use serde::Serialize;

use crate::fsx::{self, Draft, WriteError};

/// A JSON array that is being written: to standard output as its rows come, into a file that takes its place at
/// the end. Nothing is made before the first row.
#[derive(Debug)]
pub struct JsonRows {
    to: To,
    count: usize,
}

#[derive(Debug)]
enum To {
    Stdout,
    /// A file that is not begun.
    Later(PathBuf),
    File(BufWriter<Draft>),
}

impl JsonRows {
    /// An array without a row yet.
    pub fn new(path: &Path) -> Self {
        let to = if fsx::is_stdout(path) { To::Stdout } else { To::Later(path.to_owned()) };
        Self { to, count: 0 }
    }

    /// Rows so far.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no row yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a row.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, row: &impl Serialize) -> Result<(), WriteError> {
        let mark = if self.count == 0 { '[' } else { ',' };
        self.count += 1;
        match serde_json::to_string(row) {
            Ok(row) => self.line(&format!("{mark}{row}")),
            Err(error) => Err(self.failed(error.into())),
        }
    }

    /// Ends the array, and puts the file in its place.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> Result<(), WriteError> {
        self.line(if self.count == 0 { "[]" } else { "]" })?;
        match self.to {
            To::Stdout | To::Later(_) => Ok(()),
            To::File(file) => Draft::committed(file),
        }
    }

    fn line(&mut self, text: &str) -> Result<(), WriteError> {
        if let To::Later(path) = &self.to {
            self.to = To::File(BufWriter::new(Draft::new(path)?));
        }
        let written = match &mut self.to {
            To::Stdout => writeln!(io::stdout().lock(), "{}", printable(text)),
            To::Later(_) => Ok(()),
            To::File(file) => writeln!(file, "{text}"),
        };
        written.map_err(|error| self.failed(error))
    }

    fn failed(&self, source: io::Error) -> WriteError {
        let path = match &self.to {
            To::Stdout => Path::new(fsx::STDOUT),
            To::Later(path) => path,
            To::File(file) => file.get_ref().path(),
        };
        WriteError { path: path.to_owned(), source }
    }
}
