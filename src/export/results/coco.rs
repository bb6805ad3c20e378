//! COCO results: one JSON array, a row a box.

use std::path::Path;

use serde::Serialize;

use super::json_rows::JsonRows;
use super::writer::{About, ImageResults, ResultsError, ResultsWriter};
use crate::data::{CategoryId, CategoryMap};
use crate::eval::Detection;

/// Writer of COCO results.
pub(super) struct Coco<'a> {
    rows: JsonRows,
    categories: &'a CategoryMap,
}

/// A COCO result; where it names its file, its category too.
#[derive(Serialize)]
struct Row<'a> {
    image_id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_name: Option<&'a str>,
    category_id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<&'a str>,
    bbox: [f64; 4],
    score: f64,
}

impl<'a> Coco<'a> {
    pub(super) fn new(path: &Path, about: &'a About<'a>) -> Self {
        Self { rows: JsonRows::new(path), categories: about.categories }
    }
}

impl ResultsWriter for Coco<'_> {
    fn add(&mut self, image: &ImageResults<'_>) -> Result<(), ResultsError> {
        for &Detection { image_id, category_id, bbox, score } in image.detections {
            let name = || self.categories.name(self.categories.class(CategoryId(category_id))?);
            let category = image.file_name.and_then(|_| name());
            let file_name = image.file_name;
            self.rows.push(&Row { image_id, file_name, category_id, category, bbox, score })?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), ResultsError> {
        Ok(self.rows.finish()?)
    }
}
