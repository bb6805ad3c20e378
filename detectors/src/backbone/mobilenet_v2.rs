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

use ckd_kernels::linear::Activation::{Identity, Relu6};

use super::BackboneConfig;
use super::plan::{Kernel, Node, Plan, Stage};
use crate::Result;

/// The last layer of the stem and of each stage.
const STAGE_ENDS: [usize; 5] = [1, 3, 6, 13, 18];

/// Channels of the last layer.
const LAST: usize = 1280;

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

/// The trunk of a MobileNetV2: channels times the width multiplier, rounded to multiples of 8. Multipliers below 1 leave
/// the 1280 channels of the last layer as they are.
pub(super) fn mobilenet_v2(config: &BackboneConfig) -> Result<Plan> {
    let multiplier = config.width_multiplier;
    let width = |channels: usize| in_eights(channels as f64 * multiplier);
    let mut plan = Plan::default();
    let mut stage = plan.stage();
    let first = Kernel::new(width(config.backbone.stem_channels()), 3, 2);
    let mut x = stage.conv_norm(Stage::INPUT, ("0.0", "0.1"), first, None, Relu6);
    let mut index = 0;
    for (expansion, outputs, count, first_stride) in ROWS {
        for number in 0..count {
            index += 1;
            let stride = if number == 0 { first_stride } else { 1 };
            x = inverted_residual(stage, x, &format!("{index}.conv"), (expansion, width(outputs), stride));
            if STAGE_ENDS.contains(&index) {
                if index != STAGE_ENDS[0] {
                    stage.map();
                }
                stage = plan.stage();
                x = Stage::INPUT;
            }
        }
    }
    let last = Kernel::new(in_eights(LAST as f64 * multiplier.max(1.0)), 1, 1);
    stage.conv_norm(x, ("18.0", "18.1"), last, None, Relu6);
    stage.map();
    Ok(plan)
}

fn inverted_residual(
    stage: &mut Stage,
    x: Node,
    name: &str,
    (expansion, outputs, stride): (usize, usize, usize),
) -> Node {
    let inputs = stage.channels(x);
    let nested = |at: usize| (format!("{name}.{at}.0"), format!("{name}.{at}.1"));
    let (mut wide, mut at) = (x, 0);
    if expansion != 1 {
        wide = stage.conv_norm(x, nested(0), Kernel::new(inputs * expansion, 1, 1), None, Relu6);
        at = 1;
    }
    let filter = Kernel::depthwise(inputs * expansion, 3, stride);
    let filtered = stage.conv_norm(wide, nested(at), filter, None, Relu6);
    let names = (format!("{name}.{}", at + 1), format!("{name}.{}", at + 2));
    let residual = (stride == 1 && inputs == outputs).then_some(x);
    stage.conv_norm(filtered, names, Kernel::new(outputs, 1, 1), residual, Identity)
}

/// The multiple of 8 nearest to `channels`, at least 8, and never below nine tenths of it.
pub(crate) fn in_eights(channels: f64) -> usize {
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
