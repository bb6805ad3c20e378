//! The network that a plan describes.

mod rounded;

use std::sync::Arc;

use ckd_kernels::Value;
use ckd_kernels::elementwise::hard_swish;
use ckd_kernels::graph::recomputed;
use ckd_kernels::linear::Activation;
use ckd_kernels::pool::max_pool2d;

use super::BackboneConfig;
use super::plan::{Layer, Node, Plan, Stage, Step};
use crate::nn::{ConvNorm, Mode, SqueezeExcitation};
use crate::param::Builder;
use crate::{Error, Result};

/// A network that turns images into feature maps of falling resolution.
#[derive(Debug)]
pub struct Trunk {
    stages: Vec<Arc<Built>>,
    plan: Plan,
    channels: Vec<usize>,
    pyramid_channels: Vec<usize>,
    frozen: usize,
    recompute: Vec<bool>,
}

/// A stage with its weights.
#[derive(Debug)]
struct Built {
    steps: Vec<(Step, Operation)>,
    maps: Vec<Node>,
    /// Last step that reads each result.
    last_use: Vec<usize>,
}

/// A step's operation with its weights.
#[derive(Debug)]
enum Operation {
    ConvNorm { conv: ConvNorm, residual: Option<Node>, activation: Activation },
    MaxPool,
    HardSwish,
    SqueezeExcitation(SqueezeExcitation),
}

impl Trunk {
    /// Builds the trunk of `config` in `builder`'s layer.
    ///
    /// # Errors
    /// If a width is nothing, or more stages are frozen than there are.
    pub fn new(builder: &Builder, config: &BackboneConfig) -> Result<Self> {
        let refuse = |reason| Err(Error::Invalid { part: "backbone", reason });
        let BackboneConfig { freeze_at, recompute, .. } = *config;
        let plan = config.plan()?;
        let stages = plan.stages.len();
        if freeze_at > stages {
            return refuse(format!("freeze_at is {freeze_at}, but there are {stages} stages with the stem"));
        }
        if recompute.contains(&true) && !config.backbone.is_residual() {
            return refuse(format!("{} has no stages that can be computed again", config.backbone));
        }
        let mut trunk = Self::of_plan(builder, plan, config)?;
        // The stem is cheap to keep.
        trunk.recompute = std::iter::once(false).chain(recompute).take(stages).collect();
        Ok(trunk)
    }

    /// Builds the layers of `plan` in `builder`'s layer, with the norms and frozen stages of `config`.
    ///
    /// # Errors
    /// If a layer has no channels.
    pub(crate) fn of_plan(builder: &Builder, plan: Plan, config: &BackboneConfig) -> Result<Self> {
        let frozen = config.freeze_at;
        let build = |(index, stage): (usize, &Stage)| {
            let builder = if index < frozen { builder.frozen() } else { builder.clone() };
            Built::new(&builder, stage, config).map(Arc::new)
        };
        let stages = plan.stages.iter().enumerate().map(build).collect::<Result<Vec<_>>>()?;
        let recompute = vec![false; stages.len()];
        let (channels, pyramid_channels) = (plan.channels(), plan.pyramid_channels());
        Ok(Self { stages, plan, channels, pyramid_channels, frozen, recompute })
    }

    /// Channels of the maps that [`forward`](Self::forward) gives.
    pub fn channels(&self) -> &[usize] {
        &self.channels
    }

    /// Channels of the maps that [`pyramid_inputs`](Self::pyramid_inputs) gives.
    pub fn pyramid_channels(&self) -> &[usize] {
        &self.pyramid_channels
    }

    /// Feature maps, fine to coarse.
    ///
    /// # Shapes
    /// (N, 3, H, W) to `(N, channels()[i], H / s, W / s)`, rounded up, for the strides s of the
    /// [`Backbone`](super::Backbone).
    pub fn forward(&self, x: &Value, mode: Mode) -> Result<Vec<Value>> {
        self.results(x, mode, |stage, node| self.stages[stage].maps.contains(&node))
    }

    /// Inputs of Faster R-CNN's pyramid, fine to coarse: the maps of [`forward`](Self::forward), unless
    /// torchvision's detector with this trunk takes others.
    ///
    /// # Shapes
    /// (N, 3, H, W) to `(N, pyramid_channels()[i], H / s, W / s)`, rounded up, for the strides s of
    /// [`Plan::pyramid_strides`].
    ///
    /// # Errors
    /// If the images are smaller than the network can see.
    pub fn pyramid_inputs(&self, x: &Value, mode: Mode) -> Result<Vec<Value>> {
        match self.plan.pyramid.as_slice() {
            [] => self.forward(x, mode),
            inputs => self.results(x, mode, |stage, node| inputs.contains(&(stage, node))),
        }
    }

    /// Results of the steps that are `wanted`, in their order.
    fn results(&self, x: &Value, mode: Mode, wanted: impl Fn(usize, Node) -> bool) -> Result<Vec<Value>> {
        let mut results = Vec::with_capacity(self.channels.len());
        let mut x = x.clone();
        for (index, stage) in self.stages.iter().enumerate() {
            let mode = self.mode_of(index, mode);
            x = match self.recompute[index] {
                true => {
                    let map = again(stage, &x, mode)?;
                    results.push(map.clone());
                    map
                }
                false => {
                    stage.run(x, mode, |node| wanted(index, node), |_, value| results.push(value.clone()))?
                }
            };
        }
        Ok(results)
    }

    /// Runs the steps in order and shows what each gives.
    pub fn each_step(&self, x: &Value, mode: Mode, mut see: impl FnMut(&Step, &Value)) -> Result<()> {
        let mut x = x.clone();
        for (index, stage) in self.stages.iter().enumerate() {
            x = stage.run(x, self.mode_of(index, mode), |_| true, &mut see)?;
        }
        Ok(())
    }

    fn mode_of(&self, stage: usize, mode: Mode) -> Mode {
        if stage < self.frozen { Mode::Inference } else { mode }
    }
}

/// The result of `stage`, without keeping what is between.
fn again(stage: &Arc<Built>, x: &Value, mode: Mode) -> Result<Value> {
    let weights: Vec<&Value> = stage.steps.iter().flat_map(|(_, operation)| operation.weights()).collect();
    let saved = stage.clone();
    recomputed(x, &weights, move |x: &Value| saved.run(x.clone(), mode, |_| false, |_, _| {}))
}

impl Built {
    fn new(builder: &Builder, stage: &Stage, config: &BackboneConfig) -> Result<Self> {
        let mut last_use = vec![0; stage.steps.len() + 1];
        let mut steps = Vec::with_capacity(stage.steps.len());
        for (index, step) in stage.steps.iter().enumerate() {
            for node in step.operands() {
                last_use[node.0] = index;
            }
            let operation = match &step.layer {
                Layer::ConvNorm(plan) => Operation::ConvNorm {
                    conv: ConvNorm::of_plan(builder, plan, config)?,
                    residual: plan.residual,
                    activation: plan.activation,
                },
                Layer::MaxPool => Operation::MaxPool,
                Layer::HardSwish => Operation::HardSwish,
                Layer::SqueezeExcitation(plan) => {
                    Operation::SqueezeExcitation(SqueezeExcitation::of_plan(builder, plan)?)
                }
            };
            steps.push((step.clone(), operation));
        }
        last_use[stage.last().0] = stage.steps.len();
        Ok(Self { steps, maps: stage.maps.clone(), last_use })
    }

    /// The last step's result on `x`; shows the results that are `wanted`. Each other one is freed, where no gradient
    /// needs it, after its last use.
    fn run(
        &self,
        x: Value,
        mode: Mode,
        wanted: impl Fn(Node) -> bool,
        mut see: impl FnMut(&Step, &Value),
    ) -> Result<Value> {
        if mode == Mode::Inference && !x.is_tracked() && self.is_rounded() {
            return self.run_rounded(x, wanted, see);
        }
        let mut values = vec![Some(x)];
        for (index, (step, operation)) in self.steps.iter().enumerate() {
            let value = |node: Node| values[node.0].as_ref().expect("a step sees what is before it");
            let input = value(step.input);
            let result = match operation {
                Operation::ConvNorm { conv, residual, activation } => {
                    conv.forward(input, mode, residual.map(value), *activation)?
                }
                Operation::MaxPool => max_pool2d(input, 3, 2, 1)?,
                Operation::HardSwish => hard_swish(input)?,
                Operation::SqueezeExcitation(squeeze) => squeeze.forward(input)?,
            };
            for node in step.operands() {
                if self.last_use[node.0] == index {
                    values[node.0] = None;
                }
            }
            if wanted(Node(index + 1)) {
                see(step, &result);
            }
            values.push(Some(result));
        }
        Ok(values.pop().flatten().expect("the last result is kept"))
    }
}

impl Operation {
    fn weights(&self) -> Vec<&Value> {
        match self {
            Self::ConvNorm { conv, .. } => conv.weights().into(),
            Self::SqueezeExcitation(squeeze) => squeeze.weights().into(),
            Self::MaxPool | Self::HardSwish => Vec::new(),
        }
    }
}
