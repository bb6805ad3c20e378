//! Image classifiers: a trunk, the mean over its last map, and a linear layer.
//!
//! | file | what lives there |
//! |---|---|
//! | `cifar_resnet` | [`CifarResNet`]: the ResNets for 32x32 pixels, with parameter-free shortcuts |
//! | `resnet` | [`ResNetClassifier`]: the ResNets for ImageNet |
//!
//! A forward pass offers the stages' maps, the pooled vector and the logits as [`Taps`].

mod cifar_resnet;
mod resnet;

pub use cifar_resnet::{CifarResNet, CifarResNetConfig};
pub use resnet::{ResNetClassifier, ResNetClassifierConfig};

use ckd_kernels::Value;
use ckd_kernels::linear::Activation;
use ckd_kernels::pool::global_avg_pool;

use crate::Result;
use crate::nn::Linear;
use crate::taps::{Tap, Taps};

/// What every classifier offers: its stages' maps, the mean over the last of them, and the logits.
fn taps(stages: Vec<Value>, classify: &Linear) -> Result<Taps> {
    let embedding = global_avg_pool(stages.last().expect("a trunk has stages"))?;
    let logits = classify.forward(&embedding, Activation::Identity)?;
    let maps = (1..).map(Tap::Backbone).zip(stages);
    Ok(maps.chain([(Tap::Embedding, embedding), (Tap::Logits, logits)]).collect())
}
