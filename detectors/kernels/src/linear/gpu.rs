//! Fully connected layers on a GPU: cuBLAS's products, and the epilogue of convolutions. Rows are f32; in bf16 precision the
//! factors are rounded.

use candle_core::{CudaDevice, DType, Tensor};

use super::{InputGradient, Linear, WeightGradient};
use crate::conv::finish;
use crate::cuda::cublas;
use crate::dispatch::Gpu;
use crate::stored::gpu::scaled;
use crate::{Precision, Result};

impl Gpu for Linear<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { size, x, weight, bias, activation } = self;
        let precision = size.precision.on(device)?;
        let [x, weight] = factors(device, [x, weight], precision)?;
        let out = product(device, &x, &weight.t()?, precision)?;
        let bias = bias.map(Tensor::contiguous).transpose()?;
        finish(device, &out, bias.as_ref(), None, activation)?;
        Ok(out)
    }
}

impl Gpu for InputGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let precision = self.size.precision.on(device)?;
        let [g, weight] = factors(device, [self.g, self.weight], precision)?;
        product(device, &g, &weight, precision)
    }
}

impl Gpu for WeightGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let precision = self.size.precision.on(device)?;
        let [g, x] = factors(device, [self.g, self.x], precision)?;
        product(device, &g.t()?, &x, precision)
    }
}

/// Two matrices in the type of `precision`.
fn factors(device: &CudaDevice, matrices: [&Tensor; 2], precision: Precision) -> Result<[Tensor; 2]> {
    let [a, b] = matrices.map(|matrix| scaled(device, &matrix.contiguous()?, None, precision.dtype()));
    Ok([a?, b?])
}

/// a b in f32 of matrices in the type of `precision`: transposes are strides to cuBLAS.
fn product(device: &CudaDevice, a: &Tensor, b: &Tensor, precision: Precision) -> Result<Tensor> {
    let ((m, inner), (_, n)) = (a.dims2()?, b.dims2()?);
    if m * n * inner == 0 {
        return Ok(Tensor::zeros((m, n), DType::F32, a.device())?);
    }
    if precision == Precision::Bf16 {
        return cublas::product(device, a, b);
    }
    candle_core::cuda::set_gemm_reduced_precision_f32(precision != Precision::F32);
    Ok(a.matmul(b)?)
}
