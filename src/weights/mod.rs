//! Weights in files: what is read, what is checked, and the card that travels with our own.
//!
//! | module | what lives there |
//! |---|---|
//! | [`card`] | what a detector needs to be used again: configuration and classes |
//! | [`file`](mod@file) | safetensors and torch zip files as named tensors; writing safetensors |
//! | `torch`, `zip`, `pickle` | torch files: the tensors, the archive, their description |
//! | [`load`] | named tensors into a network: strictly, or a backbone alone |
//!
//! A format is recognised by its first bytes, and nothing in a file is ever executed.

pub mod card;
pub mod file;
pub mod load;
mod pickle;
mod torch;
mod zip;

use std::path::PathBuf;

pub use card::ModelCard;
pub use file::WeightsFile;

/// Weights could not be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file could not be read.
    #[error("cannot read weights {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Not a format that is read here, or a damaged file.
    #[error("{} holds no weights that can be read: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
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
    /// The file lacks what its use needs.
    #[error("{}: {reason}", path.display())]
    Card {
        /// The file.
        path: PathBuf,
        /// What is missing and what to do.
        reason: String,
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
