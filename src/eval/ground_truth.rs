//! Ground truth of COCO metrics: images, categories and annotated boxes.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use hotcoco::{Annotation, COCO, Category, Dataset, Image};
use serde_json::Value;

use super::error::EvalError;
use crate::data::{Instances, coco};

/// The annotated boxes that detections are scored against.
///
/// An annotation without `area` counts as width x height, one without `iscrowd` as a single object
/// (pycocotools stops at both). As in pycocotools `ignore` says nothing, and annotations of images or
/// categories that the file does not list do not count; an annotation that is listed twice counts once.
/// [`super::LeftOut`] says how many.
pub struct GroundTruth {
    /// Annotations are renumbered from 1: an annotation of id 0 can never be found by pycocotools'
    /// matching (it takes 0 for "no match"), and the ids say nothing else.
    pub(super) coco: Arc<COCO>,
    pub(super) images: BTreeSet<u64>,
    /// Ordered by id.
    pub(super) categories: Vec<(u64, String)>,
    pub(super) without_image: usize,
    pub(super) without_category: usize,
    pub(super) repeated: usize,
}

impl GroundTruth {
    /// Reads a COCO `instances_*.json`.
    ///
    /// # Errors
    /// [`EvalError::Read`], [`EvalError::Annotations`] (not JSON, a key missing or of the wrong type),
    /// [`EvalError::Duplicate`].
    pub fn load(path: &Path) -> Result<Self, EvalError> {
        Self::of(&coco::read(path)?)
    }

    /// Takes COCO annotations from JSON in memory.
    ///
    /// # Errors
    /// Errors of [`GroundTruth::load`], except for reading a file.
    pub fn from_json(value: &Value) -> Result<Self, EvalError> {
        Self::of(&coco::parse(value.to_string().as_bytes(), Path::new("the given value"))?)
    }

    /// Takes the boxes of a data set.
    ///
    /// # Errors
    /// [`EvalError::Duplicate`].
    pub fn of(instances: &Instances) -> Result<Self, EvalError> {
        let images = unique("image", instances.images.iter().map(|image| image.id))?;
        let category_ids = unique("category", instances.categories.iter().map(|category| category.id))?;
        unique("annotation", instances.annotations.iter().map(|annotation| annotation.id))?;

        let listed = instances.categories.iter();
        let mut categories: Vec<(u64, String)> =
            listed.map(|category| (category.id, category.name.clone())).collect();
        categories.sort_unstable();
        let (mut without_image, mut without_category) = (0, 0);
        let mut annotations = Vec::with_capacity(instances.annotations.len());
        for row in &instances.annotations {
            if !images.contains(&row.image_id) {
                without_image += 1;
            } else if !category_ids.contains(&row.category_id) {
                without_category += 1;
            } else {
                annotations.push(Annotation {
                    id: annotations.len() as u64 + 1,
                    image_id: row.image_id,
                    category_id: row.category_id,
                    bbox: Some(row.bbox),
                    area: Some(row.area()),
                    iscrowd: row.iscrowd,
                    ..Annotation::default()
                });
            }
        }
        let coco = Arc::new(dataset(images.iter().copied(), &categories, annotations));
        let repeated = instances.dropped();
        Ok(Self { coco, images, categories, without_image, without_category, repeated })
    }

    /// The ids of the images, ascending.
    pub fn image_ids(&self) -> impl Iterator<Item = u64> {
        self.images.iter().copied()
    }

    /// Restricts the ground truth to `wanted` images.
    pub(super) fn subset(&self, wanted: &BTreeSet<u64>) -> Arc<COCO> {
        let kept = self.coco.dataset.annotations.iter().filter(|row| wanted.contains(&row.image_id));
        Arc::new(dataset(wanted.iter().copied(), &self.categories, kept.cloned().collect()))
    }
}

impl fmt::Debug for GroundTruth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (images, boxes) = (self.images.len(), self.coco.dataset.annotations.len());
        write!(f, "GroundTruth({boxes} boxes on {images} images)")
    }
}

/// Indexes annotations (or detections) for hotcoco.
pub(super) fn dataset(
    images: impl Iterator<Item = u64>,
    categories: &[(u64, String)],
    annotations: Vec<Annotation>,
) -> COCO {
    COCO::from_dataset(Dataset {
        images: images.map(|id| Image { id, ..Image::default() }).collect(),
        categories: categories
            .iter()
            .map(|(id, name)| Category { id: *id, name: name.clone(), ..Category::default() })
            .collect(),
        annotations,
        ..Dataset::default()
    })
}

fn unique(what: &'static str, ids: impl Iterator<Item = u64>) -> Result<BTreeSet<u64>, EvalError> {
    let mut seen = BTreeSet::new();
    for id in ids {
        if !seen.insert(id) {
            return Err(EvalError::Duplicate { what, id });
        }
    }
    Ok(seen)
}
