//! SGD and norms of gradients on a GPU.

use candle_core::CudaDevice;

use super::{SgdStep, SquaredNorm, Update};
use crate::Result;
use crate::cuda::{Family, Fresh, arguments, blocks, count, floats, int, launch};
use crate::dispatch::Gpu;
use crate::in_place::refuse_shared;

/// Numbers whose squares one block adds.
const CHUNK: usize = 1 << 14;

impl Gpu for SquaredNorm<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<f64> {
        let x = self.0.contiguous()?;
        let len = x.elem_count();
        let sums = len.div_ceil(CHUNK);
        if sums == 0 {
            return Ok(0.0);
        }
        let (partial, total) = (Fresh::<f64>::new(device, sums)?, Fresh::<f64>::new(device, 1)?);
        let of_chunks = arguments![floats(&x)?, partial.address(), len as i64, CHUNK as i64];
        launch(device, Family::Optimisers, "squares", [int(sums)? as u32, 1, 1], [256, 1], of_chunks)?;
        let of_all = arguments![partial.address(), total.address(), int(sums)?];
        launch(device, Family::Optimisers, "add_up", [1, 1, 1], [1, 1], of_all)?;
        count(size_of::<f64>());
        Ok(total.tensor((), device).to_scalar()?)
    }
}

impl Gpu for Update<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<()> {
        let Self { step, param, velocity, gradient } = self;
        refuse_shared("sgd", &[param, velocity], &[gradient])?;
        let len = param.elem_count();
        if len == 0 {
            return Ok(());
        }
        let SgdStep { lr, momentum, nesterov, weight_decay, gradient_scale } = step;
        let arguments = arguments![
            floats(param)?,
            floats(velocity)?,
            floats(gradient)?,
            len as i64,
            lr as f32,
            momentum as f32,
            weight_decay as f32,
            gradient_scale as f32,
            i32::from(nesterov)
        ];
        launch(device, Family::Optimisers, "sgd", blocks(len)?, [256, 1], arguments)
    }
}
