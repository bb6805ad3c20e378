//! Description of a trunk as data: its layers in order, with names, shapes and strides.
//!
//! A network's file says nothing else. The [`Trunk`](super::Trunk) that computes, the exporter that writes a graph and
//! the reader that tells networks by their tensors all follow the plan.

use ckd_kernels::linear::Activation;

/// Result of a step: an index into its stage, where 0 is the stage's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node(pub usize);

/// Layers of a trunk, in stages.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Stages in order, the stem first: each sees the last result of the one before it.
    pub stages: Vec<Stage>,
}

/// Layers that training freezes together.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Layers in order.
    pub steps: Vec<Step>,
    /// Results that are maps of the trunk.
    pub maps: Vec<Node>,
    /// Channels of the stage's input and of each step's result.
    channels: Vec<usize>,
}

/// One layer and what it sees.
#[derive(Debug, Clone)]
pub struct Step {
    /// Operand.
    pub input: Node,
    /// Operation.
    pub layer: Layer,
}

/// Operation of a step.
#[derive(Debug, Clone)]
pub enum Layer {
    /// activation(norm(conv(x)) + residual).
    ConvNorm(ConvNormPlan),
    /// 3x3 max pooling of stride 2.
    MaxPool,
}

/// A convolution without bias and its norm.
#[derive(Debug, Clone)]
pub struct ConvNormPlan {
    /// Names of the convolution and of the norm.
    pub names: (String, String),
    /// Weight (K, C / groups, R, R).
    pub shape: [usize; 4],
    /// Distance between outputs, in pixels; padding keeps the size at 1.
    pub stride: usize,
    /// Groups of channels that are convolved apart.
    pub groups: usize,
    /// Map to add before the activation.
    pub residual: Option<Node>,
    /// Activation behind the sum.
    pub activation: Activation,
}

/// Shape of a convolution, beside its input's channels.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// Output channels.
    pub outputs: usize,
    /// Side of the window.
    pub side: usize,
    /// Distance between outputs.
    pub stride: usize,
    /// Groups of channels that are convolved apart.
    pub groups: usize,
}

impl Kernel {
    /// A dense convolution.
    pub fn new(outputs: usize, side: usize, stride: usize) -> Self {
        Self { outputs, side, stride, groups: 1 }
    }

    /// A convolution of each channel on its own.
    pub fn depthwise(channels: usize, side: usize, stride: usize) -> Self {
        Self { outputs: channels, side, stride, groups: channels }
    }
}

impl Step {
    /// Results that the step reads.
    pub fn operands(&self) -> impl Iterator<Item = Node> + use<> {
        let residual = match &self.layer {
            Layer::ConvNorm(conv) => conv.residual,
            Layer::MaxPool => None,
        };
        [self.input].into_iter().chain(residual)
    }

    /// Name of its convolution.
    pub fn name(&self) -> Option<&str> {
        match &self.layer {
            Layer::ConvNorm(conv) => Some(&conv.names.0),
            Layer::MaxPool => None,
        }
    }
}

impl Plan {
    /// Begins the next stage.
    pub fn stage(&mut self) -> &mut Stage {
        let inputs = self.stages.last().map_or(3, Stage::outputs);
        self.stages.push(Stage { steps: Vec::new(), maps: Vec::new(), channels: vec![inputs] });
        self.stages.last_mut().expect("just pushed")
    }

    /// Channels of the trunk's maps.
    pub fn channels(&self) -> Vec<usize> {
        let of = |stage: &Stage| stage.maps.iter().map(|map| stage.channels[map.0]).collect::<Vec<_>>();
        self.stages.iter().flat_map(of).collect()
    }

    /// Convolutions with their norms, in order.
    pub fn convolutions(&self) -> impl Iterator<Item = &ConvNormPlan> {
        self.stages.iter().flat_map(|stage| &stage.steps).filter_map(|step| match &step.layer {
            Layer::ConvNorm(conv) => Some(conv),
            Layer::MaxPool => None,
        })
    }

    /// Stages behind the first `skipped`.
    #[must_use]
    pub fn behind(mut self, skipped: usize) -> Self {
        self.stages.drain(..skipped.min(self.stages.len()));
        self
    }
}

impl Stage {
    /// What the stage sees.
    pub const INPUT: Node = Node(0);

    /// The latest result.
    pub fn last(&self) -> Node {
        Node(self.steps.len())
    }

    /// Channels of a result.
    pub fn channels(&self, node: Node) -> usize {
        self.channels[node.0]
    }

    fn outputs(&self) -> usize {
        self.channels(self.last())
    }

    /// Adds activation(norm(conv(x)) + residual).
    pub fn conv_norm(
        &mut self,
        input: Node,
        (conv, norm): (impl Into<String>, impl Into<String>),
        kernel: Kernel,
        residual: Option<Node>,
        activation: Activation,
    ) -> Node {
        let Kernel { outputs, side, stride, groups } = kernel;
        let layer = Layer::ConvNorm(ConvNormPlan {
            names: (conv.into(), norm.into()),
            shape: [outputs, self.channels(input) / groups, side, side],
            stride,
            groups,
            residual,
            activation,
        });
        self.push(input, layer, outputs)
    }

    /// Adds a 3x3 max pooling of stride 2.
    pub fn max_pool(&mut self, input: Node) -> Node {
        self.push(input, Layer::MaxPool, self.channels(input))
    }

    /// Makes the latest result a map of the trunk.
    pub fn map(&mut self) {
        self.maps.push(self.last());
    }

    fn push(&mut self, input: Node, layer: Layer, outputs: usize) -> Node {
        self.steps.push(Step { input, layer });
        self.channels.push(outputs);
        self.last()
    }
}
