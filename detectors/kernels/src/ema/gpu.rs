//! Averages of weights on a GPU.

use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::DeviceRepr;

use super::Updates;
use crate::Result;
use crate::cuda::{in_pieces, pointer};
use crate::dispatch::Gpu;

/// An average and its weights, as the kernel reads them.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Ema {
    average: u64,
    weights: u64,
    count: i64,
    decay: f64,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Ema {}

impl Gpu for Updates<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<()> {
        let Self { pairs, decay } = self;
        let table = pairs.iter().map(|(average, weights)| {
            let (count, weights) = (average.elem_count() as i64, pointer::<f32>(weights)?);
            Ok(Ema { average: pointer::<f32>(average)?, weights, count, decay })
        });
        let table = table.collect::<Result<Vec<_>>>()?;
        in_pieces(device, "ema", &table, pairs.iter().map(|(average, _)| average.elem_count()))
    }
}
