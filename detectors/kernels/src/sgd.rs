//! Stochastic gradient descent with momentum, in place (PyTorch's `torch.optim.SGD`).

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::Result;
use crate::dispatch::{self, Host};
use crate::in_place::{in_memory_order, lend, refuse_shared, same_shape};
use crate::memory::CHUNK;
use crate::memory::{elements, on_host};
use crate::reduce::dot;
use crate::simd::for_each_level;
use crate::stored::stored_as;

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
    /// The update of a parameter and its velocity by one gradient, not applied yet.
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
    pub fn of(&self, param: &Tensor, velocity: &Tensor, gradient: &Tensor) -> Result<SgdUpdate> {
        same_shape("sgd", &[param, velocity, gradient])?;
        refuse_shared("sgd", &[param, velocity], &[gradient])?;
        let gradient = in_memory_order(gradient)?.to_device(param.device())?.contiguous()?;
        Ok(SgdUpdate {
            step: *self,
            param: in_memory_order(param)?,
            velocity: in_memory_order(velocity)?,
            gradient,
        })
    }
}

/// Update of a parameter by [`SgdStep::of`], tensors in the order of their memory.
#[derive(Debug)]
pub struct SgdUpdate {
    step: SgdStep,
    param: Tensor,
    velocity: Tensor,
    gradient: Tensor,
}

/// Applies updates of different parameters, in one launch on a GPU.
///
/// # Errors
/// If a tensor is not f32, lies in no known order, or parameters lie on several devices.
pub fn apply(updates: &[SgdUpdate]) -> Result<()> {
    match updates.first() {
        Some(first) => dispatch::run(&first.param, Updates(updates)),
        None => Ok(()),
    }
}

struct Updates<'a>(&'a [SgdUpdate]);

impl Host for Updates<'_> {
    type Output = ();

    fn on_host(self) -> Result<()> {
        self.0.iter().try_for_each(|SgdUpdate { step, param, velocity, gradient }| {
            lend("sgd", [param, velocity], [gradient], |[param, velocity], [gradient]| {
                let chunks = param.par_chunks_mut(CHUNK).zip(velocity.par_chunks_mut(CHUNK));
                chunks.zip(gradient.par_chunks(CHUNK)).for_each(|((param, velocity), gradient)| {
                    update(step, param, velocity, gradient);
                });
            })
        })
    }
}

/// Squared L2 norm of all `tensors` together, summed in f64 in a fixed order.
///
/// # Shapes
/// Any.
///
/// # Errors
/// If a tensor is neither f32 nor bf16, or they lie on several devices.
pub fn squared_norm(tensors: &[&Tensor]) -> Result<f64> {
    let Some(&first) = tensors.first() else { return Ok(0.0) };
    let in_order = tensors.iter().map(|tensor| stored_as(&in_memory_order(tensor)?, DType::F32));
    let in_order = in_order.collect::<Result<Vec<_>>>()?;
    dispatch::run(first, SquaredNorm(&in_order))
}

struct SquaredNorm<'a>(&'a [Tensor]);

impl Host for SquaredNorm<'_> {
    type Output = f64;

    fn on_host(self) -> Result<f64> {
        let mut sum = 0.0;
        for tensor in self.0 {
            let host = on_host(tensor)?;
            let values = elements(&host)?;
            let sums: Vec<f64> = values.par_chunks(CHUNK).map(|chunk| dot(chunk, chunk)).collect();
            sum += sums.into_iter().sum::<f64>();
        }
        Ok(sum)
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
