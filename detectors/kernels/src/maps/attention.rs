//! Attention of maps: the softmax of mean sizes, over the cells and over the channels.
//!
//! With |f| the sizes of a map's elements, S = HW softmax(mean_c |f| / T) over the cells and C = C softmax(mean_hw |f| / T)
//! over the channels of each image.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;
use rayon::prelude::*;

use super::extents::{Compared, expect_positive, paired, scalar};
use super::sums::PIECE;
use crate::dispatch::{self, Host};
use crate::memory::{elements, from_channels_last, from_elements, nhwc};
use crate::reduce::softmax;
use crate::scalar::{nothing, with_gradients};
use crate::{Error, Result, Value};

/// Attention of a map as weights: that over the cells times `mask`, and that over the channels.
///
/// # Shapes
/// `map` (N, C, H, W), `mask` (N, H, W); (N, H, W) and (N, C).
///
/// # Errors
/// Shapes that do not fit or have no elements; a temperature that is not positive.
pub fn attention_weights(map: &Tensor, mask: &Tensor, temperature: f64) -> Result<(Tensor, Tensor)> {
    const NAME: &str = "attention_weights";
    expect_positive(NAME, "temperature", temperature)?;
    let (n, _, h, w) = map.dims4()?;
    if mask.dims() != [n, h, w] || map.elem_count() == 0 {
        let reason = format!("a mask {:?} for a map {:?}", mask.dims(), map.dims());
        return Err(Error::invalid(NAME, reason));
    }
    let (map, mask) = (nhwc(map)?, mask.contiguous()?);
    dispatch::run(&map, AttentionWeights { map: &map, mask: &mask, temperature })
}

/// A map (N, H, W, C), a mask (N, H, W) and the softmax's temperature.
struct AttentionWeights<'a> {
    map: &'a Tensor,
    mask: &'a Tensor,
    temperature: f64,
}

impl Host for AttentionWeights<'_> {
    type Output = (Tensor, Tensor);

    fn on_host(self) -> Result<(Tensor, Tensor)> {
        let Self { map, mask, temperature } = self;
        let (n, h, w, c) = map.dims4()?;
        let attention = Attention::of(map, temperature)?;
        let mask = elements(mask)?;
        let masked = attention.cells.iter().zip(&*mask);
        let cells = masked.map(|(s, mask)| (s * f64::from(*mask)) as f32).collect();
        let channels = attention.channels.iter().map(|c| *c as f32).collect();
        Ok((from_elements(cells, (n, h, w), map)?, from_elements(channels, (n, c), map)?))
    }
}

/// Absolute differences of two maps' attentions, (Σ |S_x - S_target| + Σ |C_x - C_target|) / N.
///
/// # Shapes
/// `target` and `x` (N, C, H, W); a scalar.
///
/// # Errors
/// Shapes that differ; a temperature that is not positive.
pub fn attention_difference(target: &Tensor, x: &Value, temperature: f64) -> Result<Value> {
    const NAME: &str = "attention_difference";
    expect_positive(NAME, "temperature", temperature)?;
    paired(NAME, target, x)?;
    if x.tensor().elem_count() == 0 {
        return nothing(x);
    }
    let (target, map) = (nhwc(target)?, nhwc(x.tensor())?);
    let work = AttentionDifference { target: &target, x: &map, temperature, tracked: x.is_tracked() };
    let Compared { value, gradient } = dispatch::run(&map, work)?;
    Ok(with_gradients(&[x], value, vec![gradient]))
}

/// Two maps (N, H, W, C), the softmax's temperature, and whether a gradient is asked for.
struct AttentionDifference<'a> {
    target: &'a Tensor,
    x: &'a Tensor,
    temperature: f64,
    tracked: bool,
}

impl Host for AttentionDifference<'_> {
    type Output = Compared;

    fn on_host(self) -> Result<Compared> {
        let Self { target, x: like, temperature, tracked } = self;
        let (n, h, w, c) = like.dims4()?;
        let (t, x) = (Attention::of(target, temperature)?, Attention::of(like, temperature)?);
        // The L1 distance of one image's attentions, and its derivatives by the means they are made of.
        let distance = |x: &[f64], t: &[f64]| -> (f64, Vec<f64>) {
            let count = x.len() as f64;
            let sign = |x: f64, t: f64| if x == t { 0.0 } else { (x - t).signum() };
            let along: f64 = x.iter().zip(t).map(|(&x, &t)| sign(x, t) * x).sum::<f64>() / count;
            let by_mean = x.iter().zip(t).map(|(&x, &t)| x * (sign(x, t) - along) / (temperature * n as f64));
            (x.iter().zip(t).map(|(x, t)| (x - t).abs()).sum::<f64>() / n as f64, by_mean.collect())
        };
        let all = |x: &[f64], t: &[f64], len: usize| {
            let parts = x.chunks_exact(len).zip(t.chunks_exact(len)).map(|(x, t)| distance(x, t));
            parts.fold((0.0, Vec::new()), |(loss, mut all), (part, by_mean)| {
                all.extend(by_mean);
                (loss + part, all)
            })
        };
        let (cells_loss, by_cells) = all(&x.cells, &t.cells, h * w);
        let (channels_loss, by_channels) = all(&x.channels, &t.channels, c);
        let value = scalar(cells_loss + channels_loss, like)?;
        if !tracked {
            return Ok(Compared { value, gradient: None });
        }
        let mut gradient = elements(like)?.to_vec();
        gradient.par_chunks_exact_mut(c).enumerate().for_each(|(cell, values)| {
            let by_cell = by_cells[cell] / c as f64;
            let by_channels = &by_channels[cell / (h * w) * c..][..c];
            for (x, by_channel) in values.iter_mut().zip(by_channels) {
                let slope = by_cell + by_channel / (h * w) as f64;
                *x = if *x == 0.0 { 0.0 } else { (slope * f64::from(x.signum())) as f32 };
            }
        });
        let gradient = from_channels_last(gradient, (n, h, w, c), like)?;
        Ok(Compared { value, gradient: Some(gradient) })
    }
}

/// S (N·H·W) and C (N·C) of a map.
struct Attention {
    cells: Vec<f64>,
    channels: Vec<f64>,
}

impl Attention {
    /// Of a map (N, H, W, C).
    fn of(map: &Tensor, temperature: f64) -> Result<Self> {
        let (n, h, w, c) = map.dims4()?;
        let cells = h * w;
        let values = elements(map)?;
        let values: &[f32] = &values;
        let pieces = cells.div_ceil(PIECE);
        let sums = |index: usize| {
            let (image, first) = (index / pieces, index % pieces * PIECE);
            let count = PIECE.min(cells - first);
            let (mut by_cell, mut by_channel) = (Vec::with_capacity(count), vec![0f64; c]);
            for x in values[(image * cells + first) * c..][..count * c].chunks_exact(c) {
                let mut sum = 0.0;
                for (x, by_channel) in x.iter().zip(&mut by_channel) {
                    let size = f64::from(x.abs());
                    sum += size;
                    *by_channel += size;
                }
                by_cell.push((sum / c as f64) as f32);
            }
            (by_cell, by_channel)
        };
        let parts: Vec<(Vec<f32>, Vec<f64>)> = (0..n * pieces).into_par_iter().map(sums).collect();
        let softened = |means: &[f32]| {
            let count = means.len() as f64;
            softmax(means, temperature).0.into_iter().map(move |p| p * count)
        };
        let mut attention =
            Self { cells: Vec::with_capacity(n * cells), channels: Vec::with_capacity(n * c) };
        for image in parts.chunks_exact(pieces.max(1)) {
            let by_cell: Vec<f32> = image.iter().flat_map(|(by_cell, _)| by_cell).copied().collect();
            let by_channel: Vec<f32> = (0..c)
                .map(|channel| image.iter().map(|(_, sums)| sums[channel]).sum::<f64>() / cells as f64)
                .map(|mean| mean as f32)
                .collect();
            attention.cells.extend(softened(&by_cell));
            attention.channels.extend(softened(&by_channel));
        }
        Ok(attention)
    }
}
