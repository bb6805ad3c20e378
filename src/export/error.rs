//! Errors of exporting.

use crate::engine::EngineError;
use crate::fsx::WriteError;

/// A network could not be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A network, or a part of one, that the format's writer does not know.
    #[error("this network cannot be written: {reason}")]
    Unsupported {
        /// The part, and why.
        reason: String,
    },
    /// An ONNX graph that does not run.
    #[error("the ONNX graph does not run: {reason}")]
    Graph {
        /// The place and the cause.
        reason: String,
    },
    /// The outputs of the export are not those of the network.
    #[error("nothing was written, since the export is not the student: {reason}")]
    Drift {
        /// By how much.
        reason: String,
    },
    /// Smaller storage costs more quality than it may.
    #[error(
        "nothing was written, since the export is not the student: {name} loses {points:.1} points of {measure}, more \
         than {limit}"
    )]
    Loss {
        /// The storage.
        name: &'static str,
        /// The quality measure.
        measure: &'static str,
        /// Points that are lost.
        points: f64,
        /// Points that may be lost.
        limit: f64,
    },
    /// There are no images for the ranges of activations.
    #[error("no ranges of activations: {0}")]
    Calibration(CalibrationGap),
    /// Weights, data or the network.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The network failed.
    #[error(transparent)]
    Network(#[from] ckd_detectors::Error),
}

/// Reason why there is no calibration set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationGap {
    /// The options ask for no images.
    #[error("the options ask for no images to see them on")]
    NothingCompared,
    /// Every image is one that the export is compared on.
    #[error("there are no images beside those that the export is compared on")]
    NoOtherImages,
    /// The training images are not there.
    #[error("the training images are not there")]
    NoData,
}

/// The result of exporting.
pub type Result<T> = std::result::Result<T, ExportError>;
