//! Adaptive average pooling.

#[cfg(feature = "cuda")]
mod gpu;

use std::ops::Range;

use candle_core::Tensor;

use crate::dispatch::{self, Host};
use crate::elementwise::reshape;
use crate::memory::{elements, from_channels_last, nhwc, written_in_chunks};
use crate::simd::for_each_level;
use crate::{Error, Result, Value};

/// Adaptive average pooling to `out_size` (vertical, horizontal) bins.
///
/// Bin i of n covers floor(i·H/n) to ceil((i + 1)·H/n).
///
/// # Shapes
/// `x` (N, C, H, W) to (N, C, `out_size.0`, `out_size.1`).
///
/// # Errors
/// If the map or the result has no pixels.
pub fn adaptive_avg_pool2d(x: &Value, out_size: (usize, usize)) -> Result<Value> {
    let (_, _, h, w) = x.tensor().dims4()?;
    let (oh, ow) = out_size;
    if h == 0 || w == 0 || oh == 0 || ow == 0 {
        return Err(Error::invalid("adaptive_avg_pool2d", format!("x {:?} to {out_size:?}", x.dims())));
    }
    let bins = Bins { h, w, oh, ow };
    let input = nhwc(x.tensor())?;
    let out = dispatch::run(&input, AveragePool { x: &input, bins })?;
    Ok(Value::operation(&[x], out, move |g| {
        Ok(vec![Some(dispatch::run(g, AveragePoolGradient { g: &nhwc(g)?, bins })?)])
    }))
}

/// Sizes of a map and of the bins that it is divided into.
#[derive(Clone, Copy)]
struct Bins {
    h: usize,
    w: usize,
    oh: usize,
    ow: usize,
}

/// The pixels of bin `index` of `bins` along an axis of `input` pixels.
fn bin(index: usize, input: usize, bins: usize) -> Range<usize> {
    index * input / bins..((index + 1) * input).div_ceil(bins)
}

/// A map (N, H, W, C).
struct AveragePool<'a> {
    x: &'a Tensor,
    bins: Bins,
}

impl Host for AveragePool<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Bins { h, w, oh, ow } = self.bins;
        let (n, _, _, c) = self.x.dims4()?;
        let input = elements(self.x)?;
        let out = written_in_chunks(n * oh * ow * c, ow * c, |row, out| {
            let image = &input[row / oh * h * w * c..][..h * w * c];
            let ys = bin(row % oh, h, oh);
            let mut sums = vec![0f64; c];
            for ox in 0..ow {
                let xs = bin(ox, w, ow);
                sums.fill(0.0);
                for y in ys.clone() {
                    let run = &image[(y * w + xs.start) * c..][..xs.len() * c];
                    add_pixels(&mut sums, run);
                }
                let share = 1.0 / (ys.len() * xs.len()) as f64;
                out.extend(sums.iter().map(|sum| (sum * share) as f32));
            }
        });
        from_channels_last(out, (n, oh, ow, c), self.x)
    }
}

/// The gradient (N, OH, OW, C) of the result.
struct AveragePoolGradient<'a> {
    g: &'a Tensor,
    bins: Bins,
}

impl Host for AveragePoolGradient<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Bins { h, w, oh, ow } = self.bins;
        let (n, _, _, c) = self.g.dims4()?;
        let g = elements(self.g)?;
        let spread = written_in_chunks(n * h * w * c, w * c, |row, spread| {
            let spread = spread.zeros();
            let (image, y) = (row / h, row % h);
            for oy in (0..oh).filter(|&oy| bin(oy, h, oh).contains(&y)) {
                for ox in 0..ow {
                    let xs = bin(ox, w, ow);
                    let share = 1.0 / (bin(oy, h, oh).len() * xs.len()) as f32;
                    let g = &g[((image * oh + oy) * ow + ox) * c..][..c];
                    for pixel in spread[xs.start * c..xs.end * c].chunks_exact_mut(c) {
                        add_share(pixel, g, share);
                    }
                }
            }
        });
        from_channels_last(spread, (n, h, w, c), self.g)
    }
}

for_each_level! {
    /// Adds each pixel of a run to `sums`, channel by channel.
    fn add_pixels(sums: &mut [f64], run: &[f32]) {
        for pixel in run.chunks_exact(sums.len()) {
            sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += f64::from(*value));
        }
    }

    fn add_share(to: &mut [f32], from: &[f32], share: f32) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to += from * share);
    }
}

/// Global average pooling: the mean over each map.
///
/// # Shapes
/// `x` (N, C, H, W) to (N, C).
///
/// # Errors
/// If the map has no pixels.
pub fn global_avg_pool(x: &Value) -> Result<Value> {
    let (n, c, _, _) = x.tensor().dims4()?;
    reshape(&adaptive_avg_pool2d(x, (1, 1))?, &[n, c])
}
