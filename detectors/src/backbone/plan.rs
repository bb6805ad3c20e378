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
    /// Inputs of Faster R-CNN's pyramid, as stages with their results; empty: the maps of the stages.
    pub pyramid: Vec<(usize, Node)>,
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
    /// Strides of the same, in pixels of the image.
    strides: Vec<usize>,
}

/// Layer of a stage with its operands.
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
    /// x min(max(x + 3, 0), 6) / 6.
    HardSwish,
    /// Channels weighed by what the whole map shows (Hu et al. 2018, arXiv 1709.01507).
    SqueezeExcitation(SqueezePlan),
}

/// Two 1x1 convolutions with bias on the mean over a map.
#[derive(Debug, Clone)]
pub struct SqueezePlan {
    /// Name of the layer; its convolutions are `fc1` and `fc2` below it.
    pub name: String,
    /// Channels of the map.
    pub channels: usize,
    /// Channels between the convolutions.
    pub squeezed: usize,
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
            Layer::MaxPool | Layer::HardSwish | Layer::SqueezeExcitation(_) => None,
        };
        [self.input].into_iter().chain(residual)
    }

    /// Name of its convolution.
    pub fn name(&self) -> Option<&str> {
        match &self.layer {
            Layer::ConvNorm(conv) => Some(&conv.names.0),
            Layer::SqueezeExcitation(squeeze) => Some(&squeeze.name),
            Layer::MaxPool | Layer::HardSwish => None,
        }
    }

    /// Names and shapes of the weights of its convolutions.
    fn kernels(&self) -> Vec<(String, [usize; 4])> {
        match &self.layer {
            Layer::ConvNorm(conv) => vec![(format!("{}.weight", conv.names.0), conv.shape)],
            Layer::SqueezeExcitation(SqueezePlan { name, channels, squeezed }) => vec![
                (format!("{name}.fc1.weight"), [*squeezed, *channels, 1, 1]),
                (format!("{name}.fc2.weight"), [*channels, *squeezed, 1, 1]),
            ],
            Layer::MaxPool | Layer::HardSwish => Vec::new(),
        }
    }
}

impl Plan {
    /// Begins the next stage.
    pub fn stage(&mut self) -> &mut Stage {
        let (inputs, stride) = self.stages.last().map_or((3, 1), |stage| {
            let last = stage.last();
            (stage.channels(last), stage.stride(last))
        });
        let (channels, strides) = (vec![inputs], vec![stride]);
        self.stages.push(Stage { steps: Vec::new(), maps: Vec::new(), channels, strides });
        self.stages.last_mut().expect("just pushed")
    }

    /// Channels of the trunk's maps.
    pub fn channels(&self) -> Vec<usize> {
        self.maps().map(|(stage, map)| self.stages[stage].channels(map)).collect()
    }

    /// Strides of the trunk's maps, in pixels of the image.
    pub fn strides(&self) -> Vec<usize> {
        self.maps().map(|(stage, map)| self.stages[stage].stride(map)).collect()
    }

    /// Channels of the inputs of Faster R-CNN's pyramid.
    pub fn pyramid_channels(&self) -> Vec<usize> {
        self.pyramid_inputs().map(|(stage, map)| self.stages[stage].channels(map)).collect()
    }

    /// Strides of the inputs of Faster R-CNN's pyramid, in pixels of the image.
    pub fn pyramid_strides(&self) -> Vec<usize> {
        self.pyramid_inputs().map(|(stage, map)| self.stages[stage].stride(map)).collect()
    }

    /// Maps of the trunk, as stages with their results.
    pub fn maps(&self) -> impl Iterator<Item = (usize, Node)> {
        let stages = self.stages.iter().enumerate();
        stages.flat_map(|(index, stage)| stage.maps.iter().map(move |&map| (index, map)))
    }

    /// Inputs of Faster R-CNN's pyramid, as stages with their results.
    pub fn pyramid_inputs(&self) -> impl Iterator<Item = (usize, Node)> {
        let maps = self.pyramid.is_empty().then(|| self.maps());
        self.pyramid.iter().copied().chain(maps.into_iter().flatten())
    }

    /// Name of the first norm.
    pub fn first_norm(&self) -> Option<&str> {
        self.steps().find_map(|step| match &step.layer {
            Layer::ConvNorm(conv) => Some(conv.names.1.as_str()),
            _ => None,
        })
    }

    /// Names and shapes of the weights of all convolutions, in order.
    pub fn kernels(&self) -> impl Iterator<Item = (String, [usize; 4])> {
        self.steps().flat_map(Step::kernels)
    }

    fn steps(&self) -> impl Iterator<Item = &Step> {
        self.stages.iter().flat_map(|stage| &stage.steps)
    }

    /// Stages behind the first `skipped`, without inputs of a pyramid of their own.
    #[must_use]
    pub fn behind(mut self, skipped: usize) -> Self {
        self.stages.drain(..skipped.min(self.stages.len()));
        self.pyramid.clear();
        self
    }
}

impl Stage {
    /// Input of the stage.
    pub const INPUT: Node = Node(0);

    /// The latest result.
    pub fn last(&self) -> Node {
        Node(self.steps.len())
    }

    /// Channels of a result.
    pub fn channels(&self, node: Node) -> usize {
        self.channels[node.0]
    }

    /// Stride of a result, in pixels of the image.
    pub fn stride(&self, node: Node) -> usize {
        self.strides[node.0]
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

    /// Adds a hard swish.
    pub fn hard_swish(&mut self, input: Node) -> Node {
        self.push(input, Layer::HardSwish, self.channels(input))
    }

    /// Adds a squeeze-and-excitation with `squeezed` channels between its convolutions.
    pub fn squeeze_excitation(&mut self, input: Node, name: impl Into<String>, squeezed: usize) -> Node {
        let channels = self.channels(input);
        let layer = Layer::SqueezeExcitation(SqueezePlan { name: name.into(), channels, squeezed });
        self.push(input, layer, channels)
    }

    /// Makes the latest result a map of the trunk.
    pub fn map(&mut self) {
        self.maps.push(self.last());
    }

    fn push(&mut self, input: Node, layer: Layer, outputs: usize) -> Node {
        let stride = match &layer {
            Layer::ConvNorm(conv) => conv.stride,
            Layer::MaxPool => 2,
            Layer::HardSwish | Layer::SqueezeExcitation(_) => 1,
        };
        self.strides.push(self.stride(input) * stride);
        self.steps.push(Step { input, layer });
        self.channels.push(outputs);
        self.last()
    }
}
