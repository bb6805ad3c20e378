//! Pascal VOC folders to COCO JSON.
//!
//! Source: the VOC development kit's layout. `ImageSets/Main/SPLIT.txt` lists the images,
//! `Annotations/ID.xml` has the boxes, `JPEGImages/ID.jpg` (or .jpeg, .png) is the image; the XML's own
//! `filename` is often wrong and not used.
//!
//! - Boxes become `[xmin, ymin, xmax - xmin, ymax - ymin]`, the usual conversion. VOC counts pixels
//!   from 1 and includes the last one, so these boxes lie half a pixel right and down of the object
//!   and are one pixel narrow; what matters is that images and detections are measured alike.
//! - `difficult` objects become `ignore`; body parts (VOC 2012's `part`) are not objects.
//! - Boxes without a size are dropped and reported.
//! - An image's id is the number made of the digits of its name (2007_000027 gives 2007000027), so it
//!   is the same in every split; where that is not unique, images are numbered from 1.
//! - Category ids are 1, 2, ... in the order of [`Classes`].

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use super::decode::{self, DecodeError};
use super::instances::{AnnotationEntry, CategoryEntry, ImageEntry, Instances};

mod xml;

use xml::Document;

/// Which classes there are, and in which order they get their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Classes {
    /// Every name in `Annotations`, whatever the split, sorted: the same ids for every split.
    Found,
    /// These; any other name is an error.
    Listed(Vec<String>),
}

/// What a conversion dropped or marked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VocReport {
    /// Images converted.
    pub images: usize,
    /// Boxes converted, ignored ones included.
    pub boxes: usize,
    /// Of those, marked `ignore` because VOC calls them difficult.
    pub difficult: usize,
    /// Boxes without a size: image and `[xmin, ymin, xmax, ymax]`, dropped.
    pub without_size: Vec<String>,
}

impl fmt::Display for VocReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, boxes, difficult, without_size } = self;
        write!(f, "{images} images, {boxes} boxes, of which {difficult} difficult ones marked `ignore`")?;
        if !without_size.is_empty() {
            write!(f, "\n  {} boxes without a size dropped: ", without_size.len())?;
            write!(f, "{}", without_size[..without_size.len().min(5)].join("; "))?;
        }
        Ok(())
    }
}

/// Why a VOC folder could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum VocError {
    /// A file could not be read.
    #[error("cannot read {}: {source}; a VOC folder has Annotations, ImageSets/Main and JPEGImages", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// An annotation is not what VOC's are.
    #[error("{}: {problem}", path.display())]
    Annotation {
        /// The XML file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A listed image has no file.
    #[error("image {id} of the split has no file in {} (.jpg, .jpeg or .png); add it or remove it from the list", folder.display())]
    MissingImage {
        /// The image's name.
        id: String,
        /// The folder that was searched.
        folder: PathBuf,
    },
    /// An image whose XML gives no size could not be opened.
    #[error(transparent)]
    Image(#[from] DecodeError),
    /// The split lists nothing.
    #[error("{} lists no image", path.display())]
    EmptySplit {
        /// The list.
        path: PathBuf,
    },
}

/// Converts one split (`train`, `val`, ...) of the VOC folder `root`.
pub fn convert(root: &Path, split: &str, classes: &Classes) -> Result<(Instances, VocReport), VocError> {
    let names = listed_images(root, split)?;
    let classes = match classes {
        Classes::Listed(classes) => classes.clone(),
        Classes::Found => all_classes(root)?,
    };
    let ids = image_ids(&names);
    let mut report = VocReport { images: names.len(), ..VocReport::default() };
    let (mut images, mut annotations) = (Vec::with_capacity(names.len()), Vec::new());
    for (name, id) in names.iter().zip(ids) {
        let path = root.join("Annotations").join(format!("{name}.xml"));
        let document = document(&path)?;
        images.push(image(root, name, id, &document)?);
        for object in document.objects {
            let class = classes.iter().position(|class| *class == object.name).ok_or_else(|| {
                let problem =
                    format!("class \"{}\" is not among those given: {}", object.name, classes.join(", "));
                VocError::Annotation { path: path.clone(), problem }
            })?;
            let [xmin, ymin, xmax, ymax] = object.corners;
            let (width, height) = (xmax - xmin, ymax - ymin);
            if !(width > 0.0 && height > 0.0) {
                report.without_size.push(format!("{name} {:?}", object.corners));
                continue;
            }
            report.difficult += usize::from(object.difficult);
            annotations.push(AnnotationEntry {
                id: annotations.len() as u64 + 1,
                image_id: id,
                category_id: class as u64 + 1,
                bbox: [xmin, ymin, width, height],
                area: Some(width * height),
                iscrowd: false,
                ignore: object.difficult,
            });
        }
    }
    report.boxes = annotations.len();
    let categories = (1..).zip(classes).map(|(id, name)| CategoryEntry { id, name }).collect();
    Ok((Instances::new(images, annotations, categories), report))
}

/// The names in the first column of `ImageSets/Main/SPLIT.txt` (class lists have a second one).
fn listed_images(root: &Path, split: &str) -> Result<Vec<String>, VocError> {
    let path = root.join("ImageSets/Main").join(format!("{split}.txt"));
    let names: Vec<String> =
        read(&path)?.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    if names.is_empty() { Err(VocError::EmptySplit { path }) } else { Ok(names) }
}

fn all_classes(root: &Path) -> Result<Vec<String>, VocError> {
    let folder = root.join("Annotations");
    let at = |source| VocError::Read { path: folder.clone(), source };
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).map_err(at)? {
        let path = entry.map_err(at)?.path();
        if path.extension().is_some_and(|extension| extension == "xml") {
            names.extend(document(&path)?.objects.into_iter().map(|object| object.name));
        }
    }
    Ok(names.into_iter().collect())
}

fn image(root: &Path, name: &str, id: u64, document: &Document) -> Result<ImageEntry, VocError> {
    let folder = root.join("JPEGImages");
    let file_name = ["jpg", "jpeg", "png", "JPG", "JPEG", "PNG"]
        .iter()
        .map(|extension| format!("{name}.{extension}"))
        .find(|file| folder.join(file).is_file());
    let Some(file_name) = file_name else {
        return Err(VocError::MissingImage { id: name.to_owned(), folder });
    };
    // Some tools write a size of 0, or none.
    let (width, height) = match document.size {
        Some((width, height)) if width > 0 && height > 0 => (width, height),
        _ => decode::size(&folder.join(&file_name))?,
    };
    Ok(ImageEntry { id, file_name, width, height })
}

fn image_ids(names: &[String]) -> Vec<u64> {
    let digits = |name: &String| name.chars().filter(char::is_ascii_digit).collect::<String>().parse().ok();
    let numbers: Option<Vec<u64>> = names.iter().map(digits).collect();
    match numbers {
        Some(numbers) if numbers.iter().collect::<BTreeSet<_>>().len() == names.len() => numbers,
        _ => (1..=names.len() as u64).collect(),
    }
}

fn document(path: &Path) -> Result<Document, VocError> {
    xml::parse(&read(path)?).map_err(|problem| VocError::Annotation { path: path.to_owned(), problem })
}

fn read(path: &Path) -> Result<String, VocError> {
    std::fs::read_to_string(path).map_err(|source| VocError::Read { path: path.to_owned(), source })
}
