//! ResNet classifiers for ImageNet (He et al. 2016, arXiv 1512.03385), as in torchvision.

use ckd_kernels::Value;

use super::{Network, taps};
use crate::backbone::{ResNet, ResNetConfig};
use crate::nn::{Linear, Mode};
use crate::param::{Builder, ParamStore};
use crate::taps::Taps;
use crate::{Error, Result};

/// Which classifier.
#[derive(Debug, Clone, Copy)]
pub struct ResNetClassifierConfig {
    /// The trunk.
    pub backbone: ResNetConfig,
    /// Number of classes.
    pub classes: usize,
}

/// A ResNet trunk with a linear layer on the mean of its last map.
#[derive(Debug)]
pub struct ResNetClassifier {
    body: ResNet,
    fc: Linear,
    params: ParamStore,
}

impl ResNetClassifier {
    /// Builds the network, with torchvision's names: `conv1.weight` to `fc.bias`.
    ///
    /// # Errors
    /// If there are no classes, or the trunk cannot be built.
    pub fn new(builder: Builder, config: ResNetClassifierConfig) -> Result<Self> {
        Error::unless_positive("classifier", &[("classes", config.classes)])?;
        let body = ResNet::new(&builder, config.backbone)?;
        let fc = Linear::new(&builder.within("fc"), body.channels()[3], config.classes)?;
        Ok(Self { body, fc, params: builder.finish() })
    }
}

impl Network for ResNetClassifier {
    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn head(&self) -> &Linear {
        &self.fc
    }

    fn forward(&self, x: &Value, mode: Mode) -> Result<Taps> {
        let maps = self.body.forward(x, mode)?;
        let last = maps.last().expect("a trunk has stages").clone();
        taps(maps, &last, &self.fc)
    }
}
