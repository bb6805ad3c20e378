//! What loading a data set found: counts and the first ids of everything not taken as it stands.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Dataset;

/// Ids named per finding.
const NAMED: usize = 5;

/// Something that was not taken as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    /// An annotation id seen before: dropped.
    RepeatedAnnotation,
    /// An annotation of an image that is not listed: dropped.
    UnknownImage,
    /// An image whose file is missing: skipped.
    MissingImage,
    /// A gap after this category id: mapped.
    CategoryGap,
}

/// One kind of finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was found.
    pub kind: FindingKind,
    /// How often.
    pub count: usize,
    /// The first few ids: of annotations, images or categories, by kind.
    pub first: Vec<u64>,
}

/// What was loaded and what was odd. `Display` prints it in full.
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
    /// What was odd, sorted by kind.
    pub findings: Vec<Finding>,
}

impl LoadReport {
    pub(super) fn new(path: &Path) -> Self {
        let (images, categories, positives, images_without_positives) = (0, 0, 0, 0);
        Self {
            path: path.to_owned(),
            images,
            categories,
            positives,
            images_without_positives,
            findings: vec![],
        }
    }

    /// How often `kind` was found.
    pub fn count_of(&self, kind: FindingKind) -> usize {
        self.findings.iter().find(|finding| finding.kind == kind).map_or(0, |finding| finding.count)
    }

    pub(super) fn found(&mut self, kind: FindingKind, id: u64) {
        let place = match self.findings.binary_search_by_key(&kind, |finding| finding.kind) {
            Ok(place) => place,
            Err(place) => {
                self.findings.insert(place, Finding { kind, count: 0, first: Vec::new() });
                place
            }
        };
        let finding = &mut self.findings[place];
        finding.count += 1;
        if finding.first.len() < NAMED {
            finding.first.push(id);
        }
    }

    pub(super) fn count(&mut self, dataset: &Dataset) {
        self.images = dataset.images.len();
        self.categories = dataset.categories.len();
        for image in 0..self.images {
            let positives = dataset.annotations(image).iter().filter(|a| a.is_positive()).count();
            self.positives += positives;
            self.images_without_positives += usize::from(positives == 0);
        }
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, categories, positives, images_without_positives: bare, .. } = self;
        write!(f, "{}: {images} images ({bare} without a box), ", self.path.display())?;
        write!(f, "{positives} boxes, {categories} classes")?;
        for finding in &self.findings {
            write!(f, "\n  {finding}")?;
        }
        Ok(())
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
            FindingKind::RepeatedAnnotation => "annotations with an id seen before dropped: annotation",
            FindingKind::UnknownImage => "annotations of images that are not listed dropped: annotation",
            FindingKind::MissingImage => "images without a file skipped: image",
            FindingKind::CategoryGap => "gaps in the category ids mapped to contiguous classes: after id",
        };
        let ids: Vec<String> = self.first.iter().map(u64::to_string).collect();
        let more = if self.count > self.first.len() { ", ..." } else { "" };
        write!(f, "{} {what} {}{more}", self.count, ids.join(", "))
    }
}
