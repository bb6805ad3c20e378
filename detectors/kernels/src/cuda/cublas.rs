//! Products of matrices of bf16 by cuBLAS: sums and results are f32.

use std::ffi::c_int;

use candle_core::cuda_backend::cudarc::cublas::result::gemm_ex;
use candle_core::cuda_backend::cudarc::cublas::sys::{
    cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cudaDataType,
};
use candle_core::{CudaDevice, Tensor};
use half::bf16;

use super::launch::int;
use super::memory::{Fresh, pointer};
use crate::Result;

/// A factor as cuBLAS takes it: address, whether it is turned over, and numbers from one of its lines to the next.
struct Factor(u64, cublasOperation_t, c_int);

impl Factor {
    /// A contiguous matrix, or the transpose of one. cuBLAS counts by columns: a row-major matrix is a transpose to it, and
    /// so is the product.
    fn of(matrix: &Tensor) -> Result<Self> {
        let (stored, operation) = match matrix.is_contiguous() {
            true => (matrix.clone(), cublasOperation_t::CUBLAS_OP_N),
            false => (matrix.t()?, cublasOperation_t::CUBLAS_OP_T),
        };
        Ok(Self(pointer::<bf16>(&stored)?, operation, int(stored.dim(1)?)?))
    }
}

/// a b in f32.
///
/// # Shapes
/// `a` (M, I) and `b` (I, N), none of them empty, to (M, N).
///
/// # Errors
/// If a factor is neither contiguous nor the transpose of a contiguous one, or not bf16; errors of cuBLAS.
pub(crate) fn product(device: &CudaDevice, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let ((m, inner), (_, n)) = (a.dims2()?, b.dims2()?);
    let out = Fresh::<f32>::new(device, m * n)?;
    let (Factor(a, turn_a, line_a), Factor(b, turn_b, line_b)) = (Factor::of(a)?, Factor::of(b)?);
    let (one, zero) = (1f32, 0f32);
    let (bf16, f32) = (cudaDataType::CUDA_R_16BF, cudaDataType::CUDA_R_32F);
    let (rows, columns, inner) = (int(n)?, int(m)?, int(inner)?);
    // SAFETY: the factors have the sizes that their shapes say, and the result has room for `m n` numbers.
    unsafe {
        gemm_ex(
            *device.cublas_handle().handle(),
            turn_b,
            turn_a,
            rows,
            columns,
            inner,
            (&raw const one).cast(),
            b as _,
            bf16,
            line_b,
            a as _,
            bf16,
            line_a,
            (&raw const zero).cast(),
            out.start() as _,
            f32,
            rows,
            cublasComputeType_t::CUBLAS_COMPUTE_32F,
            cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .map_err(candle_core::Error::wrap)?;
    Ok(out.tensor((m, n), device))
}
