//! Sums over rows on a GPU.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{CudaDevice, Tensor};

use super::Sum;
use crate::Result;
use crate::cuda::{Argument, Family, Fresh, Table, arguments, blocks, floats, int, launch, null};
use crate::scalar::gpu::sum;

/// Threads that compute the loss of a row.
#[derive(Debug, Clone, Copy)]
pub(in crate::losses) enum Threads {
    One,
    Warp,
}

impl Threads {
    /// Blocks of the grid, and threads of a block.
    fn shape(self, rows: usize) -> Result<([u32; 3], [u32; 2])> {
        match self {
            Self::One => Ok((blocks(rows)?, [256, 1])),
            Self::Warp => Ok(([int(rows.div_ceil(8))? as u32, 1, 1], [32, 8])),
        }
    }
}

/// Rows before `end`, behind those of the part before.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    end: i64,
    divisor: f64,
}

// SAFETY: two plain numbers, laid out as in C.
unsafe impl DeviceRepr for Part {}

/// The loss that kernel `name` computes of `input`, whose rows have `width` elements; `parts` are the
/// divisor's, `own` the arguments behind those that every loss has.
pub(in crate::losses) fn sum_over_rows(
    device: &CudaDevice,
    input: &Tensor,
    width: usize,
    parts: &[(usize, f64)],
    (name, threads): (&'static str, Threads),
    own: &[Argument],
) -> Result<Sum> {
    let gradient = Fresh::<f32>::new(device, input.elem_count())?;
    let loss = summed(device, input, width, parts, (name, threads), own, Some(&gradient))?;
    Ok(Sum { loss, gradient: gradient.tensor(input.shape(), device) })
}

/// The loss of [`sum_over_rows`] without its gradient, by a kernel that can do without.
pub(in crate::losses) fn loss_over_rows(
    device: &CudaDevice,
    input: &Tensor,
    width: usize,
    parts: &[(usize, f64)],
    kernel: (&'static str, Threads),
    own: &[Argument],
) -> Result<Tensor> {
    summed(device, input, width, parts, kernel, own, None)
}

/// The loss; the derivatives to `gradient`.
fn summed(
    device: &CudaDevice,
    input: &Tensor,
    width: usize,
    parts: &[(usize, f64)],
    (name, threads): (&'static str, Threads),
    own: &[Argument],
    gradient: Option<&Fresh<f32>>,
) -> Result<Tensor> {
    let rows = input.elem_count().checked_div(width).unwrap_or(0);
    let losses = Fresh::<f64>::new(device, rows)?;
    if rows > 0 {
        let x = input.contiguous()?;
        let table = Table::of_structs(device, &ends(parts))?;
        let shared = *arguments![
            floats(&x)?,
            table.address(),
            int(parts.len())?,
            gradient.map_or(null::<f32>(), Fresh::address),
            losses.address(),
            rows as i64
        ];
        let arguments: Vec<Argument> = shared.iter().chain(own).copied().collect();
        let (grid, block) = threads.shape(rows)?;
        launch(device, Family::Losses, name, grid, block, &arguments)?;
    }
    Ok(sum(device, losses, rows)?.tensor((), device))
}

/// Parts by their ends.
fn ends(parts: &[(usize, f64)]) -> Vec<Part> {
    let mut end = 0;
    let part = |&(rows, divisor): &(usize, f64)| {
        end += rows as i64;
        Part { end, divisor }
    };
    parts.iter().map(part).collect()
}
