//! Images and boxes, from files to the batches a detector trains on.
//!
//! | module        | what lives there                                                        |
//! |---------------|-------------------------------------------------------------------------|
//! | [`coco`]      | COCO `instances_*.json`: [`Dataset`], the policies, the load report     |
//! | [`voc`]       | Pascal VOC folders to COCO JSON                                         |
//! | [`synth`]     | the generator of a synthetic COCO-format set                            |
//! | [`decode`]    | JPEG and PNG to upright 8-bit RGB                                       |
//! | [`transform`] | torchvision's resize rule, bilinear resampling, flip; boxes move along  |
//! | [`sampler`]   | the order of images and each image's random draws                       |
//! | [`batch`]     | [`Batch`] and [`Target`]: what the detectors take                       |
//! | [`loader`]    | worker threads that build batches ahead, in order                       |
//! | [`draws`]     | the seeded streams all randomness here comes from                       |
//!
//! Boxes are COCO's `xywh` in [`Annotation`] and `xyxy` pixels of the resized image in [`Target`].
//! Order and augmentation are pure functions of (seed, epoch, position): a resumed run sees exactly
//! the batches of the uninterrupted one.

pub mod batch;
pub mod coco;
pub mod decode;
pub mod draws;
pub mod loader;
pub mod sampler;
pub mod synth;
pub mod transform;
pub mod voc;

use std::path::PathBuf;

pub use batch::{Batch, Target};
pub use coco::{Annotation, CategoryId, CategoryMap, ClassIndex, Dataset, Image, ImageId, LoadReport};
pub use loader::{Loader, LoaderConfig, Position, Purpose};
pub use sampler::Grouping;

/// Why no batch could be made.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The annotations could not be used.
    #[error(transparent)]
    Coco(#[from] coco::CocoError),
    /// An image could not be used.
    #[error(transparent)]
    Decode(#[from] decode::DecodeError),
    /// A setting of the loader makes no sense.
    #[error("the data loader cannot start: {0}")]
    Setting(String),
    /// A worker thread panicked: a defect in the program or in a decoder, never a reason to hang.
    #[error(
        "building a batch of {} panicked: {message}; this is a bug, please report it with the image",
        list(images)
    )]
    Panicked {
        /// The image files of the batch.
        images: Vec<PathBuf>,
        /// What the panic said.
        message: String,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
