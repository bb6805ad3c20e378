//! A trained student in the forms that other programs take, and the proof that each is the student.
//!
//! | module | what lives there |
//! |---|---|
//! | [`student`] | a detector from a weights file, ready to detect |
//! | [`logits`] | a classifier's logits and its export's |
//! | [`torchvision`] | a `.pth` that torchvision's own classes load with `strict=True` |
//! | [`onnx`] | networks as ONNX graphs, and their evaluation |
//! | [`verify`] | the student and its export on the same images |

pub mod logits;
pub mod onnx;
pub mod student;
pub mod torchvision;
pub mod verify;

/// A student could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A network, or a part of one, that the format's writer does not know.
    #[error("this network cannot be written: {reason}")]
    Unsupported {
        /// What it is.
        reason: String,
    },
    /// An ONNX graph that does not run.
    #[error("the ONNX graph does not run: {reason}")]
    Graph {
        /// Where and why.
        reason: String,
    },
    /// What was to be written does not do what the student does.
    #[error("nothing was written, since the export is not the student: {reason}")]
    Drift {
        /// By how much.
        reason: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The network failed.
    #[error(transparent)]
    Network(#[from] ckd_detectors::Error),
}

/// The result of exporting.
pub type Result<T> = std::result::Result<T, ExportError>;
