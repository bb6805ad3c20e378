//! Launches over cells, channels and rows of maps on a GPU.

use candle_core::{CudaDevice, Tensor};

use crate::Result;
use crate::cuda::{Argument, Family, Fresh, arguments, blocks, floats, int, launch, null};
use crate::scalar::gpu::sum;

/// Cells of an image that a block adds, and the most chunks of them.
const CHUNK: usize = 512;
const CHUNKS: usize = 4096;

/// Runs kernel `name` with a warp a cell.
pub(super) fn by_cells(
    device: &CudaDevice,
    name: &'static str,
    cells: usize,
    arguments: &[Argument],
) -> Result<()> {
    launch(device, Family::Maps, name, [int(cells.div_ceil(8))? as u32, 1, 1], [32, 8], arguments)
}

/// Runs kernel `name` with a block of 1,024 threads a row.
pub(super) fn by_rows(
    device: &CudaDevice,
    name: &'static str,
    rows: usize,
    arguments: &[Argument],
) -> Result<()> {
    launch(device, Family::Maps, name, [int(rows)? as u32, 1, 1], [1024, 1], arguments)
}

/// Runs kernel `name` with a thread a number.
pub(super) fn by_numbers(
    device: &CudaDevice,
    name: &'static str,
    count: usize,
    arguments: &[Argument],
) -> Result<()> {
    launch(device, Family::Maps, name, blocks(count)?, [256, 1], arguments)
}

/// A map (images, cells, c), channels last, that is reduced over its cells chunk by chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunked {
    pub(super) images: usize,
    pub(super) cells: usize,
    pub(super) c: usize,
    chunks: usize,
}

impl Chunked {
    pub(super) fn new(images: usize, cells: usize, c: usize) -> Self {
        Self { images, cells, c, chunks: cells.div_ceil(CHUNK).clamp(1, CHUNKS) }
    }

    /// Results: one for each image and channel.
    pub(super) fn results(self) -> usize {
        self.images * self.c
    }

    /// Results of all chunks.
    pub(super) fn partial(self) -> usize {
        self.results() * self.chunks
    }

    /// Cells of a chunk.
    pub(super) fn chunk(self) -> i64 {
        self.cells.div_ceil(self.chunks) as i64
    }

    /// Runs kernel `name`, which reduces chunks.
    pub(super) fn launch(
        self,
        device: &CudaDevice,
        name: &'static str,
        arguments: &[Argument],
    ) -> Result<()> {
        let grid = [int(self.c.div_ceil(32))? as u32, int(self.chunks)? as u32, int(self.images)? as u32];
        launch(device, Family::Maps, name, grid, [32, 8], arguments)
    }

    /// The sums of the chunks over a divisor, of `kinds` kinds of sums one after another.
    pub(super) fn finish(
        self,
        device: &CudaDevice,
        partial: &Fresh<f64>,
        kinds: usize,
        divisor: f64,
    ) -> Result<Fresh<f64>> {
        let count = kinds * self.results();
        let out = Fresh::<f64>::new(device, count)?;
        let sizes = (count as i64, int(self.c)?, int(self.chunks)?);
        let arguments = arguments![partial.address(), out.address(), sizes.0, sizes.1, sizes.2, divisor];
        by_numbers(device, "finish_chunks", count, arguments)?;
        Ok(out)
    }

    /// Sums of the map `x` over an image's cells, over a divisor.
    pub(super) fn sums(
        self,
        device: &CudaDevice,
        x: &Tensor,
        of: Of<'_>,
        divisor: f64,
    ) -> Result<Fresh<f64>> {
        let partial = Fresh::<f64>::new(device, self.partial())?;
        let (code, shares) = match of {
            Of::Numbers => (0, null::<f64>()),
            Of::Sizes => (1, null::<f64>()),
            Of::Shares(shares) => (0, shares.address()),
        };
        let arguments = arguments![
            floats(x)?,
            shares,
            partial.address(),
            self.cells as i64,
            int(self.c)?,
            self.chunk(),
            code
        ];
        self.launch(device, "sums_of_channels", arguments)?;
        self.finish(device, &partial, 1, divisor)
    }

    /// The largest numbers of the map `x` over an image's cells.
    pub(super) fn largest(self, device: &CudaDevice, x: &Tensor) -> Result<Fresh<f32>> {
        let partial = Fresh::<f32>::new(device, self.partial())?;
        let arguments =
            arguments![floats(x)?, partial.address(), self.cells as i64, int(self.c)?, self.chunk()];
        self.launch(device, "largest_of_channels", arguments)?;
        let out = Fresh::<f32>::new(device, self.results())?;
        let sizes = (self.results() as i64, int(self.c)?, int(self.chunks)?);
        let arguments = arguments![partial.address(), out.address(), sizes.0, sizes.1, sizes.2];
        by_numbers(device, "finish_largest", self.results(), arguments)?;
        Ok(out)
    }
}

/// Numbers that are summed over cells.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    /// Numbers of the map.
    Numbers,
    /// Their sizes.
    Sizes,
    /// Numbers of the map, each cell times its share.
    Shares(&'a Fresh<f64>),
}

/// The means over the channels of a map (cells, c): of squares, or of sizes.
pub(super) fn means_of_cells(
    device: &CudaDevice,
    x: &Tensor,
    (cells, c): (usize, usize),
    of_squares: bool,
) -> Result<Fresh<f64>> {
    let means = Fresh::<f64>::new(device, cells)?;
    let code = i32::from(!of_squares);
    let arguments = arguments![floats(x)?, means.address(), cells as i64, int(c)?, code];
    by_cells(device, "means_of_cells", cells, arguments)?;
    Ok(means)
}

/// The numbers in f32, times a mask if there is one.
pub(super) fn rounded(
    device: &CudaDevice,
    values: &Fresh<f64>,
    mask: Option<&Tensor>,
    count: usize,
) -> Result<Fresh<f32>> {
    let out = Fresh::<f32>::new(device, count)?;
    let mask = mask.map_or(Ok(null::<f32>()), floats)?;
    by_numbers(device, "masked", count, arguments![values.address(), mask, out.address(), count as i64])?;
    Ok(out)
}

/// The sum of `count` losses, a scalar.
pub(super) fn total(device: &CudaDevice, losses: Fresh<f64>, count: usize) -> Result<Tensor> {
    Ok(sum(device, losses, count)?.tensor((), device))
}
