//! Bilinear resizing on a GPU.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{CudaDevice, Tensor};

use super::{Bilinear, BilinearGradient, Mix, mixes};
use crate::Result;
use crate::cuda::{Family, FreshMap, Table, arguments, blocks, elements, int, launch};
use crate::dispatch::Gpu;

/// A [`Mix`] as the kernels' text declares it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Packed {
    low: i32,
    high: i32,
    weights: [f32; 2],
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Packed {}

/// Mixes on the device.
pub(crate) fn table(device: &CudaDevice, mixes: &[Mix]) -> Result<Table<Packed>> {
    let packed = |mix: &Mix| Ok(Packed { low: int(mix.low)?, high: int(mix.high)?, weights: mix.weights });
    Table::of_structs(device, &mixes.iter().map(packed).collect::<Result<Vec<_>>>()?)
}

impl Gpu for Bilinear<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let ((n, h, w, c), (oh, ow)) = (self.x.dims4()?, self.to);
        let count = n * oh * ow * c;
        let out = FreshMap::like(self.x, device, count)?;
        if count > 0 {
            let rows = table(device, &mixes(h, oh))?;
            let columns = table(device, &mixes(w, ow))?;
            let arguments = arguments![
                elements(self.x)?,
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
            launch(device, Family::Sampling, "bilinear", blocks(count)?, [256, 1], arguments)?;
        }
        out.map((n, oh, ow, c), device)
    }
}

impl Gpu for BilinearGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let ((n, oh, ow, c), (h, w)) = (self.g.dims4()?, self.from);
        let count = n * h * w * c;
        let out = FreshMap::like(self.g, device, count)?;
        if count > 0 {
            let (rows, columns) = (mixes(h, oh), mixes(w, ow));
            let row_readers = Table::of_ints(device, &readers(&rows, h)?)?;
            let column_readers = Table::of_ints(device, &readers(&columns, w)?)?;
            let rows = table(device, &rows)?;
            let columns = table(device, &columns)?;
            let arguments = arguments![
                elements(self.g)?,
                rows.address(),
                columns.address(),
                row_readers.address(),
                column_readers.address(),
                out.address(),
                count as i64,
                int(h)?,
                int(w)?,
                int(c)?,
                int(oh)?,
                int(ow)?
            ];
            launch(device, Family::Sampling, "bilinear_gradient", blocks(count)?, [256, 1], arguments)?;
        }
        out.map((n, h, w, c), device)
    }
}

/// First and end of the results that read each of `size` places: two numbers a place.
pub(crate) fn readers(mixes: &[Mix], size: usize) -> Result<Vec<i32>> {
    let mut readers = Vec::with_capacity(2 * size);
    for at in 0..size {
        readers.push(int(mixes.partition_point(|mix| mix.high < at))?);
        readers.push(int(mixes.partition_point(|mix| mix.low <= at))?);
    }
    Ok(readers)
}
