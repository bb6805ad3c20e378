//! A trained network, and what it finds, in the forms that other programs take, with the proof that each is that network.
//!
//! | module | what lives there |
//! |---|---|
//! | [`student`], [`labeller`] | a detector, a classifier from a weights file, ready for images |
//! | [`detector`], [`classifier`] | trained networks on their way into a file |
//! | `hugging_face` | a folder in the layout of the Hugging Face Hub, with a model card |
//! | `format`, `error` | [`Format`], [`ExportError`] |
//! | [`proof`] | an ONNX graph beside its network: compare, store smaller, compare again |
//! | [`pictures`], [`samples`] | images that a detector, a classifier is compared and calibrated on |
//! | [`verify`], [`logits`] | differences of detections, of logits |
//! | [`pseudo_labels`] | detections as labels to train on |
//! | [`results`] | detections in the files that other programs read |
//! | [`torchvision`] | a `.pth` that torchvision's own classes load with `strict=True` |
//! | [`onnx`] | networks as ONNX graphs, and their evaluation |

pub mod classifier;
pub mod detector;
mod error;
mod format;
mod hugging_face;
pub mod labeller;
pub mod logits;
pub mod onnx;
pub mod pictures;
pub mod proof;
pub mod pseudo_labels;
pub mod results;
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
pub use error::{CalibrationGap, ExportError, Result};
pub use format::Format;
pub use proof::{Finding, OnnxOptions, Storage};

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
