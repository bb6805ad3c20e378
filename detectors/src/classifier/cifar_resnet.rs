//! The ResNets for CIFAR (He et al. 2016, arXiv 1512.03385, section 4.2): 6n + 2 layers, widths 16, 32 and 64.
//!
//! Shortcuts have no parameters (option A): where a stage halves the map and doubles the channels, they take every
//! second pixel and pad with channels of zeros, half of them before and half after. The paper leaves open where the
//! zeros go; the published weights were trained so. Parameter names are those of the same weights
//! (akamaster/pytorch_resnet_cifar10, without its `module.`).

use candle_core::Tensor;
use ckd_kernels::Value;
use ckd_kernels::linear::Activation::Relu;
use ckd_kernels::memory::{channels_last, elements, from_channels_last};
use rayon::prelude::*;

use super::taps;
use crate::nn::{ConvNorm, Linear, Mode, NormKind};
use crate::param::{Builder, ParamStore};
use crate::taps::Taps;
use crate::{Error, Result};

/// Channels of the three stages.
const WIDTHS: [usize; 3] = [16, 32, 64];

/// Which CIFAR ResNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CifarResNetConfig {
    /// Layers with weights, 6n + 2: 20, 32, 44, 56, 110.
    pub depth: usize,
    /// Number of classes.
    pub classes: usize,
}

/// A ResNet for small images.
#[derive(Debug)]
pub struct CifarResNet {
    stem: ConvNorm,
    stages: Vec<Vec<Block>>,
    linear: Linear,
    params: ParamStore,
}

#[derive(Debug)]
struct Block {
    conv1: ConvNorm,
    conv2: ConvNorm,
    shortcut: Shortcut,
}

#[derive(Debug, Clone, Copy)]
enum Shortcut {
    Identity,
    /// Every second pixel, padded to this many channels.
    Halved(usize),
}

impl CifarResNet {
    /// Builds the network: `conv1.weight`, `bn1.*`, `layer1.0.conv1.weight` to `linear.bias`.
    ///
    /// # Errors
    /// If the depth is not 6n + 2 with n at least 1, or there are no classes.
    pub fn new(builder: Builder, config: CifarResNetConfig) -> Result<Self> {
        let CifarResNetConfig { depth, classes } = config;
        Error::unless_positive("classifier", &[("classes", classes)])?;
        if depth < 8 || depth % 6 != 2 {
            let reason = format!("a CIFAR ResNet has 6n + 2 layers (20, 32, 44, 56, 110), not {depth}");
            return Err(Error::Invalid { part: "classifier", reason });
        }
        let stem = ConvNorm::new(&builder, ("conv1", "bn1"), (3, WIDTHS[0], 3, 1), NormKind::Bn)?;
        let mut inputs = WIDTHS[0];
        let mut stages = Vec::with_capacity(WIDTHS.len());
        for (stage, width) in (1..).zip(WIDTHS) {
            let within = builder.within(format!("layer{stage}"));
            let mut blocks = Vec::with_capacity(depth / 6);
            for block in 0..depth / 6 {
                blocks.push(Block::new(&within.within(block), inputs, width)?);
                inputs = width;
            }
            stages.push(blocks);
        }
        let linear = Linear::new(&builder.within("linear"), inputs, classes)?;
        Ok(Self { stem, stages, linear, params: builder.finish() })
    }

    /// All parameters.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }

    /// The taps `stage1` to `stage3` (at strides 1, 2 and 4), `embedding` and `logits`.
    ///
    /// # Shapes
    /// (N, 3, H, W), of any size, to `embedding` (N, 64) and `logits` (N, classes).
    pub fn forward(&self, x: &Value, mode: Mode) -> Result<Taps> {
        let mut x = self.stem.forward(x, mode, None, Relu)?;
        let mut maps = Vec::with_capacity(self.stages.len());
        for stage in &self.stages {
            for block in stage {
                x = block.forward(&x, mode)?;
            }
            maps.push(x.clone());
        }
        taps(maps, &self.linear)
    }
}

impl Block {
    fn new(builder: &Builder, inputs: usize, outputs: usize) -> Result<Self> {
        let (stride, shortcut) =
            if inputs == outputs { (1, Shortcut::Identity) } else { (2, Shortcut::Halved(outputs)) };
        Ok(Self {
            conv1: ConvNorm::new(builder, ("conv1", "bn1"), (inputs, outputs, 3, stride), NormKind::Bn)?,
            conv2: ConvNorm::new(builder, ("conv2", "bn2"), (outputs, outputs, 3, 1), NormKind::Bn)?,
            shortcut,
        })
    }

    fn forward(&self, x: &Value, mode: Mode) -> Result<Value> {
        let y = self.conv1.forward(x, mode, None, Relu)?;
        let shortcut = match self.shortcut {
            Shortcut::Identity => x.clone(),
            Shortcut::Halved(outputs) => halved(x, outputs)?,
        };
        self.conv2.forward(&y, mode, Some(&shortcut), Relu)
    }
}

/// Every second pixel of every second row, between channels of zeros.
///
/// # Shapes
/// (N, C, H, W) to (N, `outputs`, H / 2, W / 2), rounded up; `outputs` is at least C.
fn halved(x: &Value, outputs: usize) -> Result<Value> {
    let (n, c, h, w) = x.tensor().dims4()?;
    let (oh, ow) = (h.div_ceil(2), w.div_ceil(2));
    let before = (outputs - c) / 2;
    // Where pixel i of the small map is taken from.
    let source = move |i: usize| (i / ow * 2 * w + i % ow * 2) * c;
    let (large, small) = (h * w * c, oh * ow * outputs);

    let mut out = vec![0f32; n * small];
    if !out.is_empty() {
        let input = channels_last(x.tensor())?;
        let input = elements(&input)?;
        out.par_chunks_exact_mut(small).zip(input.par_chunks_exact(large)).for_each(|(out, image)| {
            for (i, out) in out.chunks_exact_mut(outputs).enumerate() {
                out[before..before + c].copy_from_slice(&image[source(i)..][..c]);
            }
        });
    }
    let out = from_channels_last(out, (n, oh, ow, outputs), x.tensor())?;
    Ok(Value::operation(&[x], out, move |gradient: &Tensor| {
        let mut spread = vec![0f32; n * large];
        if !spread.is_empty() {
            let host = channels_last(gradient)?;
            let g = elements(&host)?;
            spread.par_chunks_exact_mut(large).zip(g.par_chunks_exact(small)).for_each(|(spread, g)| {
                for (i, g) in g.chunks_exact(outputs).enumerate() {
                    spread[source(i)..][..c].copy_from_slice(&g[before..before + c]);
                }
            });
        }
        Ok(vec![Some(from_channels_last(spread, (n, h, w, c), gradient)?)])
    }))
}
