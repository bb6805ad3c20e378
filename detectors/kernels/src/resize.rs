//! Bilinear resizing with half-pixel centres (`align_corners` False), without antialiasing.
//!
//! Output pixel i lies at (i + 1/2)·in/out - 1/2 of the input, clamped at its borders, and mixes the two pixels around.
//! The axes are independent. Gradients go by rows of the input, each adding what the outputs around it
//! give, in their order: no two tasks write the same place.

use rayon::prelude::*;

use crate::memory::{channels_last, elements, from_channels_last};
use crate::{Error, Result, Value};

/// `x` resized to `size` (height, width), bilinear.
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
    let (rows, columns) = (mixes(h, oh), mixes(w, ow));
    let input = channels_last(x.tensor())?;
    let mut out = vec![0f32; n * oh * ow * c];
    if !out.is_empty() {
        let input = elements(&input)?;
        out.par_chunks_mut(ow * c).enumerate().for_each(|(row, out)| {
            let Mix { low, high, weights: [wy0, wy1] } = rows[row % oh];
            let image = &input[row / oh * h * w * c..][..h * w * c];
            let (top, bottom) = (&image[low * w * c..][..w * c], &image[high * w * c..][..w * c]);
            for (out, &Mix { low, high, weights: [wx0, wx1] }) in out.chunks_exact_mut(c).zip(&columns) {
                let top = top[low * c..][..c].iter().zip(&top[high * c..][..c]);
                let bottom = bottom[low * c..][..c].iter().zip(&bottom[high * c..][..c]);
                for (out, ((a, b), (d, e))) in out.iter_mut().zip(top.zip(bottom)) {
                    *out = wy0 * (wx0 * a + wx1 * b) + wy1 * (wx0 * d + wx1 * e);
                }
            }
        });
    }
    let out = from_channels_last(out, (n, oh, ow, c), x.tensor())?;
    Ok(Value::operation(&[x], out, move |gradient| {
        let host = channels_last(gradient)?;
        let g = elements(&host)?;
        let mut sums = vec![0f32; n * h * w * c];
        if !sums.is_empty() {
            sums.par_chunks_mut(w * c).enumerate().for_each(|(row, sums)| {
                let (image, y) = (row / h, row % h);
                // Positions ascend, so the outputs that see this row are neighbours.
                let first = rows.partition_point(|mix| mix.high < y);
                let last = rows.partition_point(|mix| mix.low <= y);
                for (oy, mix) in rows.iter().enumerate().take(last).skip(first) {
                    let wy = mix.weight_of(y);
                    let g = &g[(image * oh + oy) * ow * c..][..ow * c];
                    for (g, &Mix { low, high, weights }) in g.chunks_exact(c).zip(&columns) {
                        for (x, weight) in [low, high].into_iter().zip(weights) {
                            let weight = wy * weight;
                            sums[x * c..][..c].iter_mut().zip(g).for_each(|(sum, g)| *sum += weight * g);
                        }
                    }
                }
            });
        }
        Ok(vec![Some(from_channels_last(sums, (n, h, w, c), gradient)?)])
    }))
}

/// Two neighbouring input pixels and their shares in one output pixel.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Mix {
    low: usize,
    high: usize,
    weights: [f32; 2],
}

impl Mix {
    /// The share of input pixel `at`, which may be both.
    fn weight_of(&self, at: usize) -> f32 {
        let low = if self.low == at { self.weights[0] } else { 0.0 };
        let high = if self.high == at { self.weights[1] } else { 0.0 };
        low + high
    }
}

fn mixes(input: usize, output: usize) -> Vec<Mix> {
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
