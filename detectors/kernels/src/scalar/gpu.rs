//! Sums of many numbers and products with a scalar on a GPU.

use candle_core::CudaDevice;

use super::TimesScalar;
use crate::Result;
use crate::cuda::{Family, Fresh, arguments, blocks, elements, floats, int, launch};
use crate::dispatch::Gpu;

/// Numbers that one block adds.
const CHUNK: usize = 4096;

/// The sum of `count` numbers, chunk by chunk.
pub(crate) fn sum(device: &CudaDevice, values: Fresh<f64>, count: usize) -> Result<Fresh<f32>> {
    let (mut values, mut count) = (values, count);
    if count > CHUNK {
        let chunks = count.div_ceil(CHUNK);
        let partial = Fresh::<f64>::new(device, chunks)?;
        let arguments = arguments![values.address(), partial.address(), count as i64, CHUNK as i32];
        launch(device, Family::Losses, "sum_of_chunks", [int(chunks)? as u32, 1, 1], [256, 1], arguments)?;
        (values, count) = (partial, chunks);
    }
    let total = Fresh::<f32>::new(device, 1)?;
    let arguments = arguments![values.address(), total.address(), count as i64];
    launch(device, Family::Losses, "sum_of_all", [1, 1, 1], [256, 1], arguments)?;
    Ok(total)
}

impl Gpu for TimesScalar<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<()> {
        let (count, factor) = (self.gradient.elem_count(), self.factor.contiguous()?);
        if count == 0 {
            return Ok(());
        }
        let arguments = arguments![elements(self.gradient)?, floats(&factor)?, count as i64];
        launch(device, Family::Elementwise, "times_scalar", blocks(count)?, [256, 1], arguments)
    }
}
