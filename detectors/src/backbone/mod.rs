//! Networks that turn an image into feature maps of falling resolution.

mod mobilenet_v1;
mod mobilenet_v2;
mod resnet;

use ckd_kernels::Value;

use crate::Result;
use crate::nn::Mode;
use crate::param::Builder;

pub use mobilenet_v1::{MobileNetV1, MobileNetV1Config};
pub use mobilenet_v2::{MobileNetV2, MobileNetV2Config};
pub use resnet::{ResNet, ResNetConfig, ResNetDepth, ResNetStages, StrideIn};

/// Which trunk.
#[derive(Debug, Clone, Copy)]
pub enum BackboneConfig {
    /// A residual network.
    ResNet(ResNetConfig),
    /// A network of separable convolutions.
    MobileNetV1(MobileNetV1Config),
    /// A network of inverted residuals.
    MobileNetV2(MobileNetV2Config),
}

/// The trunk of a detector.
#[derive(Debug)]
pub enum Backbone {
    /// A residual network.
    ResNet(ResNet),
    /// A network of separable convolutions.
    MobileNetV1(MobileNetV1),
    /// A network of inverted residuals.
    MobileNetV2(MobileNetV2),
}

impl Backbone {
    /// Builds the trunk in `builder`'s layer, with torchvision's names.
    ///
    /// # Errors
    /// If its width is nothing, or more stages are frozen than there are.
    pub fn new(builder: &Builder, config: BackboneConfig) -> Result<Self> {
        Ok(match config {
            BackboneConfig::ResNet(config) => Self::ResNet(ResNet::new(builder, config)?),
            BackboneConfig::MobileNetV1(config) => Self::MobileNetV1(MobileNetV1::new(builder, config)?),
            BackboneConfig::MobileNetV2(config) => Self::MobileNetV2(MobileNetV2::new(builder, config)?),
        })
    }

    /// Channels of the four maps that [`forward`](Self::forward) gives.
    pub fn channels(&self) -> [usize; 4] {
        match self {
            Self::ResNet(trunk) => trunk.channels(),
            Self::MobileNetV1(trunk) => trunk.channels(),
            Self::MobileNetV2(trunk) => trunk.channels(),
        }
    }

    /// The maps C2 to C5, at strides 4, 8, 16 and 32.
    ///
    /// # Shapes
    /// (N, 3, H, W) to `(N, channels()[i], H / 2^(i+2), W / 2^(i+2))`, rounded up.
    pub fn forward(&self, x: &Value, mode: Mode) -> Result<Vec<Value>> {
        match self {
            Self::ResNet(trunk) => trunk.forward(x, mode),
            Self::MobileNetV1(trunk) => trunk.forward(x, mode),
            Self::MobileNetV2(trunk) => trunk.forward(x, mode),
        }
    }
}
