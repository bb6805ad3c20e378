//! ShuffleNetV2 (Ma et al. 2018, arXiv 1807.11164) of width 1 for CIFAR, as in RepDistiller.
//!
//! A unit transforms half of its channels, puts them beside the other half and shuffles; the first of a stage
//! transforms its input twice, at stride 2. `stage1` to `stage3` are at strides 2, 4 and 8.

use std::sync::Arc;

use ckd_kernels::Value;
use ckd_kernels::linear::Activation::{Identity, Relu};

use super::channels::{pick, shuffled, side_by_side};
use super::layers::{ConvBn, ConvShape};
use super::{Behind, Network, Tail, taps};
use crate::init::Init;
use crate::nn::{Linear, Mode};
use crate::param::{Builder, ParamStore};
use crate::taps::Taps;
use crate::{Error, Result};

const STEM: usize = 24;
/// Channels of each stage and units after its first.
const STAGES: [(usize, usize); 3] = [(116, 3), (232, 7), (464, 3)];
/// Channels before the linear layer.
const LAST: usize = 1024;

/// ShuffleNetV2.
#[derive(Debug)]
pub struct ShuffleNetV2 {
    stem: ConvBn,
    tail: ShuffleNetV2Tail,
    params: ParamStore,
}

/// The stages behind a map, the last convolution and the linear layer.
#[derive(Debug)]
pub(super) struct ShuffleNetV2Tail {
    stages: Vec<(Down, Vec<Unit>)>,
    last: ConvBn,
    linear: Linear,
}

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

impl ShuffleNetV2 {
    /// Builds the network: `conv1.weight`, `layer1.0.conv1.weight` to `linear.bias`.
    ///
    /// # Errors
    /// If there are no classes.
    pub fn new(builder: Builder, classes: usize) -> Result<Self> {
        Error::unless_positive("classifier", &[("classes", classes)])?;
        let init = Init::TorchDefault;
        let stem = ConvBn::new(&builder, ("conv1", "bn1"), ConvShape::dense(3, STEM, 1, 1), init)?;
        let tail = ShuffleNetV2Tail::new(&builder, classes, Behind::STEM)?;
        Ok(Self { stem, tail, params: builder.finish() })
    }
}

impl ShuffleNetV2Tail {
    pub(super) fn new(builder: &Builder, classes: usize, behind: Behind) -> Result<Self> {
        let init = Init::TorchDefault;
        let mut inputs = match behind.stage {
            0 => STEM,
            stage => STAGES[stage - 1].0,
        };
        let mut stages = Vec::new();
        for (stage, (outputs, units)) in (1..).zip(STAGES).skip(behind.stage) {
            let within = builder.within(format!("layer{stage}"));
            let down = Down::new(&within.within(0), inputs, outputs)?;
            let units = (1..behind.blocks(units + 1)).map(|unit| Unit::new(&within.within(unit), outputs));
            stages.push((down, units.collect::<Result<_>>()?));
            inputs = outputs;
        }
        let last = ConvBn::new(builder, ("conv2", "bn2"), ConvShape::dense(inputs, LAST, 1, 1), init)?;
        let linear = Linear::new(&builder.within("linear"), LAST, classes)?;
        Ok(Self { stages, last, linear })
    }
}

impl Network for ShuffleNetV2 {
    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn head(&self) -> &Linear {
        self.tail.head()
    }

    fn forward(&self, x: &Value, mode: Mode) -> Result<Taps> {
        self.tail.forward(&self.stem.forward(x, mode, None, Relu)?, mode)
    }
}

impl Tail for ShuffleNetV2Tail {
    fn head(&self) -> &Linear {
        &self.linear
    }

    fn forward(&self, x: &Value, mode: Mode) -> Result<Taps> {
        let mut x = x.clone();
        let mut maps = Vec::with_capacity(3);
        for (down, units) in &self.stages {
            x = down.forward(&x, mode)?;
            for unit in units {
                x = unit.forward(&x, mode)?;
            }
            maps.push(x.clone());
        }
        taps(maps, &self.last.forward(&x, mode, None, Relu)?, &self.linear)
    }
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

    fn forward(&self, x: &Value, mode: Mode) -> Result<Value> {
        let left = self.left[0].forward(x, mode, None, Identity)?;
        let left = self.left[1].forward(&left, mode, None, Relu)?;
        let right = in_turn(&self.right, x, mode)?;
        pick(&side_by_side(&left, &right)?, &self.shuffle)
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

    fn forward(&self, x: &Value, mode: Mode) -> Result<Value> {
        let changed = in_turn(&self.convs, &pick(x, &self.changed)?, mode)?;
        pick(&side_by_side(&pick(x, &self.kept)?, &changed)?, &self.shuffle)
    }
}

/// 1x1, ReLU, depthwise 3x3, 1x1, ReLU.
fn in_turn([first, filter, last]: &[ConvBn; 3], x: &Value, mode: Mode) -> Result<Value> {
    let y = first.forward(x, mode, None, Relu)?;
    let y = filter.forward(&y, mode, None, Identity)?;
    last.forward(&y, mode, None, Relu)
}
