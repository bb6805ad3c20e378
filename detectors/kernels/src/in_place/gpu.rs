//! Overwriting on a GPU.

use candle_core::CudaDevice;

use super::{Overwrite, refuse_shared};
use crate::Result;
use crate::cuda::{Family, arguments, blocks, floats, launch};
use crate::dispatch::Gpu;

impl Gpu for Overwrite<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<()> {
        refuse_shared("overwrite", &[self.to], &[self.from])?;
        let len = self.to.elem_count();
        if len == 0 {
            return Ok(());
        }
        let arguments = arguments![floats(self.to)?, floats(self.from)?, len as i64];
        launch(device, Family::Elementwise, "copy", blocks(len)?, [256, 1], arguments)
    }
}
