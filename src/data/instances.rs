//! Boxes of a data set in their neutral form: what every format is read into, once, and what training,
//! checking, evaluation and conversion all start from.

use std::path::{Path, PathBuf};

use super::report::{FindingKind, Findings};

/// Images, annotated boxes and categories of one split, with the numbers that its files have.
///
/// Two sets are equal if these three are; where they were read from does not count.
#[derive(Debug, Clone)]
pub struct Instances {
    /// Images, in the order of the file or list.
    pub images: Vec<ImageEntry>,
    /// Boxes, in the order of the file.
    pub annotations: Vec<AnnotationEntry>,
    /// Categories; class 0 is the one with the smallest id.
    pub categories: Vec<CategoryEntry>,
    origin: PathBuf,
    findings: Findings,
}

/// An image with boxes, or without any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEntry {
    /// Unique in the set.
    pub id: u64,
    /// Relative to the folder of images; empty where the file names none.
    pub file_name: String,
    /// Pixels across; 0 where the file does not say.
    pub width: u32,
    /// Pixels down; 0 where the file does not say.
    pub height: u32,
}

/// A category of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CategoryEntry {
    /// Unique in the set; gaps are fine.
    pub id: u64,
    /// The category's name.
    pub name: String,
}

/// An annotated box.
#[derive(Debug, Clone, PartialEq)]
pub struct AnnotationEntry {
    /// Unique in the set.
    pub id: u64,
    /// The image it lies in.
    pub image_id: u64,
    /// Its category.
    pub category_id: u64,
    /// `[x, y, width, height]` in pixels.
    pub bbox: [f64; 4],
    /// Pixels covered; `None` stands for width x height.
    pub area: Option<f64>,
    /// A crowd region.
    pub iscrowd: bool,
    /// To be ignored (VOC's `difficult`).
    pub ignore: bool,
}

/// Why boxes could not be used.
#[derive(Debug, thiserror::Error)]
pub enum InstancesError {
    /// The file could not be read.
    #[error("cannot read annotations {}: {source}", path.display())]
    Read {
        /// The annotations file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Not JSON, or not COCO's.
    #[error("{} is not a COCO annotation file: {source}", path.display())]
    Format {
        /// The annotations file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// The annotations contradict themselves.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The annotations file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Image files are missing.
    #[error(
        "{count} of the {total} images of {} are not in {} (first: {}); unpack them there, or correct the folder",
        path.display(), folder.display(), first.join(", ")
    )]
    MissingImages {
        /// The annotations file.
        path: PathBuf,
        /// The folder that was searched.
        folder: PathBuf,
        /// How many are missing.
        count: usize,
        /// How many the file lists.
        total: usize,
        /// The first few missing file names.
        first: Vec<String>,
    },
}

impl Instances {
    /// A set made in memory.
    pub fn new(
        images: Vec<ImageEntry>,
        annotations: Vec<AnnotationEntry>,
        categories: Vec<CategoryEntry>,
    ) -> Self {
        let origin = PathBuf::from("(in memory)");
        Self { images, annotations, categories, origin, findings: Findings::default() }
    }

    /// The same set, read from `origin` with these findings.
    pub(super) fn read_from(self, origin: &Path, findings: Findings) -> Self {
        Self { origin: origin.to_owned(), findings, ..self }
    }

    /// The file or folder it was read from.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// Whatever was not read as it stands.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// How many annotations were dropped because they are listed twice.
    pub fn dropped(&self) -> usize {
        self.findings.count_of(FindingKind::RepeatedAnnotation)
    }

    /// An error about its content.
    pub(super) fn content(&self, problem: String) -> InstancesError {
        InstancesError::Content { path: self.origin.clone(), problem }
    }
}

impl PartialEq for Instances {
    fn eq(&self, other: &Self) -> bool {
        self.images == other.images
            && self.annotations == other.annotations
            && self.categories == other.categories
    }
}

impl AnnotationEntry {
    /// Pixels covered: `area`, else the box's.
    pub fn area(&self) -> f64 {
        self.area.unwrap_or(self.bbox[2] * self.bbox[3])
    }
}
