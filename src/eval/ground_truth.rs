//! A COCO data set as the metric sees it: images, categories and annotated boxes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use hotcoco::{Annotation, COCO, Category, Dataset, Image};
use serde::Deserialize;
use serde_json::Value;

use super::{EvalError, json};

/// The annotated boxes that detections are scored against.
///
/// An annotation without `area` counts as width x height, one without `iscrowd` as a single object
/// (pycocotools stops at both). As in pycocotools `ignore` says nothing, and annotations of images or
/// categories that the file does not list do not count; [`super::LeftOut`] says how many.
pub struct GroundTruth {
    /// Annotations are renumbered from 1: an annotation of id 0 can never be found by pycocotools'
    /// matching (it takes 0 for "no match"), and the ids say nothing else.
    pub(super) coco: Arc<COCO>,
    pub(super) images: BTreeSet<u64>,
    /// Ordered by id.
    pub(super) categories: Vec<(u64, String)>,
    pub(super) without_image: usize,
    pub(super) without_category: usize,
}

impl GroundTruth {
    /// Reads a COCO `instances_*.json`.
    ///
    /// # Errors
    /// [`EvalError::Read`], [`EvalError::Annotations`] (not JSON, a key missing or of the wrong type),
    /// [`EvalError::Duplicate`].
    pub fn load(path: &Path) -> Result<Self, EvalError> {
        let text = fs::read(path).map_err(|source| EvalError::Read { path: path.to_owned(), source })?;
        let is_object = text.trim_ascii_start().first() == Some(&b'{');
        let file = if is_object { serde_json::from_slice(&text) } else { Err(not_an_object()) };
        Self::from_file(
            file.map_err(|source| EvalError::Annotations { origin: path.display().to_string(), source })?,
        )
    }

    /// The same from JSON in memory.
    ///
    /// # Errors
    /// As [`GroundTruth::load`].
    pub fn from_json(value: Value) -> Result<Self, EvalError> {
        let file = if value.is_object() { serde_json::from_value(value) } else { Err(not_an_object()) };
        Self::from_file(
            file.map_err(|source| EvalError::Annotations { origin: "the given value".into(), source })?,
        )
    }

    /// The ids of the images, ascending.
    pub fn image_ids(&self) -> impl Iterator<Item = u64> {
        self.images.iter().copied()
    }

    fn from_file(file: File) -> Result<Self, EvalError> {
        let images = unique("image", file.images.iter().map(|image| image.id))?;
        let category_ids = unique("category", file.categories.iter().map(|category| category.id))?;
        unique("annotation", file.annotations.iter().filter_map(|annotation| annotation.id))?;

        let mut categories: Vec<(u64, String)> =
            file.categories.into_iter().map(|category| (category.id, category.name)).collect();
        categories.sort_unstable();
        let (mut without_image, mut without_category) = (0, 0);
        let mut annotations = Vec::with_capacity(file.annotations.len());
        for row in file.annotations {
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
                    area: Some(row.area.unwrap_or(row.bbox[2] * row.bbox[3])),
                    iscrowd: row.iscrowd,
                    ..Annotation::default()
                });
            }
        }
        let coco = Arc::new(dataset(images.iter().copied(), &categories, annotations));
        Ok(Self { coco, images, categories, without_image, without_category })
    }

    /// The same ground truth for `wanted` images only.
    pub(super) fn subset(&self, wanted: &BTreeSet<u64>) -> Arc<COCO> {
        let kept = self.coco.dataset.annotations.iter().filter(|row| wanted.contains(&row.image_id));
        Arc::new(dataset(wanted.iter().copied(), &self.categories, kept.cloned().collect()))
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

/// serde would read a list as the fields in order, and say odd things about a results file.
fn not_an_object() -> serde_json::Error {
    serde::de::Error::custom("expected an object with images, annotations and categories")
}

/// What the metric reads of an annotation file.
#[derive(Deserialize)]
struct File {
    images: Vec<ImageRow>,
    annotations: Vec<AnnotationRow>,
    categories: Vec<CategoryRow>,
}

#[derive(Deserialize)]
struct ImageRow {
    #[serde(deserialize_with = "json::id")]
    id: u64,
}

#[derive(Deserialize)]
struct CategoryRow {
    #[serde(deserialize_with = "json::id")]
    id: u64,
    name: String,
}

#[derive(Deserialize)]
struct AnnotationRow {
    #[serde(default, deserialize_with = "some_id")]
    id: Option<u64>,
    #[serde(deserialize_with = "json::id")]
    image_id: u64,
    #[serde(deserialize_with = "json::id")]
    category_id: u64,
    #[serde(deserialize_with = "json::xywh")]
    bbox: [f64; 4],
    #[serde(default)]
    area: Option<f64>,
    #[serde(default, deserialize_with = "json::flag")]
    iscrowd: bool,
}

fn some_id<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    json::id(deserializer).map(Some)
}
