//! Attention of maps on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::super::gpu::{Chunked, Of, by_cells, by_rows, means_of_cells, rounded};
use super::{AttentionDifference, AttentionWeights, Compared};
use crate::Result;
use crate::cuda::{Argument, Fresh, arguments, floats, int};
use crate::dispatch::Gpu;
use crate::scalar::gpu::sum;

/// S (N·H·W) and C (N·C) of a map.
struct Attention {
    cells: Fresh<f64>,
    channels: Fresh<f64>,
}

impl Attention {
    /// Of a map (N, H, W, C).
    fn of(device: &CudaDevice, map: &Tensor, temperature: f64) -> Result<Self> {
        let (n, h, w, c) = map.dims4()?;
        let cells = h * w;
        let by_cells = means_of_cells(device, map, (n * cells, c), false)?;
        let by_channels = Chunked::new(n, cells, c).sums(device, map, Of::Sizes, cells as f64)?;
        Ok(Self {
            cells: softened(device, by_cells, (n, cells), temperature)?,
            channels: softened(device, by_channels, (n, c), temperature)?,
        })
    }
}

/// The softmax of rows, times their length.
fn softened(
    device: &CudaDevice,
    means: Fresh<f64>,
    (rows, len): (usize, usize),
    temperature: f64,
) -> Result<Fresh<f64>> {
    let out = Fresh::<f64>::new(device, rows * len)?;
    let arguments = arguments![means.address(), out.address(), len as i64, temperature, len as f64];
    by_rows(device, "softened", rows, arguments)?;
    Ok(out)
}

impl Gpu for AttentionWeights<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<(Tensor, Tensor)> {
        let Self { map, mask, temperature } = self;
        let (n, h, w, c) = map.dims4()?;
        let attention = Attention::of(device, map, temperature)?;
        let cells = rounded(device, &attention.cells, Some(mask), n * h * w)?;
        let channels = rounded(device, &attention.channels, None, n * c)?;
        Ok((cells.tensor((n, h, w), device), channels.tensor((n, c), device)))
    }
}

impl Gpu for AttentionDifference<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Compared> {
        let Self { target, x, temperature, tracked } = self;
        let (n, h, w, c) = x.dims4()?;
        let cells = h * w;
        let (of_t, of_x) =
            (Attention::of(device, target, temperature)?, Attention::of(device, x, temperature)?);
        // The rows' losses, of cells and of channels; derivatives by the means.
        let losses = [Fresh::<f64>::new(device, n)?, Fresh::<f64>::new(device, n)?];
        let by_cell = Fresh::<f64>::new(device, n * cells)?;
        let by_channel = Fresh::<f64>::new(device, n * c)?;
        let difference = |t: &Fresh<f64>, x: &Fresh<f64>, loss: Argument, by: &Fresh<f64>, len: usize| {
            let maps = (t.address(), x.address());
            let arguments = arguments![maps.0, maps.1, loss, by.address(), len as i64, temperature, n as f64];
            by_rows(device, "softened_difference", n, arguments)
        };
        let [of_cells, of_channels] = losses;
        difference(&of_t.cells, &of_x.cells, of_cells.address(), &by_cell, cells)?;
        difference(&of_t.channels, &of_x.channels, of_channels.address(), &by_channel, c)?;
        let of_cells = sum(device, of_cells, n)?.tensor((), device);
        let of_channels = sum(device, of_channels, n)?.tensor((), device);
        let value = crate::pointwise::sum_of(&of_cells, &of_channels)?;
        if !tracked {
            return Ok(Compared { value, gradient: None });
        }
        let out = Fresh::<f32>::new(device, n * cells * c)?;
        let arguments = arguments![
            floats(x)?,
            by_cell.address(),
            by_channel.address(),
            out.address(),
            (n * cells) as i64,
            cells as i64,
            int(c)?
        ];
        by_cells(device, "attention_gradient", n * cells, arguments)?;
        Ok(Compared { value, gradient: Some(out.map((n, h, w, c), device)?) })
    }
}
