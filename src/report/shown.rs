//! `shown/index.json` of a run: the images, feature maps and alignments that its page shows.

use serde::{Deserialize, Serialize};

/// Pictures of a finished experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// Boxes that are drawn, in words.
    pub note: String,
    /// Images with boxes.
    pub images: Vec<ShownImage>,
    /// Feature maps of one image, level by level.
    pub maps: Vec<ShownMaps>,
    /// Alignment of the students' feature maps with the teacher's, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alignment: Option<Alignment>,
}

impl Shown {
    /// Name of the file, beside the pictures that it names.
    pub const FILE: &'static str = "index.json";
}

/// An image as several networks see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShownImage {
    /// `worst` or `best`.
    pub kind: String,
    /// Name of the image's file.
    pub name: String,
    /// The truth, then each network.
    pub panels: Vec<ShownPanel>,
}

/// A level of the feature pyramids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShownMaps {
    /// Name of the level.
    pub level: String,
    /// The networks.
    pub panels: Vec<ShownPanel>,
}

/// A picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShownPanel {
    /// The network.
    pub title: String,
    /// Its findings in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<String>,
    /// Name of the file.
    pub file: String,
}

/// Centred kernel alignment of students' feature maps with their teacher's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alignment {
    /// Images that it was measured on.
    pub images: usize,
    /// Most cells of an image's map.
    pub cells: usize,
    /// The students.
    pub models: Vec<String>,
    /// Name of each level, and the alignment of each student, from 0 to 1.
    pub levels: Vec<(String, Vec<f64>)>,
}
