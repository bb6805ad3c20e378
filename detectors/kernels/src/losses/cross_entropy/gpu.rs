//! Softmax cross-entropy on a GPU.

use candle_core::CudaDevice;

use super::super::sums::Sum;
use super::super::sums::gpu::{Threads, sum_over_rows};
use super::CrossEntropy;
use crate::Result;
use crate::cuda::{Table, arguments, int};
use crate::dispatch::Gpu;

impl Gpu for CrossEntropy<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Sum> {
        let (_, k) = self.logits.dims2()?;
        let width = int(k)?;
        // Labels were checked to be below k.
        let labels: Vec<i32> = self.labels.iter().map(|&label| label as i32).collect();
        let labels = Table::of_ints(device, &labels)?;
        let own = arguments![labels.address(), width];
        sum_over_rows(device, self.logits, k, self.parts, ("cross_entropy", Threads::Warp), own)
    }
}
