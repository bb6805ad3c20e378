//! Quality focal loss on a GPU.

use candle_core::CudaDevice;

use super::super::sums::Sum;
use super::super::sums::gpu::{Threads, sum_over_rows};
use super::Quality;
use crate::Result;
use crate::cuda::{Table, arguments, floats, int};
use crate::dispatch::Gpu;

impl Gpu for Quality<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Sum> {
        let (_, k) = self.logits.dims2()?;
        let target = self.target.contiguous()?;
        let counts: Vec<u8> = self.counts.iter().map(|counts| u8::from(*counts)).collect();
        let counts = Table::of_bytes(device, &counts)?;
        let own = arguments![floats(&target)?, counts.address(), int(k)?, self.beta];
        sum_over_rows(device, self.logits, k, self.parts, ("quality_focal", Threads::Warp), own)
    }
}
