//! AdamW on a GPU.

use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::DeviceRepr;

use super::{AdamWUpdate, Factors, Updates};
use crate::Result;
use crate::cuda::{in_pieces, pointer};
use crate::dispatch::Gpu;

/// A parameter's update, as the kernel reads it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct AdamW {
    param: u64,
    first: u64,
    second: u64,
    gradient: u64,
    count: i64,
    scale: f32,
    kept: f32,
    share: f32,
    second_kept: f32,
    second_share: f32,
    rate: f32,
    root: f32,
    eps: f32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for AdamW {}

impl Gpu for Updates<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<()> {
        let table = self.0.iter().map(|AdamWUpdate { factors, param, moments: [first, second], gradient }| {
            let Factors { scale, kept, first: share, second_kept, second: second_share, rate, root, eps } = *factors;
            Ok(AdamW {
                param: pointer::<f32>(param)?,
                first: pointer::<f32>(first)?,
                second: pointer::<f32>(second)?,
                gradient: pointer::<f32>(gradient)?,
                count: param.elem_count() as i64,
                scale,
                kept,
                share,
                second_kept,
                second_share,
                rate,
                root,
                eps,
            })
        });
        let table = table.collect::<Result<Vec<_>>>()?;
        in_pieces(device, "adamw", &table, self.0.iter().map(|update| update.param.elem_count()))
    }
}
