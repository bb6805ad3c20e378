//! An ONNX model in memory, and the settings that detectors' graphs are made by.

use std::collections::BTreeMap;

use ckd_detectors::DetectorConfig;
use ckd_detectors::images::Normalization;
use prost::Message;

use super::proto;
use crate::config::{Config, Resize};
use crate::data::transform::ResizeRule;
use crate::export::error::{ExportError, Result};

/// Storage of weights. The graph turns them into f32 before it uses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// f32.
    Full,
    /// f16: half the size.
    Half,
    /// int8, symmetric, a scale for each output channel; biases, and weights of convolutions whose sums take fewer than 32 numbers, stay
    /// f32: a quarter of the size.
    Int8,
}

/// Place of the preprocessing that turns an image file into the network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preprocessing {
    /// The caller resizes and gives f32.
    Outside,
    /// The graph takes u8: photographs as they are, of a classifier resized ones.
    Inside,
}

/// Outputs of a detector's graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// Boxes, labels and scores.
    Detections,
    /// Outputs of the heads at each anchor, for runtimes that lack NonMaxSuppression: RetinaNet's logits and
    /// deltas, FCOS's logits, distances and centerness; of Faster R-CNN the first stage and the pyramid.
    Raw,
    /// Second stage of Faster R-CNN on its own, to finish what [`Raw`](Self::Raw) began: class logits and box deltas of
    /// given boxes on given maps.
    BoxHead,
}

/// Rule by which images are resized, normalised and padded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputRule {
    /// Length of the shorter side after resizing.
    pub short_side_px: u32,
    /// The most that the longer side may have then.
    pub long_side_px: u32,
    /// Resampling.
    pub resize: Resize,
    /// Rows and columns are padded to multiples of it.
    pub size_divisor: u32,
    /// The scale of pixels.
    pub normalization: Normalization,
}

impl InputRule {
    /// Rule of the student of `config`.
    pub fn of(config: &Config) -> Self {
        let (input, normalization) = (&config.input, &config.normalization);
        Self {
            short_side_px: input.eval_short_side(),
            long_side_px: input.long_side_px,
            resize: input.resize,
            size_divisor: input.size_divisor,
            normalization: *normalization,
        }
    }

    pub(in crate::export) fn resize_rule(&self) -> ResizeRule {
        let &Self { short_side_px, long_side_px: long_side_max_px, resize, .. } = self;
        ResizeRule { short_side_px, long_side_max_px, resize }
    }
}

/// Settings of a detector's graph.
#[derive(Debug, Clone)]
pub struct DetectorGraph<'a> {
    /// The network.
    pub config: &'a DetectorConfig,
    /// Input rule of the images.
    pub rule: InputRule,
    /// Category ids in the order of the logits.
    pub categories: &'a [u64],
    /// Texts that travel with the graph.
    pub metadata: &'a BTreeMap<String, String>,
    /// Storage of weights.
    pub precision: Precision,
    /// Place of the preprocessing.
    pub preprocessing: Preprocessing,
    /// Outputs.
    pub outputs: Outputs,
}

/// An ONNX model in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct OnnxModel(pub(super) proto::Model);

impl OnnxModel {
    pub(super) fn new(graph: proto::Graph, metadata: &BTreeMap<String, String>) -> Self {
        let entry =
            |(key, value): (&String, &String)| proto::Entry { key: key.clone(), value: value.clone() };
        Self(proto::Model {
            ir_version: 8,
            producer_name: "ckd-det".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(graph),
            opset_import: vec![proto::OperatorSet { domain: String::new(), version: 17 }],
            metadata_props: metadata.iter().map(entry).collect(),
        })
    }

    /// The content of an `.onnx` file.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    /// The model in `bytes`.
    ///
    /// # Errors
    /// If they are no ONNX file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let model = proto::Model::decode(bytes)
            .map_err(|error| ExportError::Graph { reason: format!("it is no ONNX file: {error}") })?;
        Ok(Self(model))
    }

    /// The texts that travel with the graph.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.metadata_props.iter().map(|entry| (entry.key.as_str(), entry.value.as_str()))
    }
}
