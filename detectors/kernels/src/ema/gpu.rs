//! Averages of weights on a GPU.

use candle_core::CudaDevice;

use super::Update;
use crate::Result;
use crate::cuda::{Family, arguments, blocks, floats, launch};
use crate::dispatch::Gpu;
use crate::in_place::refuse_shared;

impl Gpu for Update<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<()> {
        refuse_shared("ema", &[self.average], &[self.weights])?;
        let len = self.average.elem_count();
        if len == 0 {
            return Ok(());
        }
        let arguments = arguments![floats(self.average)?, floats(self.weights)?, self.decay, len as i64];
        launch(device, Family::Optimisers, "ema", blocks(len)?, [256, 1], arguments)
    }
}
