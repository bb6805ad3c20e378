//! The optimiser and the learning rate: from gradients to new weights.
//!
//! | module | what lives there |
//! |---|---|
//! | [`groups`] | parameter groups: learning-rate factor and weight decay of each parameter |
//! | [`sgd`], [`adamw`] | the kinds of optimiser |
//! | [`ema`] | the exponential moving average of the weights |
//! | [`schedule`] | the learning rate over time |

pub mod adamw;
pub mod ema;
pub mod groups;
pub mod schedule;
pub mod sgd;

use std::sync::Arc;

use candle_core::Tensor;
use ckd_kernels::sgd::squared_norm;
use ckd_kernels::{Gradients, Result};
use ckd_settings::{Check, choices, section};

pub use adamw::AdamW;
pub use ema::Ema;
pub use groups::Parameter;
pub use schedule::{LearningRate, Length, Schedule, ScheduleKind};
pub use sgd::Sgd;

choices! {
    /// The kinds of optimiser.
    pub enum OptimKind {
        /// Stochastic gradient descent with momentum, as PyTorch's `SGD`.
        Sgd = "sgd",
        /// Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019), as PyTorch's `AdamW`.
        AdamW = "adamw",
    }
}

section! {
    /// The optimiser, as PyTorch's `SGD` or `AdamW`.
    pub struct Optim {
        /// The kind of optimiser.
        pub kind: OptimKind = OptimKind::Sgd,
        /// Learning rate after warm-up, for a whole (accumulated) batch.
        pub lr: f64,
        /// The learning rate of the backbone over that of all other parameters. A detector's backbone is its
        /// `backbone.body`, a classifier's all but its last layer.
        pub backbone_lr_factor: f64 = 1.0,
        /// sgd: momentum.
        pub momentum: f64 = 0.9,
        /// sgd: Nesterov momentum.
        pub nesterov: bool = false,
        /// adamw: the fractions of the running means of the gradient and of its square that an update keeps.
        pub betas: Vec<f64> = vec![0.9, 0.999],
        /// adamw: what is added to the root of the mean square.
        pub eps: f64 = 1e-8,
        /// Weight decay of convolutions and linear layers.
        pub weight_decay: f64 = 1e-4,
        /// Weight decay of normalisation layers. Default: `weight_decay`.
        pub weight_decay_norm: Option<f64>,
        /// Weight decay of biases. Default: `weight_decay`.
        pub weight_decay_bias: Option<f64>,
        /// Gradients whose norm over all parameters is larger are scaled down to it.
        pub clip_grad_norm: Option<f64>,
    }
}

impl Optim {
    fn check(&self, check: &mut Check<'_>) {
        check.positive("lr", self.lr);
        check.positive("backbone_lr_factor", self.backbone_lr_factor);
        let is_share = |share: &f64| (0.0..1.0).contains(share);
        check.that(
            is_share(&self.momentum),
            "momentum",
            format!("is {}", self.momentum),
            "give a number from 0 to below 1",
        );
        check.that(
            !self.nesterov || self.momentum > 0.0,
            "nesterov",
            "needs momentum, which is 0",
            "raise momentum, or set nesterov = false",
        );
        check.that(
            self.betas.len() == 2 && self.betas.iter().all(is_share),
            "betas",
            format!("is {:?}", self.betas),
            "give two numbers from 0 to below 1",
        );
        check.positive("eps", self.eps);
        check.not_negative("weight_decay", self.weight_decay);
        check.not_negative("weight_decay_norm", self.norm_decay());
        check.not_negative("weight_decay_bias", self.bias_decay());
        if let Some(norm) = self.clip_grad_norm {
            check.positive("clip_grad_norm", norm);
        }
    }

    /// Weight decay of normalisation layers.
    pub fn norm_decay(&self) -> f64 {
        self.weight_decay_norm.unwrap_or(self.weight_decay)
    }

    /// Weight decay of biases.
    pub fn bias_decay(&self) -> f64 {
        self.weight_decay_bias.unwrap_or(self.weight_decay)
    }

    /// The optimiser at rest over `parameters`.
    ///
    /// # Errors
    /// If the device has no room for its state.
    pub fn over(&self, parameters: Vec<Parameter>) -> Result<Box<dyn Optimizer>> {
        Ok(match self.kind {
            OptimKind::Sgd => Box::new(Sgd::new(parameters, self)?),
            OptimKind::AdamW => Box::new(AdamW::new(parameters, self)?),
        })
    }

    /// The factor that clips a gradient of this `norm`, as `torch.nn.utils.clip_grad_norm_` has it.
    pub fn clip_factor(&self, norm: f64) -> f64 {
        self.clip_grad_norm.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0))
    }
}

/// A rule by which gradients change parameters, with its state.
pub trait Optimizer: std::fmt::Debug {
    /// The parameters, in the order of their names.
    fn parameters(&self) -> &[Parameter];

    /// One update with `scale` times `gradients`, at learning rate `lr` times each parameter's own factor. A parameter
    /// without a gradient stays as it is, and so does its state.
    ///
    /// # Errors
    /// If a gradient does not have its parameter's shape.
    fn step(&mut self, gradients: &Gradients, lr: f64, scale: f64) -> Result<()>;

    /// The tensors of the state. A checkpoint holds each as `SLOT/NAME` and restores it in place.
    fn slots(&self) -> Vec<Slot<'_>>;
}

/// A tensor of an optimiser's state.
#[derive(Debug, Clone, Copy)]
pub struct Slot<'a> {
    /// Its purpose: `velocity`, for example.
    pub slot: &'static str,
    /// The parameter that it belongs to.
    pub name: &'a Arc<str>,
    /// Its values.
    pub tensor: &'a Tensor,
}

/// The norm of `gradients`, over all `parameters` in order, times `scale`.
///
/// # Errors
/// If a gradient cannot be read.
pub fn gradient_norm(parameters: &[Parameter], gradients: &Gradients, scale: f64) -> Result<f64> {
    let mut sum = 0.0;
    for gradient in parameters.iter().filter_map(|parameter| gradients.get(&parameter.name)) {
        sum += squared_norm(gradient)?;
    }
    Ok(sum.sqrt() * scale)
}

/// Zeros of `param`'s shape, with convolution weights channels-last as `param` has them.
fn zeros_in_memory_order(param: &Tensor) -> Result<Tensor> {
    Ok(match param.rank() {
        4 => param.permute((0, 2, 3, 1))?.zeros_like()?.permute((0, 3, 1, 2))?,
        _ => param.zeros_like()?,
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn clipping_shortens_a_long_gradient_and_leaves_a_short_one() {
        let clipped = Optim { clip_grad_norm: Some(0.5), ..Optim::new(0.1) };
        assert!((clipped.clip_factor(4.0) - 0.125).abs() < 1e-6);
        assert_eq!(clipped.clip_factor(0.25), 1.0);
        assert_eq!(Optim::new(0.1).clip_factor(1e9), 1.0);
    }

    #[test]
    fn the_norm_is_over_all_parameters_that_have_a_gradient() {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let parameter = |name: &str| Parameter {
            name: name.into(),
            tensor: tensor(&[0.0, 0.0]),
            lr_factor: 1.0,
            weight_decay: 0.0,
        };
        let gradients =
            Gradients::from([("a".into(), tensor(&[3.0, 0.0])), ("other".into(), tensor(&[9.0]))]);
        assert_eq!(gradient_norm(&[parameter("a"), parameter("b")], &gradients, 0.5).unwrap(), 1.5);
    }
}
