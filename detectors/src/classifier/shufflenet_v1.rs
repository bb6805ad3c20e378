//! ShuffleNet (Zhang et al. 2018, arXiv 1707.01083) with 3 groups for CIFAR, as in RepDistiller.
//!
//! A unit: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; the input is added, or at stride 2 its 3x3 mean is put
//! beside the result. Unlike in the paper, a ReLU follows the depthwise convolution, as in those published weights.
//! `stage1` to `stage3` are at strides 2, 4 and 8.

use std::sync::Arc;

use candle_core::Tensor;
use ckd_kernels::channels::pick_channels;
use ckd_kernels::elementwise::relu;
use ckd_kernels::linear::Activation::{Identity, Relu};
use ckd_kernels::{Conv2dConfig, Epilogue, Value, conv2d};

use super::Behind;
use super::channels::{shuffled, side_by_side};
use super::layers::{ConvBn, ConvShape};
use super::stages::{Block, Stage, Staged, Stages};
use crate::init::Init;
use crate::nn::{Linear, Mode};
use crate::param::Builder;
use crate::{Error, Result};

const GROUPS: usize = 3;
const STEM: usize = 24;
/// Channels and units of each stage.
const STAGES: [(usize, usize); 3] = [(240, 4), (480, 8), (960, 4)];

#[derive(Debug)]
struct Unit {
    reduce: ConvBn,
    shuffle: Arc<[usize]>,
    filter: ConvBn,
    restore: ConvBn,
    halves: bool,
}

/// ShuffleNet: `conv1.weight`, `layer1.0.conv1.weight` to `linear.bias`.
///
/// # Errors
/// If there are no classes.
pub fn shufflenet_v1(builder: Builder, classes: usize) -> Result<Staged> {
    Error::unless_positive("classifier", &[("classes", classes)])?;
    let init = Init::TorchDefault;
    let stem = ConvBn::new(&builder, ("conv1", "bn1"), ConvShape::dense(3, STEM, 1, 1), init)?;
    let tail = tail(&builder, classes, Behind::STEM)?;
    Ok(Staged::new(builder, stem, tail))
}

/// Builds the stages that follow a map.
pub(super) fn tail(builder: &Builder, classes: usize, behind: Behind) -> Result<Stages> {
    let mut inputs = match behind.stage {
        0 => STEM,
        stage => STAGES[stage - 1].0,
    };
    let mut stages = Vec::new();
    for (stage, (outputs, units)) in (1..).zip(STAGES).skip(behind.stage) {
        let within = builder.within(format!("layer{stage}"));
        let mut built = Stage::new();
        for unit in 0..behind.blocks(units) {
            built.push(Box::new(Unit::new(&within.within(unit), inputs, outputs, unit == 0)?));
            inputs = outputs;
        }
        stages.push(built);
    }
    let linear = Linear::new(&builder.within("linear"), inputs, classes)?;
    Ok(Stages { stages, last: None, linear })
}

impl Unit {
    fn new(builder: &Builder, inputs: usize, outputs: usize, halves: bool) -> Result<Self> {
        // What stands beside the halved input makes `outputs` together with it.
        let outputs = if halves { outputs - inputs } else { outputs };
        let inner = outputs / 4;
        // The stem's channels are too few to be grouped.
        let groups = if inputs == STEM { 1 } else { GROUPS };
        let stride = if halves { 2 } else { 1 };
        let conv = |names, shape| ConvBn::new(builder, names, shape, Init::TorchDefault);
        Ok(Self {
            reduce: conv(("conv1", "bn1"), ConvShape::dense(inputs, inner, 1, 1).grouped(groups))?,
            shuffle: shuffled(inner, groups),
            filter: conv(("conv2", "bn2"), ConvShape::depthwise(inner, 3, stride))?,
            restore: conv(("conv3", "bn3"), ConvShape::dense(inner, outputs, 1, 1).grouped(GROUPS))?,
            halves,
        })
    }
}

impl Block for Unit {
    fn forward(&self, x: &Value, mode: Mode) -> Result<Value> {
        let y = pick_channels(&self.reduce.forward(x, mode, None, Relu)?, &self.shuffle)?;
        let y = self.filter.forward(&y, mode, None, Relu)?;
        if !self.halves {
            return self.restore.forward(&y, mode, Some(x), Relu);
        }
        let y = self.restore.forward(&y, mode, None, Identity)?;
        Ok(relu(&side_by_side(&y, &mean_3x3(x)?)?)?)
    }
}

/// Means over 3x3 pixels at stride 2; pixels beyond the edge count as zeros (PyTorch's `count_include_pad`).
fn mean_3x3(x: &Value) -> Result<Value> {
    let channels = x.dims()[1];
    let ninth = Tensor::full(1f32 / 9.0, (channels, 3, 3, 1), x.tensor().device())?;
    let weight = Value::constant(ninth.permute((0, 3, 1, 2))?);
    let config = Conv2dConfig { groups: channels, ..Conv2dConfig::new(2, 1) };
    Ok(conv2d(x, &weight, config, Epilogue::default())?)
}
