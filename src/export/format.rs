//! Formats of exported files.

use super::proof::OnnxOptions;

/// Format of an exported file.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Format {
    /// Tensors under torchvision's names, and all that is needed to use them in the header.
    Safetensors,
    /// As [`Safetensors`](Self::Safetensors), with the ranges of what goes into a detector's layers: it can compute in 8 bits.
    SafetensorsWithRanges {
        /// Validation images that it is compared on in 8 bits. As many others give the ranges.
        images: Option<usize>,
        /// The most points of AP that 8 bits may cost there.
        max_loss: f64,
    },
    /// A folder in the layout of a Hugging Face model repository, with a model card.
    HuggingFace,
    /// A state dict for torchvision.
    Torchvision,
    /// A graph, compared with its network before it is written.
    Onnx(OnnxOptions),
}
