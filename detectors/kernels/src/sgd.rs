//! Stochastic gradient descent with momentum, in place (PyTorch's `torch.optim.SGD`).

use candle_core::{CpuStorage, InplaceOp3, Layout, Tensor};
use rayon::prelude::*;

use crate::elementwise::CHUNK;
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
        let gradient = in_memory_order(gradient)?.to_device(param.device())?.contiguous()?;
        let (param, velocity) = (in_memory_order(param)?, in_memory_order(velocity)?);
        velocity.inplace_op3(&param, &gradient, &Velocity(*self))?;
        param.inplace_op3(&velocity, &gradient, &Position(*self))?;
        Ok(())
    }
}

/// The sum of squares, in f64 and in a fixed order.
pub fn squared_norm(tensor: &Tensor) -> Result<f64> {
    let host = crate::memory::on_host(&in_memory_order(tensor)?)?;
    let values = crate::memory::elements(&host)?;
    let sums: Vec<f64> = values
        .par_chunks(CHUNK)
        .map(|chunk| chunk.iter().map(|&value| f64::from(value) * f64::from(value)).sum())
        .collect();
    Ok(sums.into_iter().sum())
}

/// Convolution weights are channels-last in memory.
fn in_memory_order(tensor: &Tensor) -> Result<Tensor> {
    Ok(if tensor.rank() == 4 { tensor.permute((0, 2, 3, 1))? } else { tensor.clone() })
}

struct Velocity(SgdStep);

impl InplaceOp3 for Velocity {
    fn name(&self) -> &'static str {
        "sgd velocity"
    }

    fn cpu_fwd(
        &self,
        velocity: &mut CpuStorage,
        velocity_layout: &Layout,
        param: &CpuStorage,
        param_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> candle_core::Result<()> {
        let SgdStep { momentum, weight_decay, gradient_scale, .. } = self.0;
        let (momentum, decay, scale) = (momentum as f32, weight_decay as f32, gradient_scale as f32);
        let sources = (slice(param, param_layout)?, slice(gradient, gradient_layout)?);
        update(slice_mut(velocity, velocity_layout)?, sources, |velocity, param, gradient| {
            momentum * velocity + (gradient * scale + decay * param)
        });
        Ok(())
    }
}

struct Position(SgdStep);

impl InplaceOp3 for Position {
    fn name(&self) -> &'static str {
        "sgd position"
    }

    fn cpu_fwd(
        &self,
        param: &mut CpuStorage,
        param_layout: &Layout,
        velocity: &CpuStorage,
        velocity_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> candle_core::Result<()> {
        let SgdStep { lr, momentum, nesterov, weight_decay, gradient_scale } = self.0;
        let (lr, momentum, decay, scale) =
            (lr as f32, momentum as f32, weight_decay as f32, gradient_scale as f32);
        let sources = (slice(velocity, velocity_layout)?, slice(gradient, gradient_layout)?);
        update(slice_mut(param, param_layout)?, sources, |param, velocity, gradient| match nesterov {
            true => param - lr * (gradient * scale + decay * param + momentum * velocity),
            false => param - lr * velocity,
        });
        Ok(())
    }
}

fn update(to: &mut [f32], (a, b): (&[f32], &[f32]), f: impl Fn(f32, f32, f32) -> f32 + Sync) {
    to.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK)).for_each(|((to, a), b)| {
        for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
            *to = f(*to, *a, *b);
        }
    });
}

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => candle_core::bail!("sgd: contiguous f32 expected"),
    }
}

fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => candle_core::bail!("sgd: contiguous f32 expected"),
    }
}
