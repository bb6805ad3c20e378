//! Binary cross-entropy on a GPU.

use candle_core::CudaDevice;

use super::super::sums::Sum;
use super::super::sums::gpu::{Threads, sum_over_rows};
use super::Bce;
use crate::Result;
use crate::cuda::{Table, arguments};
use crate::dispatch::Gpu;

impl Gpu for Bce<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Sum> {
        let targets = Table::of_floats(device, self.targets)?;
        let own = arguments![targets.address()];
        sum_over_rows(device, self.logits, 1, self.parts, ("bce", Threads::One), own)
    }
}
