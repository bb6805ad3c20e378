//! Adaptive average pooling on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::{AveragePool, AveragePoolGradient, Bins};
use crate::Result;
use crate::cuda::{Family, Fresh, arguments, blocks, floats, int, launch};
use crate::dispatch::Gpu;

impl Gpu for AveragePool<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Bins { h, w, oh, ow } = self.bins;
        let (n, _, _, c) = self.x.dims4()?;
        let out = Fresh::<f32>::new(device, n * oh * ow * c)?;
        if n * c > 0 {
            let grid = [int(n * oh * ow)? as u32, int(c.div_ceil(32))? as u32, 1];
            let arguments =
                arguments![floats(self.x)?, out.address(), int(h)?, int(w)?, int(c)?, int(oh)?, int(ow)?];
            launch(device, Family::Pool, "average_pool", grid, [32, 8], arguments)?;
        }
        out.map((n, oh, ow, c), device)
    }
}

impl Gpu for AveragePoolGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Bins { h, w, oh, ow } = self.bins;
        let (n, _, _, c) = self.g.dims4()?;
        let count = n * h * w * c;
        let spread = Fresh::<f32>::new(device, count)?;
        if count > 0 {
            let arguments = arguments![
                floats(self.g)?,
                spread.address(),
                count as i64,
                int(h)?,
                int(w)?,
                int(c)?,
                int(oh)?,
                int(ow)?
            ];
            launch(device, Family::Pool, "average_pool_gradient", blocks(count)?, [256, 1], arguments)?;
        }
        spread.map((n, h, w, c), device)
    }
}
