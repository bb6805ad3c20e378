//! AdamW, in place (Loshchilov and Hutter 2019, arXiv 1711.05101; PyTorch's `torch.optim.AdamW`).

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::dispatch::{self, Host};
use crate::in_place::{in_memory_order, lend, refuse_shared, same_shape};
use crate::memory::CHUNK;
use crate::simd::for_each_level;
use crate::{Error, Result};

/// One AdamW update of one parameter.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Fraction of the first moment (the mean gradient) that is kept, below 1.
    pub beta1: f64,
    /// Fraction of the second moment (the mean squared gradient) that is kept, below 1.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay: the parameter shrinks by `lr` times this, whatever its gradient is.
    pub weight_decay: f64,
    /// The gradient is multiplied by this first (clipping, averaging over accumulated batches).
    pub gradient_scale: f64,
    /// Number of this update, from 1 on: moments of few gradients are corrected for having started at 0.
    pub step: u64,
}

impl AdamWStep {
    /// The update of a parameter and its moments by one gradient, not applied yet.
    ///
    /// m = β₁ m + (1 − β₁) g; v = β₂ v + (1 − β₂) g²;
    /// p = (1 − lr · decay) p − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + eps).
    ///
    /// # Shapes
    /// Four tensors of one shape; `param` and both moments are written in place and share one memory order.
    ///
    /// # Errors
    /// If `step` is 0, shapes differ, a tensor lies in no known order, or one that is written shares its
    /// memory.
    pub fn of(
        &self,
        param: &Tensor,
        first_moment: &Tensor,
        second_moment: &Tensor,
        gradient: &Tensor,
    ) -> Result<AdamWUpdate> {
        same_shape("adamw", &[param, first_moment, second_moment, gradient])?;
        refuse_shared("adamw", &[param, first_moment, second_moment], &[gradient])?;
        if self.step == 0 {
            return Err(Error::invalid("adamw", "updates are counted from 1 on"));
        }
        Ok(AdamWUpdate {
            factors: self.factors(),
            param: in_memory_order(param)?,
            moments: [in_memory_order(first_moment)?, in_memory_order(second_moment)?],
            gradient: in_memory_order(gradient)?.to_device(param.device())?.contiguous()?,
        })
    }

    fn factors(&self) -> Factors {
        let corrected = |beta: f64| 1.0 - beta.powf(self.step as f64);
        Factors {
            scale: self.gradient_scale as f32,
            kept: (1.0 - self.lr * self.weight_decay) as f32,
            first: (1.0 - self.beta1) as f32,
            second_kept: self.beta2 as f32,
            second: (1.0 - self.beta2) as f32,
            rate: (self.lr / corrected(self.beta1)) as f32,
            root: corrected(self.beta2).sqrt() as f32,
            eps: self.eps as f32,
        }
    }
}

/// Update of a parameter by [`AdamWStep::of`], tensors in the order of their memory.
#[derive(Debug)]
pub struct AdamWUpdate {
    factors: Factors,
    param: Tensor,
    moments: [Tensor; 2],
    gradient: Tensor,
}

/// Applies updates of different parameters, in one launch on a GPU.
///
/// # Errors
/// If a tensor is not f32, lies in no known order, or parameters lie on several devices.
pub fn apply(updates: &[AdamWUpdate]) -> Result<()> {
    match updates.first() {
        Some(first) => dispatch::run(&first.param, Updates(updates)),
        None => Ok(()),
    }
}

struct Updates<'a>(&'a [AdamWUpdate]);

impl Host for Updates<'_> {
    type Output = ();

    fn on_host(self) -> Result<()> {
        self.0.iter().try_for_each(|AdamWUpdate { factors, param, moments: [first, second], gradient }| {
            lend("adamw", [param, first, second], [gradient], |[param, first, second], [gradient]| {
                let moments = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
                let chunks = param.par_chunks_mut(CHUNK).zip(moments).zip(gradient.par_chunks(CHUNK));
                chunks.for_each(|((param, (first, second)), gradient)| {
                    update(factors, param, first, second, gradient);
                });
            })
        })
    }
}

/// The numbers of an update that all elements share: computed in f64, rounded once.
#[derive(Debug, Clone, Copy)]
struct Factors {
    scale: f32,
    kept: f32,
    first: f32,
    second_kept: f32,
    second: f32,
    rate: f32,
    root: f32,
    eps: f32,
}

for_each_level! {
    fn update(factors: &Factors, param: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32]) {
        let &Factors { scale, kept, first: share, second_kept, second: second_share, .. } = factors;
        let &Factors { rate, root, eps, .. } = factors;
        let moments = first.iter_mut().zip(second);
        for ((param, (first, second)), gradient) in param.iter_mut().zip(moments).zip(gradient) {
            let gradient = gradient * scale;
            *first += share * (gradient - *first);
            *second = second_kept * *second + second_share * gradient * gradient;
            *param = kept * *param - rate * (*first / (second.sqrt() / root + eps));
        }
    }
}
