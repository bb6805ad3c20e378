//! Losses of rows on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::each::{Kind, NOISE_EPS, Part, Positives, RowLosses};
use super::mean::{Mean, Shares};
use crate::Result;
use crate::cuda::{
    Argument, Family, Fresh, Table, arguments, blocks, floats, floats_or_null, int, launch, null,
};
use crate::dispatch::Gpu;
use crate::normalize::row_shape;

impl Gpu for RowLosses<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<(Tensor, Tensor)> {
        let Self { x, kind } = self;
        let (rows, columns) = x.dims2()?;
        let losses = Fresh::<f32>::new(device, rows)?;
        let derivatives = Fresh::<f32>::new(device, rows * columns)?;
        if columns == 0 {
            let losses = losses.zeroed(device)?;
            return Ok((losses.tensor(rows, device), derivatives.tensor((rows, columns), device)));
        }
        if rows > 0 {
            let x = x.contiguous()?;
            let shared =
                arguments![floats(&x)?, losses.address(), derivatives.address(), rows as i64, int(columns)?];
            let run = |name: &'static str, own: &[Argument]| {
                let (grid, block) = row_shape(rows, columns)?;
                let arguments: Vec<Argument> = shared.iter().chain(own).copied().collect();
                launch(device, Family::RowLosses, name, grid, block, &arguments)
            };
            // Labels are only compared, or were checked to be below the number of columns.
            let table = |labels: &[u32]| {
                Table::of_ints(device, &labels.iter().map(|&label| label as i32).collect::<Vec<_>>())
            };
            match kind {
                Kind::Divergence { target, temperature } => {
                    let target = target.contiguous()?;
                    run("softened_divergence", arguments![floats(&target)?, temperature])?;
                }
                Kind::Decoupled { target, labels, temperature, part } => {
                    let (target, labels) = (target.contiguous()?, table(labels)?);
                    let own = arguments![floats(&target)?, labels.address(), temperature];
                    let name = match part {
                        Part::Target => "divergence_of_class",
                        Part::Others => "divergence_of_others",
                    };
                    run(name, own)?;
                }
                Kind::Contrast(Positives::Alike { labels, itself }) => {
                    let labels = table(labels)?;
                    run("contrast", arguments![labels.address(), 2 + i32::from(itself), 0])?;
                }
                Kind::Contrast(Positives::First(count)) => {
                    run("contrast", arguments![null::<i32>(), 1, int(count)?])?;
                }
                Kind::Contrast(Positives::Own) => run("contrast", arguments![null::<i32>(), 0, 0])?,
                Kind::Noise { partition, noise } => {
                    let partition = partition.contiguous()?;
                    run("noise_contrast", arguments![floats(&partition)?, noise, NOISE_EPS])?;
                }
            }
        }
        Ok((losses.tensor(rows, device), derivatives.tensor((rows, columns), device)))
    }
}

impl Gpu for Mean<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { losses, weights, count } = self;
        let out = Fresh::<f32>::new(device, 1)?;
        if count == 0 {
            return Ok(out.zeroed(device)?.tensor((), device));
        }
        let (losses, weights) = (losses.contiguous()?, weights.map(Tensor::contiguous).transpose()?);
        let weights = floats_or_null(weights.as_ref())?;
        let arguments = arguments![floats(&losses)?, weights, out.address(), int(count)?];
        launch(device, Family::RowLosses, "weighted_mean", [1, 1, 1], [256, 1], arguments)?;
        Ok(out.tensor((), device))
    }
}

impl Gpu for Shares<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { g, values, count } = self;
        let out = Fresh::<f32>::new(device, count)?;
        if count > 0 {
            let (g, values) = (g.contiguous()?, values.map(Tensor::contiguous).transpose()?);
            let values = floats_or_null(values.as_ref())?;
            let arguments = arguments![floats(&g)?, values, out.address(), int(count)?];
            launch(device, Family::RowLosses, "shares", blocks(count)?, [256, 1], arguments)?;
        }
        Ok(out.tensor(count, device))
    }
}
