//! ResNet classifiers for ImageNet (He et al. 2016, arXiv 1512.03385), as in torchvision.

use ckd_kernels::Value;

use super::{Behind, Network, Tail, taps};
use crate::backbone::{ResNet, ResNetConfig, ResNetStages};
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

/// The stages behind a map, and the linear layer.
#[derive(Debug)]
pub(super) struct ResNetTail {
    stages: ResNetStages,
    fc: Linear,
}

impl ResNetTail {
    pub(super) fn new(builder: &Builder, config: ResNetClassifierConfig, behind: Behind) -> Result<Self> {
        let ResNetClassifierConfig { backbone, classes } = config;
        let stages = ResNetStages::new(builder, backbone, behind.stage, |blocks| behind.blocks(blocks))?;
        let fc = Linear::new(&builder.within("fc"), backbone.channels()[3], classes)?;
        Ok(Self { stages, fc })
    }
}

impl Tail for ResNetTail {
    fn head(&self) -> &Linear {
        &self.fc
    }

    fn forward(&self, x: &Value, mode: Mode) -> Result<Taps> {
        let maps = self.stages.forward(x, mode)?;
        let last = maps.last().unwrap_or(x).clone();
        taps(maps, &last, &self.fc)
    }
}
