//! A trained network in the forms that other programs take, and the proof that each is that network.
//!
//! | module | what lives there |
//! |---|---|
//! | [`student`], [`pixels`] | a detector from a weights file, ready to detect; the images it takes |
//! | [`detector`], [`classifier`] | trained networks on their way into a file |
//! | [`proof`] | an ONNX graph beside its network: compare, store smaller, compare again |
//! | [`pictures`], [`samples`] | images that a detector, a classifier is compared and calibrated on |
//! | [`verify`], [`logits`] | differences of detections, of logits |
//! | [`torchvision`] | a `.pth` that torchvision's own classes load with `strict=True` |
//! | [`onnx`] | networks as ONNX graphs, and their evaluation |

pub mod classifier;
pub mod detector;
pub mod logits;
pub mod onnx;
pub mod pictures;
pub mod proof;
pub mod samples;
pub mod student;
pub mod torchvision;
pub mod verify;

use std::path::Path;

use crate::engine::EngineError;
use crate::engine::classify::ClassifierCard;
use crate::weights::WeightsFile;

pub use classifier::ClassifierExport;
pub use detector::DetectorExport;
pub use proof::{Finding, OnnxOptions, Storage};

/// Format of an exported file.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Format {
    /// Tensors under torchvision's names, and all that is needed to use them in the header.
    Safetensors,
    /// A state dict for torchvision.
    Torchvision,
    /// A graph, compared with its network before it is written.
    Onnx(OnnxOptions),
}

/// Writes the network of a run's or an export's weights file `from` to `to`.
///
/// `report` hears of each finding; nothing is written unless it is the network.
///
/// ```no_run
/// use ckd_det::export::{self, Format, OnnxOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let format = Format::Onnx(OnnxOptions::default());
/// let report = |finding: &export::Finding| eprintln!("{finding}");
/// export::write("runs/quickstart/last.safetensors", "student.onnx", &format, report)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Weights that cannot be read or do not say how their network is built; an export that is not the network.
pub fn write(
    from: impl AsRef<Path>,
    to: impl AsRef<Path>,
    format: &Format,
    mut report: impl FnMut(&Finding),
) -> Result<()> {
    let file = WeightsFile::read(from.as_ref()).map_err(EngineError::from)?;
    match ClassifierCard::of(&file)? {
        Some(card) => ClassifierExport::new(&file, card, None)?.write(to.as_ref(), format, &mut report),
        None => DetectorExport::of(&file, None)?.write(to.as_ref(), format, &mut report),
    }
}

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
    Write(#[from] crate::fsx::WriteError),
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
