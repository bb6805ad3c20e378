//! MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) of half width for CIFAR, as in RepDistiller.
//!
//! Not the ImageNet network made small: its ReLUs are not clipped, its first block widens too (by 1), and its
//! channels are halved without rounding to multiples of 8. Taps: `stage1` to `stage4` are the maps after rows 2, 3, 5
//! and 7 of the paper's table, at strides 4, 8, 16 and 32 counted from the halved image: 8, 4, 4, 2 and 2 of 32 pixels.

use ckd_kernels::Value;
use ckd_kernels::linear::Activation::{Identity, Relu};

use super::layers::{ConvBn, ConvShape};
use super::stages::{Block, Stage, Staged, Stages};
use crate::init::Init;
use crate::nn::{Linear, Mode};
use crate::param::Builder;
use crate::{Error, Result};

/// Rows of equal blocks: expansion, channels at full width, number of blocks, stride of the first.
const ROWS: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];
/// The rows whose maps are taps.
const TAPPED: [usize; 4] = [1, 2, 4, 6];
/// Channels before the linear layer, whatever the width.
const LAST: usize = 1280;

#[derive(Debug)]
struct InvertedResidual {
    expand: ConvBn,
    filter: ConvBn,
    project: ConvBn,
    adds_input: bool,
}

/// The half-width MobileNetV2: `conv1.0.weight`, `blocks.0.0.conv.0.weight` to `classifier.0.bias`.
///
/// # Errors
/// If there are no classes.
pub fn cifar_mobilenet_v2(builder: Builder, classes: usize) -> Result<Staged> {
    Error::unless_positive("classifier", &[("classes", classes)])?;
    let init = Init::KaimingNormalFanOut;
    let mut inputs = 16;
    let stem = ConvBn::new(&builder.within("conv1"), ("0", "1"), ConvShape::dense(3, inputs, 3, 2), init)?;
    let mut stages = vec![Stage::new()];
    for (row, (expansion, channels, count, stride)) in ROWS.into_iter().enumerate() {
        let outputs = channels / 2;
        let within = builder.within("blocks").within(row);
        if row > 0 && TAPPED.contains(&(row - 1)) {
            stages.push(Stage::new());
        }
        let stage = stages.last_mut().expect("there is a first stage");
        for block in 0..count {
            let stride = if block == 0 { stride } else { 1 };
            let within = within.within(block).within("conv");
            stage.push(Box::new(InvertedResidual::new(&within, expansion, inputs, outputs, stride)?));
            inputs = outputs;
        }
    }
    let last = ConvShape::dense(inputs, LAST, 1, 1);
    let last = ConvBn::new(&builder.within("conv2"), ("0", "1"), last, init)?;
    let (weight, bias) = (Init::Normal(0.01), Init::Constant(0.0));
    let within = builder.within("classifier").within(0);
    let linear = Linear::with_init(&within, (LAST, classes), weight, bias)?;
    Ok(Staged::new(builder, stem, Stages { stages, last: Some(Box::new(last)), linear }))
}

impl InvertedResidual {
    fn new(
        builder: &Builder,
        expansion: usize,
        inputs: usize,
        outputs: usize,
        stride: usize,
    ) -> Result<Self> {
        let init = Init::KaimingNormalFanOut;
        let inner = inputs * expansion;
        Ok(Self {
            expand: ConvBn::new(builder, ("0", "1"), ConvShape::dense(inputs, inner, 1, 1), init)?,
            filter: ConvBn::new(builder, ("3", "4"), ConvShape::depthwise(inner, 3, stride), init)?,
            project: ConvBn::new(builder, ("6", "7"), ConvShape::dense(inner, outputs, 1, 1), init)?,
            adds_input: stride == 1 && inputs == outputs,
        })
    }
}

impl Block for InvertedResidual {
    fn forward(&self, x: &Value, mode: Mode) -> Result<Value> {
        let y = self.expand.forward(x, mode, None, Relu)?;
        let y = self.filter.forward(&y, mode, None, Relu)?;
        self.project.forward(&y, mode, self.adds_input.then_some(x), Identity)
    }
}
