//! What a job gave: the numbers of its last evaluation.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Result;
use super::checkpoint::{Best, NetworkBest};
use crate::fsx;
use crate::report::run_folder::RunFolder;

/// A trained and evaluated student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome<R> {
    /// Its line of a table: accuracy after the last step, and cost.
    pub row: R,
    /// The same of the average of the weights, if the run kept one (`train.ema_decay`).
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
    /// BLAKE3 of the weights of its teacher, if it had one.
    #[serde(default)]
    pub teacher: Option<String>,
}

/// The default of a field that older files lack.
fn none<R>() -> Option<R> {
    None
}

/// One class's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassResult {
    /// The class.
    pub name: String,
    /// Its AP, a fraction; -1 where nothing was measured.
    pub ap: f64,
    /// Its AP50.
    pub ap50: f64,
}

impl<R: Serialize + DeserializeOwned> Outcome<R> {
    /// The outcome that the job in `folder` wrote, if it came to its end.
    pub fn read(folder: &RunFolder) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(folder.outcome()).ok()?).ok()
    }

    /// Whether the weights that the job in `folder` ends with are there.
    pub fn is_complete(&self, folder: &RunFolder) -> bool {
        match self.networks.is_empty() {
            true => folder.last().exists(),
            false => self.networks.iter().all(|own| folder.network(&own.folder).last().exists()),
        }
    }

    /// Writes the outcome into the job's `folder`: last of all, so that whoever sees it finds the rest complete.
    pub fn write(&self, folder: &RunFolder) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).expect("an outcome has a JSON form");
        Ok(fsx::write_atomic(&folder.outcome(), &json)?)
    }
}
