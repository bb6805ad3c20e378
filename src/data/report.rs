//! Report of a loaded data set: counts and the first ids of everything not taken as it stands.

use std::fmt;
use std::path::PathBuf;

use super::image_policy::{BadImage, first_of};

/// Ids named per finding.
const NAMED: usize = 5;

/// A way in which a part of a data set was not taken as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FindingKind {
    /// A crowd region: kept aside.
    Crowd,
    /// An `ignore` box: kept aside.
    Ignored,
    /// A box a pixel or more outside its image: clipped.
    Clipped,
    /// A box entirely outside its image: dropped.
    Outside,
    /// A box without a size, or not a number: dropped.
    NoSize,
    /// An image with a box without a size: the box is dropped.
    NoSizeIn,
    /// An annotation listed twice: dropped.
    RepeatedAnnotation,
    /// An annotation id that several boxes have: renumbered.
    SharedId,
    /// An annotation without an id: numbered.
    NoId,
    /// A box taken from a polygon or mask.
    BoxFromSegmentation,
    /// A negative area: replaced by the box's.
    NegativeArea,
    /// An area beyond any image's: replaced by the box's.
    HugeArea,
    /// An annotation of an image that is not listed: dropped.
    UnknownImage,
    /// An image listed twice: the second dropped.
    RepeatedImage,
    /// An image whose file is missing: skipped.
    MissingImage,
    /// An image whose file is broken, or of another size: skipped.
    BadImage,
    /// An image whose file is an image of the training split too.
    Leaked,
    /// An image that EXIF turns, and whose size is the stored one: taken as stored.
    StoredPixels,
    /// An image with the stored size and boxes that fit the upright one alone: taken upright.
    BoxesUpright,
    /// An image with the upright size and boxes that fit the stored one alone: taken as stored.
    BoxesStored,
    /// An image that EXIF turns without changing its size: taken upright.
    TurnUnseen,
    /// An image whose size the annotations do not say: taken from its file.
    SizeFromFile,
    /// An image without a label file: taken as empty.
    NoLabelFile,
    /// A file that two images name: both kept.
    SharedFile,
    /// A gap after this category id: mapped.
    CategoryGap,
    /// A name that two categories have: both kept.
    SharedName,
    /// A box within 0..1 where all boxes are: pixels are expected.
    Fractions,
}

/// Findings of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The kind of finding.
    pub kind: FindingKind,
    /// Number of findings.
    pub count: usize,
    /// The first few ids: of annotations, images or categories, by kind.
    pub first: Vec<u64>,
}

/// Findings, sorted by kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Number of findings of `kind`.
    pub fn count_of(&self, kind: FindingKind) -> usize {
        self.0.iter().find(|finding| finding.kind == kind).map_or(0, |finding| finding.count)
    }

    /// Every kind that was found.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.0.iter()
    }

    /// True if everything was taken as it stands.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn found(&mut self, kind: FindingKind, id: u64) {
        let place = match self.0.binary_search_by_key(&kind, |finding| finding.kind) {
            Ok(place) => place,
            Err(place) => {
                self.0.insert(place, Finding { kind, count: 0, first: Vec::new() });
                place
            }
        };
        let finding = &mut self.0[place];
        finding.count += 1;
        if finding.first.len() < NAMED {
            finding.first.push(id);
        }
    }
}

/// Counts of a loaded data set, and its findings. `Display` prints it in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadReport {
    /// The annotations file.
    pub path: PathBuf,
    /// Images loaded.
    pub images: usize,
    /// Classes.
    pub categories: usize,
    /// Boxes that may be positives.
    pub positives: usize,
    /// Images that have none of those.
    pub images_without_positives: usize,
    /// Everything not taken as it stands.
    pub findings: Findings,
    /// Images that were skipped as bad.
    pub bad_images: Vec<BadImage>,
}

impl LoadReport {
    /// Number of findings of `kind`.
    pub fn count_of(&self, kind: FindingKind) -> usize {
        self.findings.count_of(kind)
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, categories, positives, images_without_positives: bare, .. } = self;
        write!(f, "{}: {images} images ({bare} without a box), ", self.path.display())?;
        write!(f, "{positives} boxes, {categories} classes")?;
        self.findings.fmt(f)?;
        first_of(&self.bad_images).try_for_each(|problem| write!(f, "\n    {problem}"))
    }
}

/// A line each, indented, each after a line break.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            FindingKind::Crowd => "crowd boxes kept aside (neither positive nor negative): annotation",
            FindingKind::Ignored => "ignored boxes kept aside (neither positive nor negative): annotation",
            FindingKind::Clipped => "boxes reaching outside their image clipped: annotation",
            FindingKind::Outside => "boxes entirely outside their image dropped: annotation",
            FindingKind::NoSize => "boxes without a size dropped: annotation",
            FindingKind::NoSizeIn => "boxes without a size dropped: in image",
            FindingKind::RepeatedAnnotation => "annotations listed twice dropped: annotation",
            FindingKind::SharedId => "boxes with the id of another box renumbered: annotation",
            FindingKind::NoId => "annotations without an id numbered: annotation",
            FindingKind::BoxFromSegmentation => "boxes taken from their segmentation: annotation",
            FindingKind::NegativeArea => "negative areas replaced by width x height: annotation",
            FindingKind::HugeArea => "areas beyond 1e10 pixels replaced by width x height: annotation",
            FindingKind::UnknownImage => "annotations of images that are not listed dropped: annotation",
            FindingKind::RepeatedImage => "images listed twice taken once: image",
            FindingKind::MissingImage => "images without a file skipped: image",
            FindingKind::BadImage => "images with broken files, or files of another size, skipped: image",
            FindingKind::Leaked => "images with the content of a training image: image",
            FindingKind::StoredPixels => {
                "images that EXIF turns taken as they are stored, as their sizes say: image"
            }
            FindingKind::BoxesUpright => {
                "images with the size of their stored pixels taken upright, since boxes fit only so: image"
            }
            FindingKind::BoxesStored => {
                "images with the size of their upright pixels taken as they are stored, since boxes fit only so: image"
            }
            FindingKind::TurnUnseen => {
                "images that EXIF turns without changing their size taken upright: image"
            }
            FindingKind::SizeFromFile => "sizes of images taken from their files: image",
            FindingKind::NoLabelFile => "images without a label file taken as empty: image",
            FindingKind::SharedFile => "images with the file of another image kept: image",
            FindingKind::CategoryGap => "gaps in the category ids mapped to contiguous classes: after id",
            FindingKind::SharedName => "categories with the name of another one kept apart: id",
            FindingKind::Fractions => {
                "boxes, and so all, lie within 0..1: COCO's are in pixels (convert from YOLO's form with `data convert`): annotation"
            }
        };
        let ids: Vec<String> = self.first.iter().map(u64::to_string).collect();
        let more = if self.count > self.first.len() { ", ..." } else { "" };
        write!(f, "{} {what} {}{more}", self.count, ids.join(", "))
    }
}
