//! Classifiers of a detector's trunk: a linear layer on the mean of its last map, as published for ImageNet.
//! MobileNetV3 has another one before it, with a hard swish.
//!
//! Names are torchvision's; MobileNetV1's are those of the weights that distillation papers use (OFD, ReviewKD,
//! mdistiller): `model.0.0.weight` to `fc.bias`. There is no dropout.

use ckd_kernels::Value;
use ckd_kernels::elementwise::hard_swish;
use ckd_kernels::linear::Activation;
use ckd_kernels::pool::global_avg_pool;

use super::{Behind, Network, Tail, taps_of};
use crate::backbone::{BackboneConfig, Trunk, in_eights};
use crate::init::Init;
use crate::nn::{Linear, Mode};
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

/// A trunk with linear layers on the mean of its last map.
#[derive(Debug)]
pub struct TrunkClassifier {
    trunk: Trunk,
    ending: Ending,
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
        let ending = Ending::new(&builder, &backbone, trunk.channels(), classes)?;
        Ok(Self { trunk, ending, params: builder.finish() })
    }
}

/// Linear layers behind the pooling.
#[derive(Debug)]
struct Ending {
    hidden: Option<Linear>,
    head: Linear,
}

impl Ending {
    fn new(builder: &Builder, config: &BackboneConfig, channels: &[usize], classes: usize) -> Result<Self> {
        let layers = config.backbone.classifier();
        let linear = |name: &str, (inputs, outputs): (usize, usize)| {
            let within = builder.within(name);
            match layers.head_deviation {
                Some(deviation) => {
                    let (weight, bias) = (Init::Normal(deviation), Init::Constant(0.0));
                    Linear::with_init(&within, (inputs, outputs), weight, bias)
                }
                None => Linear::new(&within, inputs, outputs),
            }
        };
        let mut inputs = channels.last().copied().unwrap_or(0);
        let mut hidden = None;
        if let Some(layer) = layers.hidden {
            let width = in_eights(layer.width as f64 * config.width_multiplier);
            hidden = Some(linear(layer.name, (inputs, width))?);
            inputs = width;
        }
        Ok(Self { hidden, head: linear(layers.head, (inputs, classes))? })
    }

    /// Taps of a network with these stages, `last` being the last one's map.
    fn taps(&self, stages: Vec<Value>, last: &Value) -> Result<Taps> {
        let pooled = global_avg_pool(last)?;
        let embedding = match &self.hidden {
            Some(hidden) => hard_swish(&hidden.forward(&pooled, Activation::Identity)?)?,
            None => pooled,
        };
        taps_of(stages, embedding, &self.head)
    }
}

impl Network for TrunkClassifier {
    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn head(&self) -> &Linear {
        &self.ending.head
    }

    fn forward(&self, x: &Value, mode: Mode) -> Result<Taps> {
        let maps = self.trunk.forward(x, mode)?;
        let last = maps.last().expect("a trunk has maps").clone();
        self.ending.taps(maps, &last)
    }
}

/// The stages behind a map, and the linear layer.
#[derive(Debug)]
pub(super) struct TrunkTail {
    stages: Trunk,
    ending: Ending,
}

impl TrunkTail {
    pub(super) fn new(builder: &Builder, config: TrunkClassifierConfig, behind: Behind) -> Result<Self> {
        let TrunkClassifierConfig { backbone, classes } = config;
        let backbone = BackboneConfig { blocks: behind.blocks, ..backbone };
        // Behind the stem as well.
        let plan = backbone.plan()?.behind(1 + behind.stage);
        let stages = Trunk::of_plan(builder, plan, &backbone)?;
        let ending = Ending::new(builder, &backbone, stages.channels(), classes)?;
        Ok(Self { stages, ending })
    }
}

impl Tail for TrunkTail {
    fn head(&self) -> &Linear {
        &self.ending.head
    }

    fn forward(&self, x: &Value, mode: Mode) -> Result<Taps> {
        let maps = self.stages.forward(x, mode)?;
        let last = maps.last().unwrap_or(x).clone();
        self.ending.taps(maps, &last)
    }
}
