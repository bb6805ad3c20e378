//! The ResNets for CIFAR (He et al. 2016, arXiv 1512.03385, section 4.2): 6n + 2 layers in three stages.
//!
//! Where a stage halves the map and widens it, the shortcut is one of the paper's two. Option A has no parameters: it
//! takes every second pixel and pads with channels of zeros, half of them before and half after (the paper leaves open
//! where the zeros go). Option B is a 1x1 convolution with a norm. Each has the names of the weights that are published
//! with it: A akamaster/pytorch_resnet_cifar10 (without its `module.`; the last layer is `linear`), B RepDistiller (`fc`).

use ckd_kernels::Value;
use ckd_kernels::channels::halve_and_pad;
use ckd_kernels::linear::Activation::{self, Identity, Relu};

use super::Behind;
use super::stages::{Block, Stage, Staged, Stages};
use crate::nn::{ConvNorm, Linear, Mode, NormKind};
use crate::param::Builder;
use crate::{Error, Result};

/// Configuration of a CIFAR ResNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CifarResNetConfig {
    /// Layers with weights, 6n + 2: 8, 14, 20, 32, 44, 56, 110.
    pub depth: usize,
    /// Channels of the stem and of the three stages.
    pub widths: [usize; 4],
    /// Kind of shortcut where the width changes.
    pub shortcut: ShortcutOption,
    /// Number of classes.
    pub classes: usize,
}

/// The paper's options for a shortcut between maps of different widths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShortcutOption {
    /// Every second pixel, padded with channels of zeros.
    A,
    /// A 1x1 convolution and a batch norm.
    B,
}

impl ShortcutOption {
    /// Name of the last layer in the published weights.
    pub(super) fn head(self) -> &'static str {
        match self {
            Self::A => "linear",
            Self::B => "fc",
        }
    }
}

impl CifarResNetConfig {
    /// The widths of the paper.
    pub const WIDTHS: [usize; 4] = [16, 16, 32, 64];
    /// Four times as wide from the first stage on, after a stem of 32: the networks called 8x4 and 32x4.
    pub const WIDTHS_X4: [usize; 4] = [32, 64, 128, 256];

    /// The paper's network for CIFAR-10: its widths, option A.
    pub fn option_a(depth: usize, classes: usize) -> Self {
        Self { depth, widths: Self::WIDTHS, shortcut: ShortcutOption::A, classes }
    }
}

#[derive(Debug)]
struct BasicBlock {
    conv1: ConvNorm,
    conv2: ConvNorm,
    shortcut: Shortcut,
}

#[derive(Debug)]
enum Shortcut {
    Identity,
    /// Every second pixel, padded to this many channels.
    Halved(usize),
    Convolved(ConvNorm),
}

/// A ResNet for small images: `conv1.weight`, `bn1.*`, `layer1.0.conv1.weight` to `linear.bias` or `fc.bias`.
///
/// # Errors
/// If the depth is not 6n + 2 with n at least 1, a width is nothing, option A would have to narrow or to widen at
/// stride 1, or there are no classes.
pub fn cifar_resnet(builder: Builder, config: CifarResNetConfig) -> Result<Staged> {
    let CifarResNetConfig { depth, widths, shortcut, classes } = config;
    let narrowest = widths.into_iter().min().unwrap_or(0);
    Error::unless_positive("classifier", &[("classes", classes), ("widths", narrowest)])?;
    let refuse = |reason: String| Err(Error::Invalid { part: "classifier", reason });
    if depth < 8 || depth % 6 != 2 {
        return refuse(format!("a CIFAR ResNet has 6n + 2 layers (20, 32, 44, 56, 110), not {depth}"));
    }
    if shortcut == ShortcutOption::A && (widths[0] != widths[1] || !widths.is_sorted()) {
        return refuse(format!("option A widens where the map is halved only, which {widths:?} does not"));
    }
    let stem = ConvNorm::new(&builder, ("conv1", "bn1"), (3, widths[0], 3, 1), NormKind::Bn)?;
    let tail = tail(&builder, config, Behind::STEM)?;
    Ok(Staged::new(builder, stem, tail))
}

/// Builds the stages that follow a map.
pub(super) fn tail(builder: &Builder, config: CifarResNetConfig, behind: Behind) -> Result<Stages> {
    let CifarResNetConfig { depth, widths, shortcut, classes } = config;
    let mut inputs = widths[behind.stage];
    let mut stages = Vec::with_capacity(3);
    for (stage, &width) in widths[1..].iter().enumerate().skip(behind.stage) {
        let within = builder.within(format!("layer{}", stage + 1));
        let mut blocks = Stage::new();
        for block in 0..behind.blocks(depth / 6) {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let shape = (inputs, width, stride);
            blocks.push(Box::new(BasicBlock::new(&within.within(block), shape, shortcut)?));
            inputs = width;
        }
        stages.push(blocks);
    }
    let linear = Linear::new(&builder.within(shortcut.head()), inputs, classes)?;
    Ok(Stages { stages, last: None, linear })
}

impl BasicBlock {
    fn new(
        builder: &Builder,
        (inputs, outputs, stride): (usize, usize, usize),
        option: ShortcutOption,
    ) -> Result<Self> {
        let shortcut = match option {
            _ if inputs == outputs && stride == 1 => Shortcut::Identity,
            ShortcutOption::A => Shortcut::Halved(outputs),
            ShortcutOption::B => Shortcut::Convolved(ConvNorm::new(
                &builder.within("downsample"),
                ("0", "1"),
                (inputs, outputs, 1, stride),
                NormKind::Bn,
            )?),
        };
        Ok(Self {
            conv1: ConvNorm::new(builder, ("conv1", "bn1"), (inputs, outputs, 3, stride), NormKind::Bn)?,
            conv2: ConvNorm::new(builder, ("conv2", "bn2"), (outputs, outputs, 3, 1), NormKind::Bn)?,
            shortcut,
        })
    }
}

impl BasicBlock {
    /// activation(residual function + shortcut).
    fn ended_by(&self, activation: Activation, x: &Value, mode: Mode) -> Result<Value> {
        let y = self.conv1.forward(x, mode, None, Relu)?;
        let shortcut = match &self.shortcut {
            Shortcut::Identity => x.clone(),
            Shortcut::Halved(outputs) => halve_and_pad(x, *outputs)?,
            Shortcut::Convolved(conv) => conv.forward(x, mode, None, Identity)?,
        };
        self.conv2.forward(&y, mode, Some(&shortcut), activation)
    }
}

impl Block for BasicBlock {
    fn forward(&self, x: &Value, mode: Mode) -> Result<Value> {
        self.ended_by(Relu, x, mode)
    }

    fn before_relu(&self, x: &Value) -> Result<Option<Value>> {
        self.ended_by(Identity, x, Mode::Inference).map(Some)
    }
}
