//! Wide residual networks for CIFAR (Zagoruyko and Komodakis 2016, arXiv 1605.07146): norm and ReLU before each
//! convolution, 6n + 4 layers, widths 16k, 32k and 64k.
//!
//! Parameter names and taps are RepDistiller's: a stage's map is the sum that leaves its last block, before any norm.

use ckd_kernels::Value;
use ckd_kernels::linear::Activation::Relu;

use super::Behind;
use super::layers::{BatchNorm, Conv, ConvBn, ConvShape};
use super::stages::{Block, Stage, Staged, Stages};
use crate::init::Init;
use crate::nn::{Linear, Mode};
use crate::param::Builder;
use crate::{Error, Result};

/// Configuration of a wide ResNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WideResNetConfig {
    /// Layers with weights, 6n + 4: 16, 40.
    pub depth: usize,
    /// Channels over those of the thinnest network.
    pub widen: usize,
    /// Number of classes.
    pub classes: usize,
}

#[derive(Debug)]
struct WideBlock {
    norm1: BatchNorm,
    conv1: ConvBn,
    conv2: Conv,
    /// Shortcut where the width changes; its input is the map after the first norm.
    shortcut: Option<Conv>,
}

/// A wide ResNet: `conv1.weight`, `block1.layer.0.bn1.*` to `fc.bias`.
///
/// # Errors
/// If the depth is not 6n + 4 with n at least 1, or there are no classes.
pub fn wide_resnet(builder: Builder, config: WideResNetConfig) -> Result<Staged> {
    let WideResNetConfig { depth, widen, classes } = config;
    Error::unless_positive("classifier", &[("widen", widen), ("classes", classes)])?;
    if depth < 10 || depth % 6 != 4 {
        let reason = format!("a wide ResNet has 6n + 4 layers (16, 28, 40), not {depth}");
        return Err(Error::Invalid { part: "classifier", reason });
    }
    let init = Init::KaimingNormalFanOut;
    let stem = Conv::new(&builder.within("conv1"), ConvShape::dense(3, 16, 3, 1), init)?;
    let tail = tail(&builder, config, Behind::STEM)?;
    Ok(Staged::new(builder, stem, tail))
}

/// Builds the stages that follow a map, with the last norm.
pub(super) fn tail(builder: &Builder, config: WideResNetConfig, behind: Behind) -> Result<Stages> {
    let WideResNetConfig { depth, widen, classes } = config;
    let mut inputs = match behind.stage {
        0 => 16,
        stage => (16 * widen) << (stage - 1),
    };
    let mut stages = Vec::new();
    for stage in behind.stage + 1..=3 {
        let outputs = (16 * widen) << (stage - 1);
        let within = builder.within(format!("block{stage}")).within("layer");
        let mut blocks = Stage::new();
        for block in 0..behind.blocks((depth - 4) / 6) {
            let stride = if stage > 1 && block == 0 { 2 } else { 1 };
            blocks.push(Box::new(WideBlock::new(&within.within(block), inputs, outputs, stride)?));
            inputs = outputs;
        }
        stages.push(blocks);
    }
    let norm = BatchNorm::new(&builder.within("bn1"), inputs)?;
    let (weight, bias) = (Init::TorchDefault, Init::Constant(0.0));
    let linear = Linear::with_init(&builder.within("fc"), (inputs, classes), weight, bias)?;
    Ok(Stages { stages, last: Some(Box::new(norm)), linear })
}

impl WideBlock {
    fn new(builder: &Builder, inputs: usize, outputs: usize, stride: usize) -> Result<Self> {
        let init = Init::KaimingNormalFanOut;
        let shortcut = (inputs != outputs).then(|| {
            Conv::new(&builder.within("convShortcut"), ConvShape::dense(inputs, outputs, 1, stride), init)
        });
        Ok(Self {
            norm1: BatchNorm::new(&builder.within("bn1"), inputs)?,
            conv1: ConvBn::new(
                builder,
                ("conv1", "bn2"),
                ConvShape::dense(inputs, outputs, 3, stride),
                init,
            )?,
            conv2: Conv::new(&builder.within("conv2"), ConvShape::dense(outputs, outputs, 3, 1), init)?,
            shortcut: shortcut.transpose()?,
        })
    }
}

impl Block for WideBlock {
    fn forward(&self, x: &Value, mode: Mode) -> Result<Value> {
        let y = self.norm1.forward_relu(x, mode)?;
        let shortcut = match &self.shortcut {
            Some(shortcut) => shortcut.forward(&y, None)?,
            None => x.clone(),
        };
        let y = self.conv1.forward(&y, mode, None, Relu)?;
        self.conv2.forward(&y, Some(&shortcut))
    }

    fn normed(&self, x: &Value) -> Result<Option<Value>> {
        self.norm1.frozen(x).map(Some)
    }
}
