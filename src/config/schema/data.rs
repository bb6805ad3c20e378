//! Images: where they are and what becomes of them before a network sees them.

use std::path::PathBuf;

use ckd_settings::{Check, choices, section};

choices! {
    /// How an image's pixels are resampled, and how its new size is rounded.
    pub enum Resize {
        /// torchvision's: bilinear of two neighbours in f32, no antialiasing; sizes are rounded down.
        Bilinear = "bilinear",
        /// Detectron2's, by Pillow: bilinear over all pixels that an output pixel covers, in 8 bits; sizes are
        /// rounded to the nearest.
        PilBilinear = "pil_bilinear",
    }
}

section! {
    /// How images are resized, flipped and padded.
    pub struct Input {
        /// The shorter side in pixels after resizing; training draws one for each image.
        pub short_side_px: Vec<u32> = vec![800],
        /// The longer side stays within this many pixels.
        pub long_side_px: u32 = 1333,
        /// How pixels are resampled.
        pub resize: Resize = Resize::Bilinear,
        /// The shorter side at evaluation. Default: the last of `short_side_px`.
        pub eval_short_side_px: Option<u32>,
        /// Batches are padded to a multiple of this many pixels.
        pub size_divisor: u32 = 32,
        /// How often an image is mirrored in training.
        pub flip_probability: f64 = 0.5,
    }
}

impl Input {
    fn check(&self, check: &mut Check<'_>) {
        let sides = &self.short_side_px;
        check.that(
            !sides.is_empty() && !sides.contains(&0),
            "short_side_px",
            "needs at least one size, all above 0",
            "for example [800], or [640, 672, 704, 736, 768, 800] to draw one for each image",
        );
        let longest = sides.iter().copied().chain(self.eval_short_side_px).max().unwrap_or(0);
        check.that(
            self.long_side_px >= longest,
            "long_side_px",
            format!("is {}, below the short side {longest}", self.long_side_px),
            "the longer side cannot be the shorter one",
        );
        check.at_least_one("eval_short_side_px", self.eval_short_side());
        check.at_least_one("size_divisor", self.size_divisor);
        check.fraction("flip_probability", self.flip_probability);
    }

    /// The shorter side at evaluation, in pixels.
    pub fn eval_short_side(&self) -> u32 {
        // A validated configuration has at least one short side.
        self.eval_short_side_px.or(self.short_side_px.last().copied()).unwrap_or(self.long_side_px)
    }
}

section! {
    /// (pixel / 255 - mean) / std, in RGB order. Default: ImageNet's.
    pub struct Normalization {
        /// Red, green, blue.
        pub mean: [f32; 3] = [0.485, 0.456, 0.406],
        /// Red, green, blue.
        pub std: [f32; 3] = [0.229, 0.224, 0.225],
    }
}

impl Normalization {
    fn check(&self, check: &mut Check<'_>) {
        check.that(
            self.std.iter().all(|std| *std > 0.0),
            "std",
            "divides the image and must be above 0",
            "ImageNet's is [0.229, 0.224, 0.225]",
        );
    }
}

choices! {
    /// Where the images come from.
    pub enum DataKind {
        /// Folders of images and COCO `instances` files.
        Coco = "coco",
        /// Images drawn by the program; made on first use.
        Synth = "synth",
    }
}

section! {
    /// The images and boxes. Paths below `root` follow COCO 2017 unless given.
    pub struct Data {
        /// Where the images come from.
        pub kind: DataKind,
        /// The folder of the data set (synth: the folder to make it in); relative to the current
        /// directory, else to the configuration's folder.
        pub root: PathBuf,
        /// Training images, relative to `root`.
        pub train_images: PathBuf = PathBuf::from("train2017"),
        /// Training boxes, relative to `root`.
        pub train_annotations: PathBuf = PathBuf::from("annotations/instances_train2017.json"),
        /// Evaluation images, relative to `root`.
        pub val_images: PathBuf = PathBuf::from("val2017"),
        /// Evaluation boxes, relative to `root`.
        pub val_annotations: PathBuf = PathBuf::from("annotations/instances_val2017.json"),
        /// Threads that decode and transform images.
        pub workers: usize = 2,
        /// Batches made ahead of training.
        pub queue: usize = 4,
        /// Batch wide images with wide ones and tall with tall, to pad less.
        pub group_by_aspect: bool = true,
        /// What to draw, for kind = "synth".
        pub synth: Option<Synth>,
    }
}

impl Data {
    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("workers", self.workers);
        check.at_least_one("queue", self.queue);
        match (self.kind, &self.synth) {
            (DataKind::Synth, None) => check.that(
                false,
                "synth",
                "is missing, but self.kind = \"synth\"",
                "add a [self.synth] table: how many images, of what size, with how many classes",
            ),
            (DataKind::Coco, Some(_)) => check.that(
                false,
                "synth",
                "is given, but self.kind = \"coco\"",
                "remove [self.synth], or set self.kind = \"synth\"",
            ),
            (DataKind::Synth, Some(_)) | (DataKind::Coco, None) => {}
        }
    }
}

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
