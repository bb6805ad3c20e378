//! GIoU loss on a GPU.

use candle_core::CudaDevice;

use super::super::sums::Sum;
use super::super::sums::gpu::{Threads, sum_over_rows};
use super::Giou;
use crate::Result;
use crate::cuda::{Table, arguments};
use crate::dispatch::Gpu;

impl Gpu for Giou<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Sum> {
        let targets = Table::of_floats(device, self.target.as_flattened())?;
        let own = arguments![targets.address()];
        sum_over_rows(device, self.pred, 4, self.parts, ("giou", Threads::One), own)
    }
}
