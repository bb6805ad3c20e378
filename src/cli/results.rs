//! Results of images as one JSON array: to standard output as they come, into a file once all are there.

use serde::Serialize;

use super::output::Output;
use super::say;
use crate::fsx;

/// The array that is being written.
pub(super) struct Results<'a, R> {
    out: &'a Output,
    /// Rows that wait for the file; none where they are printed.
    rows: Vec<R>,
    count: usize,
}

impl<'a, R: Serialize> Results<'a, R> {
    /// An array without a row yet.
    pub(super) fn new(out: &'a Output) -> Self {
        Self { out, rows: Vec::new(), count: 0 }
    }

    /// Rows so far.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Adds a row; to standard output a line at once.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(super) fn push(&mut self, row: R) -> anyhow::Result<()> {
        self.count += 1;
        if !fsx::is_stdout(self.out.path()) {
            self.rows.push(row);
            return Ok(());
        }
        let mark = if self.count == 1 { '[' } else { ',' };
        Ok(say(format!("{mark}{}", serde_json::to_string(&row)?))?)
    }

    /// Ends the array; writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        match (fsx::is_stdout(self.out.path()), self.count) {
            (false, _) => self.out.write_json(&self.rows),
            (true, 0) => Ok(say("[]")?),
            (true, _) => Ok(say("]")?),
        }
    }
}
