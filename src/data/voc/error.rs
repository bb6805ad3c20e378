//! Errors of reading VOC folders.

use std::path::PathBuf;

use crate::data::decode::DecodeError;

/// Why a VOC folder could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VocError {
    /// A file could not be read.
    #[error("cannot read {}: {source}; a VOC folder has Annotations, ImageSets/Main and JPEGImages; without lists, the split . is all there is", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// An annotation is not what VOC's are.
    #[error("{}: {problem}", path.display())]
    Annotation {
        /// The XML file.
        path: PathBuf,
        /// The problem.
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
