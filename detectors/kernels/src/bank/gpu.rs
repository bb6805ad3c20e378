//! Memory banks on a GPU.

use std::collections::BTreeMap;

use candle_core::{CudaDevice, Tensor};

use super::{Drawn, DrawnGradient, Partition, Remember, Sizes};
use crate::Result;
use crate::cuda::{Family, Fresh, Table, arguments, blocks, by_target, floats, int, launch};
use crate::dispatch::Gpu;
use crate::normalize::row_shape;

/// Rows of a bank, which were checked to exist.
fn table(device: &CudaDevice, rows: &[u32]) -> Result<Table<i32>> {
    Table::of_ints(device, &rows.iter().map(|&row| int(row as usize)).collect::<Result<Vec<_>>>()?)
}

/// The matrix of `shape` that kernel `name` computes of `rows` and of what was drawn from `bank`.
fn by_drawn(
    device: &CudaDevice,
    (name, shape): (&'static str, (usize, usize)),
    (rows, bank, drawn): (&Tensor, &Tensor, &[u32]),
    Sizes { columns, d, factor, .. }: Sizes,
    (grid, block): ([u32; 3], [u32; 2]),
) -> Result<Tensor> {
    let count = shape.0 * shape.1;
    let out = Fresh::<f32>::new(device, count)?;
    if count > 0 {
        let (rows, bank, drawn) = (rows.contiguous()?, bank.contiguous()?, table(device, drawn)?);
        let sizes = (count as i64, int(columns)?, int(d)?);
        let arguments = arguments![
            floats(&rows)?,
            floats(&bank)?,
            drawn.address(),
            out.address(),
            sizes.0,
            sizes.1,
            sizes.2,
            factor
        ];
        launch(device, Family::Rows, name, grid, block, arguments)?;
    }
    Ok(out.tensor(shape, device))
}

impl Gpu for Drawn<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { x, bank, drawn, sizes } = self;
        let shape = (sizes.b, sizes.columns);
        let threads = row_shape(shape.0 * shape.1, 1)?;
        by_drawn(device, ("drawn_products", shape), (x, bank, drawn), sizes, threads)
    }
}

impl Gpu for DrawnGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { g, bank, drawn, sizes } = self;
        let shape = (sizes.b, sizes.d);
        let threads = (blocks(shape.0 * shape.1)?, [256, 1]);
        by_drawn(device, ("drawn_products_gradient", shape), (g, bank, drawn), sizes, threads)
    }
}

impl Gpu for Remember<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<()> {
        let Self { bank, samples, new, momentum } = self;
        let (_, d) = bank.dims2()?;
        if samples.is_empty() || d == 0 {
            return Ok(());
        }
        // Different samples move side by side, a sample's own moves one after another.
        let mut numbers: BTreeMap<u32, usize> = samples.iter().map(|&sample| (sample, 0)).collect();
        numbers.values_mut().enumerate().for_each(|(number, entry)| *entry = number);
        let targets: Vec<usize> = samples.iter().map(|sample| numbers[sample]).collect();
        let (starts, order) = by_target(&targets, numbers.len())?;
        let rows: Vec<u32> = numbers.keys().copied().collect();
        let (rows, starts) = (table(device, &rows)?, Table::of_ints(device, &starts)?);
        let order = Table::of_ints(device, &order)?;
        let (grid, block) = row_shape(numbers.len(), 1)?;
        let arguments = arguments![
            floats(bank)?,
            floats(new)?,
            rows.address(),
            starts.address(),
            order.address(),
            int(numbers.len())?,
            int(d)?,
            momentum
        ];
        launch(device, Family::Rows, "remember", grid, block, arguments)
    }
}

impl Gpu for Partition<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { x, kept, n } = self;
        let (x, kept) = (x.contiguous()?, kept.contiguous()?);
        let out = Fresh::<f32>::new(device, 1)?;
        let arguments =
            arguments![floats(&x)?, floats(&kept)?, out.address(), x.elem_count() as i64, n as f64];
        launch(device, Family::Rows, "partition", [1, 1, 1], [1024, 1], arguments)?;
        Ok(out.tensor(1, device))
    }
}
