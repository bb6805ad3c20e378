//! SGD and norms of gradients on a GPU.

use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::DeviceRepr;

use super::{SgdStep, SgdUpdate, SquaredNorm, Updates};
use crate::cuda::{Family, Fresh, Table, arguments, in_pieces, int, launch, pieces, pointer};
use crate::dispatch::Gpu;
use crate::{Result, transfers};

/// A parameter's update, as the kernel reads it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Sgd {
    param: u64,
    velocity: u64,
    gradient: u64,
    count: i64,
    lr: f32,
    momentum: f32,
    decay: f32,
    scale: f32,
    nesterov: i64,
}

/// Numbers whose squares are added, as the kernel reads it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Numbers {
    first: u64,
    count: i64,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Sgd {}
// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Numbers {}

impl Gpu for Updates<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<()> {
        let table = self.0.iter().map(|SgdUpdate { step, param, velocity, gradient }| {
            let SgdStep { lr, momentum, nesterov, weight_decay, gradient_scale } = *step;
            Ok(Sgd {
                param: pointer::<f32>(param)?,
                velocity: pointer::<f32>(velocity)?,
                gradient: pointer::<f32>(gradient)?,
                count: param.elem_count() as i64,
                lr: lr as f32,
                momentum: momentum as f32,
                decay: weight_decay as f32,
                scale: gradient_scale as f32,
                nesterov: i64::from(nesterov),
            })
        });
        let table = table.collect::<Result<Vec<_>>>()?;
        in_pieces(device, "sgd", &table, self.0.iter().map(|update| update.param.elem_count()))
    }
}

impl Gpu for SquaredNorm<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<f64> {
        let tensors =
            self.0.iter().map(|tensor| tensor.contiguous()).collect::<candle_core::Result<Vec<_>>>()?;
        let table = tensors
            .iter()
            .map(|tensor| Ok(Numbers { first: pointer::<f32>(tensor)?, count: tensor.elem_count() as i64 }));
        let table = Table::of_structs(device, &table.collect::<Result<Vec<_>>>()?)?;
        let pieces = pieces(tensors.iter().map(|tensor| tensor.elem_count()));
        let (partial, total) = (Fresh::<f64>::new(device, pieces.len())?, Fresh::<f64>::new(device, 1)?);
        if !pieces.is_empty() {
            let of_pieces = Table::of_structs(device, &pieces)?;
            let arguments = arguments![table.address(), of_pieces.address(), partial.address()];
            let grid = [int(pieces.len())? as u32, 1, 1];
            launch(device, Family::Optimisers, "squares", grid, [256, 1], arguments)?;
        }
        let of_all = arguments![partial.address(), total.address(), int(pieces.len())?];
        launch(device, Family::Optimisers, "add_up", [1, 1, 1], [256, 1], of_all)?;
        transfers::count(size_of::<f64>());
        Ok(total.tensor((), device).to_scalar()?)
    }
}
