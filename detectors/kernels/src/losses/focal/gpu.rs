//! Focal loss on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::super::sums::gpu::{Threads, loss_over_rows, sum_over_rows};
use super::{Derivatives, Focal, FocalTargets, Loss, RowTarget};
use crate::Result;
use crate::cuda::{Argument, Table, arguments, int};
use crate::dispatch::Gpu;

/// Row targets as the kernels read them, counted from the end of a type's numbers.
const BACKGROUND: i32 = -1;
const IGNORED: i32 = -2;
/// Classes that a byte holds beside background and ignored.
const CLASSES_IN_A_BYTE: usize = 254;

impl Gpu for Loss<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self(focal) = self;
        let (_, k) = focal.logits.dims2()?;
        focal.launched(device, |name, own| {
            loss_over_rows(device, focal.logits, k, focal.parts, (name, Threads::Warp), own)
        })
    }
}

impl Gpu for Derivatives<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self(focal) = self;
        let (_, k) = focal.logits.dims2()?;
        focal.launched(device, |name, own| {
            Ok(sum_over_rows(device, focal.logits, k, focal.parts, (name, Threads::Warp), own)?.gradient)
        })
    }
}

impl Focal<'_> {
    /// Calls `sum` with the kernel's name and its own arguments.
    fn launched(
        &self,
        device: &CudaDevice,
        sum: impl Fn(&'static str, &[Argument]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (_, k) = self.logits.dims2()?;
        let (class, background) = match self.alpha < 0.0 {
            true => (1.0, 1.0),
            false => (self.alpha as f32, (1.0 - self.alpha) as f32),
        };
        let (width, gamma) = (int(k)?, self.gamma as f32);
        let sum = |name: &'static str, targets: Argument| {
            sum(name, arguments![targets, width, class, background, gamma])
        };
        match self.targets {
            FocalTargets::Dense(targets) => sum("focal_dense", Table::of_floats(device, targets)?.address()),
            // The low byte of a negative number is 256 more.
            FocalTargets::Rows(targets) if k <= CLASSES_IN_A_BYTE => {
                let bytes: Vec<u8> = targets.iter().map(|target| number(*target) as u8).collect();
                sum("focal_bytes", Table::of_bytes(device, &bytes)?.address())
            }
            FocalTargets::Rows(targets) => {
                let ints: Vec<i32> = targets.iter().map(|target| number(*target)).collect();
                sum("focal_ints", Table::of_ints(device, &ints)?.address())
            }
        }
    }
}

fn number(target: RowTarget) -> i32 {
    match target {
        RowTarget::Class(class) => class as i32,
        RowTarget::Background => BACKGROUND,
        RowTarget::Ignored => IGNORED,
    }
}
