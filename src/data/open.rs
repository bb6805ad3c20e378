//! The section `data` of a configuration, and the files it names: reading and writing of every kind of boxed
//! data set.
//!
//! A new kind is a file of its own with `read` and `write`, and its arms here.

use std::path::{Path, PathBuf};

use ckd_settings::{Check, choices, section};

use super::convert::ConvertError;
use super::error::DataError;
use super::image_policy::{ImagePolicy, OnBadImage};
use super::instances::Instances;
use super::synth::{Split, Synth};
use super::unlabelled::Unlabelled;
use super::{coco, voc, yolo};
use crate::fsx;

choices! {
    /// Kind of data set: its file format, or synthetic.
    pub enum DataKind {
        /// Folders of images and COCO `instances` files.
        Coco = "coco",
        /// Images drawn by the program; made on first use.
        Synth = "synth",
        /// YOLO: `data.yaml`, images and label files.
        Yolo = "yolo",
        /// Pascal VOC: `Annotations`, `ImageSets/Main` and `JPEGImages`, or XML files beside the images.
        Voc = "voc",
    }
}

section! {
    /// The images and boxes. Paths below `root` follow COCO 2017 unless given.
    pub struct Data {
        /// Kind of data set: its file format, or synthetic.
        pub kind: DataKind,
        /// The folder of the data set (synth: the folder to make it in; yolo: also its data.yaml); relative
        /// to the current directory, else to the configuration's folder.
        pub root: PathBuf,
        /// coco: training images, relative to `root`.
        pub train_images: PathBuf = PathBuf::from("train2017"),
        /// coco: training boxes, relative to `root`.
        pub train_annotations: PathBuf = PathBuf::from("annotations/instances_train2017.json"),
        /// coco: evaluation images, relative to `root`.
        pub val_images: PathBuf = PathBuf::from("val2017"),
        /// coco: evaluation boxes, relative to `root`.
        pub val_annotations: PathBuf = PathBuf::from("annotations/instances_val2017.json"),
        /// yolo: the key of the training images in data.yaml. voc: their list in ImageSets/Main, without
        /// `.txt`, or their folder.
        pub train_split: String = "train".to_owned(),
        /// yolo: the key of the evaluation images in data.yaml. voc: their list in ImageSets/Main, or their
        /// folder.
        pub val_split: String = "val".to_owned(),
        /// voc: the classes in their order. Default: those of labelmap.txt, else all that occur, sorted.
        pub classes: Vec<String> = Vec::new(),
        /// Policy for missing or broken image files: the program ends before the first step, or they are
        /// left out. An image that breaks in mid-training is replaced by another image.
        pub on_bad_image: OnBadImage = OnBadImage::Stop,
        /// The largest part of all images that on_bad_image = "skip" may leave out, in [0, 1].
        pub max_bad_images: f64 = 0.01,
        /// Whether images may lie outside `root`: by absolute names, `..`, or links.
        pub allow_outside: bool = false,
        /// Threads that decode and transform images.
        pub workers: usize = 2,
        /// Batches made ahead of training.
        pub queue: usize = 4,
        /// Batch wide images with wide ones and tall with tall, to pad less.
        pub group_by_aspect: bool = true,
        /// Images without labels, which a detector has given boxes.
        pub unlabelled: Option<Unlabelled>,
        /// Settings of the synthetic images, for kind = "synth".
        pub synth: Option<Synth>,
    }
}

impl Data {
    /// Adds what is wrong with the section.
    pub fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("workers", self.workers);
        check.at_least_one("queue", self.queue);
        check.fraction("max_bad_images", self.max_bad_images);
        match (self.kind, &self.synth) {
            (DataKind::Synth, None) => check.that(
                false,
                "synth",
                "is missing, but data.kind = \"synth\"",
                "add a [data.synth] table: how many images, of what size, with how many classes",
            ),
            (DataKind::Synth, Some(_)) | (_, None) => {}
            (kind, Some(_)) => check.that(
                false,
                "synth",
                format!("is given, but data.kind = \"{kind}\""),
                "remove [data.synth], or set data.kind = \"synth\"",
            ),
        }
        check.that(
            self.classes.is_empty() || self.kind == DataKind::Voc,
            "classes",
            format!("is given, but data.kind = \"{}\" names its classes itself", self.kind),
            "remove it; \"voc\" alone needs an order of classes",
        );
    }

    /// The files of a split of the set at `root`.
    pub fn files(&self, root: &Path, split: Split) -> SplitFiles {
        let (images, annotations, name) = match split {
            Split::Train => (&self.train_images, &self.train_annotations, &self.train_split),
            Split::Val => (&self.val_images, &self.val_annotations, &self.val_split),
        };
        let classes = match self.classes.is_empty() {
            true => voc::Classes::Found,
            false => voc::Classes::Listed(self.classes.clone()),
        };
        let files = match self.kind {
            DataKind::Coco => SplitFiles::coco(&root.join(annotations), &root.join(images)),
            DataKind::Synth => SplitFiles::coco(&split.annotations(root), &split.images(root)),
            DataKind::Yolo => SplitFiles::yolo(root, name),
            DataKind::Voc => SplitFiles::voc(root, name, classes),
        };
        let policy = ImagePolicy {
            on_bad: self.on_bad_image,
            max_bad: self.max_bad_images,
            allow_outside: self.allow_outside,
            root: Some(root.to_owned()),
        };
        SplitFiles { policy, ..files }
    }
}

impl DataKind {
    /// Writes `instances`, whose images are in `folder`, as the split `split` of a data set of this kind at
    /// `out`: a file for COCO, a folder otherwise, into which the images are copied. Gives the number of
    /// boxes that the format has no form for.
    ///
    /// # Errors
    /// Errors of the format's own `write`.
    pub fn write(
        self,
        instances: &Instances,
        folder: &Path,
        out: &Path,
        split: &str,
    ) -> Result<usize, ConvertError> {
        match self {
            Self::Coco | Self::Synth => {
                fsx::write_atomic(out, &coco::to_json(instances))?;
                Ok(0)
            }
            Self::Yolo => yolo::write(instances, folder, out, split),
            Self::Voc => voc::write(instances, folder, out, split).map(|()| 0),
        }
    }
}

/// Files of one split of a boxed data set, to be opened.
#[derive(Debug, Clone, PartialEq)]
pub struct SplitFiles {
    /// The file that says which images there are: COCO's JSON, YOLO's `data.yaml`, VOC's list. Messages name
    /// it.
    pub annotations: PathBuf,
    /// The folder of the images.
    pub images: PathBuf,
    /// Policy for the files of the images.
    pub policy: ImagePolicy,
    format: Format,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Format {
    Coco,
    Yolo { root: PathBuf, split: String },
    Voc { root: PathBuf, split: String, classes: voc::Classes },
}

impl SplitFiles {
    /// A COCO file, and the folder of its images.
    pub fn coco(annotations: &Path, images: &Path) -> Self {
        Self {
            annotations: annotations.to_owned(),
            images: images.to_owned(),
            policy: ImagePolicy::default(),
            format: Format::Coco,
        }
    }

    /// The split that a YOLO set's `data.yaml` has under a key.
    pub fn yolo(root: &Path, split: &str) -> Self {
        let format = Format::Yolo { root: root.to_owned(), split: split.to_owned() };
        Self {
            annotations: yolo::file(root),
            images: root.to_owned(),
            policy: ImagePolicy { root: Some(root.to_owned()), ..ImagePolicy::default() },
            format,
        }
    }

    /// The split of a VOC folder that a list names.
    pub fn voc(root: &Path, split: &str, classes: voc::Classes) -> Self {
        let (annotations, images) = voc::files(root, split);
        Self {
            annotations,
            images,
            policy: ImagePolicy { root: Some(root.to_owned()), ..ImagePolicy::default() },
            format: Format::Voc { root: root.to_owned(), split: split.to_owned(), classes },
        }
    }

    /// Reads the boxes; also gives the folder that the images' names are relative to.
    ///
    /// # Errors
    /// If a file is missing or not what its format asks for.
    pub fn open(&self) -> Result<(Instances, PathBuf), DataError> {
        match &self.format {
            Format::Coco => Ok((coco::read(&self.annotations)?, self.images.clone())),
            Format::Yolo { root, split } => Ok(yolo::read(root, split)?),
            Format::Voc { root, split, classes } => {
                Ok((voc::read(root, split, classes)?, self.images.clone()))
            }
        }
    }

    /// True if its files are there, as far as can be told without reading them.
    pub fn exist(&self) -> bool {
        self.annotations.exists() && self.images.exists()
    }

    /// BLAKE3 of the annotations, in hexadecimal: of the file for COCO, else of the boxes in COCO's form.
    pub fn blake3(&self) -> Option<String> {
        let bytes = match self.format {
            Format::Coco => std::fs::read(&self.annotations).ok()?,
            _ => coco::to_json(&self.open().ok()?.0),
        };
        Some(blake3::hash(&bytes).to_hex().to_string())
    }
}
