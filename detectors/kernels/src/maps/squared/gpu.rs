//! Squared differences on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::super::gpu::{by_cells, total};
use super::{Difference, DifferenceGradient};
use crate::Result;
use crate::cuda::{Family, Fresh, arguments, floats, floats_or_null, int, launch};
use crate::dispatch::Gpu;

/// Cells that a block adds.
const CHUNK: usize = 64;

impl Gpu for Difference<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let (n, h, w, c) = self.0.x.dims4()?;
        let cells = n * h * w;
        let chunks = cells.div_ceil(CHUNK);
        let partial = Fresh::<f64>::new(device, chunks)?;
        let arguments = arguments![
            floats(&self.0.target)?,
            floats(&self.0.x)?,
            floats_or_null(self.0.weights.cells.as_ref())?,
            floats_or_null(self.0.weights.channels.as_ref())?,
            partial.address(),
            cells as i64,
            (h * w) as i64,
            int(c)?,
            int(CHUNK)?,
            self.0.divisor
        ];
        let grid = [int(chunks)? as u32, 1, 1];
        launch(device, Family::Maps, "squared_difference", grid, [32, 8], arguments)?;
        total(device, partial, chunks)
    }
}

impl Gpu for DifferenceGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { maps, factor } = self;
        let (n, h, w, c) = maps.x.dims4()?;
        let (cells, factor) = (n * h * w, factor.contiguous()?);
        let out = Fresh::<f32>::new(device, cells * c)?;
        let arguments = arguments![
            floats(&maps.target)?,
            floats(&maps.x)?,
            floats_or_null(maps.weights.cells.as_ref())?,
            floats_or_null(maps.weights.channels.as_ref())?,
            floats(&factor)?,
            out.address(),
            cells as i64,
            (h * w) as i64,
            int(c)?,
            maps.divisor
        ];
        by_cells(device, "squared_difference_gradient", cells, arguments)?;
        out.map((n, h, w, c), device)
    }
}
