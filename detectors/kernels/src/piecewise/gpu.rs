//! Piecewise functions on given pieces, on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::{PieceGradients, PieceValues, Pieces, Piecewise};
use crate::Result;
use crate::cuda::{Family, Fresh, FreshMap, address, arguments, blocks, elements, launch};
use crate::dispatch::Gpu;

/// Code of a function in the kernels' text.
fn code(function: Piecewise) -> i32 {
    match function {
        Piecewise::Relu => 0,
        Piecewise::Relu6 => 1,
        Piecewise::HardSigmoid => 2,
        Piecewise::HardSwish => 3,
    }
}

impl Gpu for Pieces<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let count = self.x.elem_count();
        let pieces = Fresh::<u8>::new(device, count)?;
        let (low, high) = self.function.kinks();
        let arguments = arguments![elements(self.x)?, pieces.address(), count as i64, low, high];
        launch(device, Family::Elementwise, "pieces", blocks(count)?, [256, 1], arguments)?;
        Ok(pieces.tensor(count, device))
    }
}

impl Gpu for PieceValues<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let count = self.x.elem_count();
        let out = FreshMap::like(self.x, device, count)?;
        let pieces = address::<u8>(self.pieces)?;
        let arguments =
            arguments![elements(self.x)?, pieces, out.address(), count as i64, code(self.function)];
        launch(device, Family::Elementwise, "on_pieces", blocks(count)?, [256, 1], arguments)?;
        Ok(out.tensor(self.x.shape(), device))
    }
}

impl Gpu for PieceGradients<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let count = self.g.elem_count();
        let out = FreshMap::like(self.g, device, count)?;
        let pieces = address::<u8>(self.pieces)?;
        let (g, x, function) = (elements(self.g)?, elements(self.x)?, code(self.function));
        let arguments = arguments![g, x, pieces, out.address(), count as i64, function];
        launch(device, Family::Elementwise, "through_pieces", blocks(count)?, [256, 1], arguments)?;
        Ok(out.tensor(self.g.shape(), device))
    }
}
