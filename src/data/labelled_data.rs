//! The section `data` of a classifier's configuration.

use std::path::PathBuf;

use ckd_detectors::images::Normalization;
use ckd_settings::{Check, choices, section};

use super::image_policy::{ImagePolicy, OnBadImage};
use super::label_order::LabelOrder;

choices! {
    /// A data set, or the layout of one.
    pub enum LabelledKind {
        /// CIFAR-10, binary version.
        Cifar10 = "cifar10",
        /// CIFAR-100, binary version.
        Cifar100 = "cifar100",
        /// STL-10, binary version: its labelled images.
        Stl10 = "stl10",
        /// Tiny-ImageNet-200 in its own layout.
        TinyImagenet = "tiny_imagenet",
        /// A folder for each class in `train` and in `val`: ImageNet.
        Folder = "folder",
    }
}

impl LabelledKind {
    /// Mean and deviation of the training images, as published with the recipes that use the set.
    pub fn normalization(self) -> Normalization {
        let (mean, std) = match self {
            Self::Cifar10 => ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
            Self::Cifar100 => ([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]),
            Self::Stl10 => ([0.4467, 0.4398, 0.4066], [0.2603, 0.2566, 0.2712]),
            Self::TinyImagenet => ([0.4802, 0.4481, 0.3975], [0.2770, 0.2691, 0.2821]),
            Self::Folder => ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        };
        Normalization { mean, std }
    }
}

section! {
    /// The images and labels.
    pub struct LabelledData {
        /// The data set, or its layout.
        pub kind: LabelledKind,
        /// Folder of the data set; relative to the current directory, else to the configuration's folder.
        pub root: PathBuf,
        /// folder: training images, relative to `root`.
        pub train: PathBuf = PathBuf::from("train"),
        /// folder: evaluation images, relative to `root`.
        pub val: PathBuf = PathBuf::from("val"),
        /// folder: a text file with a training image a line, relative to `train`, that are held out; `val` is not read
        /// then. For folders without a validation part.
        pub held_out: Option<PathBuf>,
        /// folder: a JSON file {"0": [FOLDER, NAME], ...} with the order of the classes. Default:
        /// alphabetical.
        pub class_index: Option<PathBuf>,
        /// The order of training images.
        pub order: LabelOrder = LabelOrder::Shuffled,
        /// Policy for missing or broken image files: the program ends before the first step, or they are
        /// left out. An image that breaks in mid-training is replaced by another image.
        pub on_bad_image: OnBadImage = OnBadImage::Stop,
        /// The largest part of all images that on_bad_image = "skip" may leave out, in [0, 1].
        pub max_bad_images: f64 = 0.01,
        /// Threads that decode and transform images.
        pub workers: usize = 2,
        /// Batches made ahead of training.
        pub queue: usize = 4,
    }
}

impl LabelledData {
    /// Policy for the files of the images.
    pub fn image_policy(&self) -> ImagePolicy {
        ImagePolicy { on_bad: self.on_bad_image, max_bad: self.max_bad_images, ..ImagePolicy::default() }
    }

    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("workers", self.workers);
        check.at_least_one("queue", self.queue);
        check.fraction("max_bad_images", self.max_bad_images);
        check.that(
            self.held_out.is_none() || self.kind == LabelledKind::Folder,
            "held_out",
            format!("is given, but data.kind = \"{}\" has a validation part of its own", self.kind),
            "remove it; \"folder\" alone takes it",
        );
    }
}
