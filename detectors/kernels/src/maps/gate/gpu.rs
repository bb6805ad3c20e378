//! Gated sums on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::super::gpu::by_cells;
use super::{Gate, GateGradient, Gated};
use crate::Result;
use crate::cuda::{Fresh, arguments, floats, int};
use crate::dispatch::Gpu;

impl Gpu for Gate<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Gated> {
        let (n, h, w, c) = self.x.dims4()?;
        let cells = n * h * w;
        let (gates, sum) = (Fresh::<f32>::new(device, 2 * cells)?, Fresh::<f32>::new(device, cells * c)?);
        if cells > 0 {
            let maps = (floats(self.x)?, floats(self.y)?, floats(self.logits)?);
            let out = (gates.address(), sum.address());
            let arguments = arguments![maps.0, maps.1, maps.2, out.0, out.1, cells as i64, int(c)?];
            by_cells(device, "gated_sum", cells, arguments)?;
        }
        Ok(Gated { gates: gates.tensor((n, h, w, 2), device), sum: sum.map((n, h, w, c), device)? })
    }
}

impl Gpu for GateGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<[Tensor; 3]> {
        let (n, h, w, c) = self.x.dims4()?;
        let cells = n * h * w;
        let (by_x, by_y) = (Fresh::<f32>::new(device, cells * c)?, Fresh::<f32>::new(device, cells * c)?);
        let by_logits = Fresh::<f32>::new(device, 2 * cells)?;
        if cells > 0 {
            let arguments = arguments![
                floats(self.g)?,
                floats(self.x)?,
                floats(self.y)?,
                floats(self.gates)?,
                by_x.address(),
                by_y.address(),
                by_logits.address(),
                cells as i64,
                int(c)?
            ];
            by_cells(device, "gated_sum_gradient", cells, arguments)?;
        }
        Ok([
            by_x.map((n, h, w, c), device)?,
            by_y.map((n, h, w, c), device)?,
            by_logits.map((n, h, w, 2), device)?,
        ])
    }
}
