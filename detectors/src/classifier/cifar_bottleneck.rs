//! ResNets of bottlenecks (He et al. 2016, arXiv 1512.03385) for CIFAR: the ImageNet ResNet-50 with a 3x3 stem of stride 1 and
//! no pooling, as in RepDistiller, and ResNet-110 of 9n + 2 layers in three stages, as MCL and L-MCL train it.

use ckd_kernels::Value;
use ckd_kernels::linear::Activation::{self, Identity, Relu};

use super::Behind;
use super::layers::{ConvBn, ConvShape};
use super::stages::{Block, Stage, Staged, Stages};
use crate::init::Init;
use crate::nn::{Linear, Mode};
use crate::param::Builder;
use crate::{Error, Result};

const EXPANSION: usize = 4;

/// Structure of a ResNet of bottlenecks for small images, and the names of its published weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CifarBottleneckConfig {
    /// Channels of the stem and of the first stage's 3x3 convolutions; those of each further stage are twice as many.
    pub width: usize,
    /// Blocks of each stage.
    pub blocks: &'static [usize],
    /// Name of a block's shortcut.
    pub shortcut: &'static str,
    /// Name of the last layer.
    pub head: &'static str,
}

impl CifarBottleneckConfig {
    /// RepDistiller's ResNet-50.
    pub const RESNET50: Self =
        Self { width: 64, blocks: &[3, 4, 6, 3], shortcut: "shortcut", head: "linear" };
    /// ResNet-110 of MCL and L-MCL.
    pub const RESNET110: Self = Self { width: 16, blocks: &[12; 3], shortcut: "downsample", head: "fc" };

    /// Layers with weights, shortcuts aside.
    pub fn depth(&self) -> usize {
        3 * self.blocks.iter().sum::<usize>() + 2
    }
}

#[derive(Debug)]
struct Bottleneck {
    convs: [ConvBn; 3],
    shortcut: Option<ConvBn>,
}

/// A ResNet of bottlenecks for small images: `conv1.weight`, `layer1.0.conv1.weight`, `layer1.0.SHORTCUT.0.weight` to `HEAD.bias`.
///
/// # Errors
/// If a size is nothing, or there are no classes.
pub fn cifar_bottleneck(builder: Builder, config: CifarBottleneckConfig, classes: usize) -> Result<Staged> {
    let CifarBottleneckConfig { width, blocks, .. } = config;
    let least = blocks.iter().copied().min().unwrap_or(0);
    Error::unless_positive("classifier", &[("classes", classes), ("width", width), ("blocks", least)])?;
    let init = Init::KaimingNormalFanOut;
    let stem = ConvBn::new(&builder, ("conv1", "bn1"), ConvShape::dense(3, width, 3, 1), init)?;
    let tail = tail(&builder, config, classes, Behind::STEM)?;
    Ok(Staged::new(builder, stem, tail))
}

/// Builds the stages that follow a map.
pub(super) fn tail(
    builder: &Builder,
    CifarBottleneckConfig { width, blocks, shortcut, head }: CifarBottleneckConfig,
    classes: usize,
    behind: Behind,
) -> Result<Stages> {
    let mut inputs = match behind.stage {
        0 => width,
        stage => (width << (stage - 1)) * EXPANSION,
    };
    let mut stages = Vec::new();
    for (stage, &blocks) in blocks.iter().enumerate().skip(behind.stage) {
        let within = builder.within(format!("layer{}", stage + 1));
        let inner = width << stage;
        let mut built = Stage::new();
        for block in 0..behind.blocks(blocks) {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let shape = (inputs, inner, stride);
            built.push(Box::new(Bottleneck::new(&within.within(block), shape, shortcut)?));
            inputs = inner * EXPANSION;
        }
        stages.push(built);
    }
    let linear = Linear::new(&builder.within(head), inputs, classes)?;
    Ok(Stages { stages, last: None, linear })
}

impl Bottleneck {
    fn new(
        builder: &Builder,
        (inputs, inner, stride): (usize, usize, usize),
        shortcut: &'static str,
    ) -> Result<Self> {
        let outputs = inner * EXPANSION;
        let conv = |names, shape| ConvBn::new(builder, names, shape, Init::KaimingNormalFanOut);
        let shortcut = (stride != 1 || inputs != outputs).then(|| {
            let shape = ConvShape::dense(inputs, outputs, 1, stride);
            ConvBn::new(&builder.within(shortcut), ("0", "1"), shape, Init::KaimingNormalFanOut)
        });
        Ok(Self {
            convs: [
                conv(("conv1", "bn1"), ConvShape::dense(inputs, inner, 1, 1))?,
                conv(("conv2", "bn2"), ConvShape::dense(inner, inner, 3, stride))?,
                conv(("conv3", "bn3"), ConvShape::dense(inner, outputs, 1, 1))?,
            ],
            shortcut: shortcut.transpose()?,
        })
    }
}

impl Bottleneck {
    /// activation(residual function + shortcut).
    fn ended_by(&self, activation: Activation, x: &Value, mode: Mode) -> Result<Value> {
        let shortcut = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x, mode, None, Identity)?,
            None => x.clone(),
        };
        let y = self.convs[0].forward(x, mode, None, Relu)?;
        let y = self.convs[1].forward(&y, mode, None, Relu)?;
        self.convs[2].forward(&y, mode, Some(&shortcut), activation)
    }
}

impl Block for Bottleneck {
    fn forward(&self, x: &Value, mode: Mode) -> Result<Value> {
        self.ended_by(Relu, x, mode)
    }

    fn before_relu(&self, x: &Value) -> Result<Option<Value>> {
        self.ended_by(Identity, x, Mode::Inference).map(Some)
    }
}
