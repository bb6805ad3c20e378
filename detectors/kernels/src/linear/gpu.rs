//! Fully connected layers on a GPU: cuBLAS's products through candle, and the epilogue of convolutions.

use candle_core::{CudaDevice, Tensor};

use super::{InputGradient, Linear, WeightGradient};
use crate::conv::{code, scaled_rows_of};
use crate::cuda::{Family, arguments, blocks, floats, floats_or_null, int, launch};
use crate::dispatch::Gpu;
use crate::{Precision, Result};

impl Gpu for Linear<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { size, x, weight, bias, activation } = self;
        let out = product(device, x, &weight.t()?, size.precision)?;
        let bias = bias.map(Tensor::contiguous).transpose()?;
        let count = size.m * size.o;
        if count > 0 && (bias.is_some() || code(activation) != 0) {
            let arguments = arguments![
                floats(&out)?,
                floats_or_null(bias.as_ref())?,
                floats_or_null(None)?,
                count as i64,
                int(size.o)?,
                code(activation)
            ];
            launch(device, Family::Conv, "epilogue", blocks(count)?, [256, 1], arguments)?;
        }
        Ok(out)
    }
}

impl Gpu for InputGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        product(device, self.g, self.weight, self.size.precision)
    }
}

impl Gpu for WeightGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let precision = match self.size.precision {
            Precision::Bf16 => Precision::F32,
            precision => precision,
        };
        product(device, &self.g.t()?, self.x, precision)
    }
}

/// a b in `precision`: transposes are strides to cuBLAS.
fn product(device: &CudaDevice, a: &Tensor, b: &Tensor, precision: Precision) -> Result<Tensor> {
    let (m, inner) = a.dims2()?;
    let (_, n) = b.dims2()?;
    if m * n * inner == 0 {
        return Ok(Tensor::zeros((m, n), candle_core::DType::F32, a.device())?);
    }
    let [a, b] = match precision {
        Precision::Bf16 => [scaled_rows_of(device, a, precision)?, scaled_rows_of(device, b, precision)?],
        _ => [a.clone(), b.clone()],
    };
    candle_core::cuda::set_gemm_reduced_precision_f32(precision != Precision::F32);
    Ok(a.matmul(&b)?)
}
