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

use ckd_kernels::linear::Activation::Relu;

use super::BackboneConfig;
use super::plan::{Kernel, Plan, Stage};
use crate::Result;

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

/// The trunk of a MobileNetV1: channels times the width multiplier, rounded down to at least 8 (the paper's alpha).
pub(super) fn mobilenet_v1(config: &BackboneConfig) -> Result<Plan> {
    let width = |channels: usize| ((channels as f64 * config.width_multiplier) as usize).max(8);
    let mut plan = Plan::default();
    let mut stage = plan.stage();
    let names = |index: usize, at: usize| (format!("{index}.{at}"), format!("{index}.{}", at + 1));
    let first = Kernel::new(width(config.backbone.stem_channels()), 3, 2);
    let mut x = stage.conv_norm(Stage::INPUT, names(0, 0), first, None, Relu);
    for (index, (outputs, stride)) in (1..).zip(BLOCKS) {
        let filter = Kernel::depthwise(stage.channels(x), 3, stride);
        x = stage.conv_norm(x, names(index, 0), filter, None, Relu);
        x = stage.conv_norm(x, names(index, 3), Kernel::new(width(outputs), 1, 1), None, Relu);
        if STAGE_ENDS[1..].contains(&index) {
            stage.map();
        }
        if STAGE_ENDS[..4].contains(&index) {
            stage = plan.stage();
            x = Stage::INPUT;
        }
    }
    Ok(plan)
}
