//! Stochastic gradient descent with momentum, in place (PyTorch's `torch.optim.SGD`).

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Tensor};
use rayon::prelude::*;

use crate::elementwise::{CHUNK, contiguous, contiguous_mut, share_memory};
use crate::reduce::dot;
use crate::simd::for_each_level;
use crate::{Error, Result};

/// One update of one parameter.
#[derive(Debug, Clone, Copy)]
pub struct SgdStep {
    /// Learning rate.
    pub lr: f64,
    /// Fraction of the velocity that is kept.
    pub momentum: f64,
    /// Whether the gradient is taken ahead, at the velocity's end.
    pub nesterov: bool,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
    /// The gradient is multiplied by this first (clipping, averaging over accumulated batches).
    pub gradient_scale: f64,
}

impl SgdStep {
    /// v = momentum v + g + weight_decay p; p = p − lr v (nesterov: p − lr (g + weight_decay p + momentum v)).
    ///
    /// # Shapes
    /// Three tensors of one shape; `param` and `velocity` are written in place and share one memory order.
    pub fn apply(&self, param: &Tensor, velocity: &Tensor, gradient: &Tensor) -> Result<()> {
        if param.dims() != velocity.dims() || param.dims() != gradient.dims() {
            let reason = format!("shapes {:?}, {:?}, {:?}", param.dims(), velocity.dims(), gradient.dims());
            return Err(Error::invalid("sgd", reason));
        }
        if share_memory(velocity, param) || share_memory(velocity, gradient) {
            return Err(Error::invalid(
                "sgd",
                "the velocity shares its memory with the parameter or the gradient",
            ));
        }
        let gradient = in_memory_order(gradient)?.to_device(param.device())?.contiguous()?;
        let (param, velocity) = (in_memory_order(param)?, in_memory_order(velocity)?);
        param.inplace_op2(&gradient, &Update { step: *self, velocity: &velocity })?;
        Ok(())
    }
}

/// The sum of squares, in f64 and in a fixed order.
pub fn squared_norm(tensor: &Tensor) -> Result<f64> {
    let host = crate::memory::on_host(&in_memory_order(tensor)?)?;
    let values = crate::memory::elements(&host)?;
    let sums: Vec<f64> = values.par_chunks(CHUNK).map(|chunk| dot(chunk, chunk)).collect();
    Ok(sums.into_iter().sum())
}

/// Convolution weights are channels-last in memory.
fn in_memory_order(tensor: &Tensor) -> Result<Tensor> {
    Ok(if tensor.rank() == 4 { tensor.permute((0, 2, 3, 1))? } else { tensor.clone() })
}

/// Candle lends one tensor at a time for writing: the update runs where the parameter is lent, and borrows the
/// velocity there.
struct Update<'a> {
    step: SgdStep,
    velocity: &'a Tensor,
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn cpu_fwd(
        &self,
        param: &mut CpuStorage,
        param_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> candle_core::Result<()> {
        let param = Mutex::new(contiguous_mut(param, param_layout)?);
        let gradient = contiguous(gradient, gradient_layout)?;
        self.velocity.inplace_op1(&WithVelocity { step: self.step, param, gradient })
    }
}

struct WithVelocity<'a> {
    step: SgdStep,
    /// Behind a lock, as an operation sees itself shared.
    param: Mutex<&'a mut [f32]>,
    gradient: &'a [f32],
}

impl InplaceOp1 for WithVelocity<'_> {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn cpu_fwd(&self, velocity: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let velocity = contiguous_mut(velocity, layout)?;
        let mut param = self.param.lock().unwrap_or_else(PoisonError::into_inner);
        let chunks = param.par_chunks_mut(CHUNK).zip(velocity.par_chunks_mut(CHUNK));
        chunks.zip(self.gradient.par_chunks(CHUNK)).for_each(|((param, velocity), gradient)| {
            update(&self.step, param, velocity, gradient);
        });
        Ok(())
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
