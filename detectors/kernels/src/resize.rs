//! Bilinear resizing with half-pixel centres (`align_corners` False), without antialiasing.
//!
//! Output pixel i lies at (i + 1/2)·in/out - 1/2 of the input, clamped at its borders, and mixes the two
//! pixels around. The axes are independent. Gradients go by rows of the input, each adding what the outputs
//! around it give, in their order: no two tasks write the same place.

#[cfg(feature = "cuda")]
pub(crate) mod gpu;

use candle_core::Tensor;

use crate::dispatch::{self, Host};
use crate::memory::{Place, elements, from_channels_last, nhwc, written_in_chunks};
use crate::simd::for_each_level;
use crate::{Error, Result, Value};

/// Resizes maps to `size` (height, width), bilinear.
///
/// # Shapes
/// (N, C, H, W) to (N, C, `size.0`, `size.1`).
///
/// # Errors
/// If `x` has no pixels and the result has.
pub fn resize_bilinear(x: &Value, size: (usize, usize)) -> Result<Value> {
    let (n, c, h, w) = x.tensor().dims4()?;
    let (oh, ow) = size;
    if (h == 0 || w == 0) && n * c * oh * ow > 0 {
        return Err(Error::invalid("resize_bilinear", format!("x {:?} to {size:?}", x.dims())));
    }
    let input = nhwc(x.tensor())?;
    let out = dispatch::run(&input, Bilinear { x: &input, to: size })?;
    Ok(Value::operation(&[x], out, move |g| {
        Ok(vec![Some(dispatch::run(g, BilinearGradient { g: &nhwc(g)?, from: (h, w) })?)])
    }))
}

/// A map (N, H, W, C), and the size (height, width) of the result.
struct Bilinear<'a> {
    x: &'a Tensor,
    to: (usize, usize),
}

impl Host for Bilinear<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let ((n, h, w, c), (oh, ow)) = (self.x.dims4()?, self.to);
        let (rows, columns) = (mixes(h, oh), mixes(w, ow));
        let input = elements(self.x)?;
        let out = written_in_chunks(n * oh * ow * c, ow * c, |row, out| {
            let mix = rows[row % oh];
            let image = &input[row / oh * h * w * c..][..h * w * c];
            let (top, bottom) = (&image[mix.low * w * c..][..w * c], &image[mix.high * w * c..][..w * c]);
            mix_row(out, top, bottom, mix.weights, &columns, c);
        });
        from_channels_last(out, (n, oh, ow, c), self.x)
    }
}

/// The gradient (N, OH, OW, C) of the result, and the size (height, width) of the input.
struct BilinearGradient<'a> {
    g: &'a Tensor,
    from: (usize, usize),
}

impl Host for BilinearGradient<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let ((n, oh, ow, c), (h, w)) = (self.g.dims4()?, self.from);
        let (rows, columns) = (mixes(h, oh), mixes(w, ow));
        let g = elements(self.g)?;
        let sums = written_in_chunks(n * h * w * c, w * c, |row, sums| {
            let (image, y) = (row / h, row % h);
            let sums = sums.zeros();
            // Positions ascend, so the outputs that see this row are neighbours.
            let first = rows.partition_point(|mix| mix.high < y);
            let last = rows.partition_point(|mix| mix.low <= y);
            for (oy, mix) in rows.iter().enumerate().take(last).skip(first) {
                let g = &g[(image * oh + oy) * ow * c..][..ow * c];
                spread_row(sums, g, mix.weight_of(y), &columns, c);
            }
        });
        from_channels_last(sums, (n, h, w, c), self.g)
    }
}

for_each_level! {
    /// A row of the result, `weights` of two rows of the input.
    fn mix_row(
        out: &mut Place<f32>,
        top: &[f32],
        bottom: &[f32],
        weights: [f32; 2],
        columns: &[Mix],
        c: usize,
    ) {
        let [wy0, wy1] = weights;
        for &Mix { low, high, weights: [wx0, wx1] } in columns {
            let (low, high) = (low * c..(low + 1) * c, high * c..(high + 1) * c);
            let top = top[low.clone()].iter().zip(&top[high.clone()]);
            let bottom = bottom[low].iter().zip(&bottom[high]);
            out.extend(
                top.zip(bottom).map(|((a, b), (d, e))| wy0 * (wx0 * a + wx1 * b) + wy1 * (wx0 * d + wx1 * e)),
            );
        }
    }

    /// Adds to a row of the input's gradient what a row `g` of the result's gives it.
    fn spread_row(sums: &mut [f32], g: &[f32], wy: f32, columns: &[Mix], c: usize) {
        for (g, &Mix { low, high, weights }) in g.chunks_exact(c).zip(columns) {
            for (x, weight) in [low, high].into_iter().zip(weights) {
                let weight = wy * weight;
                if weight != 0.0 {
                    sums[x * c..][..c].iter_mut().zip(g).for_each(|(sum, g)| *sum += weight * g);
                }
            }
        }
    }
}

/// Two neighbouring input pixels and their shares in one output pixel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mix {
    pub(crate) low: usize,
    pub(crate) high: usize,
    pub(crate) weights: [f32; 2],
}

impl Mix {
    /// The share of input pixel `at`, which may be both.
    fn weight_of(&self, at: usize) -> f32 {
        let low = if self.low == at { self.weights[0] } else { 0.0 };
        let high = if self.high == at { self.weights[1] } else { 0.0 };
        low + high
    }
}

/// The mix of each of `output` pixels along an axis of `input` pixels; positions ascend.
pub(crate) fn mixes(input: usize, output: usize) -> Vec<Mix> {
    let scale = input as f64 / output as f64;
    let last = input.saturating_sub(1);
    (0..output)
        .map(|i| {
            let at = ((i as f64 + 0.5) * scale - 0.5).max(0.0);
            let low = (at as usize).min(last);
            let share = (at - low as f64).min(1.0) as f32;
            Mix { low, high: (low + 1).min(last), weights: [1.0 - share, share] }
        })
        .collect()
}
