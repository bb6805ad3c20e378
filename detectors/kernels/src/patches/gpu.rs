//! Maps cut into patches on a GPU, many channels at once.

use std::ops::Range;

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{CudaDevice, Tensor};

use super::Patches;
use crate::Result;
use crate::cuda::{Family, Fresh, FreshMap, Table, arguments, elements, floats, int, launch};
use crate::resize::gpu::{readers, table};

/// The grid as the kernels read it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Packed {
    h: i32,
    w: i32,
    c: i32,
    first: i32,
    channels: i32,
    side: i32,
    across: i32,
    count: i32,
    pixels: i32,
    by_pixel: i32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Packed {}

impl Patches {
    /// The matrices of C' channels of a map (N, H, W, C): (C', patches, pixels), or (C', pixels, patches) `by_pixel`.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) fn cut_on(
        &self,
        device: &CudaDevice,
        map: &Tensor,
        channels: Range<usize>,
        by_pixel: bool,
    ) -> Result<Tensor> {
        let places = self.count() * self.pixels();
        let packed = Table::of_structs(device, &[self.packed(&channels, by_pixel)?])?;
        let channels = channels.len();
        let out = Fresh::<f32>::new(device, channels * places)?;
        let (rows, columns) = (table(device, &self.rows)?, table(device, &self.columns)?);
        let arguments =
            arguments![elements(map)?, packed.address(), rows.address(), columns.address(), out.address()];
        let grid = [int(places.div_ceil(32))? as u32, channels.div_ceil(32) as u32, 1];
        launch(device, Family::Sampling, "cut_patches", grid, [32, 8], arguments)?;
        let (count, pixels) = (self.count(), self.pixels());
        let (n, width) = if by_pixel { (pixels, count) } else { (count, pixels) };
        Ok(out.tensor((channels, n, width), device))
    }

    /// Writes the gradient of C' channels of a map, of the gradient of their matrices, to `map` (N, H, W, C): the transpose
    /// of [`cut_on`](Self::cut_on).
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) fn paste_on(
        &self,
        device: &CudaDevice,
        matrices: &Tensor,
        channels: Range<usize>,
        by_pixel: bool,
        map: &FreshMap,
    ) -> Result<()> {
        let (_, h, w, _) = self.map;
        let packed = Table::of_structs(device, &[self.packed(&channels, by_pixel)?])?;
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
            map.address(),
            int(self.plane())?
        ];
        let grid = [int(self.plane().div_ceil(32))? as u32, channels.len().div_ceil(32) as u32, 1];
        launch(device, Family::Sampling, "paste_patches", grid, [32, 8], arguments)
    }

    fn packed(&self, channels: &Range<usize>, by_pixel: bool) -> Result<Packed> {
        let (_, h, w, c) = self.map;
        // Places of a matrix are counted in 32 bits.
        int(self.count() * self.pixels())?;
        Ok(Packed {
            h: int(h)?,
            w: int(w)?,
            c: int(c)?,
            first: int(channels.start)?,
            channels: int(channels.len())?,
            side: int(self.side)?,
            across: int(self.across)?,
            count: int(self.count())?,
            pixels: int(self.pixels())?,
            by_pixel: i32::from(by_pixel),
        })
    }
}
