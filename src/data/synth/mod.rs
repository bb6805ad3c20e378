//! The generator of a synthetic data set in COCO format.
//!
//! A class is an outline and a filling (`striped disc`, `dotted star`); colour, size, direction and
//! place tell nothing about it. Outlines in one colour and fillings on other outlines are clutter, so
//! a detector must see both; objects overlap, leave the picture, and go down to 7 pixels. A larger
//! network does better on it, which is what it is for.
//!
//! Picture i of a split is drawn from its own stream (seed, split, i) with exact arithmetic only: the
//! same bytes on every machine and for any number of threads, and a larger set begins with the
//! pictures of a smaller one.
//!
//! ```text
//! OUT/synth.json                            the parameters and a digest of all files, written last
//! OUT/annotations/instances_{train,val}.json
//! OUT/{train,val}/000001.png ...
//! ```

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use ckd_settings::{Check, section};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::coco;
use super::draws::Draws;
use super::instances::{AnnotationEntry, CategoryEntry, ImageEntry, Instances};
use crate::fsx::{self, WriteError};

mod canvas;
mod scene;
mod shape;
mod texture;

use scene::{Class, SceneSize, Visible};

/// Raised whenever the same parameters give other pictures.
const VERSION: u32 = 1;

section! {
    /// A synthetic data set; the same numbers give the same bytes on every machine.
    pub struct Synth {
        /// Training images.
        pub images_train: usize,
        /// Evaluation images.
        pub images_val: usize,
        /// Height and width of every image.
        pub image_size_px: u32,
        /// Classes of objects.
        pub classes: usize,
        /// Every pixel follows from it.
        pub seed: u64 = 0,
        /// Objects in the emptiest image.
        pub min_objects: usize = 1,
        /// Objects in the fullest image.
        pub max_objects: usize = 8,
    }
}

impl Synth {
    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("images_train", self.images_train);
        check.at_least_one("images_val", self.images_val);
        check.at_least_one("classes", self.classes);
        let size = self.image_size_px;
        check.that(size >= 32, "image_size_px", format!("is {size}"), "objects need at least 32 pixels");
        check.that(
            self.min_objects <= self.max_objects,
            "min_objects",
            format!("is above max_objects: {} > {}", self.min_objects, self.max_objects),
            "lower the one or raise the other",
        );
    }
}

/// A split of a set: its name is part of its files' names and of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// For training.
    Train,
    /// For evaluation.
    Val,
}

impl Split {
    /// `train` or `val`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }

    /// The annotations of this split in the set's folder.
    pub fn annotations(self, out: &Path) -> PathBuf {
        out.join(format!("annotations/instances_{}.json", self.name()))
    }

    /// The images of this split in the set's folder.
    pub fn images(self, out: &Path) -> PathBuf {
        out.join(self.name())
    }
}

/// Result of [`generate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All files were written.
    Made,
    /// The folder held exactly this set; nothing was written.
    AlreadyThere,
}

/// Why a set could not be generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// A parameter is out of range.
    #[error("cannot generate a data set: {0}")]
    Parameter(&'static str),
    /// The folder holds a set made with other parameters.
    #[error("{} holds another synthetic set ({found}; wanted {wanted}); choose another folder or delete it", folder.display())]
    OtherSet {
        /// The folder.
        folder: PathBuf,
        /// The parameters of the set that is there.
        found: String,
        /// The parameters asked for.
        wanted: String,
    },
    /// `synth.json` cannot be understood.
    #[error("{}: {problem}; choose another folder or delete it", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
    /// A picture could not be encoded.
    #[error("cannot encode a PNG: {0}")]
    Encode(#[from] image::ImageError),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// `synth.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    /// The parameters by name.
    #[serde(flatten)]
    config: serde_json::Map<String, Value>,
    /// BLAKE3 of the names and hashes of all files.
    digest: String,
}

/// Writes the set into the folder `out`, unless it is there already, whole and unchanged.
pub fn generate(config: &Synth, out: &Path) -> Result<Outcome, SynthError> {
    check(config)?;
    if is_there(config, out)? {
        return Ok(Outcome::AlreadyThere);
    }
    let mut files = write_split(config, Split::Train, config.images_train, out)?;
    files.extend(write_split(config, Split::Val, config.images_val, out)?);
    let manifest = Manifest { version: VERSION, config: config.parameters(), digest: digest(&files) };
    let mut text = serde_json::to_vec_pretty(&manifest).expect("numbers and strings always serialise");
    text.push(b'\n');
    fsx::write_atomic(&manifest_path(out), &text)?;
    Ok(Outcome::Made)
}

fn manifest_path(out: &Path) -> PathBuf {
    out.join("synth.json")
}

fn check(config: &Synth) -> Result<(), SynthError> {
    let problem = match *config {
        Synth { images_train: 0, .. } | Synth { images_val: 0, .. } => {
            "there must be at least one image for training and one for validation"
        }
        Synth { images_train, images_val, .. } if images_train.max(images_val) > 999_999 => {
            "there may be at most 999999 images in a split"
        }
        Synth { image_size_px, .. } if !(32..=2048).contains(&image_size_px) => {
            "the size must lie in 32..=2048 pixels"
        }
        Synth { classes, .. } if !(1..=24).contains(&classes) => "the number of classes must lie in 1..=24",
        Synth { min_objects, max_objects, .. } if min_objects > max_objects || max_objects > 100 => {
            "the number of objects must lie in 0..=100, the least not above the most"
        }
        _ => return Ok(()),
    };
    Err(SynthError::Parameter(problem))
}

/// A written file: its name in the folder, and its hash.
type Written = (String, blake3::Hash);

fn write_split(config: &Synth, split: Split, count: usize, out: &Path) -> Result<Vec<Written>, SynthError> {
    let classes = Class::first(config.classes);
    let sizes =
        SceneSize { side: config.image_size_px as usize, objects: (config.min_objects, config.max_objects) };
    let pictures: Vec<(Written, Vec<Visible>)> = (0..count)
        .into_par_iter()
        .map(|index| {
            let mut draws = Draws::new(config.seed, split.name(), &[index as u64]);
            let (picture, visible) = scene::render(&sizes, &classes, &mut draws);
            let bytes = png(&picture)?;
            let name = picture_name(split, index);
            fsx::write_atomic(&out.join(&name), &bytes)?;
            Ok(((name, blake3::hash(&bytes)), visible))
        })
        .collect::<Result<_, SynthError>>()?;
    let (mut files, visible): (Vec<Written>, Vec<Vec<Visible>>) = pictures.into_iter().unzip();
    let json = coco::to_json(&instances(config, &classes, &visible));
    fsx::write_atomic(&split.annotations(out), &json)?;
    files.push((annotations_name(split), blake3::hash(&json)));
    Ok(files)
}

fn picture_name(split: Split, index: usize) -> String {
    format!("{}/{:06}.png", split.name(), index + 1)
}

fn annotations_name(split: Split) -> String {
    format!("annotations/instances_{}.json", split.name())
}

fn instances(config: &Synth, classes: &[Class], visible: &[Vec<Visible>]) -> Instances {
    let side = config.image_size_px;
    let images = (1..)
        .zip(visible)
        .map(|(id, _)| ImageEntry { id, file_name: format!("{id:06}.png"), width: side, height: side })
        .collect();
    let objects = (1..)
        .zip(visible)
        .flat_map(|(image_id, objects)| objects.iter().map(move |object| (image_id, object)));
    let annotations = (1..)
        .zip(objects)
        .map(|(id, (image_id, object))| AnnotationEntry {
            id,
            image_id,
            category_id: object.class as u64 + 1,
            bbox: object.bbox,
            area: Some(object.area),
            iscrowd: false,
            ignore: false,
            score: None,
        })
        .collect();
    let categories = (1..).zip(classes).map(|(id, class)| CategoryEntry { id, name: class.name() }).collect();
    Instances::new(images, annotations, categories)
}

fn png(picture: &RgbImage) -> Result<Vec<u8>, SynthError> {
    let mut bytes = Vec::new();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Sub).write_image(
        picture.as_raw(),
        picture.width(),
        picture.height(),
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}

/// Tells if `out` holds exactly this set. A set with other parameters is never overwritten; an
/// unfinished or damaged one of the same parameters is made again.
fn is_there(config: &Synth, out: &Path) -> Result<bool, SynthError> {
    let path = manifest_path(out);
    let problem = |problem: String| SynthError::Manifest { path: path.clone(), problem };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(problem(error.to_string())),
    };
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| problem(error.to_string()))?;
    if (manifest.version, &manifest.config) != (VERSION, &config.parameters()) {
        let found =
            Synth::of(&manifest.config).map_or("unknown parameters".to_owned(), |set| set.to_string());
        return Err(SynthError::OtherSet {
            folder: out.to_owned(),
            found: format!("version {}, {found}", manifest.version),
            wanted: format!("version {VERSION}, {config}"),
        });
    }
    let names: Vec<String> = [(Split::Train, config.images_train), (Split::Val, config.images_val)]
        .into_iter()
        .flat_map(|(split, count)| {
            (0..count).map(move |index| picture_name(split, index)).chain([annotations_name(split)])
        })
        .collect();
    let files: Option<Vec<Written>> = names
        .into_par_iter()
        .map(|name| {
            let bytes = std::fs::read(out.join(&name)).ok()?;
            Some((name, blake3::hash(&bytes)))
        })
        .collect();
    Ok(files.is_some_and(|files| digest(&files) == manifest.digest))
}

fn digest(files: &[Written]) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, hash) in files {
        hasher.update(name.as_bytes());
        hasher.update(hash.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

impl Synth {
    fn parameters(&self) -> serde_json::Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(parameters)) => parameters,
            _ => unreachable!("a section is a table of numbers"),
        }
    }

    fn of(parameters: &serde_json::Map<String, Value>) -> Option<Self> {
        let number = |key: &str| parameters.get(key)?.as_u64();
        let count = |key: &str| number(key)?.try_into().ok();
        Some(Self {
            images_train: count("images_train")?,
            images_val: count("images_val")?,
            image_size_px: number("image_size_px")?.try_into().ok()?,
            classes: count("classes")?,
            seed: number("seed")?,
            min_objects: count("min_objects")?,
            max_objects: count("max_objects")?,
        })
    }
}

impl fmt::Display for Synth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images_train, images_val, image_size_px: side, classes, .. } = self;
        write!(f, "{images_train} + {images_val} images of {side}x{side} pixels, {classes} classes, ")?;
        write!(f, "{} to {} objects, seed {}", self.min_objects, self.max_objects, self.seed)
    }
}
