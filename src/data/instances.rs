//! Neutral form of annotated boxes: every format is read into it once; training, checking, evaluation and
//! conversion start from it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::decode;
use super::image_policy::BadImages;
use super::pseudo_labels::PseudoLabels;
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
    /// Origin of boxes that a detector found, where the file tells it.
    pub pseudo_labels: Option<PseudoLabels>,
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
    /// Category of the object.
    pub category_id: u64,
    /// `[x, y, width, height]` in pixels.
    pub bbox: [f64; 4],
    /// Pixels covered; `None` stands for width x height.
    pub area: Option<f64>,
    /// A crowd region.
    pub iscrowd: bool,
    /// To be ignored (VOC's `difficult`).
    pub ignore: bool,
    /// Confidence of the detector that found it; `None` where a person drew it.
    pub score: Option<f64>,
}

/// Why boxes could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstancesError {
    /// The file could not be read.
    #[error("cannot read annotations {}: {source}", path.display())]
    Read {
        /// The annotations file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// Not JSON, or not COCO's.
    #[error("{} is not a COCO annotation file: {source}", path.display())]
    Format {
        /// The annotations file.
        path: PathBuf,
        /// The problem, with line and column.
        source: serde_json::Error,
    },
    /// The annotations contradict themselves.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The annotations file.
        path: PathBuf,
        /// The problem and its remedy.
        problem: String,
    },
    /// Image files cannot be used.
    #[error(transparent)]
    Bad(#[from] BadImages),
    /// Image files are missing.
    #[error(
        "{count} of the {total} images of {} are not in {} (first: {}); unpack them there, or correct the folder{}",
        path.display(), folder.display(), first.join(", "),
        if first.iter().any(|name| name.contains('\\')) { ": a path is written with /, not with backslashes" } else { "" }
    )]
    MissingImages {
        /// The annotations file.
        path: PathBuf,
        /// The folder that was searched.
        folder: PathBuf,
        /// Number of missing images.
        count: usize,
        /// Number of images that the file lists.
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
        Self { images, annotations, categories, pseudo_labels: None, origin, findings: Findings::default() }
    }

    /// A set without images, of the classes 0, 1, ... in this order; their category ids are 1, 2, ...
    pub fn of_classes<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        let categories = (1..).zip(names).map(|(id, name)| CategoryEntry { id, name: name.into() });
        Self::new(Vec::new(), Vec::new(), categories.collect())
    }

    /// Adds an image of (width, height) with its objects, each a class and `[x, y, width, height]` in pixels.
    /// Gives the image's id: 1 for the first, then 2, ...
    ///
    /// A class that the set does not have is found when a data set is made of it.
    pub fn push_image(
        &mut self,
        name: &str,
        (width, height): (u32, u32),
        objects: impl IntoIterator<Item = (u32, [f64; 4])>,
    ) -> u64 {
        let id = self.images.len() as u64 + 1;
        self.images.push(ImageEntry { id, file_name: name.to_owned(), width, height });
        for (class, bbox) in objects {
            self.annotations.push(AnnotationEntry {
                id: self.annotations.len() as u64 + 1,
                image_id: id,
                category_id: u64::from(class) + 1,
                bbox,
                area: None,
                iscrowd: false,
                ignore: false,
                score: None,
            });
        }
        id
    }

    /// Adds an image with the boxes and classes of arrays, as [`push_image`](Self::push_image) does.
    ///
    /// # Shapes
    /// `boxes`: (objects, 4), a row `x, y, width, height`; `classes`: (objects).
    ///
    /// # Errors
    /// If the shapes do not fit each other.
    #[cfg(feature = "ndarray")]
    pub fn push_arrays(
        &mut self,
        name: &str,
        size: (u32, u32),
        boxes: ndarray::ArrayView2<'_, f64>,
        classes: ndarray::ArrayView1<'_, u32>,
    ) -> Result<u64, InstancesError> {
        if boxes.dim() != (classes.len(), 4) {
            let (shape, classes) = (boxes.shape(), classes.len());
            return Err(self.content(format!(
                "{name}: an array of boxes {shape:?} for {classes} classes; give one row of 4 numbers a class"
            )));
        }
        let rows = boxes.rows().into_iter().map(|row| [row[0], row[1], row[2], row[3]]);
        Ok(self.push_image(name, size, classes.iter().copied().zip(rows)))
    }

    /// Notes the file or folder that the set was read from, and the findings of its reader.
    pub(super) fn read_from(self, origin: &Path, findings: Findings) -> Self {
        Self { origin: origin.to_owned(), findings, ..self }
    }

    /// The file or folder it was read from.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// Findings of the reader: everything not taken as it stands.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Number of annotations dropped because they are listed twice.
    pub fn dropped(&self) -> usize {
        self.findings.count_of(FindingKind::RepeatedAnnotation)
    }

    /// The set with the sizes of its images' files in `folder` where it does not say them.
    ///
    /// # Errors
    /// If such a file cannot be opened.
    pub fn with_sizes(mut self, folder: &Path) -> Result<Self, InstancesError> {
        let of_file = |image: &ImageEntry| {
            let ImageEntry { id, file_name, width, height } = image;
            if *width > 0 && *height > 0 {
                return Ok(None);
            }
            decode::size(&folder.join(file_name)).map(Some).map_err(|error| {
                self.content(format!(
                    "image {id} ({file_name}) is {width}x{height} pixels, and its file does not say better; correct its size: {error}"
                ))
            })
        };
        let sizes: Vec<_> = self.images.par_iter().map(of_file).collect::<Result<_, _>>()?;
        for (image, size) in self.images.iter_mut().zip(sizes) {
            if let Some(size) = size {
                self.findings.found(FindingKind::SizeFromFile, image.id);
                (image.width, image.height) = size;
            }
        }
        Ok(self)
    }

    /// An error about its content.
    pub(super) fn content(&self, problem: String) -> InstancesError {
        InstancesError::Content { path: self.origin.clone(), problem }
    }
}

/// Ids of images: for each the number made of the digits of its name, or, where that is not unique, 1, 2, ...
pub(super) fn ids_of(names: &[String]) -> Vec<u64> {
    let digits = |name: &String| name.chars().filter(char::is_ascii_digit).collect::<String>().parse().ok();
    let numbers: Option<Vec<u64>> = names.iter().map(digits).collect();
    match numbers {
        Some(numbers) if numbers.iter().collect::<BTreeSet<_>>().len() == names.len() => numbers,
        _ => (1..=names.len() as u64).collect(),
    }
}

/// A coordinate in pixels freed of rounding: the multiple of 1/1000 pixel that it lies within 1e-9 of, if
/// there is one.
///
/// Sums and products of coordinates as other formats keep them then give back the very box.
pub(super) fn snapped(pixels: f64) -> f64 {
    let near = (pixels * 1000.0).round() / 1000.0;
    // No negative zero.
    if (near - pixels).abs() < 1e-9 { near + 0.0 } else { pixels }
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
