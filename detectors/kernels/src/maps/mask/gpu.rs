//! Masked maps on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::super::gpu::by_numbers;
use super::Masked;
use crate::Result;
use crate::cuda::{Fresh, arguments, floats, int};
use crate::dispatch::Gpu;

impl Gpu for Masked<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let count = self.x.elem_count();
        let out = Fresh::<f32>::new(device, count)?;
        if count > 0 {
            let (x, mask) = (floats(self.x)?, floats(self.mask)?);
            let arguments = arguments![x, mask, out.address(), count as i64, int(self.c)?];
            by_numbers(device, "masked_cells", count, arguments)?;
        }
        out.map(self.x.dims4()?, device)
    }
}
