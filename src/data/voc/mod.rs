//! Pascal VOC folders to [`Instances`] and back.
//!
//! Source: the VOC development kit's layout. `ImageSets/Main/SPLIT.txt` lists the images,
//! `Annotations/ID.xml` has the boxes, `JPEGImages/ID.jpg` (or another extension) is the image; the XML's
//! own `filename` is often wrong and not used. A folder without `Annotations` is taken for labelImg's flat
//! layout: `SPLIT/ID.xml` beside `SPLIT/ID.jpg`, where the split `.` is the folder itself. With `Annotations`, the
//! split `.` is all that there is, for folders without lists.
//!
//! - Boxes become `[xmin, ymin, xmax - xmin, ymax - ymin]`, the usual conversion. VOC counts pixels
//!   from 1 and includes the last one, so these boxes lie half a pixel right and down of the object
//!   and are one pixel narrow; what matters is that images and detections are measured alike.
//! - `difficult` objects become `ignore`; body parts (VOC 2012's `part`) are not objects.
//! - Boxes without a size are dropped and counted.
//! - An image's id is the number made of the digits of its name (2007_000027 gives 2007000027), so it
//!   is the same in every split; where that is not unique, images are numbered from 1.
//! - Category ids are 1, 2, ... in the order of [`Classes`].
//! - A line of a list may carry the image's extension, and the 1, 0 or -1 of a class list behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::decode;
use super::entries::{is_hidden, rank};
use super::instances::{AnnotationEntry, CategoryEntry, ImageEntry, Instances, ids_of, snapped};
use super::report::{FindingKind, Findings};

mod error;
mod text;
mod write;
mod xml;

pub use error::VocError;
pub use write::write;

use text::read_text;
use xml::Document;

/// Classes and the order in which they get their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Classes {
    /// The names of `labelmap.txt` (CVAT's) in its order, or else every name in the annotations of
    /// all splits, sorted.
    Found,
    /// Listed classes; any other name is an error.
    Listed(Vec<String>),
}

/// Files of a VOC data set.
#[derive(Debug)]
struct Layout {
    root: PathBuf,
    /// The list, or in a flat layout the folder, of the split.
    list: PathBuf,
    annotations: PathBuf,
    images: PathBuf,
    is_flat: bool,
}

/// The list of the images of `split`, or the folder that stands for it, and the folder of the images.
pub(super) fn files(root: &Path, split: &str) -> (PathBuf, PathBuf) {
    let layout = Layout::of(root, split);
    (layout.list, layout.images)
}

/// Reads one split (`train`, `val`, ...) of the VOC folder `root`; file names are relative to
/// `JPEGImages`, or to the split's folder in a flat layout.
///
/// # Errors
/// If a file is missing or not what VOC's are, or a class is not among those listed.
pub fn read(root: &Path, split: &str, classes: &Classes) -> Result<Instances, VocError> {
    let layout = Layout::of(root, split);
    let listed = layout.names()?;
    let mut seen = BTreeSet::new();
    let (names, repeated): (Vec<String>, Vec<String>) =
        listed.into_iter().partition(|name| seen.insert(name.clone()));
    if names.is_empty() {
        return Err(VocError::EmptySplit { path: layout.list });
    }
    let classes = match classes {
        Classes::Listed(classes) => classes.clone(),
        Classes::Found => layout.classes()?,
    };
    let files = Files::of(&layout, &names)?;
    let documents: Vec<(PathBuf, Document, ImageEntry)> = names
        .par_iter()
        .map(|name| {
            let path = layout.annotation(name);
            let document = document(&path)?;
            let image = layout.image(name, &files, &document)?;
            Ok((path, document, image))
        })
        .collect::<Result<_, VocError>>()?;
    let mut findings = Findings::default();
    for (name, id) in names.iter().zip(ids_of(&names)) {
        repeated
            .iter()
            .filter(|other| *other == name)
            .for_each(|_| findings.found(FindingKind::RepeatedImage, id));
    }
    let (mut images, mut annotations) = (Vec::with_capacity(names.len()), Vec::new());
    for ((path, document, image), id) in documents.into_iter().zip(ids_of(&names)) {
        for object in document.objects {
            let class = classes.iter().position(|class| *class == object.name).ok_or_else(|| {
                let problem =
                    format!("class \"{}\" is not among those given: {}", object.name, classes.join(", "));
                VocError::Annotation { path: path.clone(), problem }
            })?;
            let [xmin, ymin, xmax, ymax] = object.corners;
            if let Some(beyond) =
                object.corners.iter().find(|corner| !(-LARGEST_PX..=LARGEST_PX).contains(*corner))
            {
                let problem =
                    format!("a box of \"{}\" has the coordinate {beyond}, beyond any image", object.name);
                return Err(VocError::Annotation { path: path.clone(), problem });
            }
            let bbox = [xmin, ymin, snapped(xmax - xmin), snapped(ymax - ymin)];
            if !(bbox[2] > 0.0 && bbox[3] > 0.0) {
                findings.found(FindingKind::NoSizeIn, id);
                continue;
            }
            annotations.push(AnnotationEntry {
                id: annotations.len() as u64 + 1,
                image_id: id,
                category_id: class as u64 + 1,
                bbox,
                area: Some(bbox[2] * bbox[3]),
                iscrowd: false,
                ignore: object.difficult,
                score: None,
            });
        }
        images.push(ImageEntry { id, ..image });
    }
    let categories = (1..).zip(classes).map(|(id, name)| CategoryEntry { id, name }).collect();
    Ok(Instances::new(images, annotations, categories).read_from(&layout.list, findings))
}

/// No image is as wide or high, in pixels.
const LARGEST_PX: f64 = 1e6;

impl Layout {
    fn of(root: &Path, split: &str) -> Self {
        let annotations = root.join("Annotations");
        if annotations.is_dir() || !root.join(split).is_dir() {
            if split == "." {
                let list = annotations.clone();
                return Self {
                    root: root.to_owned(),
                    list,
                    annotations,
                    images: root.join("JPEGImages"),
                    is_flat: true,
                };
            }
            let list = root.join("ImageSets/Main").join(format!("{split}.txt"));
            let images = root.join("JPEGImages");
            return Self { root: root.to_owned(), list, annotations, images, is_flat: false };
        }
        let folder = root.join(split);
        let (annotations, images) = (folder.clone(), folder.clone());
        Self { root: root.to_owned(), list: folder, annotations, images, is_flat: true }
    }

    fn annotation(&self, name: &str) -> PathBuf {
        self.annotations.join(format!("{name}.xml"))
    }

    /// The names of the split's images, in the order of the list; sorted in a flat layout.
    fn names(&self) -> Result<Vec<String>, VocError> {
        if self.is_flat {
            let names = entries(&self.annotations)?.into_iter();
            return Ok(names.filter_map(|name| name.strip_suffix(".xml").map(str::to_owned)).collect());
        }
        let text = read_text(&self.list)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("._"));
        Ok(lines.map(|line| self.listed(line)).collect())
    }

    /// The name that a line of a list stands for: the longest of its readings that has an annotation.
    fn listed(&self, line: &str) -> String {
        let flagged = line.rsplit_once(char::is_whitespace);
        let unflagged =
            flagged.filter(|(_, flag)| matches!(*flag, "1" | "0" | "-1")).map(|(name, _)| name.trim());
        let readings = std::iter::once(line).chain(unflagged);
        let readings = readings.flat_map(|name| [name, without_extension(name)]);
        let mut readings: Vec<&str> = readings.collect();
        readings.dedup();
        let last = readings.last().copied().unwrap_or(line);
        // Some lists have paths from the root.
        let ends = readings.clone().into_iter().filter_map(|name| Some(name.rsplit_once(['/', '\\'])?.1));
        let known = readings.into_iter().chain(ends).find(|name| self.annotation(name).is_file());
        known.unwrap_or(last).to_owned()
    }

    fn classes(&self) -> Result<Vec<String>, VocError> {
        if let Some(classes) = label_map(&self.root)? {
            return Ok(classes);
        }
        let mut files = Vec::new();
        match self.is_flat {
            true => xml_below(&self.root, 2, &mut files)?,
            false => xml_below(&self.annotations, 4, &mut files)?,
        }
        let names: Vec<Vec<String>> = files
            .par_iter()
            .map(|path| Ok(document(path)?.objects.into_iter().map(|object| object.name).collect()))
            .collect::<Result<_, VocError>>()?;
        Ok(names.into_iter().flatten().collect::<BTreeSet<_>>().into_iter().collect())
    }

    fn image(&self, name: &str, files: &Files, document: &Document) -> Result<ImageEntry, VocError> {
        let missing = || VocError::MissingImage { id: name.to_owned(), folder: self.images.clone() };
        let file_name = files.0.get(name).ok_or_else(missing)?.clone();
        // Some tools write a size of 0, or none.
        let (width, height) = match document.size {
            Some((width, height)) if width > 0 && height > 0 => (width, height),
            _ => decode::size(&self.images.join(&file_name))?,
        };
        Ok(ImageEntry { id: 0, file_name, width, height })
    }
}

/// The image file of each name.
struct Files(BTreeMap<String, String>);

impl Files {
    /// Looks into every folder that a name lies in, once.
    fn of(layout: &Layout, names: &[String]) -> Result<Self, VocError> {
        let folder_of =
            |name: &str| name.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        let folders: BTreeSet<String> = names.iter().map(|name| folder_of(name)).collect();
        let mut known = BTreeMap::<String, (usize, String)>::new();
        for folder in folders {
            let path = layout.images.join(&folder);
            for file in entries(&path)? {
                let stem = without_extension(&file);
                let Some(rank) = rank(file[stem.len()..].trim_start_matches('.')) else { continue };
                let (name, file) = (format!("{folder}{stem}"), format!("{folder}{file}"));
                match known.get(&name) {
                    Some((better, _)) if *better <= rank => {}
                    _ => drop(known.insert(name, (rank, file))),
                }
            }
        }
        Ok(Self(known.into_iter().map(|(name, (_, file))| (name, file)).collect()))
    }
}

fn without_extension(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() && rank(extension).is_some() => stem,
        _ => name,
    }
}

/// The names in a folder, sorted; hidden ones (`.DS_Store`, AppleDouble's `._a.xml`) are none.
fn entries(folder: &Path) -> Result<Vec<String>, VocError> {
    let at = |source| VocError::Read { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(at)? {
        if let Ok(name) = entry.map_err(at)?.file_name().into_string()
            && !is_hidden(Path::new(&name))
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn xml_below(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), VocError> {
    for name in entries(folder)? {
        let path = folder.join(&name);
        if name.ends_with(".xml") {
            found.push(path);
        } else if depth > 1 && path.is_dir() {
            xml_below(&path, depth - 1, found)?;
        }
    }
    Ok(())
}

/// The classes of CVAT's `labelmap.txt`, `name:colour:parts:actions` a line, without the background.
fn label_map(root: &Path) -> Result<Option<Vec<String>>, VocError> {
    let path = root.join("labelmap.txt");
    if !path.is_file() {
        return Ok(None);
    }
    let text = read_text(&path)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let names = lines.map(|line| line.rsplitn(4, ':').last().unwrap_or(line).to_owned());
    Ok(Some(names.filter(|name| name != "background").collect()))
}

fn document(path: &Path) -> Result<Document, VocError> {
    xml::parse(&read_text(path)?).map_err(|problem| VocError::Annotation { path: path.to_owned(), problem })
}
