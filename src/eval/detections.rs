//! COCO results: what a detector found, one row a box.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::EvalError;
use super::image_names::ImageNames;
use crate::data::Instances;
use crate::data::coco::{explained, json};

/// Detected box, as COCO's results format has it (it serialises to a row of that format).
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
    let results = Results::read(path)?;
    let rows = results.rows.into_iter().enumerate();
    rows.map(|(index, row)| row.detection(None).ok_or_else(|| without_image(path, index))).collect()
}

/// A results file, whose rows may name the image's file beside its id.
#[derive(Debug)]
pub struct Results {
    path: PathBuf,
    rows: Vec<Row>,
}

/// The error of a row that names no image.
fn without_image(path: &Path, index: usize) -> EvalError {
    let source = serde_json::Error::custom("missing field `image_id`");
    EvalError::ResultRow { path: path.to_owned(), index, source }
}

impl Results {
    /// Reads a COCO results file.
    ///
    /// # Errors
    /// Errors of [`read_detections`].
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        let text = fs::read(path).map_err(|source| EvalError::Read { path: path.to_owned(), source })?;
        // Windows editors put a byte order mark in front.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
        // serde says what is wrong and on which line; the row number has to be kept beside it.
        let row = Cell::new(None);
        let mut reader = serde_json::Deserializer::from_slice(text);
        let read = Rows { row: &row }.deserialize(&mut reader).and_then(|rows| reader.end().map(|()| rows));
        let named = |source| explained(text, &source).map_or(source, serde_json::Error::custom);
        let rows = read.map_err(named).map_err(|source| match row.get() {
            Some(index) => EvalError::ResultRow { path: path.to_owned(), index, source },
            None => EvalError::Results { path: path.to_owned(), source },
        })?;
        Ok(Self { path: path.to_owned(), rows })
    }

    /// The detections with the image ids of `truth`: by the name of the file where a row has one, else by its
    /// id.
    ///
    /// # Errors
    /// [`EvalError::UnknownFile`]; [`EvalError::UnknownCategories`] if no row's category is one of `truth`.
    pub fn on(self, truth: &Instances) -> Result<Vec<Detection>, EvalError> {
        let names = ImageNames::of(truth);
        let mut detections = Vec::with_capacity(self.rows.len());
        for (index, row) in self.rows.into_iter().enumerate() {
            let by_name = row.file_name.as_ref().and_then(Value::as_str).map(|name| (name, names.id(name)));
            let named = match by_name {
                Some((name, None)) => {
                    return Err(EvalError::UnknownFile { index, file_name: name.to_owned() });
                }
                Some((_, id)) => id,
                None => None,
            };
            detections.push(row.detection(named).ok_or_else(|| without_image(&self.path, index))?);
        }
        let listed: HashSet<u64> = truth.categories.iter().map(|category| category.id).collect();
        match detections.first() {
            Some(first) if !detections.iter().any(|detection| listed.contains(&detection.category_id)) => {
                Err(EvalError::UnknownCategories { count: detections.len(), first: first.category_id })
            }
            _ => Ok(detections),
        }
    }
}

/// A row of a results file.
#[derive(Debug, Deserialize)]
struct Row {
    /// May be missing where the file is named.
    #[serde(default, deserialize_with = "json::some_id")]
    image_id: Option<u64>,
    #[serde(deserialize_with = "json::id")]
    category_id: u64,
    #[serde(deserialize_with = "json::xywh")]
    bbox: [f64; 4],
    score: f64,
    /// Other programs may have anything there.
    #[serde(default)]
    file_name: Option<Value>,
}

impl Row {
    /// The detection on the image `named` by its file, else on that of the row's id; `None` without either.
    fn detection(self, named: Option<u64>) -> Option<Detection> {
        let Self { image_id, category_id, bbox, score, .. } = self;
        Some(Detection { image_id: named.or(image_id)?, category_id, bbox, score })
    }
}

/// Deserialises the list; `row` is the position of the row being read, `None` outside of rows.
struct Rows<'a> {
    row: &'a Cell<Option<usize>>,
}

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = Vec<Row>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = Vec<Row>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of detections")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Self::Value, A::Error> {
        let mut read = Vec::new();
        loop {
            self.row.set(Some(read.len()));
            match rows.next_element()? {
                Some(row) => read.push(row),
                None => break,
            }
        }
        self.row.set(None);
        Ok(read)
    }
}
