//! Normalisation of pixels on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::Normalize;
use crate::Result;
use crate::cuda::{Family, Fresh, Table, arguments, blocks, floats, int, launch};
use crate::dispatch::Gpu;

impl Gpu for Normalize<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { pixels, sizes, mean, std } = self;
        let (n, h, w, c) = pixels.dims4()?;
        let count = n * h * w * c;
        let out = Fresh::<f32>::new(device, count)?;
        if count > 0 {
            let sizes =
                sizes.iter().flat_map(|size| [size.0, size.1]).map(int).collect::<Result<Vec<_>>>()?;
            let sizes = Table::of_ints(device, &sizes)?;
            let (mean, std) = (Table::of_floats(device, mean)?, Table::of_floats(device, std)?);
            let arguments = arguments![
                floats(pixels)?,
                sizes.address(),
                mean.address(),
                std.address(),
                out.address(),
                count as i64,
                int(h)?,
                int(w)?,
                int(c)?
            ];
            launch(device, Family::Sampling, "normalize_pixels", blocks(count)?, [256, 1], arguments)?;
        }
        out.map((n, h, w, c), device)
    }
}
