//! COCO `instances_*.json`: images, categories, boxes, and what was done about the odd ones.
//!
//! Nothing is silent: [`Dataset::load`] returns a [`LoadReport`] with the count and the first ids of
//! everything that was not taken as it stands.
//!
//! | found                                     | policy                                              |
//! |-------------------------------------------|-----------------------------------------------------|
//! | crowd (`iscrowd`) or `ignore` box         | kept aside: never a positive, never a negative      |
//! | box without a size (under 0.01 px)        | dropped                                             |
//! | box reaching outside its image            | clipped when it becomes a target                    |
//! | box entirely outside its image            | dropped                                             |
//! | repeated annotation id                    | the first is kept                                   |
//! | annotation of an image not in the file    | dropped (subsets often keep them)                   |
//! | annotation of an unknown category         | error: the class list is wrong                      |
//! | repeated image or category id             | error                                               |
//! | image file missing                        | error, or skipped ([`MissingImages`])               |
//! | gaps in the category ids                  | mapped to 0..K ([`CategoryMap`])                    |
//!
//! Boxes stay as they are in the file; [`Annotation::clipped`] gives what is trained on. Evaluation
//! reads the file itself and is not touched by any of this.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

mod file;
mod report;

pub use file::{AnnotationEntry, CategoryEntry, ImageEntry, Instances};
pub use report::{Finding, FindingKind, LoadReport};

/// A box side below this, in pixels, is no side: it would vanish in f32 arithmetic.
pub const MIN_SIDE_PX: f32 = 0.01;

/// An image's id in its COCO file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(pub u64);

/// A category's id in its COCO file; ids may have gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CategoryId(pub u64);

/// A category's place in 0..K, in the order of the ids. No background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassIndex(pub u32);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An image of the data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// The file's name as the annotations give it.
    pub file_name: String,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Where the file is.
    pub path: PathBuf,
}

/// One annotated object.
#[derive(Debug, Clone, PartialEq)]
pub struct Annotation {
    /// Its id.
    pub id: u64,
    /// `[x, y, width, height]` in pixels of the original image, as in the file.
    pub bbox: [f64; 4],
    /// Its class.
    pub category: ClassIndex,
    /// Pixels covered: the file's `area`, or the box's where the file has none.
    pub area: f64,
    /// A crowd region (`iscrowd`).
    pub crowd: bool,
    /// To be ignored (`ignore`; VOC's `difficult`).
    pub ignore: bool,
}

impl Annotation {
    /// Whether a detector may be trained to find this object.
    pub fn is_positive(&self) -> bool {
        !self.crowd && !self.ignore
    }

    /// The box as `xyxy` clipped to an image of this size, in f32 as torchvision's reference computes
    /// it; `None` where nothing of at least [`MIN_SIDE_PX`] is left.
    pub fn clipped(&self, width: u32, height: u32) -> Option<[f32; 4]> {
        let [x, y, w, h] = self.bbox.map(|number| number as f32);
        let (right, bottom) = (width as f32, height as f32);
        let [x1, y1] = [x.clamp(0.0, right), y.clamp(0.0, bottom)];
        let [x2, y2] = [(x + w).clamp(0.0, right), (y + h).clamp(0.0, bottom)];
        // NaN fails the comparison too.
        (x2 - x1 >= MIN_SIDE_PX && y2 - y1 >= MIN_SIDE_PX).then_some([x1, y1, x2, y2])
    }
}

/// The contiguous classes 0..K and the category ids they stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CategoryMap {
    entries: Vec<(CategoryId, String)>,
}

impl CategoryMap {
    /// Sorts the categories by id; an id that comes twice is returned as the error.
    pub fn new(mut categories: Vec<(CategoryId, String)>) -> Result<Self, CategoryId> {
        categories.sort_by_key(|&(id, _)| id);
        match categories.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(pair[0].0),
            None => Ok(Self { entries: categories }),
        }
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no class.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The class of a category id.
    pub fn class(&self, id: CategoryId) -> Option<ClassIndex> {
        let place = self.entries.binary_search_by_key(&id, |&(id, _)| id).ok()?;
        Some(ClassIndex(place as u32))
    }

    /// The category id of a class.
    pub fn id(&self, class: ClassIndex) -> Option<CategoryId> {
        self.entries.get(class.0 as usize).map(|&(id, _)| id)
    }

    /// The name of a class.
    pub fn name(&self, class: ClassIndex) -> Option<&str> {
        self.entries.get(class.0 as usize).map(|(_, name)| name.as_str())
    }

    /// (id, name) of class 0, 1, ...
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (CategoryId, &str)> {
        self.entries.iter().map(|(id, name)| (*id, name.as_str()))
    }
}

/// What to do about image files that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingImages {
    /// Refuse to load, naming the first of them.
    #[default]
    Error,
    /// Leave these images and their annotations out, and report them.
    Skip,
}

/// A loaded data set: images, classes, and the annotations of each image.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The images, in the order of the file.
    pub images: Vec<Image>,
    /// The classes.
    pub categories: CategoryMap,
    annotations: Vec<Vec<Annotation>>,
}

/// Why annotations could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CocoError {
    /// The file could not be read.
    #[error("cannot read annotations {}: {source}", path.display())]
    Read {
        /// The annotations file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Not JSON, or not COCO's.
    #[error("{} is not a COCO instances file: {source}", path.display())]
    Format {
        /// The annotations file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// The file contradicts itself.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The annotations file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Image files are missing.
    #[error(
        "{count} of the {total} images of {} are not in {} (first: {}); unpack them there, correct the folder, or choose to skip missing images",
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

impl Dataset {
    /// Reads `annotations` (COCO `instances_*.json`) of the images in the folder `images`.
    ///
    /// The image files are looked up, not opened. Segmentations are skipped unread.
    pub fn load(
        annotations: &Path,
        images: &Path,
        missing: MissingImages,
    ) -> Result<(Self, LoadReport), CocoError> {
        let raw = Instances::read(annotations)?;
        let content = |problem| CocoError::Content { path: annotations.to_owned(), problem };
        let mut report = LoadReport::new(annotations);

        let categories = categories(raw.categories, &mut report).map_err(content)?;
        let (images, known, skipped) = present(raw.images, annotations, images, missing, &mut report)?;
        let mut dataset = Self { annotations: vec![Vec::new(); images.len()], images, categories };
        dataset.take(raw.annotations, &known, &skipped, &mut report).map_err(content)?;
        report.count(&dataset);
        Ok((dataset, report))
    }

    /// A data set from its parts: `annotations[i]` belong to `images[i]`.
    ///
    /// # Panics
    /// When the two differ in length.
    pub fn from_parts(
        images: Vec<Image>,
        categories: CategoryMap,
        annotations: Vec<Vec<Annotation>>,
    ) -> Self {
        assert_eq!(images.len(), annotations.len(), "one list of annotations per image");
        Self { images, categories, annotations }
    }

    /// The annotations of the image at index `image`, crowd and ignored ones included.
    pub fn annotations(&self, image: usize) -> &[Annotation] {
        &self.annotations[image]
    }

    /// Sorts the file's annotations to their images, dropping those the policies name.
    fn take(
        &mut self,
        annotations: Vec<AnnotationEntry>,
        known: &HashMap<u64, usize>,
        skipped: &BTreeSet<u64>,
        report: &mut LoadReport,
    ) -> Result<(), String> {
        let mut seen = HashSet::with_capacity(annotations.len());
        for raw in annotations {
            if !seen.insert(raw.id) {
                report.found(FindingKind::RepeatedAnnotation, raw.id);
                continue;
            }
            let category = self.categories.class(CategoryId(raw.category_id)).ok_or_else(|| {
                format!(
                    "annotation {} has category_id {}, which `categories` does not list; add the category or remove the annotation",
                    raw.id, raw.category_id
                )
            })?;
            let Some(&image) = known.get(&raw.image_id) else {
                if !skipped.contains(&raw.image_id) {
                    report.found(FindingKind::UnknownImage, raw.id);
                }
                continue;
            };
            let area = raw.area.unwrap_or(raw.bbox[2] * raw.bbox[3]);
            let (crowd, ignore) = (raw.iscrowd, raw.ignore);
            let annotation = Annotation { id: raw.id, bbox: raw.bbox, category, area, crowd, ignore };
            if let Some(kind) = trouble(&annotation, &self.images[image]) {
                report.found(kind, raw.id);
                if kind != FindingKind::Clipped {
                    continue;
                }
            }
            if crowd {
                report.found(FindingKind::Crowd, raw.id);
            } else if ignore {
                report.found(FindingKind::Ignored, raw.id);
            }
            self.annotations[image].push(annotation);
        }
        Ok(())
    }
}

fn categories(raw: Vec<CategoryEntry>, report: &mut LoadReport) -> Result<CategoryMap, String> {
    if raw.is_empty() {
        return Err("`categories` is empty; a detector needs at least one class".to_owned());
    }
    let entries = raw.into_iter().map(|category| (CategoryId(category.id), category.name)).collect();
    let map = CategoryMap::new(entries)
        .map_err(|id| format!("`categories` lists id {} twice; give every category its own id", id.0))?;
    for (before, after) in map.entries.iter().zip(map.entries.iter().skip(1)) {
        if after.0.0 - before.0.0 > 1 {
            report.found(FindingKind::CategoryGap, before.0.0);
        }
    }
    Ok(map)
}

/// The images that are there, their index by id, and the ids of those left out.
type Present = (Vec<Image>, HashMap<u64, usize>, BTreeSet<u64>);

fn present(
    raw: Vec<ImageEntry>,
    annotations: &Path,
    folder: &Path,
    missing: MissingImages,
    report: &mut LoadReport,
) -> Result<Present, CocoError> {
    let content = |problem| CocoError::Content { path: annotations.to_owned(), problem };
    if raw.is_empty() {
        return Err(content("`images` is empty".to_owned()));
    }
    let paths: Vec<PathBuf> = raw.iter().map(|image| folder.join(&image.file_name)).collect();
    let there: Vec<bool> = paths.par_iter().map(|path| path.is_file()).collect();
    let absent: Vec<&ImageEntry> =
        raw.iter().zip(&there).filter(|&(_, &there)| !there).map(|(image, _)| image).collect();
    if !absent.is_empty() && (missing == MissingImages::Error || absent.len() == raw.len()) {
        return Err(CocoError::MissingImages {
            path: annotations.to_owned(),
            folder: folder.to_owned(),
            count: absent.len(),
            total: raw.len(),
            first: absent.iter().take(3).map(|image| image.file_name.clone()).collect(),
        });
    }
    let skipped = absent.iter().map(|image| image.id).collect();

    let mut known = HashMap::with_capacity(raw.len());
    let mut images = Vec::with_capacity(raw.len());
    for ((image, path), there) in raw.into_iter().zip(paths).zip(there) {
        let ImageEntry { id, file_name, width, height } = image;
        if width == 0 || height == 0 {
            return Err(content(format!(
                "image {id} ({file_name}) is {width}x{height} pixels; correct its size"
            )));
        }
        if !there {
            report.found(FindingKind::MissingImage, id);
            continue;
        }
        if known.insert(id, images.len()).is_some() {
            return Err(content(format!("`images` lists id {id} twice; give every image its own id")));
        }
        images.push(Image { id: ImageId(id), file_name, width, height, path });
    }
    Ok((images, known, skipped))
}

/// What is odd about a box, if anything.
fn trouble(annotation: &Annotation, image: &Image) -> Option<FindingKind> {
    let [x, y, w, h] = annotation.bbox;
    let (width, height) = (f64::from(image.width), f64::from(image.height));
    let least = f64::from(MIN_SIDE_PX);
    if !(annotation.bbox.iter().all(|number| number.is_finite()) && w >= least && h >= least) {
        return Some(FindingKind::NoSize);
    }
    if annotation.clipped(image.width, image.height).is_none() {
        return Some(FindingKind::Outside);
    }
    // COCO's own boxes overshoot by rounding; only a pixel or more is worth a word.
    let overshoot = (-x).max(-y).max(x + w - width).max(y + h - height);
    (overshoot >= 1.0).then_some(FindingKind::Clipped)
}
