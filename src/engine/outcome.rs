//! What a job gave: the numbers of its last evaluation.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Result;
use super::checkpoint::{Best, NetworkBest};
use super::seal::{self, Sealed};
use crate::fsx;
use crate::report::run_folder::RunFolder;
use crate::weights::file::check_whole;

/// A trained and evaluated student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome<R> {
    /// Line of a table: accuracy after the last step, and cost.
    pub row: R,
    /// Line for the moving average of the weights, if the run kept one (`train.ema_decay`).
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub ema: Option<R>,
    /// AP of each class after the last step; a classifier's are in `eval/`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per_class: Vec<ClassResult>,
    /// The best evaluation and its step; the row above is the last step's all the same.
    pub best: Option<Best>,
    /// The best evaluation of each network, where several train together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkBest>,
    /// Updates.
    pub steps: u64,
    /// The reason why the training ended.
    #[serde(default, skip_serializing_if = "Ended::is_whole")]
    pub ended: Ended,
    /// Updates of the whole schedule, where `train.minutes` decided that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fitted: Option<u64>,
    /// BLAKE3 of the weights of its teacher, if it had one.
    #[serde(default)]
    pub teacher: Option<String>,
    /// BLAKE3 of its log, wall times left out, if it wrote one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

/// Reason why a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The schedule was done, shortened or not.
    #[default]
    Schedule,
    /// No evaluation was better than the best one for as long as `train.patience` says.
    Patience,
}

impl Ended {
    fn is_whole(&self) -> bool {
        *self == Self::Schedule
    }
}

/// The default of a field that older files lack.
fn none<R>() -> Option<R> {
    None
}

/// Result for a class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassResult {
    /// The class.
    pub name: String,
    /// AP of the class, a fraction; -1 where nothing was measured.
    pub ap: f64,
    /// AP50 of the class.
    pub ap50: f64,
}

impl<R: Serialize + DeserializeOwned> Outcome<R> {
    /// The outcome that the job in `folder` wrote, if it came to its end.
    ///
    /// # Errors
    /// Says in words that the file is damaged.
    pub fn read(folder: &RunFolder) -> std::result::Result<Option<Self>, String> {
        let path = folder.outcome();
        let damaged = |why: &dyn std::fmt::Display| format!("{} is damaged ({why})", path.display());
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(damaged(&error)),
        };
        match seal::check_json(&text) {
            Sealed::Whole(text) => serde_json::from_str(text).map(Some).map_err(|error| damaged(&error)),
            Sealed::Broken => Err(damaged(&"it is not what its hash says")),
        }
    }

    /// Checks that the weights that the job in `folder` ends with are there and whole.
    ///
    /// # Errors
    /// Says in words what is not.
    pub fn check_weights(&self, folder: &RunFolder) -> std::result::Result<(), String> {
        let folders: Vec<RunFolder> = match self.networks.is_empty() {
            true => vec![folder.clone()],
            false => self.networks.iter().map(|own| folder.network(&own.folder)).collect(),
        };
        for folder in folders {
            check_whole(&folder.last()).map_err(|error| error.to_string())?;
            if self.ema.is_some() {
                check_whole(&folder.ema()).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// Writes the outcome into the job's `folder`: last of all, so that whoever sees it finds the rest complete.
    pub fn write(&self, folder: &RunFolder) -> Result<()> {
        let json = serde_json::to_string_pretty(self).expect("an outcome has a JSON form");
        Ok(fsx::write_atomic(&folder.outcome(), seal::json(&json).as_bytes())?)
    }
}
