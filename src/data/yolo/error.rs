//! Errors of reading YOLO data sets.

use std::path::PathBuf;

use crate::data::decode::DecodeError;

/// Why a YOLO data set could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum YoloError {
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}; a YOLO data set has a data.yaml, images and labels", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// `data.yaml` or a label file is not what it should be.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The problem and its remedy.
        problem: String,
    },
    /// An image could not be opened.
    #[error(transparent)]
    Image(#[from] DecodeError),
}
