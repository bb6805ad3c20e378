//! Kernel alignment on a GPU: many pairs of matrices at once, through the kernels of their rows.

use candle_core::{CudaDevice, Tensor};

use super::kernel::{Kernel, RowNorm, Sense, Wanted};
use super::matrices::Matrices;
use super::patches::{Compared, Maps, PatchRows};
use crate::cuda::{Family, Fresh, arguments, blocks, floats, int, launch};
use crate::dispatch::{Gpu, Host};
use crate::elementwise::add_in_place;
use crate::in_place::in_memory_order;
use crate::normalize::{unit_rows, unit_rows_gradient};
use crate::scalar::times_scalar;
use crate::{Error, Result};

/// Below the length of any row of f32 numbers that is not zero.
const SHORTEST: f64 = 1e-300;

impl Gpu for Matrices<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<(Tensor, Option<Tensor>)> {
        let (n, p, q) = self.sizes;
        if n * p * q == 0 {
            return self.on_host();
        }
        let (x, y) = (self.x.contiguous()?.reshape((1, n, p))?, self.y.contiguous()?.reshape((1, n, q))?);
        let (loss, gradient) = align(device, &x, &y, self.kernel, self.sense, self.wanted)?;
        Ok((loss, gradient.map(|gradient| gradient.reshape((n, q))).transpose()?))
    }
}

impl Gpu for Maps<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Compared> {
        let Self { patches, rows, kernel, wanted, .. } = self;
        let by_pixel = rows == PatchRows::Pixels;
        let x = patches.cut_on(device, self.x, by_pixel)?;
        let y = patches.cut_on(device, self.y, by_pixel)?;
        let (loss, gradient) = align(device, &x, &y, kernel, Sense::LACK, wanted)?;
        let gradient = gradient.map(|gradient| patches.paste_on(device, &gradient, by_pixel)).transpose()?;
        let backward = move |incoming: &Tensor| {
            // Not asked for where nothing is tracked.
            let gradient = gradient.ok_or_else(|| Error::invalid("patch_misalignment", "no gradient"))?;
            times_scalar(&in_memory_order(&gradient)?, incoming)?;
            Ok(gradient)
        };
        Ok(Compared { loss, backward: Box::new(backward) })
    }
}

/// `sense` of the mean alignment of pairs of matrices (B, n, p) and (B, n, q), and the derivatives by the second.
fn align(
    device: &CudaDevice,
    x: &Tensor,
    y: &Tensor,
    kernel: Kernel,
    sense: Sense,
    wanted: Wanted,
) -> Result<(Tensor, Option<Tensor>)> {
    let (pairs, n, _) = y.dims3()?;
    let centered = |x: &Tensor| match kernel.center {
        true => without_means(device, x),
        false => Ok(x.clone()),
    };
    let (x, y) = (centered(x)?, centered(y)?);
    let units = |x: &Tensor| match kernel.row_norm {
        RowNorm::Off => Ok(x.clone()),
        _ => unit_rows(x, SHORTEST),
    };
    let (unit_x, unit_y) = (units(&x)?, units(&y)?);
    let (right_x, right_y) = match kernel.row_norm {
        RowNorm::Rows => (&x, &y),
        _ => (&unit_x, &unit_y),
    };
    candle_core::cuda::set_gemm_reduced_precision_f32(false);
    let k = unit_x.matmul(&right_x.transpose(1, 2)?)?;
    let l = unit_y.matmul(&right_y.transpose(1, 2)?)?;
    let alignments = Fresh::<f64>::new(device, 3 * pairs)?;
    let size = n * n;
    let arguments = arguments![floats(&k)?, floats(&l)?, alignments.address(), size as i64];
    launch(device, Family::Alignment, "alignments", [int(pairs)? as u32, 1, 1], [256, 1], arguments)?;
    let loss = Fresh::<f32>::new(device, 1)?;
    let arguments = arguments![alignments.address(), loss.address(), int(pairs)?, sense.offset, sense.sign];
    launch(device, Family::Alignment, "mean_alignment", [1, 1, 1], [256, 1], arguments)?;
    let loss = loss.tensor((), device);
    if wanted == Wanted::Value {
        return Ok((loss, None));
    }

    // A factor that is both sides of L gets the derivative twice.
    let sides = if kernel.row_norm == RowNorm::Rows { 1.0 } else { 2.0 };
    let factor = sides * sense.sign / pairs as f64;
    let count = pairs * size;
    let arguments =
        arguments![floats(&k)?, floats(&l)?, alignments.address(), count as i64, size as i64, factor];
    launch(device, Family::Alignment, "derivative_of_kernels", blocks(count)?, [256, 1], arguments)?;
    let mut gradient = k.matmul(right_y)?;
    if kernel.row_norm != RowNorm::Off {
        gradient = unit_rows_gradient(&gradient, &y, SHORTEST)?;
    }
    if kernel.row_norm == RowNorm::Rows {
        add_in_place(&gradient, &k.transpose(1, 2)?.matmul(&unit_y)?)?;
    }
    Ok((loss, Some(centered(&gradient)?)))
}

/// Matrices (B, n, width) without the means of their columns.
fn without_means(device: &CudaDevice, x: &Tensor) -> Result<Tensor> {
    let (pairs, n, width) = x.dims3()?;
    let out = Fresh::<f32>::new(device, x.elem_count())?;
    let columns = pairs * width;
    let arguments = arguments![floats(x)?, out.address(), columns as i64, int(n)?, int(width)?];
    launch(device, Family::Alignment, "center_columns", blocks(columns)?, [256, 1], arguments)?;
    Ok(out.tensor((pairs, n, width), device))
}
