//! VGG for CIFAR (Simonyan and Zisserman 2015, arXiv 1409.1556) with batch norms and one linear layer, as in
//! RepDistiller.
//!
//! Five blocks, a max pooling after each of the first three. The map of the first block is the stem's, which no tap
//! offers; `stage1` to `stage4` are the others, at strides 2, 4, 8 and 8. Images of 64 pixels are pooled once more
//! before the last block, as there.

use ckd_kernels::Value;
use ckd_kernels::linear::Activation::Relu;
use ckd_kernels::pool::max_pool2d;

use super::layers::{ConvBn, ConvShape};
use super::{Network, taps};
use crate::init::Init;
use crate::nn::{Linear, Mode};
use crate::param::{Builder, ParamStore};
use crate::taps::Taps;
use crate::{Error, Result};

/// Configuration of a VGG: convolutions in each of the five blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VggConfig {
    /// Number of convolutions in each block.
    pub convolutions: [usize; 5],
    /// Number of classes.
    pub classes: usize,
}

impl VggConfig {
    /// VGG-8.
    pub const VGG8: [usize; 5] = [1, 1, 1, 1, 1];
    /// VGG-11.
    pub const VGG11: [usize; 5] = [1, 1, 2, 2, 2];
    /// VGG-13.
    pub const VGG13: [usize; 5] = [2, 2, 2, 2, 2];
    /// VGG-16.
    pub const VGG16: [usize; 5] = [2, 2, 3, 3, 3];
    /// VGG-19.
    pub const VGG19: [usize; 5] = [2, 2, 4, 4, 4];
}

const WIDTHS: [usize; 5] = [64, 128, 256, 512, 512];

/// A VGG.
#[derive(Debug)]
pub struct Vgg {
    blocks: Vec<Vec<ConvBn>>,
    classifier: Linear,
    params: ParamStore,
}

impl Vgg {
    /// Builds the network: `block0.0.weight`, `block0.0.bias`, `block0.1.*` (norm) to `classifier.bias`.
    ///
    /// # Errors
    /// If a block has no convolution, or there are no classes.
    pub fn new(builder: Builder, config: VggConfig) -> Result<Self> {
        let VggConfig { convolutions, classes } = config;
        let fewest = convolutions.iter().copied().min().unwrap_or(0);
        Error::unless_positive("classifier", &[("convolutions", fewest), ("classes", classes)])?;
        let mut inputs = 3;
        let mut blocks = Vec::new();
        for (index, (count, outputs)) in convolutions.into_iter().zip(WIDTHS).enumerate() {
            let within = builder.within(format!("block{index}"));
            let mut block = Vec::new();
            for place in 0..count {
                // Convolution, norm, ReLU: three places each.
                let names = [3 * place, 3 * place + 1].map(|place| place.to_string());
                let shape = ConvShape::dense(inputs, outputs, 3, 1);
                let conv = ConvBn::new(&within, (&names[0], &names[1]), shape, Init::KaimingNormalFanOut)?;
                block.push(conv.with_bias(&within, &names[0])?);
                inputs = outputs;
            }
            blocks.push(block);
        }
        let (weight, bias) = (Init::Normal(0.01), Init::Constant(0.0));
        let classifier = Linear::with_init(&builder.within("classifier"), (inputs, classes), weight, bias)?;
        Ok(Self { blocks, classifier, params: builder.finish() })
    }
}

impl Network for Vgg {
    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn head(&self) -> &Linear {
        &self.classifier
    }

    fn forward(&self, x: &Value, mode: Mode) -> Result<Taps> {
        let height = x.tensor().dims4()?.2;
        let pools = if height == 64 { 4 } else { 3 };
        let mut x = x.clone();
        let mut maps = Vec::with_capacity(4);
        for (index, block) in self.blocks.iter().enumerate() {
            for conv in block {
                x = conv.forward(&x, mode, None, Relu)?;
            }
            if index > 0 {
                maps.push(x.clone());
            }
            if index < pools {
                x = max_pool2d(&x, 2, 2, 0)?;
            }
        }
        taps(maps, &x, &self.classifier)
    }
}
