//! ResNet-50 (He et al. 2016, arXiv 1512.03385) for CIFAR, as in RepDistiller: the ImageNet network with a 3x3 stem of
//! stride 1 and no pooling.

use ckd_kernels::Value;
use ckd_kernels::linear::Activation::{self, Identity, Relu};

use super::Behind;
use super::layers::{ConvBn, ConvShape};
use super::stages::{Block, Stage, Staged, Stages};
use crate::init::Init;
use crate::nn::{Linear, Mode};
use crate::param::Builder;
use crate::{Error, Result};

const BLOCKS: [usize; 4] = [3, 4, 6, 3];
const EXPANSION: usize = 4;
const STEM: usize = 64;

#[derive(Debug)]
struct Bottleneck {
    convs: [ConvBn; 3],
    shortcut: Option<ConvBn>,
}

/// The ResNet-50 for small images: `conv1.weight`, `layer1.0.conv1.weight`, `layer1.0.shortcut.0.weight` to `linear.bias`.
///
/// # Errors
/// If there are no classes.
pub fn cifar_resnet50(builder: Builder, classes: usize) -> Result<Staged> {
    Error::unless_positive("classifier", &[("classes", classes)])?;
    let init = Init::KaimingNormalFanOut;
    let stem = ConvBn::new(&builder, ("conv1", "bn1"), ConvShape::dense(3, STEM, 3, 1), init)?;
    let tail = tail(&builder, classes, Behind::STEM)?;
    Ok(Staged::new(builder, stem, tail))
}

/// Builds the stages that follow a map.
pub(super) fn tail(builder: &Builder, classes: usize, behind: Behind) -> Result<Stages> {
    let mut inputs = match behind.stage {
        0 => STEM,
        stage => (STEM << (stage - 1)) * EXPANSION,
    };
    let mut stages = Vec::new();
    for (stage, blocks) in BLOCKS.into_iter().enumerate().skip(behind.stage) {
        let within = builder.within(format!("layer{}", stage + 1));
        let inner = STEM << stage;
        let mut built = Stage::new();
        for block in 0..behind.blocks(blocks) {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            built.push(Box::new(Bottleneck::new(&within.within(block), inputs, inner, stride)?));
            inputs = inner * EXPANSION;
        }
        stages.push(built);
    }
    let linear = Linear::new(&builder.within("linear"), inputs, classes)?;
    Ok(Stages { stages, last: None, linear })
}

impl Bottleneck {
    fn new(builder: &Builder, inputs: usize, inner: usize, stride: usize) -> Result<Self> {
        let outputs = inner * EXPANSION;
        let conv = |names, shape| ConvBn::new(builder, names, shape, Init::KaimingNormalFanOut);
        let shortcut = (stride != 1 || inputs != outputs).then(|| {
            let shape = ConvShape::dense(inputs, outputs, 1, stride);
            ConvBn::new(&builder.within("shortcut"), ("0", "1"), shape, Init::KaimingNormalFanOut)
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
