//! Formats of exported files.

use super::proof::OnnxOptions;

/// Format of an exported file.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Format {
    /// Tensors under torchvision's names, and all that is needed to use them in the header.
    Safetensors,
    /// A folder in the layout of a Hugging Face model repository, with a model card.
    HuggingFace,
    /// A state dict for torchvision.
    Torchvision,
    /// A graph, compared with its network before it is written.
    Onnx(OnnxOptions),
}
