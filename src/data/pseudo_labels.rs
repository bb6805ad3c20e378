//! Origin of a file of pseudo-labels: its teacher, its thresholds, its counts.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Origin of the boxes of a file: who found them, by which thresholds, and how many of each class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PseudoLabels {
    /// Weights file of the detector.
    pub teacher: String,
    /// BLAKE3 of the weights, hexadecimal.
    pub teacher_blake3: String,
    /// Folder of the images.
    pub folder: PathBuf,
    /// A box that scores above this and not above its class's threshold is to be ignored.
    pub ignore_above: f64,
    /// Sides that a box must exceed, in pixels.
    pub min_side_px: f64,
    /// Uncertainty that the detector is below about a label's box, if that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_uncertainty: Option<f64>,
    /// Whether the best box of an image counts whatever it scores.
    pub best_of_each: bool,
    /// Images that were looked at.
    pub images: usize,
    /// Images among them without a label.
    pub without_labels: usize,
    /// Whether those are in the file.
    pub empty_kept: bool,
    /// The classes.
    pub classes: Vec<PseudoClass>,
}

/// A class of pseudo-labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PseudoClass {
    /// Category id.
    pub id: u64,
    /// Name of the class.
    pub name: String,
    /// Score that a label must exceed.
    pub threshold: f64,
    /// Origin of the threshold: `given`, or `precision` on labelled images.
    pub chosen_by: String,
    /// Boxes that are labels.
    pub labels: usize,
    /// Boxes that are to be ignored.
    pub ignored: usize,
}
