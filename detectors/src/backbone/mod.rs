//! Networks that turn an image into feature maps of falling resolution.
//!
//! | file | what lives there |
//! |---|---|
//! | `registry` | [`Backbone`]: every trunk by its name |
//! | `plan` | [`Plan`]: a trunk's layers as data |
//! | `trunk` | [`Trunk`]: the network that a plan describes |
//! | `resnet`, `mobilenet_v1`, `mobilenet_v2`, `mobilenet_v3` | the plans |
//!
//! A new backbone is a file with its plan and a row of the registry. Building, training, frozen stages, recognition of its
//! weights and the ONNX graph follow from these.

mod mobilenet_v1;
mod mobilenet_v2;
mod mobilenet_v3;
pub mod plan;
mod registry;
mod resnet;
mod trunk;

pub(crate) use mobilenet_v2::in_eights;
pub use plan::Plan;
pub use registry::{Backbone, ClassifierLayers, HiddenLayer, Recognised};
pub use trunk::Trunk;

use ckd_settings::choices;

use crate::nn::{BatchNormRule, NormKind};
use crate::{Error, Result};

choices! {
    /// Convolution of a bottleneck that halves the resolution.
    pub enum StrideIn {
        /// The 3x3 in the middle: torchvision's ResNets, and MMDetection's of style "pytorch".
        Middle = "3x3",
        /// The first 1x1: the original ResNets (He et al. 2016), Detectron2's and MMDetection's "caffe".
        First = "1x1",
    }
}

/// Settings of a trunk.
#[derive(Debug, Clone, Copy)]
pub struct BackboneConfig {
    /// The network.
    pub backbone: Backbone,
    /// Factor of all channels; the published networks have 1. MobileNetV2 and V3 round channels to multiples
    /// of 8.
    pub width_multiplier: f64,
    /// Blocks of each residual stage; `None`: the published numbers.
    pub blocks: Option<usize>,
    /// Normalisation.
    pub norm: NormKind,
    /// Epsilon and momentum of batch norms.
    pub batch_norm: BatchNormRule,
    /// Convolution of a bottleneck that halves the resolution; other blocks do it in their 3x3.
    pub stride_in: StrideIn,
    /// Stages that training leaves alone, from the stem up: 0 none, 1 the stem, 2 the stem and stage 1, ... 5 all.
    pub freeze_at: usize,
    /// Stages 1 to 4 that keep no activations: the backward pass computes them again (Chen et al. 2016,
    /// arXiv 1604.06174).
    pub recompute: [bool; 4],
}

impl BackboneConfig {
    /// The published network with frozen batch norms, all of it trained.
    pub fn new(backbone: Backbone) -> Self {
        Self {
            backbone,
            width_multiplier: 1.0,
            blocks: None,
            norm: NormKind::FrozenBn,
            batch_norm: BatchNormRule::PYTORCH,
            stride_in: StrideIn::Middle,
            freeze_at: 0,
            recompute: [false; 4],
        }
    }

    /// Scales the width so that the first layer has `channels`.
    #[must_use]
    pub fn with_stem_channels(self, channels: usize) -> Self {
        Self { width_multiplier: channels as f64 / self.backbone.stem_channels() as f64, ..self }
    }

    /// Layers of the trunk.
    ///
    /// # Errors
    /// If the width multiplier is not a positive number.
    pub fn plan(&self) -> Result<Plan> {
        let width_multiplier = self.width_multiplier;
        if !(width_multiplier > 0.0 && width_multiplier.is_finite()) {
            let reason = format!("a width multiplier of {width_multiplier}, which must be above 0");
            return Err(Error::Invalid { part: "backbone", reason });
        }
        self.backbone.plan(self)
    }
}
