//! Norms on a GPU.

use candle_core::{CudaDevice, Device, Tensor};

use super::batch::{BatchStatistics, MoveTowards, Statistics};
use super::frozen::{Frozen, FrozenGradients};
use super::measured::{Grouping, Moments, Norm, NormGradients};
use super::rows::{GradientSums, Rows};
use crate::Result;
use crate::activation::Activation;
use crate::conv::code;
use crate::cuda::{
    Argument, Family, Fresh, FreshMap, address, arguments, blocks, elements, elements_or_null, floats,
    floats_or_null, int, launch,
};
use crate::dispatch::Gpu;

/// Rows that a block adds.
const CHUNK: usize = 512;

/// A norm as a line (x - mean) factor + bias, with an entry a section and channel.
struct Line {
    mean: Tensor,
    inverse_std: Fresh<f64>,
    factor: Fresh<f32>,
}

fn run(device: &CudaDevice, name: &'static str, count: usize, arguments: &[Argument]) -> Result<()> {
    launch(device, Family::Norm, name, blocks(count)?, [256, 1], arguments)
}

impl Rows {
    fn len(&self) -> usize {
        self.sections * self.rows * self.c
    }

    fn tables(&self) -> usize {
        self.sections * self.c
    }

    /// The blocks of a sum over rows, and the chunks that each channel is cut into.
    fn chunked(&self) -> Result<([u32; 3], usize)> {
        let chunks = self.rows.div_ceil(CHUNK).max(1);
        // A GPU takes up to 65,535 blocks along its second and third axis.
        let chunks = chunks.min(4096);
        Ok(([self.c.div_ceil(32) as u32, chunks as u32, self.sections as u32], chunks))
    }

    fn chunk(&self, chunks: usize) -> usize {
        self.rows.div_ceil(chunks).max(1)
    }

    /// f64 (2, sections · c): means, and biased variances over groups of `group` channels.
    fn moments(&self, device: &CudaDevice, x: &Tensor, group: usize) -> Result<Tensor> {
        if self.rows == 0 {
            let count = self.tables();
            let values = [vec![0f64; count], vec![1f64; count]].concat();
            return Ok(Tensor::from_vec(values, (2, count), x.device())?);
        }
        let (grid, chunks) = self.chunked()?;
        let partial = chunks * self.tables();
        let (sums, squares) = (Fresh::<f64>::new(device, partial)?, Fresh::<f64>::new(device, partial)?);
        let moments = Fresh::<f64>::new(device, 2 * self.tables())?;
        let (rows, c, x) = (int(self.rows)?, int(self.c)?, elements(x)?);
        let arguments = arguments![x, sums.address(), squares.address(), rows, c, int(self.chunk(chunks))?];
        launch(device, Family::Norm, "value_sums", grid, [32, 8], arguments)?;
        let arguments = arguments![
            x,
            sums.address(),
            squares.address(),
            moments.address(),
            rows,
            c,
            int(chunks)?,
            int(self.sections)?,
            int(group)?
        ];
        run(device, "finish_moments", self.tables() / group, arguments)?;
        Ok(moments.tensor((2, self.tables()), device))
    }

    fn line(&self, device: &CudaDevice, moments: &Tensor, weight: &Tensor, eps: f64) -> Result<Line> {
        let count = self.tables();
        let (mean, factor) = (Fresh::<f32>::new(device, count)?, Fresh::<f32>::new(device, count)?);
        let inverse_std = Fresh::<f64>::new(device, count)?;
        let weight = weight.contiguous()?;
        let arguments = arguments![
            address::<f64>(moments)?,
            floats(&weight)?,
            mean.address(),
            inverse_std.address(),
            factor.address(),
            eps,
            int(count)?,
            int(self.c)?
        ];
        run(device, "line_of_moments", count, arguments)?;
        Ok(Line { mean: mean.tensor(count, device), inverse_std, factor })
    }

    fn put_on_line(
        &self,
        device: &CudaDevice,
        x: &Tensor,
        line: &Line,
        bias: &Tensor,
        residual: Option<&Tensor>,
        activation: Activation,
    ) -> Result<FreshMap> {
        let out = FreshMap::like(x, device, self.len())?;
        if self.len() > 0 {
            let bias = bias.contiguous()?;
            let arguments = arguments![
                elements(x)?,
                floats(&line.mean)?,
                line.factor.address(),
                floats(&bias)?,
                elements_or_null(residual)?,
                out.address(),
                self.len() as i64,
                int(self.rows)?,
                int(self.c)?,
                code(activation)
            ];
            run(device, "on_line", self.len(), arguments)?;
        }
        Ok(out)
    }

    /// Σ g and Σ g (x - mean), a section and channel; without `x` the second is 0.
    fn sums_of_gradients(
        &self,
        device: &CudaDevice,
        g: &Tensor,
        x: Option<&Tensor>,
        y: Option<&Tensor>,
        mean: &Tensor,
        activation: Activation,
    ) -> Result<(Fresh<f64>, Fresh<f64>)> {
        let count = self.tables();
        let (sums, products) = (Fresh::<f64>::new(device, count)?, Fresh::<f64>::new(device, count)?);
        if self.rows == 0 || count == 0 {
            return Ok((sums.zeroed(device)?, products.zeroed(device)?));
        }
        let (grid, chunks) = self.chunked()?;
        let partial = chunks * count;
        let parts = [Fresh::<f64>::new(device, partial)?, Fresh::<f64>::new(device, partial)?];
        let arguments = arguments![
            elements(g)?,
            elements_or_null(x)?,
            elements_or_null(y)?,
            floats(mean)?,
            parts[0].address(),
            parts[1].address(),
            int(self.rows)?,
            int(self.c)?,
            int(self.chunk(chunks))?,
            code(activation)
        ];
        launch(device, Family::Norm, "gradient_sums", grid, [32, 8], arguments)?;
        let arguments = arguments![
            parts[0].address(),
            parts[1].address(),
            sums.address(),
            products.address(),
            int(chunks)?,
            int(count)?,
            int(self.c)?
        ];
        run(device, "finish_sums", count, arguments)?;
        Ok((sums, products))
    }

    /// Gradients of weight and bias, where wanted.
    fn table_gradients(
        &self,
        device: &CudaDevice,
        sums: &(Fresh<f64>, Fresh<f64>),
        inverse_std: &Fresh<f64>,
        wanted: [bool; 2],
    ) -> Result<[Option<Tensor>; 2]> {
        let [of_weight, of_bias] = wanted.map(|wanted| wanted.then(|| Fresh::<f32>::new(device, self.c)));
        let (of_weight, of_bias) = (of_weight.transpose()?, of_bias.transpose()?);
        if self.c > 0 && (of_weight.is_some() || of_bias.is_some()) {
            let to = |table: &Option<Fresh<f32>>| match table {
                Some(table) => Ok(table.address()),
                None => floats_or_null(None),
            };
            let arguments = arguments![
                sums.0.address(),
                sums.1.address(),
                inverse_std.address(),
                to(&of_weight)?,
                to(&of_bias)?,
                int(self.c)?,
                int(self.sections)?
            ];
            run(device, "table_gradients", self.c, arguments)?;
        }
        Ok([of_weight, of_bias].map(|table| table.map(|table| table.tensor(self.c, device))))
    }
}

/// Operands of the gradient of a map, and the place of the gradient behind the activation.
struct BackOnLine<'a> {
    g: &'a Tensor,
    x: Option<&'a Tensor>,
    y: Option<&'a Tensor>,
    a: &'a Fresh<f32>,
    b: Argument,
    d: Argument,
    mean: Argument,
    masked: Option<&'a FreshMap>,
    activation: Activation,
}

impl BackOnLine<'_> {
    fn run(self, device: &CudaDevice, rows: Rows) -> Result<FreshMap> {
        let out = FreshMap::like(self.g, device, rows.len())?;
        if rows.len() > 0 {
            let masked = self.masked.map_or(floats_or_null(None), |masked| Ok(masked.address()))?;
            let arguments = arguments![
                elements(self.g)?,
                elements_or_null(self.x)?,
                elements_or_null(self.y)?,
                self.a.address(),
                self.b,
                self.d,
                self.mean,
                out.address(),
                masked,
                rows.len() as i64,
                int(rows.rows)?,
                int(rows.c)?,
                code(self.activation)
            ];
            run(device, "back_on_line", rows.len(), arguments)?;
        }
        Ok(out)
    }
}

impl Grouping {
    /// The sums behind the gradient of the input over all parts, on the device, and the values behind each.
    fn over_parts_on_gpu(
        &self,
        device: &CudaDevice,
        (of_gradients, of_products): &(Fresh<f64>, Fresh<f64>),
    ) -> Result<(Tensor, Tensor, f64)> {
        let count = self.rows.tables();
        let own = GradientSums {
            of_gradients: of_gradients.read(device, count)?,
            of_products: of_products.read(device, count)?,
        };
        let (GradientSums { of_gradients, of_products }, values) = self.over_parts(&own)?;
        let put = |sums| Tensor::from_vec(sums, count, &Device::Cuda(device.clone()));
        Ok((put(of_gradients)?, put(of_products)?, values))
    }
}

impl Gpu for Norm<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<(Tensor, Tensor)> {
        let rows = self.grouping.rows;
        let mut moments = rows.moments(device, self.x, self.grouping.group)?;
        if self.grouping.is_shared {
            crate::transfers::count(2 * rows.tables() * size_of::<f64>());
            let own = Moments::read(&moments.to_device(&Device::Cpu)?)?;
            moments = Moments::tensor(&self.grouping.over_all_parts(&own)?)?.to_device(self.x.device())?;
        }
        let line = rows.line(device, &moments, self.weight, self.eps)?;
        let out = rows.put_on_line(device, self.x, &line, self.bias, self.residual, self.activation)?;
        Ok((out.map(self.x.dims4()?, device)?, moments))
    }
}

impl Gpu for NormGradients<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Self::Output> {
        let Self { g, x, y, grouping, activation, wanted, .. } = self;
        let rows = grouping.rows;
        let line = rows.line(device, self.moments, self.weight, self.eps)?;
        let sums = rows.sums_of_gradients(device, g, Some(x), y, &line.mean, activation)?;
        let shape = x.dims4()?;
        let mut gradients = [None, None, None];
        let mut kept = None;
        if wanted[0] {
            let count = rows.tables();
            let shared = grouping.is_shared.then(|| grouping.over_parts_on_gpu(device, &sums)).transpose()?;
            let (of_gradients, of_products, values) = match &shared {
                Some((of_gradients, of_products, values)) => {
                    (address::<f64>(of_gradients)?, address::<f64>(of_products)?, *values)
                }
                None => (sums.0.address(), sums.1.address(), grouping.values()),
            };
            let (b, d) = (Fresh::<f32>::new(device, count)?, Fresh::<f32>::new(device, count)?);
            if rows.len() > 0 {
                let weight = self.weight.contiguous()?;
                let arguments = arguments![
                    of_gradients,
                    of_products,
                    line.inverse_std.address(),
                    line.factor.address(),
                    floats(&weight)?,
                    b.address(),
                    d.address(),
                    values,
                    int(rows.c)?,
                    int(rows.sections)?,
                    int(grouping.group)?
                ];
                run(device, "backward_tables", count / grouping.group, arguments)?;
            }
            let keep_masked = self.keep_masked && y.is_some();
            let masked = keep_masked.then(|| FreshMap::like(g, device, rows.len())).transpose()?;
            let back = BackOnLine {
                g,
                x: Some(x),
                y,
                a: &line.factor,
                b: b.address(),
                d: d.address(),
                mean: floats(&line.mean)?,
                masked: masked.as_ref(),
                activation,
            };
            gradients[0] = Some(back.run(device, rows)?.map(shape, device)?);
            kept = masked.map(|masked| masked.map(shape, device)).transpose()?;
        }
        let tables = rows.table_gradients(device, &sums, &line.inverse_std, [wanted[1], wanted[2]])?;
        let [of_weight, of_bias] = tables;
        (gradients[1], gradients[2]) = (of_weight, of_bias);
        Ok((gradients, kept))
    }
}

impl Gpu for Statistics<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<BatchStatistics> {
        let Self { moments, values } = self;
        let factor = if values > 1 { values as f64 / (values - 1) as f64 } else { 1.0 };
        let c = moments.dim(1)?;
        let (mean, unbiased) = (Fresh::<f32>::new(device, c)?, Fresh::<f32>::new(device, c)?);
        if c > 0 {
            let moments = address::<f64>(moments)?;
            let arguments = arguments![moments, mean.address(), unbiased.address(), factor, int(c)?];
            run(device, "statistics", c, arguments)?;
        }
        Ok(BatchStatistics {
            mean: mean.tensor(c, device),
            unbiased_var: unbiased.tensor(c, device),
            values_per_channel: values,
        })
    }
}

impl Gpu for MoveTowards<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<()> {
        let Self { running, batch, momentum } = self;
        let (count, batch) = (running.elem_count(), batch.contiguous()?);
        if count == 0 {
            return Ok(());
        }
        let arguments = arguments![floats(running)?, floats(&batch)?, momentum, int(count)?];
        launch(device, Family::Elementwise, "move_towards", blocks(count)?, [256, 1], arguments)
    }
}

/// The line of constant tables: weight, mean and variance (C).
fn line_of_tables(device: &CudaDevice, tables: &[Tensor; 3], eps: f64) -> Result<Line> {
    let [weight, mean, var] = tables.each_ref().map(Tensor::contiguous);
    let (weight, mean, var) = (weight?, mean?, var?);
    let c = mean.elem_count();
    let (inverse_std, factor) = (Fresh::<f64>::new(device, c)?, Fresh::<f32>::new(device, c)?);
    if c > 0 {
        let arguments = arguments![
            floats(&var)?,
            floats(&weight)?,
            inverse_std.address(),
            factor.address(),
            eps,
            int(c)?
        ];
        run(device, "line_of_tables", c, arguments)?;
    }
    Ok(Line { mean, inverse_std, factor })
}

impl Gpu for Frozen<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let (n, h, w, c) = self.x.dims4()?;
        let line = line_of_tables(device, self.tables, self.eps)?;
        let rows = Rows { sections: 1, rows: n * h * w, c };
        let out = rows.put_on_line(device, self.x, &line, self.bias, None, Activation::Identity)?;
        out.map((n, h, w, c), device)
    }
}

impl Gpu for FrozenGradients<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<[Option<Tensor>; 3]> {
        let (n, h, w, c) = self.g.dims4()?;
        let rows = Rows { sections: 1, rows: n * h * w, c };
        let line = line_of_tables(device, self.tables, self.eps)?;
        let nothing = floats_or_null(None)?;
        let mut gradients = [None, None, None];
        if self.wanted[0] {
            let back = BackOnLine {
                g: self.g,
                x: None,
                y: None,
                a: &line.factor,
                b: nothing,
                d: nothing,
                mean: nothing,
                masked: None,
                activation: Activation::Identity,
            };
            gradients[0] = Some(back.run(device, rows)?.map((n, h, w, c), device)?);
        }
        if self.wanted[1] || self.wanted[2] {
            let sums =
                rows.sums_of_gradients(device, self.g, self.x, None, &line.mean, Activation::Identity)?;
            let tables =
                rows.table_gradients(device, &sums, &line.inverse_std, [self.wanted[1], self.wanted[2]])?;
            let [of_weight, of_bias] = tables;
            (gradients[1], gradients[2]) = (of_weight, of_bias);
        }
        Ok(gradients)
    }
}
