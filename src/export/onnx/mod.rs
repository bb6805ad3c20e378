//! Networks as ONNX graphs, written by our own builder, and run again to see that they are the network.
//!
//! | file | what lives there |
//! |---|---|
//! | `proto`, `model` | the messages of an ONNX file; [`OnnxModel`] and settings |
//! | `graph`, `layers` | a graph under construction; layers with their weights |
//! | `input`, `trunk`, `boxes` | the parts that detectors share |
//! | `faster_rcnn`, `retinanet`, `classifier` | the networks |
//! | [`evaluate`] | an ONNX file run operator by operator |
//! | `calibrate` | activations in 8 bits |
//!
//! Operator set 17: the first in which every operator that is needed is what it is today (RoiAlign learned of
//! both pixel conventions in 16). A network is read off the names of its tensors, and a tensor that no part
//! of the graph asked for is an error: a layer cannot be forgotten.
//!
//! # What detectors take and give
//! N images in one go. Without preprocessing: `images` f32 (N, 3, H, W), RGB in 0..1, already resized, and
//! `sizes` int64 (N, 2), each image's (height, width) within the batch. H and W are free: padding to the size
//! divisor and normalisation are in the graph. With preprocessing: `images` u8 (N, H, W, 3), photographs of
//! one size. The results are lists over the whole batch, and may be empty: `boxes` (D, 4), `labels` (D) of
//! category ids, `scores` (D), and `image` (D), the image that each is on.
//!
//! A box head takes the maps of the pyramid, `boxes` f32 (R, 4) in pixels of the padded images and `image` int64 (R), and
//! gives `logits` (R, classes + 1), background first, and `deltas` (R, 4 (classes + 1)).

mod boxes;
mod calibrate;
mod classifier;
pub mod evaluate;
mod faster_rcnn;
mod fcos;
mod graph;
mod input;
mod layers;
mod model;
mod proto;
mod retinanet;
mod trunk;

use ckd_detectors::param::ParamStore;
use ckd_detectors::settings::Architecture;

use self::layers::Layers;
use crate::export::error::Result;

pub use calibrate::Ranges;
pub use classifier::{ClassifierGraph, classifier};
pub use model::{DetectorGraph, InputRule, OnnxModel, Outputs, Precision, Preprocessing};

/// The detector whose weights are `params` as a graph.
///
/// # Errors
/// If a layer is missing, or there is one that the graph has no place for; a box head of a detector that has none.
pub fn detector(params: &ParamStore, about: &DetectorGraph<'_>) -> Result<OnnxModel> {
    let mut layers = Layers::new(params, about.precision)?;
    if about.outputs == Outputs::BoxHead {
        faster_rcnn::write_box_head(&mut layers, about.config)?;
        return Ok(OnnxModel::new(layers.finish("box_head")?, about.metadata));
    }
    let input = input::prepare(&mut layers.graph, &about.rule, about.preprocessing);
    let write = match about.config.settings.architecture {
        Architecture::FasterRcnn => faster_rcnn::write,
        Architecture::RetinaNet => retinanet::write,
        Architecture::Fcos => fcos::write,
    };
    write(&mut layers, about.config, &input, about.categories, about.outputs)?;
    Ok(OnnxModel::new(layers.finish("detector")?, about.metadata))
}
