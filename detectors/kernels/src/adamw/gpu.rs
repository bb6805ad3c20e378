//! AdamW on a GPU.

use candle_core::CudaDevice;

use super::{Factors, Update};
use crate::Result;
use crate::cuda::{Family, arguments, blocks, floats, launch};
use crate::dispatch::Gpu;
use crate::in_place::refuse_shared;

impl Gpu for Update<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<()> {
        let Self { step, param, moments: [first, second], gradient } = self;
        refuse_shared("adamw", &[param, first, second], &[gradient])?;
        let len = param.elem_count();
        if len == 0 {
            return Ok(());
        }
        let Factors { scale, kept, first: share, second_kept, second: second_share, rate, root, eps } =
            step.factors();
        let arguments = arguments![
            floats(param)?,
            floats(first)?,
            floats(second)?,
            floats(gradient)?,
            len as i64,
            scale,
            kept,
            share,
            second_kept,
            second_share,
            rate,
            root,
            eps
        ];
        launch(device, Family::Optimisers, "adamw", blocks(len)?, [256, 1], arguments)
    }
}
