//! YOLO data sets in Ultralytics' layout to [`Instances`] and back.
//!
//! Source: the conventions of Ultralytics' `data.yaml` (docs.ultralytics.com/datasets/detect).
//!
//! - `data.yaml` has `names` (a list or a map), and for each split a folder of images, a `.txt` list of
//!   images, or several of either; `path` is what they are relative to, itself relative to `data.yaml`. Where
//!   `path` does not exist, or `train: ../train/images` does not, `data.yaml`'s own folder takes its place.
//! - An image's labels are in the file with `/images/` replaced by `/labels/` and the extension by `.txt`,
//!   else beside it. No such file, or an empty one, is an image without objects.
//! - A line is `class cx cy w h` in fractions of the image; more numbers are a polygon, whose box is taken
//!   (with `kpt_shape` in `data.yaml`: keypoints behind the box, which are skipped).
//! - Images of a folder are sorted by path, those of a list keep its order. Ids are made as VOC's are, and
//!   category ids are the class's number plus 1.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::decode;
use super::entries::{is_hidden, is_image};
use super::instances::{AnnotationEntry, CategoryEntry, ImageEntry, Instances, ids_of};
use super::report::{FindingKind, Findings};

mod error;
mod label;
mod write;
mod yaml;

pub use error::YoloError;
pub use write::write;

use label::Row;
use yaml::DataYaml;

/// The `data.yaml` of the data set at `root`, which may be that file itself.
pub(super) fn file(root: &Path) -> PathBuf {
    if root.is_file() { root.to_owned() } else { root.join("data.yaml") }
}

/// Reads the split that `data.yaml` has under the key `split`; also gives the folder that its images' names
/// are relative to.
///
/// # Errors
/// If a file is missing, not what it should be, or names a class that `data.yaml` does not.
pub fn read(root: &Path, split: &str) -> Result<(Instances, PathBuf), YoloError> {
    let path = file(root);
    let yaml = DataYaml::read(&path)?;
    let base = yaml.base(&path);
    let mut images = Vec::new();
    for source in yaml.split(split, &path)? {
        images.extend(listed(&resolved(&base, &path, &source))?);
    }
    if images.is_empty() {
        return Err(YoloError::Content { path, problem: format!("{split} has no image") });
    }
    let names: Vec<String> = images.iter().map(|image| file_name(image, &base)).collect();
    let stems: Vec<String> = names
        .iter()
        .map(|name| name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem).to_owned())
        .collect();
    let found: Vec<Labelled> =
        images.par_iter().map(|image| Labelled::read(image, &yaml)).collect::<Result<_, YoloError>>()?;

    let mut findings = Findings::default();
    let (mut entries, mut annotations) = (Vec::with_capacity(images.len()), Vec::new());
    for ((image, file_name), id) in found.into_iter().zip(names).zip(short_ids(&stems)) {
        let (width, height) = image.size;
        if image.rows.is_none() {
            findings.found(FindingKind::NoLabelFile, id);
        }
        for row in image.rows.unwrap_or_default() {
            let annotation = annotations.len() as u64 + 1;
            if row.is_polygon {
                findings.found(FindingKind::BoxFromSegmentation, annotation);
            }
            annotations.push(AnnotationEntry {
                id: annotation,
                image_id: id,
                category_id: u64::from(row.class) + 1,
                bbox: row.pixels(width, height),
                area: None,
                iscrowd: false,
                ignore: false,
                score: None,
            });
        }
        entries.push(ImageEntry { id, file_name, width, height });
    }
    let categories = yaml
        .names
        .iter()
        .map(|(class, name)| CategoryEntry { id: u64::from(*class) + 1, name: name.clone() });
    let instances = Instances::new(entries, annotations, categories.collect());
    Ok((instances.read_from(&path, findings), base))
}

/// Ids of the digits of the files' names, without their folders.
fn short_ids(stems: &[String]) -> Vec<u64> {
    let short: Vec<String> = stems
        .iter()
        .map(|stem| stem.rsplit_once('/').map_or(stem.as_str(), |(_, name)| name).to_owned())
        .collect();
    ids_of(&short)
}

/// An image's size and its labels; `None` without a label file.
struct Labelled {
    size: (u32, u32),
    rows: Option<Vec<Row>>,
}

impl Labelled {
    fn read(image: &Path, yaml: &DataYaml) -> Result<Self, YoloError> {
        let path = labels_of(image);
        let size = decode::size(image)?;
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { size, rows: None });
            }
            Err(source) => return Err(YoloError::Read { path, source }),
        };
        let rows = label::parse(&text, yaml).map_err(|problem| YoloError::Content { path, problem })?;
        Ok(Self { size, rows: Some(rows) })
    }
}

/// Whether `data.yaml` has a split under the key, and something is where the split says; `None` without the key.
///
/// # Errors
/// A file that is no `data.yaml`.
pub fn has_split(root: &Path, split: &str) -> Result<Option<bool>, YoloError> {
    let path = file(root);
    let yaml = DataYaml::read(&path)?;
    let Some(sources) = yaml.splits.get(split).filter(|sources| !sources.is_empty()) else { return Ok(None) };
    let base = yaml.base(&path);
    Ok(Some(sources.iter().all(|source| resolved(&base, &path, source).exists())))
}

/// The label file of an image.
fn labels_of(image: &Path) -> PathBuf {
    let text = image.to_string_lossy().replace('\\', "/");
    let text = match text.rsplit_once("/images/") {
        Some((before, after)) => format!("{before}/labels/{after}"),
        None => text,
    };
    PathBuf::from(text).with_extension("txt")
}

/// An image's name relative to `base`, with forward slashes; its whole path if it lies elsewhere.
fn file_name(image: &Path, base: &Path) -> String {
    image.strip_prefix(base).unwrap_or(image).to_string_lossy().replace('\\', "/")
}

/// Path of a split's folder or list: relative to `base`, else, as Ultralytics reads what Roboflow writes,
/// with a leading `../` left out, else relative to the folder of `data.yaml`.
fn resolved(base: &Path, yaml: &Path, source: &str) -> PathBuf {
    let beside = yaml.parent().unwrap_or(Path::new(""));
    let inside = source.strip_prefix("../").unwrap_or(source);
    let places = [base.join(source), base.join(inside), beside.join(source), beside.join(inside)];
    let place = places.iter().find(|place| place.exists()).unwrap_or(&places[0]);
    // `a/./b` is not below `a` by its words.
    place.components().collect()
}

/// The images that a folder holds, sorted, or that a list names, in its order.
fn listed(source: &Path) -> Result<Vec<PathBuf>, YoloError> {
    let at = |source_error| YoloError::Read { path: source.to_owned(), source: source_error };
    if source.is_dir() {
        let mut images = Vec::new();
        images_below(source, 8, &mut images)?;
        images.sort_unstable();
        return Ok(images);
    }
    let text = std::fs::read_to_string(source).map_err(at)?;
    let folder = source.parent().unwrap_or(Path::new(""));
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines
        .map(|line| folder.join(line.strip_prefix("./").unwrap_or(line)).components().collect())
        .collect())
}

fn images_below(folder: &Path, depth: usize, images: &mut Vec<PathBuf>) -> Result<(), YoloError> {
    let at = |source| YoloError::Read { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(at)? {
        let path = entry.map_err(at)?.path();
        if is_hidden(&path) {
            continue;
        }
        if path.is_dir() {
            if depth > 1 {
                images_below(&path, depth - 1, images)?;
            }
        } else if is_image(&path) {
            images.push(path);
        }
    }
    Ok(())
}
