//! Kernel alignment on a GPU: many pairs of matrices at once, through the kernels of their rows.

use candle_core::{CudaDevice, Tensor};

use super::kernel::{Kernel, RowNorm, Sense, Wanted};
use super::matrices::Matrices;
use super::patches::{Compared, Maps, PatchRows};
use crate::cuda::{Family, Fresh, FreshMap, arguments, blocks, floats, int, launch};
use crate::dispatch::{Gpu, Host};
use crate::elementwise::add_in_place;
use crate::in_place::in_memory_order;
use crate::memory::nhwc;
use crate::normalize::{unit_rows, unit_rows_gradient};
use crate::scalar::times_scalar;
use crate::{Error, Result};

/// Below the length of any row of f32 numbers that is not zero.
const SHORTEST: f64 = 1e-300;

/// Numbers of a map that are compared at once: 16 MiB of matrices, of their kernels or of their gradients.
const AT_ONCE: usize = 4 << 20;

impl Gpu for Matrices<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<(Tensor, Option<Tensor>)> {
        let (n, p, q) = self.sizes;
        if n * p * q == 0 {
            return self.on_host();
        }
        let (x, y) = (self.x.contiguous()?.reshape((1, n, p))?, self.y.contiguous()?.reshape((1, n, q))?);
        let pairs = Alignments::new(device, 1, self.kernel, self.sense)?;
        let gradient = pairs.align(0, &x, &y, self.wanted)?;
        Ok((pairs.mean()?, gradient.map(|gradient| gradient.reshape((n, q))).transpose()?))
    }
}

impl Gpu for Maps<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Compared> {
        let Self { dims: (n, channels, h, w), patches, rows, kernel, wanted, .. } = self;
        let by_pixel = rows == PatchRows::Pixels;
        let (x, y) = (nhwc(self.x)?, nhwc(self.y)?);
        let wants_gradient = wanted == Wanted::ValueAndGradient;
        let gradient = wants_gradient.then(|| FreshMap::like(&y, device, y.elem_count())).transpose()?;
        let pairs = Alignments::new(device, channels, kernel, Sense::LACK)?;
        let rows = if by_pixel { patches.pixels() } else { patches.count() };
        let numbers = (patches.count() * patches.pixels()).max(rows * rows);
        let step = (AT_ONCE / numbers / 32 * 32).max(32);
        for first in (0..channels).step_by(step) {
            let some = first..channels.min(first + step);
            let cut = |map| patches.cut_on(device, map, some.clone(), by_pixel);
            let derivative = pairs.align(first, &cut(&x)?, &cut(&y)?, wanted)?;
            if let (Some(gradient), Some(derivative)) = (&gradient, derivative) {
                patches.paste_on(device, &derivative, some, by_pixel, gradient)?;
            }
        }
        let gradient = gradient.map(|gradient| gradient.map((n, h, w, channels), device)).transpose()?;
        let backward = move |incoming: &Tensor| {
            // Not asked for where nothing is tracked.
            let gradient = gradient.ok_or_else(|| Error::invalid("patch_misalignment", "no gradient"))?;
            times_scalar(&in_memory_order(&gradient)?, incoming)?;
            Ok(gradient)
        };
        Ok(Compared { loss: pairs.mean()?, backward: Box::new(backward) })
    }
}

/// `sense` of the mean alignment of pairs of matrices, some pairs after others.
struct Alignments<'a> {
    device: &'a CudaDevice,
    pairs: usize,
    kernel: Kernel,
    sense: Sense,
    /// Three numbers a pair: its alignment and the factors of its derivative.
    each: Fresh<f64>,
}

impl<'a> Alignments<'a> {
    fn new(device: &'a CudaDevice, pairs: usize, kernel: Kernel, sense: Sense) -> Result<Self> {
        Ok(Self { device, pairs, kernel, sense, each: Fresh::new(device, 3 * pairs)? })
    }

    /// Takes the pairs (B, n, p) and (B, n, q) as those from `first` on; gives the derivatives by the second of each.
    fn align(&self, first: usize, x: &Tensor, y: &Tensor, wanted: Wanted) -> Result<Option<Tensor>> {
        let &Self { device, kernel, sense, .. } = self;
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
        let (each, size) = (self.each.address_of(3 * first), n * n);
        let arguments = arguments![floats(&k)?, floats(&l)?, each, size as i64];
        launch(device, Family::Alignment, "alignments", [int(pairs)? as u32, 1, 1], [256, 1], arguments)?;
        if wanted == Wanted::Value {
            return Ok(None);
        }

        // A factor that is both sides of L gets the derivative twice.
        let sides = if kernel.row_norm == RowNorm::Rows { 1.0 } else { 2.0 };
        let factor = sides * sense.sign / self.pairs as f64;
        let count = pairs * size;
        let arguments = arguments![floats(&k)?, floats(&l)?, each, count as i64, size as i64, factor];
        launch(device, Family::Alignment, "derivative_of_kernels", blocks(count)?, [256, 1], arguments)?;
        let mut gradient = k.matmul(right_y)?;
        if kernel.row_norm != RowNorm::Off {
            gradient = unit_rows_gradient(&gradient, &y, SHORTEST)?;
        }
        if kernel.row_norm == RowNorm::Rows {
            add_in_place(&gradient, &k.transpose(1, 2)?.matmul(&unit_y)?)?;
        }
        Ok(Some(centered(&gradient)?))
    }

    /// A scalar.
    fn mean(self) -> Result<Tensor> {
        let Self { device, pairs, sense, each, .. } = self;
        let mean = Fresh::<f32>::new(device, 1)?;
        let arguments = arguments![each.address(), mean.address(), int(pairs)?, sense.offset, sense.sign];
        launch(device, Family::Alignment, "mean_alignment", [1, 1, 1], [256, 1], arguments)?;
        Ok(mean.tensor((), device))
    }
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
