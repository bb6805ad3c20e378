//! COCO `instances_*.json` to [`Instances`] and back: the one reader of the format.
//!
//! The reader accepts the dialects of exporters. `docs/DATA.md` has the table of dialects and policies; each
//! correction is counted among the set's [findings](Instances::findings).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::instances::{AnnotationEntry, CategoryEntry, ImageEntry, Instances, InstancesError};
use super::pseudo_labels::PseudoLabels;
use super::report::{FindingKind, Findings};

pub(crate) mod json;
mod segmentation;

#[derive(Deserialize)]
struct File {
    images: Vec<ImageRow>,
    annotations: Vec<AnnotationRow>,
    categories: Vec<CategoryRow>,
    #[serde(default)]
    pseudo_labels: Option<PseudoLabels>,
}

#[derive(Deserialize)]
struct ImageRow {
    #[serde(deserialize_with = "json::id")]
    id: u64,
    #[serde(default)]
    file_name: String,
    #[serde(default, deserialize_with = "json::side")]
    width: u32,
    #[serde(default, deserialize_with = "json::side")]
    height: u32,
}

#[derive(Deserialize)]
struct CategoryRow {
    #[serde(deserialize_with = "json::id")]
    id: u64,
    name: String,
}

#[derive(Deserialize)]
struct AnnotationRow {
    #[serde(default, deserialize_with = "json::some_id")]
    id: Option<u64>,
    #[serde(deserialize_with = "json::id")]
    image_id: u64,
    #[serde(deserialize_with = "json::id")]
    category_id: u64,
    #[serde(default, deserialize_with = "json::some_xywh")]
    bbox: Option<[f64; 4]>,
    #[serde(default)]
    area: Option<f64>,
    #[serde(default, deserialize_with = "json::flag")]
    iscrowd: bool,
    #[serde(default, deserialize_with = "json::flag")]
    ignore: bool,
    #[serde(default)]
    score: Option<f64>,
}

/// The segmentations alone, which are read only if a box is missing.
#[derive(Deserialize)]
struct Outlines {
    annotations: Vec<Outline>,
}

#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    segmentation: Value,
}

/// Reads a COCO `instances_*.json`.
///
/// # Errors
/// If it cannot be read, is no COCO file, or has an annotation without box and segmentation.
pub fn read(path: &Path) -> Result<Instances, InstancesError> {
    // Whole, then parsed from memory: several times faster than through a reader, and the largest
    // file in use (train2017, 450 MB) fits.
    let bytes =
        std::fs::read(path).map_err(|source| InstancesError::Read { path: path.to_owned(), source })?;
    parse(&bytes, path)
}

/// Reads the text of a COCO `instances_*.json`; `origin` is what messages call it.
///
/// # Errors
/// Errors of [`read`], except for reading the file.
pub fn parse(text: &[u8], origin: &Path) -> Result<Instances, InstancesError> {
    let content = |problem| InstancesError::Content { path: origin.to_owned(), problem };
    // Windows editors put a byte order mark in front.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        return Err(content("is UTF-16 text; save it as UTF-8".to_owned()));
    }
    let file: File = match text.trim_ascii_start().first() {
        Some(b'{') => serde_json::from_slice(text),
        // serde would read a list as the fields in order, and say odd things about a results file.
        _ => Err(no_object(text)),
    }
    .map_err(|source| match explained(text, &source) {
        Some(problem) => content(problem),
        None => InstancesError::Format { path: origin.to_owned(), source },
    })?;
    let images = file.images.into_iter().map(|row| ImageEntry {
        id: row.id,
        file_name: row.file_name,
        width: row.width,
        height: row.height,
    });
    let images = images.collect();
    let categories = file.categories.into_iter().map(|row| CategoryEntry { id: row.id, name: row.name });
    let categories = categories.collect();
    let mut findings = Findings::default();
    let outlines = match file.annotations.iter().all(|row| row.bbox.is_some()) {
        true => Vec::new(),
        false => {
            let outlines: Outlines = serde_json::from_slice(text)
                .map_err(|source| InstancesError::Format { path: origin.to_owned(), source })?;
            outlines.annotations
        }
    };
    let annotations = annotations(file.annotations, &outlines, &mut findings).map_err(content)?;
    let pseudo_labels = file.pseudo_labels;
    let mut set = Instances::new(images, annotations, categories);
    set.pseudo_labels = pseudo_labels;
    Ok(set.read_from(origin, findings))
}

/// Boxes from segmentations, ids for annotations that have none of their own, and true duplicates out.
fn annotations(
    rows: Vec<AnnotationRow>,
    outlines: &[Outline],
    findings: &mut Findings,
) -> Result<Vec<AnnotationEntry>, String> {
    let mut kept = Vec::<AnnotationEntry>::with_capacity(rows.len());
    // The first annotation of each id, and what is known of the ids that come again.
    let mut first: HashMap<u64, usize> = HashMap::with_capacity(rows.len());
    let mut again: HashSet<Sameness> = HashSet::new();
    let mut to_number = Vec::new();
    for (position, row) in rows.into_iter().enumerate() {
        let given = row.id;
        let called = given.unwrap_or(position as u64 + 1);
        let (entry, is_from_segmentation) = row.entry(called, outlines.get(position))?;
        if let Some(id) = given {
            match first.entry(id) {
                Entry::Vacant(free) => {
                    free.insert(kept.len());
                }
                Entry::Occupied(taken) => {
                    again.insert(sameness(&kept[*taken.get()], id));
                    if !again.insert(sameness(&entry, id)) {
                        findings.found(FindingKind::RepeatedAnnotation, id);
                        continue;
                    }
                    findings.found(FindingKind::SharedId, id);
                    to_number.push(kept.len());
                }
            }
        } else {
            findings.found(FindingKind::NoId, called);
            to_number.push(kept.len());
        }
        if is_from_segmentation {
            findings.found(FindingKind::BoxFromSegmentation, called);
        }
        if entry.area.is_some_and(|area| area < 0.0) {
            findings.found(FindingKind::NegativeArea, called);
        }
        if entry.area.is_some_and(|area| area > LARGEST_AREA) {
            findings.found(FindingKind::HugeArea, called);
        }
        let area = entry.area.filter(|area| (0.0..=LARGEST_AREA).contains(area));
        kept.push(AnnotationEntry { area, ..entry });
    }
    let free = (1..).filter(|id| !first.contains_key(id));
    for (place, id) in to_number.into_iter().zip(free) {
        kept[place].id = id;
    }
    Ok(kept)
}

/// The largest area that pycocotools measures: 1e5 x 1e5 pixels.
const LARGEST_AREA: f64 = 1e10;

/// Two annotations of one id are one if these agree: image, category, box and flags.
type Sameness = (u64, u64, u64, [u64; 4], [bool; 2]);

fn sameness(entry: &AnnotationEntry, id: u64) -> Sameness {
    let bbox = entry.bbox.map(f64::to_bits);
    (id, entry.image_id, entry.category_id, bbox, [entry.iscrowd, entry.ignore])
}

impl AnnotationRow {
    /// The annotation, and whether its box is its segmentation's.
    fn entry(self, id: u64, outline: Option<&Outline>) -> Result<(AnnotationEntry, bool), String> {
        let Self { image_id, category_id, area, iscrowd, ignore, score, .. } = self;
        let of_segmentation = || segmentation::bounds(&outline?.segmentation);
        let Some(bbox) = self.bbox.or_else(of_segmentation) else {
            return Err(format!(
                "annotation {id}: missing field `bbox`, and no segmentation to take it from; add the box or remove the annotation"
            ));
        };
        let entry = AnnotationEntry { id, image_id, category_id, bbox, area, iscrowd, ignore, score };
        Ok((entry, self.bbox.is_none()))
    }
}

/// Why a text that does not begin with `{` is no COCO file.
fn no_object(text: &[u8]) -> serde_json::Error {
    let expected = "expected an object with images, annotations and categories";
    match serde_json::from_slice::<IgnoredAny>(text) {
        Ok(_) => serde_json::Error::custom(expected),
        Err(error) => serde_json::Error::custom(format!("{expected}; {error}")),
    }
}

/// Explanation of a parser's error, with what to write instead, where its own words do not say so.
pub(crate) fn explained(text: &[u8], error: &serde_json::Error) -> Option<String> {
    let is_escape = error.is_syntax() && error.to_string().starts_with("invalid escape");
    match is_escape {
        true => Some(format!(
            "a single backslash stands in a text (line {}, column {}), as in a path of Windows: JSON wants it doubled; \
             better write / instead",
            error.line(),
            error.column()
        )),
        false => not_a_number(text, error),
    }
}

/// Names the NaN or infinity that stopped the parser, and what to write instead.
fn not_a_number(text: &[u8], error: &serde_json::Error) -> Option<String> {
    let line = text.split(|&byte| byte == b'\n').nth(error.line().checked_sub(1)?)?;
    // The parser stops at the word's first letter, or within it.
    let near = error.column().min(line.len());
    let start = near.saturating_sub("-Infinity".len());
    let end = (near + "-Infinity".len()).min(line.len());
    let word = ["-Infinity", "Infinity", "NaN"].into_iter().find_map(|word| {
        let places = line[start..end].windows(word.len());
        let place = places.enumerate().find(|(_, part)| *part == word.as_bytes())?.0;
        Some((word, start + place))
    });
    let (word, place) = word?;
    let before = String::from_utf8_lossy(&line[..place]);
    let key = before.rsplit('"').nth(1).unwrap_or_default();
    Some(format!(
        "{word} stands at \"{key}\" (line {}, column {}), and JSON has no such number (Python's json.dump writes it); \
         write null where the value is not known, or remove the entry",
        error.line(),
        place + 1
    ))
}

/// A set as the text of a COCO file.
pub fn to_json(instances: &Instances) -> Vec<u8> {
    let mut text =
        serde_json::to_vec(&Written::of(instances)).expect("numbers, strings and lists always serialise");
    text.push(b'\n');
    text
}

/// A COCO file as it is written.
#[derive(Serialize)]
struct Written<'a> {
    images: Vec<WrittenImage<'a>>,
    annotations: Vec<WrittenAnnotation>,
    categories: Vec<WrittenCategory<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pseudo_labels: Option<&'a PseudoLabels>,
}

#[derive(Serialize)]
struct WrittenImage<'a> {
    id: u64,
    file_name: &'a str,
    width: u32,
    height: u32,
}

#[derive(Serialize)]
struct WrittenAnnotation {
    id: u64,
    image_id: u64,
    category_id: u64,
    bbox: [f64; 4],
    area: Option<f64>,
    iscrowd: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
}

#[derive(Serialize)]
struct WrittenCategory<'a> {
    id: u64,
    name: &'a str,
}

impl<'a> Written<'a> {
    fn of(instances: &'a Instances) -> Self {
        let images = instances.images.iter().map(|image| WrittenImage {
            id: image.id,
            file_name: &image.file_name,
            width: image.width,
            height: image.height,
        });
        let annotations = instances.annotations.iter().map(|annotation| WrittenAnnotation {
            id: annotation.id,
            image_id: annotation.image_id,
            category_id: annotation.category_id,
            bbox: annotation.bbox,
            area: annotation.area,
            iscrowd: u8::from(annotation.iscrowd),
            ignore: annotation.ignore.then_some(1),
            score: annotation.score,
        });
        let categories = instances
            .categories
            .iter()
            .map(|category| WrittenCategory { id: category.id, name: &category.name });
        Self {
            images: images.collect(),
            annotations: annotations.collect(),
            categories: categories.collect(),
            pseudo_labels: instances.pseudo_labels.as_ref(),
        }
    }
}
