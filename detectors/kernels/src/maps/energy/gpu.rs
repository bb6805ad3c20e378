//! Differences of energies on a GPU.

use candle_core::CudaDevice;

use super::super::gpu::{by_cells, by_rows, means_of_cells, total};
use super::{Compared, Energy};
use crate::Result;
use crate::cuda::{Fresh, arguments, floats, int};
use crate::dispatch::Gpu;

impl Gpu for Energy<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Compared> {
        let Self { target, x, tracked } = self;
        let (n, h, w, c) = x.dims4()?;
        let (_, _, _, target_c) = target.dims4()?;
        let (all, cells) = (n * h * w, h * w);
        let of_target = means_of_cells(device, target, (all, target_c), true)?;
        let of_x = means_of_cells(device, x, (all, c), true)?;
        let (losses, by_mean) = (Fresh::<f64>::new(device, n)?, Fresh::<f64>::new(device, all)?);
        let arguments = arguments![
            of_target.address(),
            of_x.address(),
            losses.address(),
            by_mean.address(),
            cells as i64,
            all as f64
        ];
        by_rows(device, "unit_difference", n, arguments)?;
        let value = total(device, losses, n)?;
        if !tracked {
            return Ok(Compared { value, gradient: None });
        }
        let out = Fresh::<f32>::new(device, all * c)?;
        let arguments = arguments![floats(x)?, by_mean.address(), out.address(), all as i64, int(c)?];
        by_cells(device, "energy_gradient", all, arguments)?;
        Ok(Compared { value, gradient: Some(out.map((n, h, w, c), device)?) })
    }
}
