//! Context of maps on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::super::gpu::{Chunked, Of, by_cells, by_rows, rounded};
use super::{Add, CellSums, Pool, PoolGradient, Pooled};
use crate::Result;
use crate::cuda::{Fresh, address, arguments, floats, int};
use crate::dispatch::Gpu;

impl Gpu for Pool<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Pooled> {
        let (n, h, w, c) = self.x.dims4()?;
        let cells = h * w;
        let shares = Fresh::<f64>::new(device, n * cells)?;
        if n * cells * c == 0 {
            let seen = Fresh::<f32>::new(device, n * c)?.zeroed(device)?;
            let shares = shares.zeroed(device)?.tensor((n, cells), device);
            return Ok(Pooled { shares, seen: seen.tensor((n, c), device) });
        }
        let arguments = arguments![floats(self.logits)?, shares.address(), cells as i64, 1.0, 1.0];
        by_rows(device, "softened_logits", n, arguments)?;
        let seen = Chunked::new(n, cells, c).sums(device, self.x, Of::Shares(&shares), 1.0)?;
        let seen = rounded(device, &seen, None, n * c)?.tensor((n, c), device);
        Ok(Pooled { shares: shares.tensor((n, cells), device), seen })
    }
}

impl Gpu for PoolGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<(Tensor, Tensor)> {
        let (n, h, w, c) = self.x.dims4()?;
        let cells = n * h * w;
        let (by_map, by_logits) = (Fresh::<f32>::new(device, cells * c)?, Fresh::<f32>::new(device, cells)?);
        if cells > 0 {
            let arguments = arguments![
                floats(self.g)?,
                floats(self.x)?,
                address::<f64>(self.shares)?,
                floats(self.seen)?,
                by_map.address(),
                by_logits.address(),
                cells as i64,
                (h * w) as i64,
                int(c)?
            ];
            by_cells(device, "pool_gradient", cells, arguments)?;
        }
        Ok((by_map.map((n, h, w, c), device)?, by_logits.map((n, h, w, 1), device)?))
    }
}

impl Gpu for Add<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let (n, h, w, c) = self.x.dims4()?;
        let cells = n * h * w;
        let out = Fresh::<f32>::new(device, cells * c)?;
        if cells * c > 0 {
            let sizes = (cells as i64, (h * w) as i64, int(c)?);
            let arguments =
                arguments![floats(self.x)?, floats(self.shifts)?, out.address(), sizes.0, sizes.1, sizes.2];
            by_cells(device, "add_to_channels", cells, arguments)?;
        }
        out.map((n, h, w, c), device)
    }
}

impl Gpu for CellSums<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let (n, h, w, c) = self.g.dims4()?;
        if n * h * w * c == 0 {
            return Ok(Fresh::<f32>::new(device, n * c)?.zeroed(device)?.tensor((n, c), device));
        }
        let sums = Chunked::new(n, h * w, c).sums(device, self.g, Of::Numbers, 1.0)?;
        Ok(rounded(device, &sums, None, n * c)?.tensor((n, c), device))
    }
}
