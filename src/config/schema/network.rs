//! Teacher and student.

use std::path::PathBuf;

pub use ckd_detectors::backbone::{Backbone, StrideIn};
use ckd_detectors::images::Normalization;
use ckd_detectors::nn::{HeadNorm, NormKind};
use ckd_detectors::settings::DetectorSettings;
use ckd_settings::{Check, Diagnostic, Node, Overlay, Read, Value, choices, section};
use serde::Serialize;

use crate::data::transform::Resize;

section! {
    /// A network: backbone, width, normalisation layers, pyramid and head.
    pub struct Network {
        /// The feature extractor.
        pub backbone: Backbone,
        /// Channels of the first layer, from which all others follow (mobilenet_v2 and mobilenet_v3_large
        /// round them to multiples of 8). Default: those of the published network, 64 of a ResNet, 32 of a
        /// mobilenet_v1 or mobilenet_v2, 16 of a mobilenet_v3_large.
        pub width: Option<usize>,
        /// The normalisation layers of the backbone.
        pub norm: NormKind = NormKind::FrozenBn,
        /// The convolution of a bottleneck that halves the resolution (ResNets and ResNeXts of 50 layers and more).
        pub stride_in: StrideIn = StrideIn::Middle,
        /// The normalisation layers of the FPN, one behind each convolution, which then has no bias.
        /// torchvision's `_fpn_v2` Faster R-CNN: "bn".
        pub fpn_norm: HeadNorm = HeadNorm::None,
        /// Channels of the FPN. Default: detector.fpn_channels.
        pub fpn_channels: Option<usize>,
        /// Width of the box head. Default: detector.roi.head_width.
        pub head_width: Option<usize>,
        /// Begin with random weights where the weight files named here do not exist. For timing and
        /// trying out only: such a run's results mean nothing.
        pub allow_random_weights: bool = false,
    }
}

choices! {
    /// Arithmetic of a frozen teacher.
    pub enum TeacherPrecision {
        /// That of engine.precision.
        Engine = "engine",
        /// 8 bits.
        Int8 = "int8",
    }
}

section! {
    /// The network to learn from: exactly one of `weights` and `train` says where it comes from.
    pub struct Teacher with network: Network {
        /// Weights of the network: .safetensors, torchvision's or MMDetection's .pth, or Detectron2's .pkl.
        pub weights: Option<PathBuf>,
        /// Train it first, on this experiment's data: as the configuration of this name says, or, with a table, as this
        /// experiment's own settings and those of the table say (`schedule`, `optim`, `input`, ...; `seed` and
        /// `train.compare_alone` are the student's alone). A teacher that was trained so before is used again.
        pub train: Option<TrainedBy>,
        /// Resizing of its images, to the student's sizes (input.resize decides those). Default:
        /// input.resize.
        pub resize: Option<Resize>,
        /// Normalisation of its images. Default: the student's normalisation.
        pub normalization: Option<Normalization>,
        /// Arithmetic of its forward passes. "int8": 8 bits for what goes into each convolution and linear layer, by ranges seen
        /// on 32 training images before the first step; on a processor alone.
        pub precision: TeacherPrecision = TeacherPrecision::Engine,
        /// The keys of [detector] in which it differs from the student; the architecture is the same.
        pub detector: Option<Overlay<DetectorSettings>>,
    }
}

impl Teacher {
    fn check(&self, check: &mut Check<'_>) {
        check_origin(self.weights.is_some(), self.train.is_some(), check);
    }
}

section! {
    /// The network to train.
    pub struct Student with network: Network {
        /// Weights to begin with: of the backbone (ImageNet) or of a whole detector. `run:NAME` is the last weights of the
        /// run of that name below `output`.
        pub init: Option<PathBuf>,
        /// Stages of the backbone that stay as loaded, from the image on: 0 none, 1 the stem, 2 the
        /// stem and the first stage (layer1; layers 2 and 3 of a MobileNet), ... 5 all. Default: 2 with
        /// `init`, else 0; 0 also with `run:NAME`.
        pub freeze_at: Option<usize>,
    }
}

impl Network {
    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("width", self.stem_channels());
        check.at_least_one("fpn_channels", self.fpn_channels.unwrap_or(1));
        check.at_least_one("head_width", self.head_width.unwrap_or(1));
        check.that(
            self.stride_in == StrideIn::Middle || self.backbone.has_bottlenecks(),
            "stride_in",
            format!("is \"{}\", but {} has no bottlenecks", self.stride_in, self.backbone),
            "leave it out",
        );
    }

    /// The detector of this network: `detector` with the widths that are the network's own.
    pub fn settings(&self, detector: &DetectorSettings) -> DetectorSettings {
        let mut settings = detector.clone();
        settings.fpn_channels = self.fpn_channels.unwrap_or(detector.fpn_channels);
        settings.roi.head_width = self.head_width.unwrap_or(detector.roi.head_width);
        settings
    }

    /// Channels of the backbone's first layer.
    pub fn stem_channels(&self) -> usize {
        self.width.unwrap_or(self.backbone.stem_channels())
    }
}

impl Student {
    fn check(&self, check: &mut Check<'_>) {
        let frozen = self.frozen_stages();
        check.that(
            frozen <= 5,
            "freeze_at",
            format!("is {frozen}"),
            "a backbone has 5 stages: the stem and four more",
        );
        check.that(
            frozen == 0 || self.init.is_some(),
            "freeze_at",
            format!("is {frozen}, which would freeze random weights"),
            "give `init`, or set freeze_at = 0",
        );
    }

    /// Stages of the backbone that do not train, the stem being the first.
    pub fn frozen_stages(&self) -> usize {
        self.freeze_at.unwrap_or(if self.init.is_some() { 2 } else { 0 })
    }
}

/// The settings that a teacher is trained by.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum TrainedBy {
    /// A configuration of its own, by path or name.
    Named(String),
    /// The student's experiment, under the keys of this table.
    Here(toml::Table),
}

impl TrainedBy {
    /// The name of the configuration, if there is one of its own.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Named(name) => Some(name),
            Self::Here(_) => None,
        }
    }
}

impl Read for TrainedBy {
    fn read(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<Self> {
        match node.table() {
            Some(_) => match plain(node) {
                toml::Value::Table(table) => Some(Self::Here(table)),
                _ => None,
            },
            None => String::read(node, path, findings).map(Self::Named),
        }
    }

    fn takes() -> String {
        "a string, or a table".to_owned()
    }
}

/// The value without the places where it was written.
fn plain(node: &Node) -> toml::Value {
    match &node.value {
        Value::Boolean(value) => toml::Value::Boolean(*value),
        Value::Integer(value) => toml::Value::Integer(*value),
        Value::Float(value) => toml::Value::Float(*value),
        Value::String(value) => toml::Value::String(value.clone()),
        // No key takes a date; the key that has it is refused where the table is read.
        Value::Date => toml::Value::String(node.place.written().to_owned()),
        Value::Array(items) => toml::Value::Array(items.iter().map(plain).collect()),
        Value::Table(table) => {
            let entries = table.iter().map(|(key, entry)| (key.clone(), plain(&entry.node)));
            toml::Value::Table(entries.collect())
        }
    }
}

/// `weights` and `train` exclude each other.
pub(super) fn check_origin(weights: bool, train: bool, check: &mut Check<'_>) {
    check.that(
        !(weights && train),
        "train",
        "and teacher.weights are both given",
        "keep `weights` to load the teacher, or `train` to train it first",
    );
}
