//! MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381), as torchvision's `mobilenet_v2().features`.
//!
//! An inverted residual widens its input with a 1x1 convolution (not where the expansion is 1), filters each
//! channel on its own with a 3x3, and projects back to few channels with a 1x1 that no activation follows; the
//! input is added where stride and width allow it. A ReLU6 follows all other convolutions.
//!
//! The four maps of a pyramid are the last ones before each halving of the resolution:
//!
//! | stage | layers | ends with | stride | channels |
//! |---|---|---|---:|---:|
//! | stem | `features.0` to `features.1` | | 2 | 16 |
//! | 1 | `features.2` to `features.3` | C2 | 4 | 24 |
//! | 2 | `features.4` to `features.6` | C3 | 8 | 32 |
//! | 3 | `features.7` to `features.13` | C4 | 16 | 96 |
//! | 4 | `features.14` to `features.18` | C5 | 32 | 1280 |
//!
//! Stages are bounded as by torchvision's `mobilenet_backbone`, so `freeze_at` = n is its `trainable_layers` = 6 - n
//! (and 5 is its 0). Its own pyramid takes two maps by default, and taps a stage at its first layer
//! (`features.2`, `features.4`, ...) instead of its last; in torchvision this trunk with its pyramid is
//! `BackboneWithFPN(features, {"3": "0", "6": "1", "13": "2", "18": "3"}, [24, 32, 96, 1280], 256)`.
//!
//! Parameters are named as in that module and so without `features.`: `0.0.weight`, `1.conv.0.0.weight`.

use ckd_kernels::Value;
use ckd_kernels::linear::Activation::{Identity, Relu6};

use crate::nn::{ConvNorm, Mode, NormKind};
use crate::param::Builder;
use crate::{Error, Result};

/// Which MobileNetV2.
#[derive(Debug, Clone, Copy)]
pub struct MobileNetV2Config {
    /// Factor of all channels, which are then rounded to multiples of 8; the published network has 1. Values below
    /// 1 leave the 1280 channels of the last layer as they are.
    pub width_multiplier: f64,
    /// Normalisation.
    pub norm: NormKind,
    /// Stages that training leaves alone, from the stem up: 0 none, 1 the stem, 2 the stem and stage 1, ... 5 all.
    pub freeze_at: usize,
}

/// The last layer of the stem and of each stage.
const STAGE_ENDS: [usize; 5] = [1, 3, 6, 13, 18];

/// Channels of the first layer and of the last.
const ENDS: (usize, usize) = (32, 1280);

/// Rows of equal blocks: expansion, channels, number of blocks, stride of the first (paper, table 2).
const ROWS: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

/// The trunk of a MobileNetV2.
#[derive(Debug)]
pub struct MobileNetV2 {
    first: ConvNorm,
    blocks: Vec<InvertedResidual>,
    last: ConvNorm,
    channels: [usize; 4],
    frozen: usize,
}

#[derive(Debug)]
struct InvertedResidual {
    expand: Option<ConvNorm>,
    filter: ConvNorm,
    project: ConvNorm,
    adds_input: bool,
}

impl MobileNetV2 {
    /// Channels of the first layer of the published network.
    pub const STEM_CHANNELS: usize = ENDS.0;

    /// Builds the trunk in `builder`'s layer, with the names of torchvision's `features`.
    ///
    /// # Errors
    /// If the width multiplier is not a positive number, or more stages are frozen than there are.
    pub fn new(builder: &Builder, config: MobileNetV2Config) -> Result<Self> {
        let MobileNetV2Config { width_multiplier, norm, freeze_at } = config;
        if !(width_multiplier > 0.0 && width_multiplier.is_finite()) {
            let reason = format!("a width multiplier of {width_multiplier}, which must be above 0");
            return Err(Error::Invalid { part: "backbone", reason });
        }
        if freeze_at > STAGE_ENDS.len() {
            let stages = STAGE_ENDS.len();
            let reason = format!("freeze_at is {freeze_at}, but there are {stages} stages with the stem");
            return Err(Error::Invalid { part: "backbone", reason });
        }
        let width = |channels: usize| in_eights(channels as f64 * width_multiplier);
        let layer = |index: usize| {
            let within = builder.within(index);
            if stage_of(index) < freeze_at { within.frozen() } else { within }
        };
        let mut inputs = width(ENDS.0);
        let first = ConvNorm::new(&layer(0), ("0", "1"), (3, inputs, 3, 2), norm)?;
        let mut blocks = Vec::with_capacity(17);
        let mut ends = Vec::with_capacity(4);
        for (expansion, outputs, count, first_stride) in ROWS {
            let outputs = width(outputs);
            for number in 0..count {
                let stride = if number == 0 { first_stride } else { 1 };
                let index = blocks.len() + 1;
                let shape = (inputs, outputs, stride);
                blocks.push(InvertedResidual::new(&layer(index).within("conv"), expansion, shape, norm)?);
                inputs = outputs;
                if STAGE_ENDS[1..].contains(&index) {
                    ends.push(outputs);
                }
            }
        }
        let outputs = in_eights(ENDS.1 as f64 * width_multiplier.max(1.0));
        let last = ConvNorm::new(&layer(blocks.len() + 1), ("0", "1"), (inputs, outputs, 1, 1), norm)?;
        let channels = [ends[0], ends[1], ends[2], outputs];
        Ok(Self { first, blocks, last, channels, frozen: freeze_at })
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
        let mut maps = Vec::with_capacity(4);
        self.each_layer(x, mode, |index, map| {
            if STAGE_ENDS[1..].contains(&index) {
                maps.push(map.clone());
            }
        })?;
        Ok(maps)
    }

    /// Runs the layers in turn and shows what each gives: `see(i, map)` for `features.i`.
    pub fn each_layer(&self, x: &Value, mode: Mode, mut see: impl FnMut(usize, &Value)) -> Result<()> {
        let mode_of = |index: usize| if stage_of(index) < self.frozen { Mode::Inference } else { mode };
        let mut x = self.first.forward(x, mode_of(0), None, Relu6)?;
        see(0, &x);
        for (index, block) in (1..).zip(&self.blocks) {
            x = block.forward(&x, mode_of(index))?;
            see(index, &x);
        }
        let index = self.blocks.len() + 1;
        see(index, &self.last.forward(&x, mode_of(index), None, Relu6)?);
        Ok(())
    }
}

/// The stage of a layer, 0 being the stem.
fn stage_of(index: usize) -> usize {
    STAGE_ENDS.partition_point(|end| *end < index)
}

impl InvertedResidual {
    fn new(
        builder: &Builder,
        expansion: usize,
        (inputs, outputs, stride): (usize, usize, usize),
        norm: NormKind,
    ) -> Result<Self> {
        let inner = inputs * expansion;
        let expand = (expansion != 1)
            .then(|| ConvNorm::new(&builder.within(0), ("0", "1"), (inputs, inner, 1, 1), norm))
            .transpose()?;
        let at = usize::from(expand.is_some());
        let filter = ConvNorm::depthwise(&builder.within(at), ("0", "1"), (inner, 3, stride), norm)?;
        let names = [at + 1, at + 2].map(|index| index.to_string());
        let project = ConvNorm::new(builder, (&names[0], &names[1]), (inner, outputs, 1, 1), norm)?;
        Ok(Self { expand, filter, project, adds_input: stride == 1 && inputs == outputs })
    }

    fn forward(&self, x: &Value, mode: Mode) -> Result<Value> {
        let filter = |wide: &Value| self.filter.forward(wide, mode, None, Relu6);
        let filtered = match &self.expand {
            Some(expand) => filter(&expand.forward(x, mode, None, Relu6)?)?,
            None => filter(x)?,
        };
        self.project.forward(&filtered, mode, self.adds_input.then_some(x), Identity)
    }
}

/// The multiple of 8 nearest to `channels`, at least 8, and never below nine tenths of it.
fn in_eights(channels: f64) -> usize {
    let nearest = ((channels + 4.0) / 8.0).floor().max(1.0) * 8.0;
    let enough = if nearest < 0.9 * channels { nearest + 8.0 } else { nearest };
    enough as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_come_in_eights_as_in_torchvision() {
        let at =
            |multiplier: f64| [32, 16, 24, 32, 64, 96, 160].map(|c| in_eights(f64::from(c) * multiplier));
        assert_eq!(at(1.0), [32, 16, 24, 32, 64, 96, 160]);
        assert_eq!(at(1.4), [48, 24, 32, 48, 88, 136, 224]);
        assert_eq!(at(0.35), [16, 8, 8, 16, 24, 32, 56]);
        assert_eq!(at(0.001), [8; 7]);
    }
}
