//! What travels with a detector's weights, in the safetensors header.

use std::collections::BTreeMap;

use ckd_detectors::eight_bits::InputRanges;
use serde::{Deserialize, Serialize};

use super::{WeightsError, WeightsFile};
use crate::config::{Config, Document, Resize};
use crate::data::decode::DECODER;
use crate::data::{CategoryId, CategoryMap};

const CONFIG: &str = "ckd_det.config";
const CATEGORIES: &str = "ckd_det.categories";
const PROVENANCE: &str = "ckd_det.provenance";
const INPUT: &str = "ckd_det.input";
const INPUT_RANGES: &str = "ckd_det.input_ranges";

/// A class: COCO's id and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Category {
    /// The id in annotation and result files.
    pub id: u64,
    /// Name of the class.
    pub name: String,
}

/// Description of a detector that its weights carry: all that is needed to use it again, and its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelCard {
    /// The experiment; the weights are those of its student.
    pub config: Config,
    /// The classes, in the order of the logits.
    pub categories: Vec<Category>,
    /// Facts about the training: steps, AP, hashes.
    pub provenance: BTreeMap<String, String>,
}

/// The image side of the card, for other programs.
#[derive(Serialize)]
struct InputCard<'a> {
    channels: &'a str,
    jpeg: &'a str,
    range: [f32; 2],
    mean: [f32; 3],
    std: [f32; 3],
    short_side_px: u32,
    long_side_px: u32,
    resize: &'a str,
    size_divisor: u32,
}

impl ModelCard {
    /// The header's entries.
    pub fn to_metadata(&self) -> BTreeMap<String, String> {
        let input = InputCard {
            channels: "RGB",
            jpeg: DECODER,
            range: [0.0, 1.0],
            mean: self.config.normalization.mean,
            std: self.config.normalization.std,
            short_side_px: self.config.input.eval_short_side(),
            long_side_px: self.config.input.long_side_px,
            resize: match self.config.input.resize {
                Resize::Bilinear => "bilinear, half-pixel centres, no antialias",
                Resize::PilBilinear => "Pillow's bilinear: antialiased, in 8 bits",
            },
            size_divisor: self.config.input.size_divisor,
        };
        BTreeMap::from([
            ("format".to_owned(), "pt".to_owned()),
            (CONFIG.to_owned(), self.config.to_toml()),
            (CATEGORIES.to_owned(), json(&self.categories)),
            (PROVENANCE.to_owned(), json(&self.provenance)),
            (INPUT.to_owned(), json(&input)),
        ])
    }

    /// The card of `file`.
    ///
    /// # Errors
    /// If the file has none (it was not written by this program), or a damaged one.
    pub fn of(file: &WeightsFile) -> Result<Self, WeightsError> {
        let fail = |reason: String| WeightsError::Card { path: file.path.clone(), reason };
        let entry = |key: &str| {
            file.metadata.get(key).ok_or_else(|| {
                fail(format!(
                    "the file does not say how its network is built (no `{key}` in its header); name the \
                     experiment it belongs to with --config"
                ))
            })
        };
        let config = Config::from_toml(entry(CONFIG)?, &file.path.display().to_string())
            .map_err(|error| fail(format!("its configuration: {error}")))?;
        let damaged = |error: serde_json::Error| fail(format!("its header is damaged: {error}"));
        Ok(Self {
            config,
            categories: serde_json::from_str(entry(CATEGORIES)?).map_err(damaged)?,
            provenance: serde_json::from_str(entry(PROVENANCE)?).map_err(damaged)?,
        })
    }
}

/// Header entry of the ranges of what goes into a detector's layers: what it needs to compute in 8 bits.
pub fn ranges_entry(ranges: &InputRanges) -> (String, String) {
    (INPUT_RANGES.to_owned(), json(ranges))
}

/// Ranges of what goes into the layers of the detector in `file`, if it was exported with them.
///
/// # Errors
/// If the entry is damaged.
pub fn input_ranges(file: &WeightsFile) -> Result<Option<InputRanges>, WeightsError> {
    let Some(entry) = file.metadata.get(INPUT_RANGES) else { return Ok(None) };
    serde_json::from_str(entry).map(Some).map_err(|error| {
        let reason = format!("its ranges (`{INPUT_RANGES}`) are damaged: {error}");
        WeightsError::Card { path: file.path.clone(), reason }
    })
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain structures have a JSON form")
}

/// The classes of a data set, in the order of the logits.
pub fn categories_of(map: &CategoryMap) -> Vec<Category> {
    map.iter().map(|(id, name)| Category { id: id.0, name: name.to_owned() }).collect()
}

/// A map between class indices and category ids from a card's list.
pub fn category_map(categories: &[Category]) -> Result<CategoryMap, CategoryId> {
    CategoryMap::new(
        categories.iter().map(|category| (CategoryId(category.id), category.name.clone())).collect(),
    )
}
