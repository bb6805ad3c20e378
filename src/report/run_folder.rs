//! A run on disk: the names of its files, and the lines of its log as types.
//!
//! ```text
//! runs/NAME/config.toml             the configuration, resolved
//!           program.txt             version and hash of the program
//!           data.txt                BLAKE3 of the data, as far as annotations and labels say
//!           run.lock                the process that uses the folder, while it does
//!           environment.json        command and machine, for the page
//!           log.jsonl               one line an update, an evaluation ([`Line`])
//!           log.csv                 the same as a table
//!           tensorboard/            the same, and pictures, for TensorBoard
//!           report.html             a page about the run
//!           eval/step-STEP.json     all that an evaluation found
//!           checkpoints/            states to resume from
//!           best.safetensors        weights of the best evaluation
//!           last.safetensors        weights after the last step
//!           ema.safetensors         average of the weights after the last step (train.ema_decay)
//!           outcome.json            the numbers of the last evaluation
//!           summary.json            the experiment: the outcome, or the comparison
//!           val_detections.json     a detector's findings at the last evaluation, as COCO results
//!           val_hits.txt            a classifier's last evaluation: a digit an image, 1 where its first guess is right; of a
//!                                   cohort a line a network
//!           detections.png          detections beside the truth
//!           shown/                  pictures for the page: images, feature maps
//!           alone/                  the run of the student without its teacher
//! ```
//!
//! Each network of a cohort has a folder `peer0/`, `peer1/`, .. of its own weights in the run's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::shares::Shares;

/// The folder of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

/// A folder that holds no run, or a damaged one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunFolderError {
    /// The folder has no recorded configuration.
    #[error("{} is no run: it has no config.toml", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// A file of the run cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A line of the log is none of [`Line`].
    #[error("{}:{line} is no line of a run's log: {source}", path.display())]
    Line {
        /// The log.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// Error of the parser.
        source: serde_json::Error,
    },
}

impl RunFolder {
    /// The run whose files are, or will be, in `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The run that was started in `path`.
    ///
    /// # Errors
    /// [`RunFolderError::NoRun`] if none was.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, RunFolderError> {
        let run = Self::at(path);
        match run.config().exists() {
            true => Ok(run),
            false => Err(RunFolderError::NoRun { path: run.path }),
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration that the run was started with.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The program that the run was started by.
    pub fn program(&self) -> PathBuf {
        self.path.join("program.txt")
    }

    /// The hash of the data that the run was started on.
    pub fn data(&self) -> PathBuf {
        self.path.join("data.txt")
    }

    /// The lock of the process that uses the folder.
    pub fn lock(&self) -> PathBuf {
        self.path.join("run.lock")
    }

    /// Whether no more is in the folder than the record of a run that was never begun: its configuration, an empty log.
    pub fn is_bare(&self) -> bool {
        let records = [self.config(), self.program(), self.data(), self.lock(), self.environment()];
        let is_record =
            |path: &Path| records.iter().any(|record| record == path) || path.starts_with(self.tensorboard());
        is_without_content(&self.path, &is_record)
    }

    /// The metrics log.
    pub fn log(&self) -> PathBuf {
        self.path.join("log.jsonl")
    }

    /// Updates and evaluations of the log as a table.
    pub fn csv(&self) -> PathBuf {
        self.path.join("log.csv")
    }

    /// The folder of TensorBoard's event files.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }

    /// The page about the run.
    pub fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// Command and machine of the run.
    pub fn environment(&self) -> PathBuf {
        self.path.join("environment.json")
    }

    /// The evaluation after `step` updates.
    pub fn evaluation(&self, step: u64) -> PathBuf {
        self.path.join(format!("eval/step-{step:08}.json"))
    }

    /// The folder of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The weights at the best evaluation.
    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }

    /// The weights after the last step: there once the run is finished.
    pub fn last(&self) -> PathBuf {
        self.path.join("last.safetensors")
    }

    /// The average of the weights after the last step, if the run kept one.
    pub fn ema(&self) -> PathBuf {
        self.path.join("ema.safetensors")
    }

    /// The evaluation of the average of the weights after `step` updates.
    pub fn evaluation_of_average(&self, step: u64) -> PathBuf {
        self.path.join(format!("eval/step-{step:08}.ema.json"))
    }

    /// The numbers of the last evaluation: written last of all.
    pub fn outcome(&self) -> PathBuf {
        self.path.join("outcome.json")
    }

    /// The numbers of the whole experiment.
    pub fn summary(&self) -> PathBuf {
        self.path.join("summary.json")
    }

    /// Detections of the last evaluation, as a COCO results file.
    pub fn val_detections(&self) -> PathBuf {
        self.path.join("val_detections.json")
    }

    /// Hits of a classifier's last evaluation: a digit an image, 1 where the first guess is right; a line a network.
    pub fn val_hits(&self) -> PathBuf {
        self.path.join("val_hits.txt")
    }

    /// Detections of the finished students beside the truth.
    pub fn detections(&self) -> PathBuf {
        self.path.join("detections.png")
    }

    /// Pictures for the page, and their list ([`Shown`](super::shown::Shown)).
    pub fn shown(&self) -> PathBuf {
        self.path.join("shown")
    }

    /// The run of the same student without its teacher.
    pub fn alone(&self) -> Self {
        Self::at(self.path.join("alone"))
    }

    /// The files of one of several networks; `name` is empty for a run's only network.
    pub fn network(&self, name: &str) -> Self {
        Self::at(self.path.join(name))
    }

    /// The lines of the log.
    ///
    /// # Errors
    /// A log that is missing, or that has another line than these.
    pub fn lines(&self) -> Result<Vec<Line>, RunFolderError> {
        let path = self.log();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(RunFolderError::Read { path, source }),
        };
        let line = |(index, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|source| RunFolderError::Line {
                path: path.clone(),
                line: index + 1,
                source,
            })
        };
        text.lines().enumerate().map(line).collect()
    }
}

/// Whether all files of `folder` and below it are empty, or of no account.
fn is_without_content(folder: &Path, is_of_no_account: &impl Fn(&Path) -> bool) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return !folder.exists() };
    entries.into_iter().all(|entry| {
        let Ok(path) = entry.map(|entry| entry.path()) else { return false };
        match fs::symlink_metadata(&path) {
            Ok(about) if about.is_dir() => is_without_content(&path, is_of_no_account),
            Ok(about) => is_of_no_account(&path) || (about.is_file() && about.len() == 0),
            Err(_) => false,
        }
    })
}

/// A line of a run's `log.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Line {
    /// Record of an update.
    Step(StepLine),
    /// Record of an evaluation.
    Eval(EvalLine),
    /// The shares of the losses in the gradient.
    Shares(SharesLine),
    /// A step that was left out.
    LeftOut(LeftOutLine),
    /// An image that was left out or replaced.
    BadImage(BadImageLine),
}

/// Record of an update. The fields from `ms` on tell of wall time and memory and differ from run to run; all else is a
/// function of the configuration and the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// Updates so far, this one included.
    pub step: u64,
    /// The learning rate.
    pub lr: f64,
    /// The sum of `losses`.
    pub loss: f64,
    /// Each term as it enters the sum, mean over the accumulated batches.
    pub losses: serde_json::Map<String, serde_json::Value>,
    /// The norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Images of the update.
    pub images: usize,
    /// Passes over the training images so far; logs of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<f64>,
    /// Wall time of the update in milliseconds.
    pub ms: f64,
    /// Wall time that the update waited for its data, in milliseconds.
    pub data_wait_ms: f64,
    /// Wall time of the teacher, in milliseconds; logs of earlier versions have none of this and the next two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher_ms: Option<f64>,
    /// Wall time of the student's forward passes and all losses, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_ms: Option<f64>,
    /// Wall time of the gradients, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backward_ms: Option<f64>,
    /// Seconds since 1970 when it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<f64>,
    /// Memory of the process then, in MiB, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<f64>,
}

/// A step that made no update, since its loss or gradient was not finite (`train.on_non_finite`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeftOutLine {
    /// Steps so far, this one included.
    pub step: u64,
    /// Quantity that was not finite.
    pub left_out: String,
    /// Ids of the images of the step; a classifier's are numbers from 0.
    pub images: Vec<u64>,
}

/// An image that cannot be used (`data.on_bad_image = "skip"`): other images take its place in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BadImageLine {
    /// The step that was under way when it was found; 0 before the first.
    pub step: u64,
    /// The file.
    pub bad_image: PathBuf,
    /// The problem.
    pub reason: String,
}

/// Record of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalLine {
    /// Updates before it.
    pub step: u64,
    /// A detector's twelve COCO numbers; a classifier's accuracies by name.
    pub eval: serde_json::Value,
    /// Evaluation of the moving average of the weights, if the run keeps one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<serde_json::Value>,
    /// Passes over the training images so far; logs of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<f64>,
    /// Wall time of the evaluation in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<f64>,
    /// Seconds since 1970 when it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<f64>,
    /// Memory of the process then, in MiB, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<f64>,
}

/// The shares of the losses in the gradient, over the first steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SharesLine {
    /// Updates over which they were measured.
    pub step: u64,
    /// The shares.
    pub shares: Shares,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_back_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::at(folder.path());
        let step = StepLine {
            step: 1,
            lr: 0.01,
            loss: 0.75,
            losses: [("loss_classifier".to_owned(), 0.75.into())].into_iter().collect(),
            gradient_norm: 2.5,
            images: 2,
            epoch: Some(0.2),
            ms: 10.5,
            data_wait_ms: 0.1,
            teacher_ms: Some(2.5),
            forward_ms: None,
            backward_ms: None,
            time: Some(1.5e9),
            memory_mib: None,
        };
        let eval = EvalLine {
            step: 1,
            eval: serde_json::json!([0.5, 0.75]),
            ema: None,
            epoch: None,
            ms: Some(3.0),
            time: None,
            memory_mib: None,
        };
        let mut shares = Shares::default();
        shares.add(&[("detection".to_owned(), 3.0)].into_iter().collect());
        let lines = [Line::Step(step), Line::Shares(SharesLine { step: 1, shares }), Line::Eval(eval)];
        let text: String = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
        fs::write(run.log(), text + "{\"step\": 2}\n").unwrap();
        let error = run.lines().unwrap_err().to_string();
        assert!(error.contains("log.jsonl:4 is no line of a run's log"), "{error}");
        let text = fs::read_to_string(run.log()).unwrap();
        fs::write(run.log(), text.trim_end_matches("{\"step\": 2}\n")).unwrap();
        assert_eq!(run.lines().unwrap(), lines);
    }

    #[test]
    fn a_folder_without_a_configuration_is_no_run() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(RunFolder::open(folder.path()), Err(RunFolderError::NoRun { .. })));
        fs::write(folder.path().join("config.toml"), "").unwrap();
        assert_eq!(RunFolder::open(folder.path()).unwrap().last(), folder.path().join("last.safetensors"));
    }
}
