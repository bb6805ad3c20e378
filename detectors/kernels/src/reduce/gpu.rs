//! Sums of columns on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::ColumnSums;
use crate::Result;
use crate::cuda::{Family, Fresh, arguments, blocks, elements, int, launch};
use crate::dispatch::Gpu;

/// Rows that a block adds, and the most chunks of rows.
const CHUNK: usize = 512;
const CHUNKS: usize = 4096;

impl Gpu for ColumnSums<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let columns = self.0.dims().last().copied().unwrap_or(1);
        let rows = self.0.elem_count().checked_div(columns).unwrap_or(0);
        let out = Fresh::<f32>::new(device, columns)?;
        if columns > 0 {
            let chunks = rows.div_ceil(CHUNK).min(CHUNKS);
            let partial = Fresh::<f64>::new(device, chunks * columns)?;
            if chunks > 0 {
                let x = self.0.contiguous()?;
                let chunk = rows.div_ceil(chunks);
                let arguments =
                    arguments![elements(&x)?, partial.address(), rows as i64, int(columns)?, chunk as i64];
                let grid = [int(columns.div_ceil(32))? as u32, chunks as u32, 1];
                launch(device, Family::Rows, "column_sums", grid, [32, 8], arguments)?;
            }
            let arguments = arguments![partial.address(), out.address(), int(columns)?, int(chunks)?];
            launch(device, Family::Rows, "finish_column_sums", blocks(columns)?, [256, 1], arguments)?;
        }
        Ok(out.tensor(columns, device))
    }
}
