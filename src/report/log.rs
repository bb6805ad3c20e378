//! The metrics log of a run, `runs/NAME/log.jsonl`: one JSON object a line.
//!
//! A resumed run takes back the lines after its checkpoint and writes them again, so that its log is
//! that of a run that was never interrupted, line by line and number by number. The one exception are the
//! fields from `ms` on, which hold wall time and memory: no two runs have the same.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::fsx::{self, WriteError};

/// The log could not be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The file could not be created, cut or appended to.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The log of the interrupted run could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The log.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A line before the last one is not a log line, so this is no log of an interrupted run.
    #[error("{}:{line} is not a line of a metrics log ({source}); move the file away or start the run anew", path.display())]
    Line {
        /// The log.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// Error of the parser.
        source: serde_json::Error,
    },
    /// A record has no JSON form (a map whose keys are not text).
    #[error("cannot write a log line to {}: {source}", path.display())]
    Record {
        /// The log.
        path: PathBuf,
        /// Error of the serialiser.
        source: serde_json::Error,
    },
}

/// An open metrics log.
pub struct MetricsLog {
    file: File,
    path: PathBuf,
}

impl MetricsLog {
    /// Opens `path` for writing, creating it and its folders.
    ///
    /// With `resume_at` the lines of an interrupted run stay up to that point: the log is cut before the
    /// first line whose key `step` is greater, or that is the evaluation of that step if the point is before
    /// it (lines without `step` go with their neighbours), so the checkpoint of a step must be written after
    /// that step's lines. A last line that broke off is cut. Without `resume_at` the log starts empty.
    ///
    /// # Errors
    /// [`LogError::Line`] for anything but the last line that is not a JSON object; reading and writing
    /// errors.
    pub fn open(path: &Path, resume_at: Option<LogPoint>) -> Result<Self, LogError> {
        let keep = match resume_at {
            Some(point) => kept_bytes(path, point)?,
            None => 0,
        };
        let file = fsx::open_log(path)?;
        fsx::truncate(path, keep)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Appends `record` as one line and hands it to the operating system before it returns. A number that
    /// is not finite becomes `null`, which is all that JSON has for it.
    ///
    /// # Errors
    /// [`LogError::Record`], [`LogError::Write`].
    pub fn write(&mut self, record: &impl Serialize) -> Result<(), LogError> {
        let mut line = serde_json::to_vec(record)
            .map_err(|source| LogError::Record { path: self.path.clone(), source })?;
        line.push(b'\n');
        // One write a line: whoever follows the log sees whole lines.
        self.file
            .write_all(&line)
            .and_then(|()| self.file.flush())
            .map_err(|source| WriteError { path: self.path.clone(), source }.into())
    }
}

/// BLAKE3 of the log at `path` without its wall times; `None` if there is none.
///
/// # Errors
/// [`LogError::Read`].
pub fn digest(path: &Path) -> Result<Option<String>, LogError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LogError::Read { path: path.to_owned(), source }),
    };
    let mut hasher = blake3::Hasher::new();
    for line in text.split(|&byte| byte == b'\n') {
        // The wall times are the last fields of an update; in a line that is not JSON they are text like the
        // rest: a number with a zero in front has the digits of another one.
        let is_json = serde_json::from_slice::<IgnoredAny>(line).is_ok();
        let wall = line.windows(WALL_TIMES.len()).position(|part| is_json && part == WALL_TIMES.as_bytes());
        let (facts, wall) = line.split_at(wall.unwrap_or(line.len()));
        let keys: Vec<u8> = wall.iter().copied().filter(|byte| !b"0123456789.".contains(byte)).collect();
        hasher.update(facts).update(&keys).update(b"\n");
    }
    Ok(Some(hasher.finalize().to_hex().to_string()))
}

/// Start of the wall times in a line.
const WALL_TIMES: &str = ",\"ms\":";

/// A point of a run at which its log is taken up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPoint {
    /// Finished updates.
    pub step: u64,
    /// Whether it is before the evaluation of that step.
    pub before_evaluation: bool,
}

/// Part of a log line that a resume needs.
#[derive(Deserialize)]
struct Line {
    step: Option<u64>,
    eval: Option<IgnoredAny>,
}

impl Line {
    fn is_after(&self, point: LogPoint) -> bool {
        let evaluates = self.eval.is_some() && point.before_evaluation;
        self.step.is_some_and(|at| at > point.step || (at == point.step && evaluates))
    }
}

/// Bytes of the log at `path` that belong to the run up to `point`.
fn kept_bytes(path: &Path, point: LogPoint) -> Result<u64, LogError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(source) => return Err(LogError::Read { path: path.to_owned(), source }),
    };
    let mut kept = 0;
    for (index, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let is_last = kept + line.len() == text.len();
        match serde_json::from_slice::<Line>(line) {
            Ok(read) if read.is_after(point) => break,
            // Whole JSON without its newline: the run was killed between two bytes.
            Ok(_) if !line.ends_with(b"\n") => break,
            Ok(_) => kept += line.len(),
            Err(_) if is_last => break,
            Err(source) => {
                return Err(LogError::Line { path: path.to_owned(), line: index + 1, source });
            }
        }
    }
    Ok(kept as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn after(step: u64) -> LogPoint {
        LogPoint { step, before_evaluation: false }
    }

    fn run(path: &Path, resume_at: Option<u64>, steps: std::ops::RangeInclusive<u64>) {
        let mut log = MetricsLog::open(path, resume_at.map(after)).unwrap();
        for step in steps {
            log.write(&json!({"step": step, "loss": 1.0 / step as f64})).unwrap();
            if step % 2 == 0 {
                log.write(&json!({"event": "evaluation", "ap": 0.25})).unwrap();
            }
        }
    }

    #[test]
    fn a_resumed_log_equals_the_uninterrupted_one() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, resumed) = (folder.path().join("a/whole.jsonl"), folder.path().join("resumed.jsonl"));
        run(&whole, None, 1..=9);
        run(&resumed, None, 1..=7);
        run(&resumed, Some(4), 5..=9);
        assert_eq!(fs::read(&whole).unwrap(), fs::read(&resumed).unwrap());
    }

    #[test]
    fn a_line_that_broke_off_is_cut_wherever_it_broke() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        run(&path, None, 1..=3);
        let whole = fs::read(&path).unwrap();
        let second_line = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        for cut in second_line..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            MetricsLog::open(&path, Some(after(3))).unwrap();
            let kept = fs::read(&path).unwrap();
            assert!(kept.is_empty() || kept.ends_with(b"\n"));
            assert!(whole.starts_with(&kept) && kept.len() + 40 > cut && kept.len() <= cut);
        }
        // A power cut can leave zeros behind.
        let mut zeros = whole.clone();
        zeros.extend([0; 64]);
        fs::write(&path, zeros).unwrap();
        MetricsLog::open(&path, Some(after(3))).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn a_broken_line_in_the_middle_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        fs::write(&path, "{\"step\":1}\nnot json\n{\"step\":2}\n").unwrap();
        let error = MetricsLog::open(&path, Some(after(2))).err().unwrap();
        assert!(error.to_string().contains("log.jsonl:2 "), "{error}");
        assert_eq!(fs::read(&path).unwrap().len(), 31, "a refused log is left as it is");
        fs::write(&path, "{\"step\":\"one\"}\n{\"step\":2}\n").unwrap();
        assert!(matches!(MetricsLog::open(&path, Some(after(2))), Err(LogError::Line { line: 1, .. })));
    }

    #[test]
    fn a_fresh_run_starts_an_empty_log_and_a_lost_log_starts_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        run(&path, Some(10), 1..=1);
        run(&path, None, 2..=2);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"step\":2,\"loss\":0.5}\n{\"event\":\"evaluation\",\"ap\":0.25}\n");
    }

    #[test]
    fn a_log_that_is_taken_up_before_an_evaluation_loses_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let (first, second) = ("{\"step\":1}\n{\"step\":1,\"eval\":[0.5]}\n", "{\"step\":2,\"ms\":1.5}\n");
        let whole = format!("{first}{second}{{\"step\":2,\"eval\":{{\"top1\":1}}}}\n");
        for (before_evaluation, kept) in [(false, whole.clone()), (true, format!("{first}{second}"))] {
            fs::write(&path, &whole).unwrap();
            MetricsLog::open(&path, Some(LogPoint { step: 2, before_evaluation })).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), kept);
        }
    }

    #[test]
    fn the_digest_is_of_everything_but_wall_times() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        assert_eq!(digest(&path).unwrap(), None);
        let of = |text: &str| {
            fs::write(&path, text).unwrap();
            digest(&path).unwrap().unwrap()
        };
        let first = of("{\"step\":1,\"loss\":2.5,\"ms\":1.5}\n{\"step\":2,\"loss\":2.0,\"ms\":1.5}\n");
        assert_eq!(of("{\"step\":1,\"loss\":2.5,\"ms\":9}\n{\"step\":2,\"loss\":2.0,\"ms\":7.5}\n"), first);
        assert_ne!(of("{\"step\":1,\"loss\":2.5,\"ms\":9}\n{\"step\":2,\"loss\":2.1,\"ms\":7.5}\n"), first);
        assert_ne!(of("{\"step\":1,\"loss\":2.5,\"ms\":9}\n"), first);
        assert_ne!(of("{\"step\":1,\"loss\":2.5,\"ms\":9}\n{\"step\":2,\"loss\":2.0,\"mr\":7.5}\n"), first);
    }

    #[test]
    fn a_wall_time_that_is_no_number_changes_the_digest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let of = |text: &str| {
            fs::write(&path, text).unwrap();
            digest(&path).unwrap().unwrap()
        };
        assert_eq!(of("{\"step\":1,\"ms\":10.5}\n"), of("{\"step\":1,\"ms\":11.5}\n"));
        assert_ne!(of("{\"step\":1,\"ms\":10.5}\n"), of("{\"step\":1,\"ms\":00.5}\n"));
    }

    #[test]
    fn lines_are_in_the_file_as_soon_as_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = MetricsLog::open(&path, None).unwrap();
        log.write(&json!({"step": 1, "loss": f64::NAN})).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":1,\"loss\":null}\n");
    }
}
