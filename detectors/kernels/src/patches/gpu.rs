//! Maps cut into patches on a GPU, all channels at once.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{CudaDevice, Tensor};

use super::Patches;
use crate::Result;
use crate::cuda::{Family, Fresh, Table, arguments, floats, int, launch};
use crate::memory::nhwc;
use crate::resize::gpu::{readers, table};

/// The grid as the kernels read it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Packed {
    h: i32,
    w: i32,
    c: i32,
    side: i32,
    across: i32,
    count: i32,
    pixels: i32,
    by_pixel: i32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Packed {}

impl Patches {
    /// The matrices of all channels of a map (N, C, H, W): (C, patches, pixels), or (C, pixels, patches) `by_pixel`.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) fn cut_on(&self, device: &CudaDevice, map: &Tensor, by_pixel: bool) -> Result<Tensor> {
        let (channels, places) = (self.map.3, self.count() * self.pixels());
        let map = nhwc(map)?;
        let out = Fresh::<f32>::new(device, channels * places)?;
        let packed = Table::of_structs(device, &[self.packed(by_pixel)?])?;
        let (rows, columns) = (table(device, &self.rows)?, table(device, &self.columns)?);
        let arguments =
            arguments![floats(&map)?, packed.address(), rows.address(), columns.address(), out.address()];
        let grid = [int(places.div_ceil(32))? as u32, channels.div_ceil(32) as u32, 1];
        launch(device, Family::Sampling, "cut_patches", grid, [32, 8], arguments)?;
        let (count, pixels) = (self.count(), self.pixels());
        let (n, width) = if by_pixel { (pixels, count) } else { (count, pixels) };
        Ok(out.tensor((channels, n, width), device))
    }

    /// The gradient (N, C, H, W) of a map, of the gradient of its matrices: the transpose of
    /// [`cut_on`](Self::cut_on).
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) fn paste_on(&self, device: &CudaDevice, matrices: &Tensor, by_pixel: bool) -> Result<Tensor> {
        let (n, h, w, c) = self.map;
        let out = Fresh::<f32>::new(device, n * h * w * c)?;
        let packed = Table::of_structs(device, &[self.packed(by_pixel)?])?;
        let (rows, columns) = (table(device, &self.rows)?, table(device, &self.columns)?);
        let row_readers = Table::of_ints(device, &readers(&self.rows, h)?)?;
        let column_readers = Table::of_ints(device, &readers(&self.columns, w)?)?;
        let arguments = arguments![
            floats(matrices)?,
            packed.address(),
            rows.address(),
            columns.address(),
            row_readers.address(),
            column_readers.address(),
            out.address(),
            int(self.plane())?
        ];
        let grid = [int(self.plane().div_ceil(32))? as u32, c.div_ceil(32) as u32, 1];
        launch(device, Family::Sampling, "paste_patches", grid, [32, 8], arguments)?;
        out.map((n, h, w, c), device)
    }

    fn packed(&self, by_pixel: bool) -> Result<Packed> {
        let (_, h, w, c) = self.map;
        // Places of a matrix are counted in 32 bits.
        int(self.count() * self.pixels())?;
        Ok(Packed {
            h: int(h)?,
            w: int(w)?,
            c: int(c)?,
            side: int(self.side)?,
            across: int(self.across)?,
            count: int(self.count())?,
            pixels: int(self.pixels())?,
            by_pixel: i32::from(by_pixel),
        })
    }
}
