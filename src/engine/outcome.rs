//! What a job gave: the numbers of its last evaluation.

use std::path::Path;

use ckd_detectors::Detector;
use serde::{Deserialize, Serialize};

use super::Result;
use super::checkpoint::Best;
use crate::eval::BoxMetrics;
use crate::fsx;
use crate::report::table::ModelRow;

/// A trained and evaluated student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its line of a table: accuracy after the last step, and cost.
    pub row: ModelRow,
    /// AP of each class after the last step.
    pub per_class: Vec<ClassResult>,
    /// The best AP at any evaluation and its step; the row above is the last step's all the same.
    pub best: Option<Best>,
    /// Updates.
    pub steps: u64,
    /// BLAKE3 of the weights of its teacher, if it had one.
    #[serde(default)]
    pub teacher: Option<String>,
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

impl Outcome {
    /// The outcome that the job in `folder` wrote, if it came to its end.
    pub fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(folder.join(FILE)).ok()?).ok()
    }

    /// Writes the outcome into the job's `folder`: last of all, so that whoever sees it finds the rest complete.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).expect("an outcome has a JSON form");
        Ok(fsx::write_atomic(&folder.join(FILE), &json)?)
    }
}

const FILE: &str = "outcome.json";

/// Metrics and cost of one evaluation.
#[derive(Debug, Clone)]
pub struct Measured {
    /// COCO's numbers.
    pub metrics: BoxMetrics,
    /// Median wall time of one image, in milliseconds.
    pub ms_per_image: f64,
    /// Multiply-adds of one image, in 10^9.
    pub gflops: f64,
}

impl Measured {
    /// The measured detector's line of a table.
    pub fn row(&self, name: &str, detector: &Detector) -> ModelRow {
        ModelRow {
            name: name.to_owned(),
            stats: self.metrics.stats,
            parameters: detector.params().weight_count() as u64,
            gflops: self.gflops,
            ms_per_image: self.ms_per_image,
        }
    }

    /// AP and AP50 of each class.
    pub fn per_class(&self) -> Vec<ClassResult> {
        let classes = self.metrics.per_class.iter();
        classes
            .map(|class| ClassResult { name: class.name.clone(), ap: class.ap, ap50: class.ap50 })
            .collect()
    }
}
