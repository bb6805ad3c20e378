//! Unit rows and log-probabilities on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::{LogSoftmax, LogSoftmaxGradient, UnitRows, UnitRowsGradient};
use crate::Result;
use crate::cuda::{Argument, Family, Fresh, arguments, floats, int, launch};
use crate::dispatch::Gpu;

/// Numbers of a row that a block computes, and not a warp.
const LONG: usize = 2048;

/// The result, in shape of `like`, of kernel `name` over rows of `width` numbers of `inputs`.
pub(crate) fn of_rows(
    device: &CudaDevice,
    name: &'static str,
    inputs: &[&Tensor],
    width: usize,
    like: &Tensor,
    own: &[Argument],
) -> Result<Tensor> {
    let count = like.elem_count();
    let out = Fresh::<f32>::new(device, count)?;
    if count > 0 {
        let rows = count / width;
        let inputs =
            inputs.iter().map(|input| input.contiguous()).collect::<candle_core::Result<Vec<_>>>()?;
        let mut arguments = inputs.iter().map(floats).collect::<Result<Vec<_>>>()?;
        arguments.extend(arguments![out.address(), rows as i64, int(width)?]);
        arguments.extend(own);
        let (grid, block) = row_shape(rows, width)?;
        launch(device, Family::Rows, name, grid, block, &arguments)?;
    }
    Ok(out.tensor(like.shape(), device))
}

/// Grid and block over `rows` rows of `width` numbers: a warp a row or, of long rows, a block.
pub(crate) fn row_shape(rows: usize, width: usize) -> Result<([u32; 3], [u32; 2])> {
    let (blocks, block) = if width < LONG { (rows.div_ceil(8), [32, 8]) } else { (rows, [1024, 1]) };
    Ok(([int(blocks)? as u32, 1, 1], block))
}

impl Gpu for UnitRows<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        of_rows(device, "unit_rows", &[self.x], self.d, self.x, arguments![self.eps])
    }
}

impl Gpu for UnitRowsGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { g, x, d, eps } = self;
        of_rows(device, "unit_rows_gradient", &[g, x], d, x, arguments![eps])
    }
}

impl Gpu for LogSoftmax<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        of_rows(device, "log_softmax", &[self.x], self.k, self.x, &[])
    }
}

impl Gpu for LogSoftmaxGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { g, y, k } = self;
        of_rows(device, "log_softmax_gradient", &[g, y], k, y, &[])
    }
}
