//! Channels in another order, channels times a factor, and maps with fewer pixels and more channels.

#[cfg(feature = "cuda")]
mod gpu;

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::dispatch::{self, Host};
use crate::memory::{elements, from_channels_last, nhwc, written_in_chunks};
use crate::simd::for_each_level;
use crate::{Error, Result, Value};

/// Picks channels: channel `order[i]` of `x` becomes channel i.
///
/// Channels that `order` leaves out get no gradient; of one that it names twice both gradients are added.
///
/// # Shapes
/// (N, C, H, W) to (N, `order.len()`, H, W).
///
/// # Errors
/// If `order` names a channel that `x` has not.
pub fn pick_channels(x: &Value, order: &Arc<[usize]>) -> Result<Value> {
    let (_, c, _, _) = x.tensor().dims4()?;
    if let Some(outside) = order.iter().find(|&&channel| channel >= c) {
        return Err(Error::invalid("pick_channels", format!("channel {outside} of {c}")));
    }
    let input = nhwc(x.tensor())?;
    let out = dispatch::run(&input, Pick { x: &input, order })?;
    let order = order.clone();
    Ok(Value::operation(&[x], out, move |g| {
        Ok(vec![Some(dispatch::run(g, PickGradient { g: &nhwc(g)?, order: &order, channels: c })?)])
    }))
}

/// A map (N, H, W, C), and which of its channels are taken.
struct Pick<'a> {
    x: &'a Tensor,
    order: &'a [usize],
}

impl Host for Pick<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { x, order } = self;
        let ((n, h, w, c), picked) = (x.dims4()?, order.len());
        let mut out = vec![0f32; n * h * w * picked];
        if !out.is_empty() {
            let input = elements(x)?;
            let (large, small) = (h * w * c, h * w * picked);
            out.par_chunks_exact_mut(small).zip(input.par_chunks_exact(large)).for_each(|(out, image)| {
                for (out, pixel) in out.chunks_exact_mut(picked).zip(image.chunks_exact(c)) {
                    for (out, &channel) in out.iter_mut().zip(order) {
                        *out = pixel[channel];
                    }
                }
            });
        }
        from_channels_last(out, (n, h, w, picked), x)
    }
}

/// The gradient (N, H, W, picked channels) of the result, and the number of the input's channels.
struct PickGradient<'a> {
    g: &'a Tensor,
    order: &'a [usize],
    channels: usize,
}

impl Host for PickGradient<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { g: like, order, channels: c } = self;
        let (n, h, w, picked) = like.dims4()?;
        let mut spread = vec![0f32; n * h * w * c];
        if !spread.is_empty() && picked > 0 {
            let g = elements(like)?;
            let (large, small) = (h * w * c, h * w * picked);
            spread.par_chunks_exact_mut(large).zip(g.par_chunks_exact(small)).for_each(|(spread, g)| {
                for (pixel, g) in spread.chunks_exact_mut(c).zip(g.chunks_exact(picked)) {
                    for (g, &channel) in g.iter().zip(order) {
                        pixel[channel] += g;
                    }
                }
            });
        }
        from_channels_last(spread, (n, h, w, c), like)
    }
}

/// Multiplies each channel of each image by a factor: the last step of squeeze-and-excitation (Hu et al.
/// 2018, arXiv 1709.01507, equation 4).
///
/// # Shapes
/// `x` (N, C, H, W), `factors` (N, C, 1, 1) to `x`'s shape.
///
/// # Errors
/// If the factors have another shape.
pub fn scale_channels(x: &Value, factors: &Value) -> Result<Value> {
    let (n, c, _, _) = x.tensor().dims4()?;
    if factors.dims() != [n, c, 1, 1] {
        let reason = format!("factors {:?} for a map {:?}", factors.dims(), x.dims());
        return Err(Error::invalid("scale_channels", reason));
    }
    let (input, table) = (nhwc(x.tensor())?, nhwc(factors.tensor())?);
    let out = dispatch::run(&input, ScaleChannels { x: &input, factors: &table })?;
    let (of_x, of_factors) = (x.is_tracked(), factors.is_tracked());
    Ok(Value::operation(&[x, factors], out, move |g| {
        let g = &nhwc(g)?;
        let map = || dispatch::run(g, ScaleChannels { x: g, factors: &table });
        let sums = || dispatch::run(g, ChannelProducts { g, x: &input });
        Ok(vec![of_x.then(map).transpose()?, of_factors.then(sums).transpose()?])
    }))
}

/// A map (N, H, W, C) and factors (N, 1, 1, C).
struct ScaleChannels<'a> {
    x: &'a Tensor,
    factors: &'a Tensor,
}

impl Host for ScaleChannels<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let (n, h, w, c) = self.x.dims4()?;
        let (input, factors) = (elements(self.x)?, elements(self.factors)?);
        let width = w * c;
        let out = written_in_chunks(n * h * width, width.max(1), |row, out| {
            let factors = &factors[row / h * c..][..c];
            for pixel in input[row * width..][..width].chunks_exact(c) {
                out.extend(pixel.iter().zip(factors).map(|(x, factor)| x * factor));
            }
        });
        from_channels_last(out, (n, h, w, c), self.x)
    }
}

/// Two maps (N, H, W, C), whose products are summed over the pixels of each image.
struct ChannelProducts<'a> {
    g: &'a Tensor,
    x: &'a Tensor,
}

impl Host for ChannelProducts<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let (n, h, w, c) = self.x.dims4()?;
        let (g, x) = (elements(self.g)?, elements(self.x)?);
        let width = w * c;
        // By rows, which are added up in order: the sums do not depend on the number of threads.
        let of_row = |row: usize| {
            let mut sums = vec![0f64; c];
            let range = row * width..(row + 1) * width;
            add_products(&mut sums, &g[range.clone()], &x[range]);
            sums
        };
        let rows: Vec<Vec<f64>> = (0..n * h).into_par_iter().map(of_row).collect();
        let mut sums = vec![0f64; n * c];
        for (row, part) in rows.iter().enumerate() {
            sums[row / h * c..][..c].iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        from_channels_last(sums.iter().map(|sum| *sum as f32).collect(), (n, 1, 1, c), self.x)
    }
}

for_each_level! {
    /// To the sums (C), the products of two rows of pixels.
    fn add_products(sums: &mut [f64], g: &[f32], x: &[f32]) {
        let c = sums.len().max(1);
        for (g, x) in g.chunks_exact(c).zip(x.chunks_exact(c)) {
            sums.iter_mut().zip(g.iter().zip(x)).for_each(|(sum, (g, x))| *sum += f64::from(*g) * f64::from(*x));
        }
    }
}

/// Halves a map without parameters: every second pixel of every second row, between channels of zeros.
///
/// Option A of a ResNet's shortcut (He et al. 2016, arXiv 1512.03385, section 4.2); half of the zeros, rounded down,
/// lie before the channels.
///
/// # Shapes
/// (N, C, H, W) to (N, `channels`, H / 2, W / 2), rounded up.
///
/// # Errors
/// If `channels` is below C.
pub fn halve_and_pad(x: &Value, channels: usize) -> Result<Value> {
    let (_, c, h, w) = x.tensor().dims4()?;
    if channels < c {
        return Err(Error::invalid("halve_and_pad", format!("{c} channels do not fit into {channels}")));
    }
    let input = nhwc(x.tensor())?;
    let out = dispatch::run(&input, Halve { x: &input, channels })?;
    Ok(Value::operation(&[x], out, move |g| {
        Ok(vec![Some(dispatch::run(g, HalveGradient { g: &nhwc(g)?, shape: (h, w, c) })?)])
    }))
}

/// A map (N, H, W, C), and the number of the result's channels.
struct Halve<'a> {
    x: &'a Tensor,
    channels: usize,
}

impl Host for Halve<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { x, channels } = self;
        let (n, h, w, c) = x.dims4()?;
        let (oh, ow) = (h.div_ceil(2), w.div_ceil(2));
        let before = (channels - c) / 2;
        let (large, small) = (h * w * c, oh * ow * channels);
        let mut out = vec![0f32; n * small];
        if !out.is_empty() && c > 0 {
            let input = elements(x)?;
            out.par_chunks_exact_mut(small).zip(input.par_chunks_exact(large)).for_each(|(out, image)| {
                for (i, out) in out.chunks_exact_mut(channels).enumerate() {
                    out[before..before + c].copy_from_slice(&image[taken_from(i, w) * c..][..c]);
                }
            });
        }
        from_channels_last(out, (n, oh, ow, channels), x)
    }
}

/// The gradient (N, H / 2, W / 2, channels) of the result, and the input's (H, W, C).
struct HalveGradient<'a> {
    g: &'a Tensor,
    shape: (usize, usize, usize),
}

impl Host for HalveGradient<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { g: like, shape: (h, w, c) } = self;
        let (n, oh, ow, channels) = like.dims4()?;
        let before = (channels - c) / 2;
        let (large, small) = (h * w * c, oh * ow * channels);
        let mut spread = vec![0f32; n * large];
        if !spread.is_empty() {
            let g = elements(like)?;
            spread.par_chunks_exact_mut(large).zip(g.par_chunks_exact(small)).for_each(|(spread, g)| {
                for (i, g) in g.chunks_exact(channels).enumerate() {
                    spread[taken_from(i, w) * c..][..c].copy_from_slice(&g[before..before + c]);
                }
            });
        }
        from_channels_last(spread, (n, h, w, c), like)
    }
}

/// The pixel of a map of width `w` from which pixel `i` of the half map is taken.
fn taken_from(i: usize, w: usize) -> usize {
    let ow = w.div_ceil(2);
    i / ow * 2 * w + i % ow * 2
}
