//! Nearest upsampling on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::{Nearest, NearestGradient, sources};
use crate::Result;
use crate::cuda::{Family, FreshMap, Table, arguments, blocks, elements, elements_or_null, int, launch};
use crate::dispatch::Gpu;

/// Positions as kernels take them.
fn ints(positions: impl IntoIterator<Item = usize>) -> Result<Vec<i32>> {
    positions.into_iter().map(int).collect()
}

impl Gpu for Nearest<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let ((n, h, w, c), (oh, ow)) = (self.x.dims4()?, self.to);
        let count = n * oh * ow * c;
        let out = FreshMap::like(self.x, device, count)?;
        if count > 0 {
            let rows = Table::of_ints(device, &ints(sources(h, oh))?)?;
            let columns = Table::of_ints(device, &ints(sources(w, ow))?)?;
            let arguments = arguments![
                elements(self.x)?,
                elements_or_null(self.lateral)?,
                rows.address(),
                columns.address(),
                out.address(),
                count as i64,
                int(h)?,
                int(w)?,
                int(c)?,
                int(oh)?,
                int(ow)?
            ];
            launch(device, Family::Sampling, "nearest", blocks(count)?, [256, 1], arguments)?;
        }
        out.map((n, oh, ow, c), device)
    }
}

impl Gpu for NearestGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let ((n, oh, ow, c), (h, w)) = (self.g.dims4()?, self.from);
        let count = n * h * w * c;
        let out = FreshMap::like(self.g, device, count)?;
        if count > 0 {
            // Sources ascend, so the readers of one end where those of the next begin.
            let readers = |sources: &[usize], size: usize| {
                ints((0..=size).map(|source| sources.partition_point(|&s| s < source)))
            };
            let rows = Table::of_ints(device, &readers(&sources(h, oh), h)?)?;
            let columns = Table::of_ints(device, &readers(&sources(w, ow), w)?)?;
            let arguments = arguments![
                elements(self.g)?,
                rows.address(),
                columns.address(),
                out.address(),
                count as i64,
                int(h)?,
                int(w)?,
                int(c)?,
                int(oh)?,
                int(ow)?
            ];
            launch(device, Family::Sampling, "nearest_gradient", blocks(count)?, [256, 1], arguments)?;
        }
        out.map((n, h, w, c), device)
    }
}
