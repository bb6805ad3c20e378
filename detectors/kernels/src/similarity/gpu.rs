//! Similarities of rows on a GPU: products by cuBLAS.

use candle_core::{CudaDevice, Tensor};

use super::{Diagonal, Product, RowProducts, TimesRows, WithDiagonal};
use crate::Result;
use crate::cuda::{Family, Fresh, arguments, blocks, floats, floats_or_null, int, launch};
use crate::dispatch::Gpu;
use crate::normalize::row_shape;
use crate::pointwise::{Function, map};
use crate::product::Form;

impl Gpu for Product<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { left, right, forms, sizes: (rows, columns, inner), factor } = self;
        if rows * columns * inner == 0 {
            let zeros = Fresh::<f32>::new(device, rows * columns)?.zeroed(device)?;
            return Ok(zeros.tensor((rows, columns), device));
        }
        let placed = |x: &Tensor, form| match form {
            Form::Plain => x.contiguous(),
            Form::Transposed => x.contiguous()?.t(),
        };
        candle_core::cuda::set_gemm_reduced_precision_f32(false);
        let out = placed(left, forms[0])?.matmul(&placed(right, forms[1])?)?;
        if factor == 1.0 { Ok(out) } else { map(Function::Times(factor as f32), &out) }
    }
}

impl Gpu for RowProducts<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { a, b, rows, width } = self;
        let out = Fresh::<f32>::new(device, rows)?;
        if rows > 0 {
            let (a, b) = (a.contiguous()?, b.contiguous()?);
            let (grid, block) = row_shape(rows, width)?;
            let arguments = arguments![floats(&a)?, floats(&b)?, out.address(), rows as i64, int(width)?];
            launch(device, Family::Rows, "row_products", grid, block, arguments)?;
        }
        Ok(out.tensor(rows, device))
    }
}

impl Gpu for TimesRows<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { x, factors, rows, width } = self;
        let count = rows * width;
        let out = Fresh::<f32>::new(device, count)?;
        if count > 0 {
            let (x, factors) = (x.contiguous()?, factors.contiguous()?);
            let arguments =
                arguments![floats(&x)?, floats(&factors)?, out.address(), count as i64, int(width)?];
            launch(device, Family::Rows, "times_rows", blocks(count)?, [256, 1], arguments)?;
        }
        Ok(out.tensor((rows, width), device))
    }
}

impl Gpu for WithDiagonal<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { x, diagonal, rows } = self;
        let count = rows * rows;
        let out = Fresh::<f32>::new(device, count)?;
        if count > 0 {
            let (x, diagonal) = (x.contiguous()?, diagonal.map(Tensor::contiguous).transpose()?);
            let diagonal = floats_or_null(diagonal.as_ref())?;
            let arguments = arguments![floats(&x)?, diagonal, out.address(), count as i64, int(rows)?];
            launch(device, Family::Rows, "with_diagonal", blocks(count)?, [256, 1], arguments)?;
        }
        Ok(out.tensor((rows, rows), device))
    }
}

impl Gpu for Diagonal<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { x, rows } = self;
        let out = Fresh::<f32>::new(device, rows)?;
        if rows > 0 {
            let x = x.contiguous()?;
            let arguments = arguments![floats(&x)?, out.address(), int(rows)?];
            launch(device, Family::Rows, "diagonal", blocks(rows)?, [256, 1], arguments)?;
        }
        Ok(out.tensor(rows, device))
    }
}
