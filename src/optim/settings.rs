//! The section `[optim]`.

use ckd_settings::{Check, choices, section};

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

    /// The factor that clips a gradient of this `norm`, as `torch.nn.utils.clip_grad_norm_` has it.
    pub fn clip_factor(&self, norm: f64) -> f64 {
        self.clip_grad_norm.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_shortens_a_long_gradient_and_leaves_a_short_one() {
        let clipped = Optim { clip_grad_norm: Some(0.5), ..Optim::new(0.1) };
        assert!((clipped.clip_factor(4.0) - 0.125).abs() < 1e-6);
        assert_eq!(clipped.clip_factor(0.25), 1.0);
        assert_eq!(Optim::new(0.1).clip_factor(1e9), 1.0);
    }
}
