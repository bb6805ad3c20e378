//! Max pooling with padding.
//!
//! The gradient is written by rows of the input: a task owns a row, and adds what the windows over it
//! give, in the windows' order. No two tasks write the same place, so the result does not depend on threads.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::{Device, Tensor};

use crate::dispatch::{self, Host};
use crate::memory::{both_written, elements, elements_of, from_channels_last, nhwc, written_in_chunks};
use crate::pattern::{Asked, asked, check, keep};
use crate::simd::for_each_level;
use crate::{Error, Result, Value};

/// The largest kernel of [`max_pool2d`]: a window position is kept in one byte.
pub const MAX_KERNEL: usize = 16;

/// Max pooling; outputs beyond the last whole window are left out (PyTorch's floor mode).
///
/// Padding never wins. Of equal values the first in row order gets the gradient; a NaN wins over every
/// number.
///
/// # Shapes
/// `x` (N, C, H, W) to (N, C, H', W') with H' = (H + 2 `padding` - `kernel`) / `stride` + 1.
///
/// # Errors
/// If the kernel is 0, larger than [`MAX_KERNEL`] or than the padded map, the stride 0, or the padding more
/// than half the kernel (some window would see nothing but padding).
pub fn max_pool2d(x: &Value, kernel: usize, stride: usize, padding: usize) -> Result<Value> {
    let (_, c, h, w) = x.tensor().dims4()?;
    let invalid = |reason: &str| {
        Error::invalid(
            "max_pool2d",
            format!("x {:?}, kernel {kernel}, stride {stride}, padding {padding}: {reason}", x.dims()),
        )
    };
    if kernel == 0 || kernel > MAX_KERNEL || stride == 0 || padding > kernel / 2 {
        return Err(invalid("kernel 1 to 16, stride from 1, padding up to half the kernel"));
    }
    let size = |input: usize| Some((input + 2 * padding).checked_sub(kernel)? / stride + 1);
    let (Some(oh), Some(ow)) = (size(h), size(w)) else {
        return Err(invalid("the kernel is larger than the padded map"));
    };
    let windows = Windows { kernel, stride, padding, h, w, oh, ow, c };
    let input = nhwc(x.tensor())?;
    let (out, winners) = match asked()? {
        Asked::Repeat(winners) => {
            check(&winners, input.dim(0)? * oh * ow * c)?;
            (dispatch::run(&input, MaxPoolTaken { x: &input, winners: &winners, windows })?, winners)
        }
        asked => {
            let is_kept = matches!(asked, Asked::Keep);
            let keep_winners = is_kept || x.is_tracked();
            let found = dispatch::run(&input, MaxPool { x: &input, windows, keep_winners })?;
            if is_kept {
                keep(found.1.clone());
            }
            found
        }
    };
    Ok(Value::operation(&[x], out, move |g| {
        let gradient = MaxPoolGradient { g: &nhwc(g)?, winners: &winners, windows };
        Ok(vec![Some(dispatch::run(g, gradient)?)])
    }))
}

/// A map (N, H, W, C), and whether the gradient will ask which positions won.
struct MaxPool<'a> {
    x: &'a Tensor,
    windows: Windows,
    keep_winners: bool,
}

impl Host for MaxPool<'_> {
    /// The result, and for each of its numbers the kernel position that won (u8; empty if not kept).
    type Output = (Tensor, Tensor);

    fn on_host(self) -> Result<(Tensor, Tensor)> {
        let Self { x, windows, keep_winners } = self;
        let Windows { h, w, oh, ow, c, .. } = windows;
        let n = x.dim(0)?;
        let input = elements(x)?;
        let widths = (ow * c, if keep_winners { ow * c } else { 0 });
        let (out, winners) = both_written(n * oh, widths, 1, |row, out, winners| {
            let image = &input[row / oh * h * w * c..][..h * w * c];
            forward_row(&windows, image, row % oh, out.zeros(), winners.zeros());
        });
        let count = winners.len();
        Ok((from_channels_last(out, (n, oh, ow, c), x)?, Tensor::from_vec(winners, count, &Device::Cpu)?))
    }
}

/// A map (N, H, W, C), and the kernel position that each number of the result is taken from.
struct MaxPoolTaken<'a> {
    x: &'a Tensor,
    winners: &'a Tensor,
    windows: Windows,
}

impl Host for MaxPoolTaken<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Windows { h, w, oh, ow, c, kernel, stride, padding } = self.windows;
        let n = self.x.dim(0)?;
        let (input, winners) = (elements(self.x)?, elements_of::<u8>(self.winners)?);
        let out = written_in_chunks(n * oh * ow * c, ow * c, |row, out| {
            let (image, oy) = (&input[row / oh * h * w * c..][..h * w * c], row % oh);
            let winners = winners[row * ow * c..][..ow * c].iter().enumerate();
            out.extend(winners.map(|(at, &winner)| {
                let (ox, channel, winner) = (at / c, at % c, usize::from(winner));
                let (y, x) =
                    (oy * stride + winner / kernel - padding, ox * stride + winner % kernel - padding);
                image[(y * w + x) * c + channel]
            }));
        });
        from_channels_last(out, (n, oh, ow, c), self.x)
    }
}

/// The gradient (N, OH, OW, C) of the result, and which positions won.
struct MaxPoolGradient<'a> {
    g: &'a Tensor,
    winners: &'a Tensor,
    windows: Windows,
}

impl Host for MaxPoolGradient<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let windows = self.windows;
        let Windows { h, w, oh, ow, c, .. } = windows;
        let n = self.g.dim(0)?;
        let (g, winners) = (elements(self.g)?, elements_of::<u8>(self.winners)?);
        let spread = written_in_chunks(n * h * w * c, w * c, |row, spread| {
            let image = row / h * oh * ow * c..(row / h + 1) * oh * ow * c;
            let (g, winners) = (&g[image.clone()], &winners[image]);
            backward_row(&windows, g, winners, row % h, spread.zeros());
        });
        from_channels_last(spread, (n, h, w, c), self.g)
    }
}

for_each_level! {
    fn forward_row(windows: &Windows, image: &[f32], oy: usize, out: &mut [f32], winners: &mut [u8]) {
        windows.forward_row(image, oy, out, winners);
    }

    fn backward_row(windows: &Windows, g: &[f32], winners: &[u8], y: usize, spread: &mut [f32]) {
        windows.backward_row(g, winners, y, spread);
    }
}

#[derive(Clone, Copy)]
struct Windows {
    kernel: usize,
    stride: usize,
    padding: usize,
    h: usize,
    w: usize,
    oh: usize,
    ow: usize,
    c: usize,
}

impl Windows {
    /// The kernel positions of window `index` that lie on a map of `size` pixels.
    #[inline(always)]
    fn on_map(&self, index: usize, size: usize) -> std::ops::Range<usize> {
        let start = index * self.stride;
        let first = self.padding.saturating_sub(start);
        first..self.kernel.min((size + self.padding).saturating_sub(start))
    }

    /// Output row `oy` of one image, and which kernel position won (unless `winners` is empty).
    #[inline(always)]
    fn forward_row(&self, image: &[f32], oy: usize, out: &mut [f32], winners: &mut [u8]) {
        let &Self { kernel, stride, padding, w, c, .. } = self;
        let mut position = vec![0u32; if winners.is_empty() { 0 } else { c }];
        for (ox, best) in out.chunks_exact_mut(c).enumerate() {
            let mut first = true;
            for ky in self.on_map(oy, self.h) {
                for kx in self.on_map(ox, w) {
                    let (y, x) = (oy * stride + ky - padding, ox * stride + kx - padding);
                    let pixel = &image[(y * w + x) * c..][..c];
                    let at = (ky * kernel + kx) as u32;
                    if first {
                        best.copy_from_slice(pixel);
                        position.fill(at);
                        first = false;
                    } else if position.is_empty() {
                        for (best, value) in best.iter_mut().zip(pixel) {
                            *best = if wins(*value, *best) { *value } else { *best };
                        }
                    } else {
                        for ((best, position), value) in best.iter_mut().zip(&mut position).zip(pixel) {
                            let wins = wins(*value, *best);
                            *best = if wins { *value } else { *best };
                            *position = if wins { at } else { *position };
                        }
                    }
                }
            }
            if let Some(winners) = winners.get_mut(ox * c..(ox + 1) * c) {
                winners.iter_mut().zip(&position).for_each(|(winner, at)| *winner = *at as u8);
            }
        }
    }

    /// Gradient of input row `y` of one image.
    #[inline(always)]
    fn backward_row(&self, g: &[f32], winners: &[u8], y: usize, spread: &mut [f32]) {
        let &Self { kernel, stride, padding, ow, oh, c, w, .. } = self;
        let first = (y + padding + 1).saturating_sub(kernel).div_ceil(stride);
        let last = ((y + padding) / stride).min(oh - 1);
        for oy in first..=last {
            let ky = y + padding - oy * stride;
            for ox in 0..ow {
                let window = (oy * ow + ox) * c..(oy * ow + ox + 1) * c;
                let (g, winners) = (&g[window.clone()], &winners[window]);
                for kx in self.on_map(ox, w) {
                    let at = (ky * kernel + kx) as u8;
                    let spread = &mut spread[(ox * stride + kx - padding) * c..][..c];
                    for ((spread, g), winner) in spread.iter_mut().zip(g).zip(winners) {
                        *spread += if *winner == at { *g } else { 0.0 };
                    }
                }
            }
        }
    }
}

/// Returns whether `value` replaces `best`: if it is larger, or not a number.
#[inline(always)]
fn wins(value: f32, best: f32) -> bool {
    value > best || value.is_nan()
}
