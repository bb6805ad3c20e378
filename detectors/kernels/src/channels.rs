//! Channels in another order, and maps with fewer pixels and more channels.

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::dispatch::{self, Host};
use crate::memory::{elements, from_channels_last, nhwc};
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
