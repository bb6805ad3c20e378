//! Stochastic gradient descent with momentum, in place (PyTorch's `torch.optim.SGD`).

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::Result;
use crate::dispatch::{self, Host};
use crate::in_place::{in_memory_order, lend, same_shape};
use crate::memory::CHUNK;
use crate::memory::{elements, on_host};
use crate::reduce::dot;
use crate::simd::for_each_level;

/// One SGD update of one parameter.
#[derive(Debug, Clone, Copy)]
pub struct SgdStep {
    /// Learning rate.
    pub lr: f64,
    /// Fraction of the velocity that is kept.
    pub momentum: f64,
    /// Nesterov momentum: the gradient is taken ahead, at the velocity's end.
    pub nesterov: bool,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
    /// The gradient is multiplied by this first (clipping, averaging over accumulated batches).
    pub gradient_scale: f64,
}

impl SgdStep {
    /// Moves a parameter and its velocity by one gradient.
    ///
    /// v = momentum v + g + weight_decay p; p = p − lr v (nesterov: p − lr (g + weight_decay p + momentum
    /// v)).
    ///
    /// # Shapes
    /// Three tensors of one shape; `param` and `velocity` are written in place and share one memory order.
    ///
    /// # Errors
    /// If shapes differ, a tensor is not f32 or lies in no known order, or one that is written shares its
    /// memory.
    pub fn apply(&self, param: &Tensor, velocity: &Tensor, gradient: &Tensor) -> Result<()> {
        same_shape("sgd", &[param, velocity, gradient])?;
        let gradient = in_memory_order(gradient)?.to_device(param.device())?.contiguous()?;
        let (param, velocity) = (in_memory_order(param)?, in_memory_order(velocity)?);
        dispatch::run(&param, Update { step: *self, param: &param, velocity: &velocity, gradient: &gradient })
    }
}

/// Squared L2 norm, summed in f64 in a fixed order.
///
/// # Shapes
/// Any.
///
/// # Errors
/// If `tensor` is not f32.
pub fn squared_norm(tensor: &Tensor) -> Result<f64> {
    dispatch::run(tensor, SquaredNorm(&in_memory_order(tensor)?))
}

struct SquaredNorm<'a>(&'a Tensor);

impl Host for SquaredNorm<'_> {
    type Output = f64;

    fn on_host(self) -> Result<f64> {
        let host = on_host(self.0)?;
        let values = elements(&host)?;
        let sums: Vec<f64> = values.par_chunks(CHUNK).map(|chunk| dot(chunk, chunk)).collect();
        Ok(sums.into_iter().sum())
    }
}

struct Update<'a> {
    step: SgdStep,
    param: &'a Tensor,
    velocity: &'a Tensor,
    gradient: &'a Tensor,
}

impl Host for Update<'_> {
    type Output = ();

    fn on_host(self) -> Result<()> {
        let Self { step, param, velocity, gradient } = self;
        lend("sgd", [param, velocity], [gradient], |[param, velocity], [gradient]| {
            let chunks = param.par_chunks_mut(CHUNK).zip(velocity.par_chunks_mut(CHUNK));
            chunks.zip(gradient.par_chunks(CHUNK)).for_each(|((param, velocity), gradient)| {
                update(&step, param, velocity, gradient);
            });
        })
    }
}

for_each_level! {
    fn update(step: &SgdStep, param: &mut [f32], velocity: &mut [f32], gradient: &[f32]) {
        let &SgdStep { lr, momentum, nesterov, weight_decay, gradient_scale } = step;
        let (lr, momentum) = (lr as f32, momentum as f32);
        let (decay, scale) = (weight_decay as f32, gradient_scale as f32);
        for ((param, velocity), gradient) in param.iter_mut().zip(velocity).zip(gradient) {
            let gradient = gradient * scale + decay * *param;
            *velocity = momentum * *velocity + gradient;
            let direction = if nesterov { gradient + momentum * *velocity } else { *velocity };
            *param -= lr * direction;
        }
    }
}
