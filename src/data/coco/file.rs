//! The fields of a COCO file that are read and written. Everything else, segmentations above all, is
//! skipped while parsing and never stored.

use std::path::Path;

use serde::de::{Deserializer, Error, Unexpected, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::CocoError;

/// A whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instances {
    /// `images`.
    pub images: Vec<ImageEntry>,
    /// `annotations`.
    pub annotations: Vec<AnnotationEntry>,
    /// `categories`.
    pub categories: Vec<CategoryEntry>,
}

/// An element of `images`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// Unique in the file.
    pub id: u64,
    /// Relative to the folder of images.
    pub file_name: String,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// An element of `categories`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CategoryEntry {
    /// Unique in the file; gaps are fine.
    pub id: u64,
    /// What it is called.
    pub name: String,
}

/// An element of `annotations`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnnotationEntry {
    /// Unique in the file.
    pub id: u64,
    /// The image it lies in.
    pub image_id: u64,
    /// Its category.
    pub category_id: u64,
    /// `[x, y, width, height]` in pixels.
    pub bbox: [f64; 4],
    /// Pixels covered.
    #[serde(default)]
    pub area: Option<f64>,
    /// A crowd region.
    #[serde(default, deserialize_with = "read_flag", serialize_with = "write_flag")]
    pub iscrowd: bool,
    /// To be ignored.
    #[serde(
        default,
        deserialize_with = "read_flag",
        serialize_with = "write_flag",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub ignore: bool,
}

impl Instances {
    /// Reads and parses a COCO file.
    pub fn read(path: &Path) -> Result<Self, CocoError> {
        // Whole, then parsed from memory: several times faster than through a reader, and the largest
        // file in use (train2017, 450 MB) fits.
        let bytes =
            std::fs::read(path).map_err(|source| CocoError::Read { path: path.to_owned(), source })?;
        serde_json::from_slice(&bytes).map_err(|source| CocoError::Format { path: path.to_owned(), source })
    }

    /// The file's text.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(self).expect("numbers, strings and lists always serialise");
        text.push(b'\n');
        text
    }
}

/// 0 or 1, as COCO writes flags, or `true`, `false`, as others do.
fn read_flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct Flag;
    impl Visitor<'_> for Flag {
        type Value = bool;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("0, 1, true or false")
        }
        fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }
        fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
            match value {
                0 => Ok(false),
                1 => Ok(true),
                other => Err(E::invalid_value(Unexpected::Unsigned(other), &self)),
            }
        }
    }
    deserializer.deserialize_any(Flag)
}

// serde passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn write_flag<S: Serializer>(flag: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(u8::from(*flag))
}
