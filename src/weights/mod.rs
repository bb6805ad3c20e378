//! Weights in files: what is read, what is checked, and the card that travels with our own.
//!
//! | module | what lives there |
//! |---|---|
//! | [`card`] | what a detector needs to be used again: configuration and classes |
//! | [`finite`] | numbers that are infinite or not numbers, by the names of their tensors |
//! | [`file`](mod@file) | any file of weights as tensors under torchvision's names; writing safetensors |
//! | `torch`, `zip`, `numpy`, `state_dict`, `pickle` | torch files and pickles of arrays: the tensors, the archive, their description |
//! | `seal` | the hash that a file of ours carries over all its content |
//! | [`stored`] | tensors as files hold them: types, shapes, strides, bounds |
//! | [`selection`] | which tensors of a file are meant, and changes of their names |
//! | [`recognise`], `structure`, `nearest`, `python_config` | which network the tensors are of, by names and shapes |
//! | [`classes`] | which output is which class; COCO's 80 |
//! | [`load`] | named tensors into a network: strictly, or a backbone alone |
//! | [`epsilon`], `fold` | batch norms that were trained with another epsilon, and weights that make up for it |
//! | [`agree`] | whether a configuration uses weights as they were trained |
//! | [`import`], [`diff`] | a file that describes itself, made from one that does not; how two files differ |
//!
//! A format is recognised by its first bytes, names by `ckd_detectors::names`, and nothing in a file is ever executed.

pub mod agree;
pub mod card;
pub mod classes;
pub mod diff;
pub mod epsilon;
pub mod file;
pub mod finite;
mod fold;
pub mod import;
pub mod load;
mod nearest;
mod numpy;
mod pickle;
mod python_config;
pub mod recognise;
mod seal;
pub mod selection;
mod state_dict;
pub mod stored;
mod structure;
mod torch;
mod zip;

use std::path::PathBuf;

pub use card::ModelCard;
pub use epsilon::TrainedEpsilon;
pub use file::WeightsFile;
pub use numpy::{LabelledRows, labelled_rows};
pub use selection::Selection;
pub use state_dict::Remarks;

/// Weights could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file could not be read.
    #[error("cannot read weights {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// Not a format that is read here, or a damaged file.
    #[error("{} holds no weights that can be read: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Description of the problem, with advice.
        reason: String,
    },
    /// Names or shapes that do not fit the network.
    #[error("{} does not fit the network:{report}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Every name in question, line by line.
        report: String,
    },
    /// Numbers that are infinite, or not numbers.
    #[error(
        "{} cannot be used: {report}. The file is at fault, not the settings: take an earlier checkpoint, or get it again",
        path.display()
    )]
    NonFinite {
        /// The file.
        path: PathBuf,
        /// The tensors in question.
        report: String,
    },
    /// The file lacks what its use needs.
    #[error("{}: {reason}", path.display())]
    Card {
        /// The file.
        path: PathBuf,
        /// Description of the gap, with advice.
        reason: String,
    },
    /// Weights that were trained by other conventions than the configuration has.
    #[error(
        "{} was trained as another network than [{section}] describes; the configuration needs:\
         {report}",
        path.display()
    )]
    Conventions {
        /// The file.
        path: PathBuf,
        /// The section of the configuration.
        section: &'static str,
        /// Every key that differs, with the value it needs.
        report: String,
    },
    /// The network refused a tensor.
    #[error(transparent)]
    Network(#[from] ckd_detectors::Error),
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] crate::fsx::WriteError),
}
