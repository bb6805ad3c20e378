//! Relations of rows on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::angles::Angles;
use super::correlation::{Correlations, EPS, Probabilities};
use super::distances::{self, RelativeDistances};
use super::mixture::{Mixture, MixtureGradient};
use super::mutual::{ByExponent, Mutual, Scaled};
use crate::Result;
use crate::cuda::{Family, Fresh, Table, arguments, blocks, floats, int, launch, pointer};
use crate::dispatch::Gpu;
use crate::normalize::{row_shape, unit_rows, unit_rows_gradient};
use crate::scalar::gpu::sum;

/// Numbers of angles that a block compares, as the kernel knows them.
const CHUNK: usize = 4096;

impl Gpu for Correlations<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<(Tensor, Tensor)> {
        let Self { tensors, sizes: (rows, columns), temperature, probabilities, lines } = self;
        let are_sigmoids = i32::from(probabilities == Probabilities::Sigmoid);
        let (grid, block) = row_shape(rows, columns)?;
        let probable = |logits: &Tensor| -> Result<Fresh<f64>> {
            let (logits, out) = (logits.contiguous()?, Fresh::<f64>::new(device, rows * columns)?);
            let sizes = (rows as i64, int(columns)?);
            let arguments =
                arguments![floats(&logits)?, out.address(), sizes.0, sizes.1, temperature, are_sigmoids];
            launch(device, Family::Relations, "probabilities", grid, block, arguments)?;
            Ok(out)
        };
        let (t, s) = (probable(tensors[0])?, probable(tensors[1])?);
        let by = Fresh::<f64>::new(device, rows * columns)?;
        let losses = Fresh::<f64>::new(device, lines.count)?;
        let arguments = arguments![
            t.address(),
            s.address(),
            by.address(),
            losses.address(),
            lines.count as i64,
            int(lines.len)?,
            int(lines.start)?,
            int(lines.step)?,
            temperature * temperature / lines.count as f64,
            EPS
        ];
        let (of_lines, block_of_lines) = row_shape(lines.count, lines.len)?;
        launch(device, Family::Relations, "correlations", of_lines, block_of_lines, arguments)?;
        let gradient = Fresh::<f32>::new(device, rows * columns)?;
        let arguments = arguments![
            by.address(),
            s.address(),
            gradient.address(),
            rows as i64,
            int(columns)?,
            temperature,
            are_sigmoids
        ];
        launch(device, Family::Relations, "through_probabilities", grid, block, arguments)?;
        let loss = sum(device, losses, lines.count)?;
        Ok((loss.tensor((), device), gradient.tensor((rows, columns), device)))
    }
}

impl Gpu for Mutual<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<[Tensor; 3]> {
        let Self { a, c, rows, columns } = self;
        let losses = Fresh::<f32>::new(device, rows)?;
        let [by_a, by_c] =
            [Fresh::<f32>::new(device, rows * columns)?, Fresh::<f32>::new(device, rows * columns)?];
        if rows > 0 {
            let (a, c) = (a.contiguous()?, c.contiguous()?);
            let (grid, block) = row_shape(rows, columns)?;
            let arguments = arguments![
                floats(&a)?,
                floats(&c)?,
                losses.address(),
                by_a.address(),
                by_c.address(),
                rows as i64,
                int(columns)?
            ];
            launch(device, Family::Relations, "mutual_divergence", grid, block, arguments)?;
        }
        let matrix = |by: Fresh<f32>| by.tensor((rows, columns), device);
        Ok([losses.tensor(rows, device), matrix(by_a), matrix(by_c)])
    }
}

impl Gpu for Scaled<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { x, exponent, largest } = self;
        let count = x.elem_count();
        let out = Fresh::<f32>::new(device, count)?;
        if count > 0 {
            let (x, exponent) = (x.contiguous()?, exponent.contiguous()?);
            let arguments = arguments![floats(&x)?, floats(&exponent)?, out.address(), count as i64, largest];
            launch(device, Family::Relations, "times_exponential", blocks(count)?, [256, 1], arguments)?;
        }
        Ok(out.tensor(x.shape(), device))
    }
}

impl Gpu for ByExponent<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let (g, x, power) = (self.g.contiguous()?, self.x.contiguous()?, self.exponent.contiguous()?);
        let out = Fresh::<f32>::new(device, 1)?;
        let count = x.elem_count() as i64;
        let arguments =
            arguments![floats(&g)?, floats(&x)?, floats(&power)?, out.address(), count, self.largest];
        launch(device, Family::Relations, "by_exponent", [1, 1, 1], [1024, 1], arguments)?;
        Ok(out.tensor(self.exponent.shape(), device))
    }
}

/// Contiguous tensors, and a table of their addresses.
fn addresses(device: &CudaDevice, tensors: &[Tensor]) -> Result<(Vec<Tensor>, Table<i64>)> {
    let tensors = tensors.iter().map(Tensor::contiguous).collect::<candle_core::Result<Vec<_>>>()?;
    let pointers = tensors.iter().map(|tensor| Ok(pointer::<f32>(tensor)? as i64));
    let table = Table::of_longs(device, &pointers.collect::<Result<Vec<_>>>()?)?;
    Ok((tensors, table))
}

impl Gpu for Mixture<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { parts, weights, rows, columns } = self;
        let count = rows * columns;
        let out = Fresh::<f32>::new(device, count)?;
        if count > 0 {
            let (weights, (_parts, table)) = (weights.contiguous()?, addresses(device, parts)?);
            let sizes = (count as i64, int(columns)?, int(parts.len())?);
            let arguments =
                arguments![table.address(), floats(&weights)?, out.address(), sizes.0, sizes.1, sizes.2];
            launch(device, Family::Relations, "mixture", blocks(count)?, [256, 1], arguments)?;
        }
        Ok(out.tensor((rows, columns), device))
    }
}

impl Gpu for MixtureGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Vec<Tensor>> {
        let Mixture { parts, weights, rows, columns } = self.of;
        let fresh = |width: usize| Ok(Fresh::<f32>::new(device, rows * width)?.tensor((rows, width), device));
        let mut gradients = parts.iter().map(|_| fresh(columns)).collect::<Result<Vec<_>>>()?;
        let by_weights = fresh(parts.len())?;
        if rows > 0 {
            let (g, weights) = (self.g.contiguous()?, weights.contiguous()?);
            let (_parts, table) = addresses(device, parts)?;
            let (_gradients, by_parts) = addresses(device, &gradients)?;
            let arguments = arguments![
                floats(&g)?,
                table.address(),
                floats(&weights)?,
                by_parts.address(),
                floats(&by_weights)?,
                rows as i64,
                int(columns)?,
                int(parts.len())?
            ];
            let (grid, block) = row_shape(rows, columns)?;
            launch(device, Family::Relations, "mixture_gradient", grid, block, arguments)?;
        }
        gradients.push(by_weights);
        Ok(gradients)
    }
}

impl Gpu for RelativeDistances<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<(Tensor, Tensor)> {
        let Self { target, x, sizes: (b, p, q) } = self;
        let (target, x, pairs) = (target.contiguous()?, x.contiguous()?, b * b);
        let distances = |rows: &Tensor, width: usize| -> Result<Fresh<f64>> {
            let out = Fresh::<f64>::new(device, pairs)?;
            let sizes = (pairs as i64, int(b)?, int(width)?);
            let arguments =
                arguments![floats(rows)?, out.address(), sizes.0, sizes.1, sizes.2, distances::EPS];
            let (grid, block) = row_shape(pairs, 1)?;
            launch(device, Family::Relations, "distances", grid, block, arguments)?;
            Ok(out)
        };
        let (t, s) = (distances(&target, p)?, distances(&x, q)?);
        let (by, means) = (Fresh::<f64>::new(device, pairs)?, Fresh::<f64>::new(device, 2)?);
        let (loss, gradient) = (Fresh::<f32>::new(device, 1)?, Fresh::<f32>::new(device, b * q)?);
        let shared = [t.address(), s.address(), by.address(), means.address(), loss.address()];
        let arguments = arguments![shared[0], shared[1], shared[2], shared[3], shared[4], int(b)?];
        launch(device, Family::Relations, "compare_distances", [1, 1, 1], [1024, 1], arguments)?;
        let arguments = arguments![
            floats(&x)?,
            s.address(),
            by.address(),
            means.address(),
            gradient.address(),
            int(b)?,
            int(q)?,
            distances::EPS
        ];
        launch(device, Family::Relations, "distances_gradient", blocks(b * q)?, [256, 1], arguments)?;
        Ok((loss.tensor((), device), gradient.tensor((b, q), device)))
    }
}

impl Gpu for Angles<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<(Tensor, Tensor)> {
        let Self { target, x, sizes: (b, p, q) } = self;
        let differences = |rows: &Tensor, width: usize| -> Result<Tensor> {
            let (rows, count) = (rows.contiguous()?, b * b * width);
            let out = Fresh::<f32>::new(device, count)?;
            let sizes = (count as i64, int(b)?, int(width)?);
            let arguments = arguments![floats(&rows)?, out.address(), sizes.0, sizes.1, sizes.2];
            launch(device, Family::Relations, "differences", blocks(count)?, [256, 1], arguments)?;
            Ok(out.tensor((b, b, width), device))
        };
        candle_core::cuda::set_gemm_reduced_precision_f32(false);
        // Rows of zeros, those of equal rows, stay rows of zeros.
        const EPS: f64 = f64::MIN_POSITIVE;
        let unit_t = unit_rows(&differences(target, p)?, EPS)?;
        let cos_t = unit_t.matmul(&unit_t.t()?)?;
        let apart = differences(x, q)?;
        let unit_x = unit_rows(&apart, EPS)?;
        let cos_x = unit_x.matmul(&unit_x.t()?)?;
        let count = b * b * b;
        let losses = Fresh::<f64>::new(device, count.div_ceil(CHUNK))?;
        let share = (count as f64).recip();
        let arguments = arguments![floats(&cos_t)?, floats(&cos_x)?, losses.address(), count as i64, share];
        let grid = [int(count.div_ceil(CHUNK))? as u32, 1, 1];
        launch(device, Family::Relations, "compare_angles", grid, [256, 1], arguments)?;
        let by_apart = unit_rows_gradient(&cos_x.matmul(&unit_x)?, &apart, EPS)?;
        let gradient = Fresh::<f32>::new(device, b * q)?;
        let arguments = arguments![floats(&by_apart)?, gradient.address(), int(b)?, int(q)?];
        launch(device, Family::Relations, "differences_gradient", blocks(b * q)?, [256, 1], arguments)?;
        let loss = sum(device, losses, count.div_ceil(CHUNK))?;
        Ok((loss.tensor((), device), gradient.tensor((b, q), device)))
    }
}
