//! MobileNetV1 (Howard et al. 2017, arXiv 1704.04861).
//!
//! A 3x3 of stride 2, then thirteen separable convolutions: a 3x3 that filters each channel on its own and a 1x1 that
//! mixes them, each with a norm and a ReLU.
//!
//! The four maps of a pyramid are the last ones before each halving of the resolution:
//!
//! | stage | layers | ends with | stride | channels |
//! |---|---|---|---:|---:|
//! | stem | `0` to `1` | | 2 | 64 |
//! | 1 | `2` to `3` | C2 | 4 | 128 |
//! | 2 | `4` to `5` | C3 | 8 | 256 |
//! | 3 | `6` to `11` | C4 | 16 | 512 |
//! | 4 | `12` to `13` | C5 | 32 | 1024 |
//!
//! torchvision has no such network. Parameters are named as in the PyTorch port whose ImageNet weights are in common
//! use (and as in mdistiller), without its `model.`: `0.0.weight`, `0.1.weight` of the first layer, then of layer i
//! `i.0` and `i.1` for the 3x3 and its norm, `i.3` and `i.4` for the 1x1 and its norm (2 and 5 are the ReLUs).

use ckd_kernels::Value;
use ckd_kernels::linear::Activation::Relu;

use crate::nn::{ConvNorm, Mode, NormKind};
use crate::param::Builder;
use crate::{Error, Result};

/// Which MobileNetV1.
#[derive(Debug, Clone, Copy)]
pub struct MobileNetV1Config {
    /// Factor of all channels, rounded down to at least 8 (the paper's alpha); the published network has 1.
    pub width_multiplier: f64,
    /// Normalisation.
    pub norm: NormKind,
    /// Stages that training leaves alone, from the stem up: 0 none, 1 the stem, 2 the stem and stage 1, ... 5 all.
    pub freeze_at: usize,
}

/// The last layer of the stem and of each stage.
const STAGE_ENDS: [usize; 5] = [1, 3, 5, 11, 13];

/// Channels and stride of each separable convolution (paper, table 1).
const BLOCKS: [(usize, usize); 13] = [
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
];

/// The trunk of a MobileNetV1.
#[derive(Debug)]
pub struct MobileNetV1 {
    first: ConvNorm,
    blocks: Vec<Separable>,
    channels: [usize; 4],
    frozen: usize,
}

#[derive(Debug)]
struct Separable {
    filter: ConvNorm,
    mix: ConvNorm,
}

impl MobileNetV1 {
    /// Channels of the first layer of the published network.
    pub const STEM_CHANNELS: usize = 32;

    /// Builds the trunk in `builder`'s layer.
    ///
    /// # Errors
    /// If the width multiplier is not a positive number, or more stages are frozen than there are.
    pub fn new(builder: &Builder, config: MobileNetV1Config) -> Result<Self> {
        let MobileNetV1Config { width_multiplier, norm, freeze_at } = config;
        if !(width_multiplier > 0.0 && width_multiplier.is_finite()) {
            let reason = format!("a width multiplier of {width_multiplier}, which must be above 0");
            return Err(Error::Invalid { part: "backbone", reason });
        }
        if freeze_at > STAGE_ENDS.len() {
            let stages = STAGE_ENDS.len();
            let reason = format!("freeze_at is {freeze_at}, but there are {stages} stages with the stem");
            return Err(Error::Invalid { part: "backbone", reason });
        }
        let width = |channels: usize| ((channels as f64 * width_multiplier) as usize).max(8);
        let layer = |index: usize| {
            let within = builder.within(index);
            if stage_of(index) < freeze_at { within.frozen() } else { within }
        };
        let mut inputs = width(Self::STEM_CHANNELS);
        let first = ConvNorm::new(&layer(0), ("0", "1"), (3, inputs, 3, 2), norm)?;
        let mut blocks = Vec::with_capacity(BLOCKS.len());
        for (index, (outputs, stride)) in (1..).zip(BLOCKS) {
            let outputs = width(outputs);
            blocks.push(Separable::new(&layer(index), (inputs, outputs, stride), norm)?);
            inputs = outputs;
        }
        let channels = [1, 2, 3, 4].map(|stage| width(BLOCKS[STAGE_ENDS[stage] - 1].0));
        Ok(Self { first, blocks, channels, frozen: freeze_at })
    }

    /// Channels of the four maps that [`forward`](Self::forward) gives.
    pub fn channels(&self) -> [usize; 4] {
        self.channels
    }

    /// The maps C2 to C5, at strides 4, 8, 16 and 32.
    ///
    /// # Shapes
    /// (N, 3, H, W) to `(N, channels()[i], H / 2^(i+2), W / 2^(i+2))`, rounded up.
    pub fn forward(&self, x: &Value, mode: Mode) -> Result<Vec<Value>> {
        let mode_of = |index: usize| if stage_of(index) < self.frozen { Mode::Inference } else { mode };
        let mut x = self.first.forward(x, mode_of(0), None, Relu)?;
        let mut maps = Vec::with_capacity(4);
        for (index, block) in (1..).zip(&self.blocks) {
            let mode = mode_of(index);
            let filtered = block.filter.forward(&x, mode, None, Relu)?;
            x = block.mix.forward(&filtered, mode, None, Relu)?;
            if STAGE_ENDS[1..].contains(&index) {
                maps.push(x.clone());
            }
        }
        Ok(maps)
    }
}

/// The stage of a layer, 0 being the stem.
fn stage_of(index: usize) -> usize {
    STAGE_ENDS.partition_point(|end| *end < index)
}

impl Separable {
    fn new(
        builder: &Builder,
        (inputs, outputs, stride): (usize, usize, usize),
        norm: NormKind,
    ) -> Result<Self> {
        Ok(Self {
            filter: ConvNorm::depthwise(builder, ("0", "1"), (inputs, 3, stride), norm)?,
            mix: ConvNorm::new(builder, ("3", "4"), (inputs, outputs, 1, 1), norm)?,
        })
    }
}
