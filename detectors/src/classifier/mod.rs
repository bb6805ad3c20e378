//! Image classifiers: a trunk, the mean over its last map, and a linear layer.
//!
//! | file | what lives there |
//! |---|---|
//! | `architecture` | [`Architecture`]: every network by its name |
//! | `cifar_resnet`, `cifar_bottleneck` | the ResNets for 32x32 pixels |
//! | `wide_resnet`, `vgg`, `cifar_mobilenet`, `shufflenet_v1`, `shufflenet_v2` | the other networks for 32x32 pixels |
//! | `imagenet` | the networks for ImageNet: those whose trunks detectors have |
//! | [`Tail`] | the last stages of a network, or a branch of it |
//! | `stages` | [`Staged`]: a stem, blocks in stages, a linear layer; most of them are that |
//! | `layers`, `channels` | what they are made of, beyond [`nn`](crate::nn) |
//! | `loss` | the cross-entropy with smoothed labels |
//!
//! A forward pass offers the stages' maps, the pooled vector and the logits as [`Taps`]. The networks for 32x32 pixels
//! have the structure and the parameter names of RepDistiller's, whose weights most distillation papers start from.

mod architecture;
mod channels;
mod cifar_bottleneck;
mod cifar_mobilenet;
mod cifar_resnet;
mod imagenet;
mod layers;
mod loss;
mod shufflenet_v1;
mod shufflenet_v2;
mod stages;
mod vgg;
mod wide_resnet;

pub use architecture::Architecture;
pub use cifar_bottleneck::{CifarBottleneckConfig, cifar_bottleneck};
pub use cifar_mobilenet::cifar_mobilenet_v2;
pub use cifar_resnet::{CifarResNetConfig, ShortcutOption, cifar_resnet};
pub use imagenet::{TrunkClassifier, TrunkClassifierConfig};
pub use loss::smoothed_cross_entropy;
pub use shufflenet_v1::shufflenet_v1;
pub use shufflenet_v2::shufflenet_v2;
pub use stages::Staged;
pub use vgg::{Vgg, VggConfig};
pub use wide_resnet::{WideResNetConfig, wide_resnet};

use std::collections::BTreeMap;
use std::fmt::Debug;

use candle_core::{DType, Tensor};
use ckd_kernels::Value;
use ckd_kernels::elementwise::in_f32;
use ckd_kernels::graph::untracked;
use ckd_kernels::linear::Activation;
use ckd_kernels::pool::global_avg_pool;

use crate::Result;
use crate::images::{Images, Normalization};
use crate::nn::{Linear, Mode};
use crate::param::{Builder, ParamStore};
use crate::taps::{Tap, Taps};

/// A network that names a whole image.
pub trait Network: Debug {
    /// All parameters.
    fn params(&self) -> &ParamStore;

    /// The linear layer from the embedding to the logits.
    fn head(&self) -> &Linear;

    /// The taps `stage1`, `stage2`, ..., `embedding` and `logits`.
    ///
    /// # Shapes
    /// (N, 3, H, W), normalised and of any size, to maps (N, C, H', W'), `embedding` (N, D) and `logits` (N, classes).
    fn forward(&self, x: &Value, mode: Mode) -> Result<Taps>;

    /// Runs the network at inference, with the pre-activations `stage1_before_relu`, .. among the taps where the network has them: ResNets and wide
    /// ResNets for 32x32 pixels.
    ///
    /// # Shapes
    /// As [`forward`](Self::forward).
    fn with_preactivations(&self, x: &Value) -> Result<Taps> {
        self.forward(x, Mode::Inference)
    }
}

/// The last stages of a network and its linear layer, on a map of the stage before them: the end of a network, or a
/// branch of it with weights of its own.
pub trait Tail: Debug {
    /// The linear layer from the embedding to the logits.
    fn head(&self) -> &Linear;

    /// The taps of its stages, counted from 1, `embedding` and `logits`.
    ///
    /// # Shapes
    /// (N, C, H, W) to maps (N, C', H', W'), `embedding` (N, D) and `logits` (N, classes).
    fn forward(&self, x: &Value, mode: Mode) -> Result<Taps>;
}

/// Start of a [`Tail`], and its depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// The stage whose map it sees; 0: the stem's.
    pub stage: usize,
    /// Blocks of each of its stages; `None`: as many as the network's.
    pub blocks: Option<usize>,
}

impl Behind {
    /// A whole network but for its stem.
    pub const STEM: Self = Self { stage: 0, blocks: None };

    fn blocks(self, published: usize) -> usize {
        self.blocks.unwrap_or(published)
    }
}

/// Configuration of a classifier.
#[derive(Debug, Clone, Copy)]
pub struct ClassifierConfig {
    /// The network.
    pub architecture: Architecture,
    /// Number of classes.
    pub classes: usize,
    /// Normalisation of its images.
    pub normalization: Normalization,
}

/// A classifier from images to taps.
#[derive(Debug)]
pub struct Classifier {
    network: Box<dyn Network>,
    normalization: Normalization,
}

impl Classifier {
    /// Builds the network.
    ///
    /// # Errors
    /// If there are no classes.
    pub fn new(builder: Builder, config: &ClassifierConfig) -> Result<Self> {
        let network = config.architecture.build(builder, config.classes)?;
        Ok(Self { network, normalization: config.normalization })
    }

    /// All parameters.
    pub fn params(&self) -> &ParamStore {
        self.network.params()
    }

    /// Normalises the images, runs the trunk outside of any graph in `trunk` mode, and the linear layer inside: what a
    /// linear probe trains.
    pub fn forward_probing(&self, images: &Images, trunk: Mode) -> Result<Taps> {
        let mut taps = untracked(|| self.forward(images, trunk))?;
        let embedding = taps.require(Tap::Embedding).expect("a classifier has an embedding").clone();
        taps.insert(Tap::Logits, self.network.head().forward(&embedding, Activation::Identity)?);
        Ok(taps)
    }

    /// Prefix of the linear layer's parameter names: their shapes depend on the classes.
    pub fn head_prefix(&self) -> &str {
        self.network.head().prefix()
    }

    /// Normalises the images and runs the network: `stage1`, `stage2`, ..., `embedding` and `logits`.
    pub fn forward(&self, images: &Images, mode: Mode) -> Result<Taps> {
        self.network.forward(&images.normalized(&self.normalization)?, mode)
    }

    /// Normalises the images and runs the network at inference: the taps of [`forward`](Self::forward) and, where the network
    /// has them, the pre-activations `stage1_before_relu`, ...
    pub fn with_preactivations(&self, images: &Images) -> Result<Taps> {
        self.network.with_preactivations(&images.normalized(&self.normalization)?)
    }

    /// The shapes of all taps for one image of `size` (height, width), pre-activations among them: what a method's own layers
    /// are made to fit.
    pub fn tap_shapes(&self, (height, width): (usize, usize)) -> Result<BTreeMap<Tap, Vec<usize>>> {
        let device = self.params().iter().next().map(|(_, param)| param.value.tensor().device().clone());
        let blank =
            Tensor::zeros((1, 3, height, width), DType::F32, &device.unwrap_or(candle_core::Device::Cpu))?;
        let taps = untracked(|| self.network.with_preactivations(&Value::constant(blank)))?;
        Ok(taps.iter().map(|(tap, value)| (tap, value.dims().to_vec())).collect())
    }
}

/// Taps of a classifier: its stages' maps, the mean over `last`, and the logits.
fn taps(stages: Vec<Value>, last: &Value, classify: &Linear) -> Result<Taps> {
    taps_of(stages, global_avg_pool(last)?, classify)
}

/// Taps of a classifier with this embedding.
fn taps_of(stages: Vec<Value>, embedding: Value, classify: &Linear) -> Result<Taps> {
    let embedding = in_f32(&embedding)?;
    let logits = classify.forward(&embedding, Activation::Identity)?;
    let maps = (1..).map(Tap::Backbone).zip(stages);
    Ok(maps.chain([(Tap::Embedding, embedding), (Tap::Logits, logits)]).collect())
}
