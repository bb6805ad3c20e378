//! Errors of data sets and of their batches.

use std::path::PathBuf;

use super::decode::DecodeError;
use super::image_policy::BadImages;
use super::instances::InstancesError;
use super::report::LoadReport;
use super::voc::VocError;
use super::yolo::YoloError;

/// A data set that cannot be used, or a batch that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The annotations could not be used.
    #[error(transparent)]
    Instances(#[from] InstancesError),
    /// A VOC folder could not be used.
    #[error(transparent)]
    Voc(#[from] VocError),
    /// A YOLO data set could not be used.
    #[error(transparent)]
    Yolo(#[from] YoloError),
    /// There is nothing to learn from.
    #[error("{}: none of its boxes can be learned from, so nothing would be trained:\n{report}", report.path.display())]
    NoBoxes {
        /// Counts, and the findings that cost the boxes.
        report: Box<LoadReport>,
    },
    /// Images with pseudo-labels are evaluation images.
    #[error(
        "{}: {count} of its images are evaluation images too (first: {}); take them out: what is trained on them measures nothing there",
        path.display(), first.join(", ")
    )]
    PseudoLeak {
        /// File of the pseudo-labels.
        path: PathBuf,
        /// Images of both.
        count: usize,
        /// The first few.
        first: Vec<String>,
    },
    /// Pseudo-labels of a class that the training data does not have, or has twice.
    #[error(
        "{}: it has boxes of the class \"{class}\", which is no one class of the training data ({}); label with a detector of these classes",
        path.display(), known.join(", ")
    )]
    PseudoClass {
        /// File of the pseudo-labels.
        path: PathBuf,
        /// The class.
        class: String,
        /// Classes of the training data.
        known: Vec<String>,
    },
    /// Pseudo-labels where the truth is wanted.
    #[error(
        "{}: these boxes were found by a detector ({teacher}) and are no truth to measure by; name labelled images as data.val_annotations, and these as data.unlabelled.annotations",
        path.display()
    )]
    PseudoTruth {
        /// File of the pseudo-labels.
        path: PathBuf,
        /// The detector.
        teacher: String,
    },
    /// An image could not be used.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Labelled images could not be used.
    #[error(transparent)]
    Labelled(#[from] LabelledError),
    /// More images broke in mid-training than may.
    #[error(
        "{count} of {total} images turned out to be broken, more than data.max_bad_images allows; the last: {last}"
    )]
    TooManyBad {
        /// Images that broke.
        count: usize,
        /// Images there are.
        total: usize,
        /// The last one's error.
        last: String,
    },
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
        /// The panic's message.
        message: String,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// A data set of labelled images could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabelledError {
    /// Image files that cannot be used.
    #[error(transparent)]
    Bad(#[from] BadImages),
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file that is not what its name says.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The problem and its remedy.
        reason: String,
    },
    /// Images and labels do not go together.
    #[error("{} has {images} images, but {labels} labels; unpack the data set again", path.display())]
    Counts {
        /// The file or folder.
        path: PathBuf,
        /// Images found.
        images: usize,
        /// Labels found.
        labels: usize,
    },
    /// A label beyond the classes.
    #[error("{}: image {row} has the label {label}, but there are {classes} classes", path.display())]
    Label {
        /// The file or folder.
        path: PathBuf,
        /// The image, counted from 0.
        row: usize,
        /// Label of the image.
        label: u32,
        /// Classes there are.
        classes: usize,
    },
}
