//! COCO results: what a detector found, one row a box.

use std::cell::Cell;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::EvalError;
use crate::data::coco::json;

/// One detected box, as COCO's results format has it (it serialises to a row of that format).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// The image's id in the annotation file.
    #[serde(deserialize_with = "json::id")]
    pub image_id: u64,
    /// The category's id in the annotation file (with its gaps, not the class index).
    #[serde(deserialize_with = "json::id")]
    pub category_id: u64,
    /// `[x, y, width, height]` in pixels of the original image.
    #[serde(deserialize_with = "json::xywh")]
    pub bbox: [f64; 4],
    /// Confidence; only its order matters.
    pub score: f64,
}

/// Reads a COCO results file: a JSON list of `{image_id, category_id, bbox, score}`; other keys are skipped.
///
/// # Errors
/// [`EvalError::Read`], [`EvalError::Results`] when it is not a list, [`EvalError::ResultRow`] with the
/// position of the first row that lacks a key or holds the wrong type.
pub fn read_detections(path: &Path) -> Result<Vec<Detection>, EvalError> {
    let text = fs::read(path).map_err(|source| EvalError::Read { path: path.to_owned(), source })?;
    // serde says what is wrong and on which line; the row number has to be kept beside it.
    let row = Cell::new(None);
    let mut reader = serde_json::Deserializer::from_slice(&text);
    let read =
        Rows { row: &row }.deserialize(&mut reader).and_then(|detections| reader.end().map(|()| detections));
    read.map_err(|source| match row.get() {
        Some(index) => EvalError::ResultRow { path: path.to_owned(), index, source },
        None => EvalError::Results { path: path.to_owned(), source },
    })
}

/// Deserialises the list; `row` is the position of the row being read, `None` outside of rows.
struct Rows<'a> {
    row: &'a Cell<Option<usize>>,
}

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = Vec<Detection>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = Vec<Detection>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of detections")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Self::Value, A::Error> {
        let mut detections = Vec::new();
        loop {
            self.row.set(Some(detections.len()));
            match rows.next_element()? {
                Some(detection) => detections.push(detection),
                None => break,
            }
        }
        self.row.set(None);
        Ok(detections)
    }
}
