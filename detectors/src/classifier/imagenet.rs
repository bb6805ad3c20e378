//! Classifiers of a detector's trunk: a linear layer on the mean of its last map, as published for ImageNet.
//!
//! Names are torchvision's; MobileNetV1's are those of the weights that distillation papers use (OFD, ReviewKD,
//! mdistiller): `model.0.0.weight` to `fc.bias`. There is no dropout.

use ckd_kernels::Value;

use super::{Behind, Network, Tail, taps};
use crate::backbone::{BackboneConfig, Trunk};
use crate::init::Init;
use crate::nn::{Linear, Mode, NormKind};
use crate::param::{Builder, ParamStore};
use crate::taps::Taps;
use crate::{Error, Result};

/// Settings of a classifier with a detector's trunk.
#[derive(Debug, Clone, Copy)]
pub struct TrunkClassifierConfig {
    /// The trunk.
    pub backbone: BackboneConfig,
    /// Number of classes.
    pub classes: usize,
}

/// A trunk with a linear layer on the mean of its last map.
#[derive(Debug)]
pub struct TrunkClassifier {
    trunk: Trunk,
    head: Linear,
    params: ParamStore,
}

impl TrunkClassifier {
    /// Builds the network, with the published names: of a ResNet `conv1.weight` to `fc.bias`.
    ///
    /// # Errors
    /// If there are no classes, or the trunk cannot be built.
    pub fn new(builder: Builder, config: TrunkClassifierConfig) -> Result<Self> {
        let TrunkClassifierConfig { backbone, classes } = config;
        Error::unless_positive("classifier", &[("classes", classes)])?;
        let layers = backbone.backbone.classifier();
        let within = if layers.trunk.is_empty() { builder.clone() } else { builder.within(layers.trunk) };
        let trunk = Trunk::new(&within, &backbone)?;
        let head = head(&builder, &backbone, trunk.channels(), classes)?;
        Ok(Self { trunk, head, params: builder.finish() })
    }
}

fn head(builder: &Builder, config: &BackboneConfig, channels: &[usize], classes: usize) -> Result<Linear> {
    let layers = config.backbone.classifier();
    let within = builder.within(layers.head);
    let inputs = channels.last().copied().unwrap_or(0);
    match layers.head_deviation {
        Some(deviation) => {
            Linear::with_init(&within, (inputs, classes), Init::Normal(deviation), Init::Constant(0.0))
        }
        None => Linear::new(&within, inputs, classes),
    }
}

impl Network for TrunkClassifier {
    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn head(&self) -> &Linear {
        &self.head
    }

    fn forward(&self, x: &Value, mode: Mode) -> Result<Taps> {
        let maps = self.trunk.forward(x, mode)?;
        let last = maps.last().expect("a trunk has maps").clone();
        taps(maps, &last, &self.head)
    }
}

/// The stages behind a map, and the linear layer.
#[derive(Debug)]
pub(super) struct TrunkTail {
    stages: Trunk,
    head: Linear,
}

impl TrunkTail {
    pub(super) fn new(builder: &Builder, config: TrunkClassifierConfig, behind: Behind) -> Result<Self> {
        let TrunkClassifierConfig { backbone, classes } = config;
        let backbone = BackboneConfig { blocks: behind.blocks, ..backbone };
        // Behind the stem as well.
        let plan = backbone.plan()?.behind(1 + behind.stage);
        let stages = Trunk::of_plan(builder, &plan, NormKind::Bn, 0)?;
        let head = head(builder, &backbone, stages.channels(), classes)?;
        Ok(Self { stages, head })
    }
}

impl Tail for TrunkTail {
    fn head(&self) -> &Linear {
        &self.head
    }

    fn forward(&self, x: &Value, mode: Mode) -> Result<Taps> {
        let maps = self.stages.forward(x, mode)?;
        let last = maps.last().unwrap_or(x).clone();
        taps(maps, &last, &self.head)
    }
}
