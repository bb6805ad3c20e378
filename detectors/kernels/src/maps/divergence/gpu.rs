//! Divergence of channels on a GPU.

use candle_core::CudaDevice;

use super::super::gpu::{Chunked, by_cells, by_numbers, total};
use super::{Compared, Divergence};
use crate::Result;
use crate::cuda::{Fresh, arguments, floats, int};
use crate::dispatch::Gpu;
use crate::memory::nhwc;

impl Gpu for Divergence<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Compared> {
        let Self { target, x, temperature, tracked } = self;
        let (target, x) = (nhwc(target)?, nhwc(x)?);
        let (n, h, w, c) = x.dims4()?;
        let (cells, rows) = (h * w, n * c);
        let maps = Chunked::new(n, cells, c);
        let (tops_t, tops_x) = (maps.largest(device, &target)?, maps.largest(device, &x)?);
        let (tops_t, tops_x) = (tops_t.tensor(rows, device), tops_x.tensor(rows, device));
        let inverse = temperature.recip() as f32;
        let (t, x, tops_t, tops_x) = (floats(&target)?, floats(&x)?, floats(&tops_t)?, floats(&tops_x)?);

        let partial = Fresh::<f64>::new(device, 3 * maps.partial())?;
        let arguments = arguments![
            t,
            x,
            tops_t,
            tops_x,
            partial.address(),
            cells as i64,
            int(c)?,
            maps.chunk(),
            maps.partial() as i64,
            inverse
        ];
        maps.launch(device, "divergence_sums", arguments)?;
        let sums = maps.finish(device, &partial, 3, 1.0)?;
        let losses = Fresh::<f64>::new(device, rows)?;
        let arguments = arguments![sums.address(), losses.address(), int(rows)?, temperature];
        by_numbers(device, "divergence", rows, arguments)?;
        let value = total(device, losses, rows)?;
        if !tracked {
            return Ok(Compared { value, gradient: None });
        }
        let out = Fresh::<f32>::new(device, rows * cells)?;
        let arguments = arguments![
            t,
            x,
            tops_t,
            tops_x,
            sums.address(),
            out.address(),
            (n * cells) as i64,
            cells as i64,
            int(c)?,
            int(rows)?,
            inverse,
            temperature
        ];
        by_cells(device, "divergence_gradient", n * cells, arguments)?;
        Ok(Compared { value, gradient: Some(out.map((n, h, w, c), device)?) })
    }
}
