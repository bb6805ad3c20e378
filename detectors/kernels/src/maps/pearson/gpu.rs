//! Standardized differences on a GPU.

use candle_core::CudaDevice;

use super::super::gpu::{Chunked, Of, by_cells, by_numbers, total};
use super::{Compared, Standardized};
use crate::Result;
use crate::cuda::{Fresh, arguments, floats, int};
use crate::dispatch::Gpu;

impl Gpu for Standardized<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Compared> {
        let Self { target, x, divisor, eps, tracked } = self;
        let (n, h, w, c) = x.dims4()?;
        let count = n * h * w;
        let all = Chunked::new(1, count, c);
        let (t, x) = (floats(target)?, floats(x)?);
        let mean_t = all.sums(device, target, Of::Numbers, count as f64)?;
        let mean_x = all.sums(device, self.x, Of::Numbers, count as f64)?;

        let partial = Fresh::<f64>::new(device, 3 * all.partial())?;
        let arguments = arguments![
            t,
            x,
            mean_t.address(),
            mean_x.address(),
            partial.address(),
            count as i64,
            int(c)?,
            all.chunk(),
            all.partial() as i64
        ];
        all.launch(device, "centred_products", arguments)?;
        let products = all.finish(device, &partial, 3, 1.0)?;

        let (losses, slopes) = (Fresh::<f64>::new(device, c)?, Fresh::<f64>::new(device, 2 * c)?);
        let addresses = (products.address(), losses.address(), slopes.address());
        let arguments =
            arguments![addresses.0, addresses.1, addresses.2, int(c)?, count as f64, divisor, eps];
        by_numbers(device, "standardized", c, arguments)?;
        let value = total(device, losses, c)?;
        if !tracked {
            return Ok(Compared { value, gradient: None });
        }
        let out = Fresh::<f32>::new(device, count * c)?;
        let means = (mean_t.address(), mean_x.address());
        let arguments =
            arguments![t, x, means.0, means.1, slopes.address(), out.address(), count as i64, int(c)?];
        by_cells(device, "standardized_gradient", count, arguments)?;
        Ok(Compared { value, gradient: Some(out.map((n, h, w, c), device)?) })
    }
}
