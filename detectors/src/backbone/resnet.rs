//! ResNet (He et al. 2016, arXiv 1512.03385) and ResNeXt (Xie et al. 2017, arXiv 1611.05431), as in torchvision: a
//! bottleneck's stride is in its 3x3, unless it is asked for in the first 1x1, where the paper and Detectron2's published
//! weights have it.
//!
//! | stage | layers | stride | channels, times 4 with bottlenecks |
//! |---|---|---:|---:|
//! | stem | `conv1`, max pooling | 4 | 64, alone |
//! | 1 to 4 | `layer1` to `layer4`: C2 to C5 | 4 to 32 | 64 to 512 |

use ckd_kernels::linear::Activation::{Identity, Relu};

use super::plan::{Kernel, Node, Plan, Stage};
use super::{BackboneConfig, StrideIn};
use crate::{Error, Result};

/// Blocks of a residual network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocks {
    /// Two 3x3 convolutions each; as many in each stage.
    Basic([usize; 4]),
    /// 1x1, 3x3, 1x1 each.
    Bottleneck([usize; 4]),
    /// Bottlenecks with a grouped 3x3 (ResNeXt).
    Grouped {
        /// Blocks of each stage.
        counts: [usize; 4],
        /// Groups of the 3x3.
        groups: usize,
        /// Channels of a group in the first stage of the published network.
        group_width: usize,
    },
}

impl Blocks {
    /// Output channels of a block over the stage's width.
    fn expansion(self) -> usize {
        match self {
            Self::Basic(_) => 1,
            Self::Bottleneck(_) | Self::Grouped { .. } => 4,
        }
    }

    /// Blocks of each stage.
    fn counts(self) -> [usize; 4] {
        match self {
            Self::Basic(counts) | Self::Bottleneck(counts) | Self::Grouped { counts, .. } => counts,
        }
    }

    /// Channels and groups of the 3x3 of a bottleneck in a stage of this width.
    fn middle(self, width: usize) -> (usize, usize) {
        match self {
            Self::Basic(_) | Self::Bottleneck(_) => (width, 1),
            // The group's width grows with the stage's, 64 being the published first one.
            Self::Grouped { groups, group_width, .. } => ((width * group_width / 64).max(1) * groups, groups),
        }
    }
}

/// The trunk of a ResNet.
///
/// # Errors
/// If the width is nothing.
pub(super) fn resnet(config: &BackboneConfig, blocks: Blocks) -> Result<Plan> {
    let width = (config.width_multiplier * config.backbone.stem_channels() as f64).round() as usize;
    Error::unless_positive("backbone", &[("width", width)])?;
    let mut plan = Plan::default();
    let stem = plan.stage();
    let x = stem.conv_norm(Stage::INPUT, ("conv1", "bn1"), Kernel::new(width, 7, 2), None, Relu);
    stem.max_pool(x);
    for (index, published) in blocks.counts().into_iter().enumerate() {
        let stage = plan.stage();
        for block in 0..config.blocks.unwrap_or(published) {
            let stride = if index > 0 && block == 0 { 2 } else { 1 };
            let name = format!("layer{}.{block}", index + 1);
            residual_block(stage, &name, blocks, width << index, stride, config.stride_in);
        }
        stage.map();
    }
    Ok(plan)
}

/// Convolutions on the latest result, which is added to theirs, convolved itself where its shape is another.
fn residual_block(
    stage: &mut Stage,
    name: &str,
    blocks: Blocks,
    width: usize,
    stride: usize,
    stride_in: StrideIn,
) -> Node {
    let (input, outputs) = (stage.last(), width * blocks.expansion());
    let (first, middle) = match stride_in {
        StrideIn::Middle => (1, stride),
        StrideIn::First => (stride, 1),
    };
    let kernels = match blocks {
        Blocks::Basic(_) => vec![Kernel::new(width, 3, stride), Kernel::new(width, 3, 1)],
        Blocks::Bottleneck(_) | Blocks::Grouped { .. } => {
            let (inner, groups) = blocks.middle(width);
            let filter = Kernel { groups, ..Kernel::new(inner, 3, middle) };
            vec![Kernel::new(inner, 1, first), filter, Kernel::new(outputs, 1, 1)]
        }
    };
    let mut shortcut = input;
    if stride != 1 || stage.channels(input) != outputs {
        let names = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
        shortcut = stage.conv_norm(input, names, Kernel::new(outputs, 1, stride), None, Identity);
    }
    let mut x = input;
    let last = kernels.len();
    for (i, kernel) in (1..).zip(kernels) {
        let names = (format!("{name}.conv{i}"), format!("{name}.bn{i}"));
        x = stage.conv_norm(x, names, kernel, (i == last).then_some(shortcut), Relu);
    }
    x
}
