//! Squared differences, each cell and channel with a weight of its own.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;
use rayon::prelude::*;

use super::extents::{paired, scalar};
use crate::dispatch::{self, Host};
use crate::memory::{elements, from_channels_last, nhwc};
use crate::reduce::dot;
use crate::scalar::nothing;
use crate::{Error, Result, Value};

const NAME: &str = "squared_difference";

/// Weights of a squared difference; none: 1.
#[derive(Debug, Clone, Default)]
pub struct Weights {
    /// Weight for each cell of each image (N, H, W). A cell of weight 0 does not count, whatever lies there.
    pub cells: Option<Tensor>,
    /// Weight for each channel of each image (N, C).
    pub channels: Option<Tensor>,
}

/// Weighted squared difference Σ weight (x - target)² / `divisor`.
///
/// # Shapes
/// `target` and `x` (N, C, H, W); a scalar.
///
/// # Errors
/// Shapes that do not fit.
pub fn squared_difference(target: &Tensor, x: &Value, weights: Weights, divisor: f64) -> Result<Value> {
    let (n, c, h, w) = paired(NAME, target, x)?;
    let fits = |weights: &Option<Tensor>, shape: &[usize]| {
        weights.as_ref().is_none_or(|weights| weights.dims() == shape)
    };
    if !fits(&weights.cells, &[n, h, w]) || !fits(&weights.channels, &[n, c]) {
        let reason = format!("weights {weights:?} for maps {:?}", x.dims());
        return Err(Error::invalid(NAME, reason));
    }
    if n * c * h * w == 0 {
        return nothing(x);
    }
    let whole = |weights: Option<Tensor>| weights.map(|weights| weights.contiguous()).transpose();
    let weights = Weights { cells: whole(weights.cells)?, channels: whole(weights.channels)? };
    let maps = Maps { target: nhwc(target)?, x: nhwc(x.tensor())?, weights, divisor };
    let value = dispatch::run(x.tensor(), Difference(&maps))?;
    // The maps are there anyway: the gradient is made of them when it is asked for.
    Ok(Value::operation(&[x], value, move |factor| {
        let gradient = dispatch::run(&maps.x, DifferenceGradient { maps: &maps, factor })?;
        Ok(vec![Some(gradient)])
    }))
}

/// Two maps (N, H, W, C), the weights of their squared difference, and its divisor.
struct Maps {
    target: Tensor,
    x: Tensor,
    weights: Weights,
    divisor: f64,
}

struct Difference<'a>(&'a Maps);

impl Host for Difference<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let total: f64 = self.0.rows(|line, t, x| {
            let width = line.w * line.c;
            let rows = t.par_chunks_exact(width).zip(x.par_chunks_exact(width)).enumerate();
            let losses: Vec<f64> = rows.map(|(row, (t, x))| line.loss(row, t, x)).collect();
            losses.iter().sum()
        })?;
        scalar(total / self.0.divisor, &self.0.x)
    }
}

/// The gradient of a squared difference, times the only element of `factor`.
struct DifferenceGradient<'a> {
    maps: &'a Maps,
    factor: &'a Tensor,
}

impl Host for DifferenceGradient<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { maps, factor } = self;
        let (n, h, w, c) = maps.x.dims4()?;
        let factor = 2.0 * f64::from(factor.reshape(())?.to_scalar::<f32>()?) / maps.divisor;
        let mut gradient = vec![0f32; n * h * w * c];
        maps.rows(|line, t, x| {
            let rows = t.par_chunks_exact(w * c).zip(x.par_chunks_exact(w * c)).enumerate();
            gradient
                .par_chunks_exact_mut(w * c)
                .zip(rows)
                .for_each(|(gradient, (row, (t, x)))| line.gradient(row, t, x, factor as f32, gradient));
        })?;
        from_channels_last(gradient, (n, h, w, c), &maps.x)
    }
}

impl Maps {
    /// Lends the elements of target and x, with what a row of cells needs, to `f`.
    fn rows<T>(&self, f: impl FnOnce(&Line<'_>, &[f32], &[f32]) -> T) -> Result<T> {
        let (_, h, w, c) = self.x.dims4()?;
        let (t, x) = (elements(&self.target)?, elements(&self.x)?);
        let cells = self.weights.cells.as_ref().map(elements).transpose()?;
        let channels = self.weights.channels.as_ref().map(elements).transpose()?;
        let line =
            Line { c, w, cells_of_image: h * w, cells: cells.as_deref(), channels: channels.as_deref() };
        Ok(f(&line, &t, &x))
    }
}

/// The cells of one row of a map.
struct Line<'a> {
    c: usize,
    w: usize,
    cells_of_image: usize,
    cells: Option<&'a [f32]>,
    channels: Option<&'a [f32]>,
}

impl Line<'_> {
    fn cell_weight(&self, cell: usize) -> f32 {
        self.cells.map_or(1.0, |cells| cells[cell])
    }

    fn channel_weights(&self, cell: usize) -> Option<&[f32]> {
        let image = cell / self.cells_of_image;
        self.channels.map(|channels| &channels[image * self.c..][..self.c])
    }

    fn loss(&self, row: usize, t: &[f32], x: &[f32]) -> f64 {
        let (mut difference, mut weighted) = (vec![0f32; self.c], vec![0f32; self.c]);
        let mut total = 0.0;
        for (column, (t, x)) in t.chunks_exact(self.c).zip(x.chunks_exact(self.c)).enumerate() {
            let cell = row * self.w + column;
            let weight = self.cell_weight(cell);
            // What is masked out does not count, whatever it is: a mask is no cure for NaN, other losses see it.
            if weight == 0.0 {
                continue;
            }
            difference.iter_mut().zip(x.iter().zip(t)).for_each(|(d, (x, t))| *d = x - t);
            let square = match self.channel_weights(cell) {
                None => dot(&difference, &difference),
                Some(channels) => {
                    let parts = difference.iter().zip(channels);
                    weighted.iter_mut().zip(parts).for_each(|(out, (d, c))| *out = d * c);
                    dot(&difference, &weighted)
                }
            };
            total += f64::from(weight) * square;
        }
        total
    }

    fn gradient(&self, row: usize, t: &[f32], x: &[f32], factor: f32, gradient: &mut [f32]) {
        let cells = t.chunks_exact(self.c).zip(x.chunks_exact(self.c)).zip(gradient.chunks_exact_mut(self.c));
        for (column, ((t, x), gradient)) in cells.enumerate() {
            let cell = row * self.w + column;
            let factor = factor * self.cell_weight(cell);
            if factor == 0.0 {
                continue;
            }
            let parts = gradient.iter_mut().zip(x.iter().zip(t));
            match self.channel_weights(cell) {
                None => parts.for_each(|(g, (x, t))| *g = factor * (x - t)),
                Some(channels) => {
                    parts.zip(channels).for_each(|((g, (x, t)), c)| *g = factor * c * (x - t));
                }
            }
        }
    }
}
