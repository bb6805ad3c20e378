//! ShuffleNetV2 (Ma et al. 2018, arXiv 1807.11164) of width 1 for CIFAR, as in RepDistiller.
//!
//! A unit transforms half of its channels, puts them beside the other half and shuffles; the first of a stage
//! transforms its input twice, at stride 2. `stage1` to `stage3` are at strides 2, 4 and 8.

use std::sync::Arc;

use ckd_kernels::Value;
use ckd_kernels::channels::pick_channels;
use ckd_kernels::linear::Activation::{Identity, Relu};

use super::Behind;
use super::channels::{shuffled, side_by_side};
use super::layers::{ConvBn, ConvShape};
use super::stages::{Block, Stage, Staged, Stages};
use crate::init::Init;
use crate::nn::{Linear, Mode};
use crate::param::Builder;
use crate::{Error, Result};

const STEM: usize = 24;
/// Channels of each stage and units after its first.
const STAGES: [(usize, usize); 3] = [(116, 3), (232, 7), (464, 3)];
/// Channels before the linear layer.
const LAST: usize = 1024;

/// The first unit of a stage.
#[derive(Debug)]
struct Down {
    left: [ConvBn; 2],
    right: [ConvBn; 3],
    shuffle: Arc<[usize]>,
}

#[derive(Debug)]
struct Unit {
    kept: Arc<[usize]>,
    changed: Arc<[usize]>,
    convs: [ConvBn; 3],
    shuffle: Arc<[usize]>,
}

/// ShuffleNetV2: `conv1.weight`, `layer1.0.conv1.weight` to `linear.bias`.
///
/// # Errors
/// If there are no classes.
pub fn shufflenet_v2(builder: Builder, classes: usize) -> Result<Staged> {
    Error::unless_positive("classifier", &[("classes", classes)])?;
    let init = Init::TorchDefault;
    let stem = ConvBn::new(&builder, ("conv1", "bn1"), ConvShape::dense(3, STEM, 1, 1), init)?;
    let tail = tail(&builder, classes, Behind::STEM)?;
    Ok(Staged::new(builder, stem, tail))
}

/// Builds the stages that follow a map, with the last convolution.
pub(super) fn tail(builder: &Builder, classes: usize, behind: Behind) -> Result<Stages> {
    let mut inputs = match behind.stage {
        0 => STEM,
        stage => STAGES[stage - 1].0,
    };
    let mut stages = Vec::new();
    for (stage, (outputs, units)) in (1..).zip(STAGES).skip(behind.stage) {
        let within = builder.within(format!("layer{stage}"));
        let mut built: Stage = vec![Box::new(Down::new(&within.within(0), inputs, outputs)?)];
        for unit in 1..behind.blocks(units + 1) {
            built.push(Box::new(Unit::new(&within.within(unit), outputs)?));
        }
        stages.push(built);
        inputs = outputs;
    }
    let last = ConvShape::dense(inputs, LAST, 1, 1);
    let last = ConvBn::new(builder, ("conv2", "bn2"), last, Init::TorchDefault)?;
    let linear = Linear::new(&builder.within("linear"), LAST, classes)?;
    Ok(Stages { stages, last: Some(Box::new(last)), linear })
}

impl Down {
    fn new(builder: &Builder, inputs: usize, outputs: usize) -> Result<Self> {
        let half = outputs / 2;
        let conv = |number: usize, shape: ConvShape| {
            let names = (format!("conv{number}"), format!("bn{number}"));
            ConvBn::new(builder, (&names.0, &names.1), shape, Init::TorchDefault)
        };
        Ok(Self {
            left: [
                conv(1, ConvShape::depthwise(inputs, 3, 2))?,
                conv(2, ConvShape::dense(inputs, half, 1, 1))?,
            ],
            right: [
                conv(3, ConvShape::dense(inputs, half, 1, 1))?,
                conv(4, ConvShape::depthwise(half, 3, 2))?,
                conv(5, ConvShape::dense(half, half, 1, 1))?,
            ],
            shuffle: shuffled(outputs, 2),
        })
    }
}

impl Block for Down {
    fn forward(&self, x: &Value, mode: Mode) -> Result<Value> {
        let left = self.left[0].forward(x, mode, None, Identity)?;
        let left = self.left[1].forward(&left, mode, None, Relu)?;
        let right = in_turn(&self.right, x, mode)?;
        Ok(pick_channels(&side_by_side(&left, &right)?, &self.shuffle)?)
    }
}

impl Unit {
    fn new(builder: &Builder, channels: usize) -> Result<Self> {
        let half = channels / 2;
        let conv = |number: usize, shape: ConvShape| {
            let names = (format!("conv{number}"), format!("bn{number}"));
            ConvBn::new(builder, (&names.0, &names.1), shape, Init::TorchDefault)
        };
        Ok(Self {
            kept: (0..half).collect(),
            changed: (half..channels).collect(),
            convs: [
                conv(1, ConvShape::dense(half, half, 1, 1))?,
                conv(2, ConvShape::depthwise(half, 3, 1))?,
                conv(3, ConvShape::dense(half, half, 1, 1))?,
            ],
            shuffle: shuffled(channels, 2),
        })
    }
}

impl Block for Unit {
    fn forward(&self, x: &Value, mode: Mode) -> Result<Value> {
        let changed = in_turn(&self.convs, &pick_channels(x, &self.changed)?, mode)?;
        Ok(pick_channels(&side_by_side(&pick_channels(x, &self.kept)?, &changed)?, &self.shuffle)?)
    }
}

/// 1x1, ReLU, depthwise 3x3, 1x1, ReLU.
fn in_turn([first, filter, last]: &[ConvBn; 3], x: &Value, mode: Mode) -> Result<Value> {
    let y = first.forward(x, mode, None, Relu)?;
    let y = filter.forward(&y, mode, None, Identity)?;
    last.forward(&y, mode, None, Relu)
}
