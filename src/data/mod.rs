//! Images with boxes or labels, from files to the batches that a detector or classifier trains on.
//!
//! | module        | contents                                                                |
//! |---------------|-------------------------------------------------------------------------|
//! | [`instances`] | [`Instances`]: the neutral form of annotated boxes                      |
//! | [`coco`], [`yolo`], [`voc`] | readers and writers of the formats                        |
//! | [`image_policy`] | policy for image files that are missing, broken or elsewhere         |
//! | [`open`]      | the section `[data]`, and the files it names                            |
//! | [`dataset`]   | [`Dataset`]: images, classes and boxes to train on; its policies        |
//! | [`report`]    | the load report: everything not taken as it stands                      |
//! | [`synth`]     | the generator of a synthetic COCO-format set                            |
//! | [`decode`]    | image files to upright 8-bit RGB, within the memory they can honestly need |
//! | [`pixels`]    | images of the `image` crate and of `ndarray`                            |
//! | [`transform`], [`input`] | resizing as torchvision and Detectron2 do, flips; the section `[input]` |
//! | [`sampler`]   | the order of images and each image's random draws                       |
//! | [`labelled`], [`labelled_data`] | images with one label each: the set, its batches, its section |
//! | [`cifar`], [`stl10`], [`image_folder`] | CIFAR-10/100, STL-10, folders of classes and Tiny-ImageNet |
//! | [`augment`], `auto_augment`, `colour` | crops, flips, jitter and policies of labelled images |
//! | [`box_augment`] | mosaic, crop, scale jitter, mix-up and more of images with boxes      |
//! | [`label_order`] | the order of labelled images; two images of a class in a batch       |
//! | [`batch`]     | [`Batch`] and [`Target`]: the input of the detectors                    |
//! | [`discover`], [`split`] | the data set in a folder; a validation part where it has none |
//! | [`leakage`]   | images of the evaluation that are training images too                   |
//! | [`boxed_images`] | batches of images with boxes, for training and evaluation            |
//! | [`loader`], [`position`] | worker threads that build batches ahead, in order, or a share of them |
//! | [`draws`]     | the seeded streams all randomness here comes from                       |
//! | [`convert`]   | common rules of writing a data set in another format                    |
//!
//! # A data set of your own
//! Put the boxes into [`Instances`] ([`Instances::of_classes`], [`Instances::push_image`], or `push_arrays`
//! for `ndarray` views) and give [`Dataset::with_pixels`] a function that makes image `i`. A training and a
//! validation set, as [`LoadedSplit::of`](crate::engine::detect::sources::LoadedSplit::of), make the
//! [`DataSets`](crate::engine::detect::DataSets) that [`Training::data`](crate::Training::data) takes.
//!
//! Boxes are COCO's `xywh` in [`Annotation`] and `xyxy` pixels of the resized image in [`Target`].
//! Order and augmentation are pure functions of (seed, epoch, position): a resumed run sees exactly
//! the batches of the uninterrupted one.

pub mod augment;
mod auto_augment;
pub mod batch;
pub mod box_augment;
pub mod boxed_images;
pub mod cifar;
mod claims;
pub mod coco;
mod colour;
pub mod convert;
pub mod dataset;
pub mod decode;
pub mod discover;
pub mod draws;
mod entries;
mod error;
pub mod image_folder;
pub mod image_policy;
pub mod input;
pub mod instances;
mod jpeg;
pub mod label_order;
pub mod labelled;
pub mod labelled_data;
pub mod leakage;
pub mod loader;
pub mod mix_up;
pub mod open;
pub mod pixels;
pub mod position;
pub mod pseudo_labels;
pub mod report;
pub mod sampler;
pub mod split;
pub mod stl10;
mod substitutes;
pub mod synth;
pub mod transform;
pub mod unlabelled;
pub mod unlabelled_images;
mod usable;
pub mod voc;
pub mod yolo;

pub use batch::{Batch, Target};
pub use boxed_images::{BoxedImages, LoaderConfig, Purpose};
pub use dataset::{Annotation, CategoryId, CategoryMap, ClassIndex, Dataset, Image, ImageId};
pub use error::{DataError, LabelledError};
pub use image_policy::{BadImage, BadImages, ImagePolicy, OnBadImage};
pub use instances::{Instances, InstancesError};
pub use labelled::{Labelled, LabelledBatch, LabelledImages};
pub use loader::{Loader, Passes, Source, Workforce};
pub use open::{Data, DataKind, SplitFiles};
pub use position::Position;
pub use report::{FindingKind, LoadReport};
pub use sampler::Grouping;
