//! Adaptive average pooling on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::{AveragePool, AveragePoolGradient, Bins};
use crate::Result;
use crate::cuda::{Family, FreshMap, arguments, blocks, elements, int, launch};
use crate::dispatch::Gpu;

/// Pixels of a bin that one thread adds.
const SMALL: usize = 64;

impl Gpu for AveragePool<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Bins { h, w, oh, ow } = self.bins;
        let (n, _, _, c) = self.x.dims4()?;
        let out = FreshMap::like(self.x, device, n * oh * ow * c)?;
        let count = n * oh * ow * c;
        // Bins of few pixels are no work for a block.
        if count > 0 && (h.div_ceil(oh) + 1) * (w.div_ceil(ow) + 1) <= SMALL {
            let arguments = arguments![
                elements(self.x)?,
                out.address(),
                count as i64,
                int(h)?,
                int(w)?,
                int(c)?,
                int(oh)?,
                int(ow)?
            ];
            launch(device, Family::Pool, "average_pool_small", blocks(count)?, [256, 1], arguments)?;
        } else if count > 0 {
            let grid = [int(n * oh * ow)? as u32, int(c.div_ceil(32))? as u32, 1];
            let arguments =
                arguments![elements(self.x)?, out.address(), int(h)?, int(w)?, int(c)?, int(oh)?, int(ow)?];
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
        let spread = FreshMap::like(self.g, device, count)?;
        if count > 0 {
            let arguments = arguments![
                elements(self.g)?,
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
