//! MobileNetV3-Large (Howard et al. 2019, arXiv 1905.02244), as torchvision's
//! `mobilenet_v3_large().features`.
//!
//! An inverted residual as in MobileNetV2, with a depthwise convolution of 3x3 or 5x5, squeeze-and-excitation
//! before the projection in some blocks, and hard swish instead of ReLU in the later ones.
//!
//! | stage | layers | ends with | stride | channels |
//! |---|---|---|---:|---:|
//! | stem | `features.0` to `features.1` | | 2 | 16 |
//! | 1 | `features.2` to `features.3` | C2 | 4 | 24 |
//! | 2 | `features.4` to `features.6` | C3 | 8 | 40 |
//! | 3 | `features.7` to `features.12` | C4 | 16 | 112 |
//! | 4 | `features.13` to `features.16` | C5 | 32 | 960 |
//!
//! The pyramid of torchvision's Faster R-CNNs with this trunk is over `features.13` (160 channels) and
//! `features.16`, both of stride 32; RetinaNet, FCOS and classifiers take C2 to C5. Stages are bounded as by
//! torchvision's `_mobilenet_extractor`, so `freeze_at` = n is its `trainable_layers` = 6 - n (and 5 is its 0).
//!
//! Batch norms have PyTorch's epsilon and momentum in a detector, and 0.001 and 0.01 in the classifier, as
//! there: a detector that begins with a classifier's weights has its own epsilon all the same. Parameters are
//! named as in that module and so without `features.`: `0.0.weight`, `4.block.2.fc1.weight`.

use ckd_kernels::linear::Activation::{Identity, Relu};

use super::BackboneConfig;
use super::mobilenet_v2::in_eights;
use super::plan::{Kernel, Node, Plan, Stage};
use crate::Result;

/// The last layer of the stem and of the first three stages.
const STAGE_ENDS: [usize; 4] = [1, 3, 6, 12];

/// The first input of Faster R-CNN's pyramid.
const PYRAMID_FROM: usize = 13;

/// Channels of the last layer over those of its input.
const LAST: usize = 6;

/// A row of the paper's table 1.
struct Row {
    kernel: usize,
    expanded: usize,
    outputs: usize,
    /// Whether it has squeeze-and-excitation.
    squeezes: bool,
    /// Whether a hard swish follows, instead of a ReLU.
    hard: bool,
    stride: usize,
}

const fn row(
    (kernel, expanded, outputs): (usize, usize, usize),
    squeezes: bool,
    hard: bool,
    stride: usize,
) -> Row {
    Row { kernel, expanded, outputs, squeezes, hard, stride }
}

const ROWS: [Row; 15] = [
    row((3, 16, 16), false, false, 1),
    row((3, 64, 24), false, false, 2),
    row((3, 72, 24), false, false, 1),
    row((5, 72, 40), true, false, 2),
    row((5, 120, 40), true, false, 1),
    row((5, 120, 40), true, false, 1),
    row((3, 240, 80), false, true, 2),
    row((3, 200, 80), false, true, 1),
    row((3, 184, 80), false, true, 1),
    row((3, 184, 80), false, true, 1),
    row((3, 480, 112), true, true, 1),
    row((3, 672, 112), true, true, 1),
    row((5, 672, 160), true, true, 2),
    row((5, 960, 160), true, true, 1),
    row((5, 960, 160), true, true, 1),
];

/// The trunk of a MobileNetV3-Large: channels times the width multiplier, rounded to multiples of 8.
pub(super) fn mobilenet_v3_large(config: &BackboneConfig) -> Result<Plan> {
    let width = |channels: usize| in_eights(channels as f64 * config.width_multiplier);
    let mut plan = Plan::default();
    let mut stage = plan.stage();
    let mut pyramid = Vec::new();
    let first = Kernel::new(width(config.backbone.stem_channels()), 3, 2);
    let mut x = activated(stage, Stage::INPUT, "0", first, true);
    for (index, row) in (1..).zip(&ROWS) {
        x = inverted_residual(stage, x, &format!("{index}.block"), row, width);
        if index == PYRAMID_FROM {
            pyramid.push(x);
        }
        if STAGE_ENDS.contains(&index) {
            if index != STAGE_ENDS[0] {
                stage.map();
            }
            stage = plan.stage();
            x = Stage::INPUT;
        }
    }
    let last = Kernel::new(LAST * stage.channels(x), 1, 1);
    pyramid.push(activated(stage, x, "16", last, true));
    stage.map();
    let stage = plan.stages.len() - 1;
    plan.pyramid = pyramid.into_iter().map(|input| (stage, input)).collect();
    Ok(plan)
}

fn inverted_residual(
    stage: &mut Stage,
    input: Node,
    name: &str,
    row: &Row,
    width: impl Fn(usize) -> usize,
) -> Node {
    let (inputs, expanded, outputs) = (stage.channels(input), width(row.expanded), width(row.outputs));
    let mut parts = (0..).map(|part| format!("{name}.{part}"));
    let mut next = || parts.next().unwrap_or_default();
    let mut x = input;
    if expanded != inputs {
        x = activated(stage, x, &next(), Kernel::new(expanded, 1, 1), row.hard);
    }
    x = activated(stage, x, &next(), Kernel::depthwise(expanded, row.kernel, row.stride), row.hard);
    if row.squeezes {
        x = stage.squeeze_excitation(x, next(), in_eights((expanded / 4) as f64));
    }
    let residual = (row.stride == 1 && inputs == outputs).then_some(input);
    stage.conv_norm(x, names(&next()), Kernel::new(outputs, 1, 1), residual, Identity)
}

/// A convolution with its norm and a ReLU or, if `hard`, a hard swish.
fn activated(stage: &mut Stage, x: Node, name: &str, kernel: Kernel, hard: bool) -> Node {
    let activation = if hard { Identity } else { Relu };
    let y = stage.conv_norm(x, names(name), kernel, None, activation);
    if hard { stage.hard_swish(y) } else { y }
}

/// Names of the convolution and of the norm in the layer `name`.
fn names(name: &str) -> (String, String) {
    (format!("{name}.0"), format!("{name}.1"))
}
