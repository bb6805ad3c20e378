//! ResNet (He et al. 2016, arXiv 1512.03385), as in torchvision: a bottleneck's stride is in its 3x3, unless it is
//! asked for in the first 1x1, where the paper and Detectron2's published weights have it.

use std::str::FromStr;
use std::sync::Arc;

use ckd_kernels::Value;
use ckd_kernels::graph::recomputed;
use ckd_kernels::linear::Activation::{Identity, Relu};
use ckd_kernels::pool::max_pool2d;

use crate::nn::{ConvNorm, Mode, NormKind};
use crate::param::Builder;
use crate::{Error, Result};

/// The depths that are published with weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResNetDepth {
    /// Basic blocks 2, 2, 2, 2.
    ResNet18,
    /// Basic blocks 3, 4, 6, 3.
    ResNet34,
    /// Bottlenecks 3, 4, 6, 3.
    ResNet50,
    /// Bottlenecks 3, 4, 23, 3.
    ResNet101,
}

impl ResNetDepth {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ResNet18, Self::ResNet34, Self::ResNet50, Self::ResNet101];

    /// torchvision's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ResNet18 => "resnet18",
            Self::ResNet34 => "resnet34",
            Self::ResNet50 => "resnet50",
            Self::ResNet101 => "resnet101",
        }
    }

    fn blocks(self) -> [usize; 4] {
        match self {
            Self::ResNet18 => [2, 2, 2, 2],
            Self::ResNet34 | Self::ResNet50 => [3, 4, 6, 3],
            Self::ResNet101 => [3, 4, 23, 3],
        }
    }

    /// Output channels of a block over its inner width.
    fn expansion(self) -> usize {
        match self {
            Self::ResNet18 | Self::ResNet34 => 1,
            Self::ResNet50 | Self::ResNet101 => 4,
        }
    }
}

impl FromStr for ResNetDepth {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|depth| depth.name() == name).ok_or_else(|| Error::Invalid {
            part: "backbone",
            reason: format!("{name:?} is none of resnet18, resnet34, resnet50, resnet101"),
        })
    }
}

/// Which convolution of a bottleneck halves the resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StrideIn {
    /// The 3x3 in the middle: torchvision.
    Middle,
    /// The first 1x1: the paper, Detectron2's `STRIDE_IN_1X1`.
    First,
}

/// Which ResNet.
#[derive(Debug, Clone, Copy)]
pub struct ResNetConfig {
    /// Number and kind of blocks.
    pub depth: ResNetDepth,
    /// Channels of the stem; the standard networks have 64.
    pub width: usize,
    /// Normalisation.
    pub norm: NormKind,
    /// Which convolution of a bottleneck halves the resolution; blocks of two 3x3 do it in the first.
    pub stride_in: StrideIn,
    /// Stages that training leaves alone, from the stem up: 0 none, 1 the stem, 2 the stem and layer1, ... 5 all.
    pub freeze_at: usize,
    /// Which of layer1 to layer4 keep no activations: the walk back computes them again (Chen et al. 2016,
    /// arXiv 1604.06174).
    pub recompute: [bool; 4],
}

impl ResNetConfig {
    /// Channels of the maps after layer1 to layer4.
    pub fn channels(&self) -> [usize; 4] {
        std::array::from_fn(|stage| (self.width << stage) * self.depth.expansion())
    }

    /// The blocks of the stage at `index` (0: layer1).
    fn stage(&self, builder: &Builder, index: usize, blocks: usize) -> Result<Vec<Block>> {
        let within = builder.within(format!("layer{}", index + 1));
        let expansion = self.depth.expansion();
        let mut inputs = if index == 0 { self.width } else { self.channels()[index - 1] };
        let mut stage = Vec::with_capacity(blocks);
        for block in 0..blocks {
            let stride = if index > 0 && block == 0 { 2 } else { 1 };
            let shape = (inputs, self.width << index, stride);
            stage.push(Block::new(&within.within(block), expansion, shape, self.stride_in, self.norm)?);
            inputs = self.channels()[index];
        }
        Ok(stage)
    }
}

/// The last stages of a ResNet, on a map of the stage before them.
#[derive(Debug)]
pub struct ResNetStages(Vec<Vec<Block>>);

impl ResNetStages {
    /// The stages behind the first `skipped` ones, each with as many blocks as `blocks` makes of the published number.
    ///
    /// # Errors
    /// If the layers cannot be built.
    pub fn new(
        builder: &Builder,
        config: ResNetConfig,
        skipped: usize,
        blocks: impl Fn(usize) -> usize,
    ) -> Result<Self> {
        let counts = config.depth.blocks().into_iter().enumerate().skip(skipped);
        let stages = counts.map(|(index, count)| config.stage(builder, index, blocks(count)));
        stages.collect::<Result<_>>().map(Self)
    }

    /// The map after each stage.
    ///
    /// # Shapes
    /// (N, C, H, W) of the stage before to (N, C', H', W') each.
    pub fn forward(&self, x: &Value, mode: Mode) -> Result<Vec<Value>> {
        let mut maps: Vec<Value> = Vec::with_capacity(self.0.len());
        for stage in &self.0 {
            maps.push(through(stage, maps.last().unwrap_or(x), mode)?);
        }
        Ok(maps)
    }
}

/// The stem and layer1 to layer4.
const STAGES: usize = 5;

/// The trunk of a ResNet.
#[derive(Debug)]
pub struct ResNet {
    stem: ConvNorm,
    stages: Vec<Arc<Vec<Block>>>,
    channels: [usize; 4],
    frozen: usize,
    recompute: [bool; 4],
}

#[derive(Debug)]
struct Block {
    /// The convolutions in order; all but the last are followed by a ReLU.
    convs: Vec<ConvNorm>,
    downsample: Option<ConvNorm>,
}

impl ResNet {
    /// Builds the trunk in `builder`'s layer, with torchvision's names.
    ///
    /// # Errors
    /// If the width is 0, or more stages are frozen than there are.
    pub fn new(builder: &Builder, config: ResNetConfig) -> Result<Self> {
        let ResNetConfig { depth, width, norm, freeze_at, recompute, .. } = config;
        Error::unless_positive("backbone", &[("width", width)])?;
        if freeze_at > STAGES {
            let reason = format!("freeze_at is {freeze_at}, but there are {STAGES} stages with the stem");
            return Err(Error::Invalid { part: "backbone", reason });
        }
        let stage_builder = |stage: usize| if stage < freeze_at { builder.frozen() } else { builder.clone() };
        let stem = ConvNorm::new(&stage_builder(0), ("conv1", "bn1"), (3, width, 7, 2), norm)?;
        let mut stages = Vec::with_capacity(4);
        for (index, blocks) in depth.blocks().into_iter().enumerate() {
            stages.push(Arc::new(config.stage(&stage_builder(index + 1), index, blocks)?));
        }
        Ok(Self { stem, stages, channels: config.channels(), frozen: freeze_at, recompute })
    }

    /// Channels of the four maps that [`forward`](Self::forward) gives.
    pub fn channels(&self) -> [usize; 4] {
        self.channels
    }

    /// The maps after layer1 to layer4, at strides 4, 8, 16 and 32.
    ///
    /// # Shapes
    /// (N, 3, H, W) to `(N, channels()[i], H / 2^(i+2), W / 2^(i+2))`, rounded up.
    pub fn forward(&self, x: &Value, mode: Mode) -> Result<Vec<Value>> {
        let mode_of = |stage: usize| if stage < self.frozen { Mode::Inference } else { mode };
        let mut x = max_pool2d(&self.stem.forward(x, mode_of(0), None, Relu)?, 3, 2, 1)?;
        let mut maps = Vec::with_capacity(4);
        for (index, stage) in self.stages.iter().enumerate() {
            let mode = mode_of(index + 1);
            x = match self.recompute[index] {
                true => again(stage, &x, mode)?,
                false => through(stage, &x, mode)?,
            };
            maps.push(x.clone());
        }
        Ok(maps)
    }
}

fn through(stage: &[Block], x: &Value, mode: Mode) -> Result<Value> {
    let mut x = x.clone();
    for block in stage {
        x = block.forward(&x, mode)?;
    }
    Ok(x)
}

/// As [`through`], without keeping what is between.
fn again(stage: &Arc<Vec<Block>>, x: &Value, mode: Mode) -> Result<Value> {
    let weights: Vec<&Value> = stage.iter().flat_map(Block::weights).collect();
    let saved = stage.clone();
    recomputed(x, &weights, move |x: &Value| through(&saved, x, mode))
}

impl Block {
    fn weights(&self) -> impl Iterator<Item = &Value> {
        self.convs.iter().chain(&self.downsample).flat_map(ConvNorm::weights)
    }

    fn new(
        builder: &Builder,
        expansion: usize,
        (inputs, inner, stride): (usize, usize, usize),
        stride_in: StrideIn,
        norm: NormKind,
    ) -> Result<Self> {
        let outputs = inner * expansion;
        let (first, middle) = match stride_in {
            StrideIn::Middle => (1, stride),
            StrideIn::First => (stride, 1),
        };
        let shapes: &[(usize, usize, usize, usize)] = match expansion {
            1 => &[(inputs, inner, 3, stride), (inner, inner, 3, 1)],
            _ => &[(inputs, inner, 1, first), (inner, inner, 3, middle), (inner, outputs, 1, 1)],
        };
        let convs = shapes
            .iter()
            .enumerate()
            .map(|(i, &shape)| {
                let names = (format!("conv{}", i + 1), format!("bn{}", i + 1));
                ConvNorm::new(builder, (&names.0, &names.1), shape, norm)
            })
            .collect::<Result<_>>()?;
        let downsample = (stride != 1 || inputs != outputs)
            .then(|| {
                ConvNorm::new(&builder.within("downsample"), ("0", "1"), (inputs, outputs, 1, stride), norm)
            })
            .transpose()?;
        Ok(Self { convs, downsample })
    }

    fn forward(&self, x: &Value, mode: Mode) -> Result<Value> {
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward(x, mode, None, Identity)?,
            None => x.clone(),
        };
        let (last, inner) = self.convs.split_last().expect("a block has convolutions");
        let mut y = x.clone();
        for conv in inner {
            y = conv.forward(&y, mode, None, Relu)?;
        }
        last.forward(&y, mode, Some(&shortcut), Relu)
    }
}
