//! Differences of maps whose channels have mean 0 and deviation 1.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;
use rayon::prelude::*;

use super::extents::{Compared, expect_positive, paired, scalar};
use super::sums::{PIECE, image_sums};
use crate::dispatch::{self, Host};
use crate::memory::{elements, from_channels_last, nhwc};
use crate::scalar::{nothing, with_gradients};
use crate::{Result, Value};

/// Half the mean squared difference of maps whose channels have mean 0 and deviation 1 over all images and cells: the mean
/// over channels of 1 - Pearson's r, up to `eps`.
///
/// `divisor` divides a channel's sum of squares; `eps` is added to the deviations. A constant channel counts as zeros and
/// gets no gradient.
///
/// # Shapes
/// `target` and `x` (N, C, H, W); a scalar.
///
/// # Errors
/// Shapes that differ; a divisor that is not positive.
pub fn standardized_difference(target: &Tensor, x: &Value, divisor: f64, eps: f64) -> Result<Value> {
    const NAME: &str = "standardized_difference";
    paired(NAME, target, x)?;
    if x.tensor().elem_count() == 0 {
        return nothing(x);
    }
    expect_positive(NAME, "divisor", divisor)?;
    let (target, map) = (nhwc(target)?, nhwc(x.tensor())?);
    let work = Standardized { target: &target, x: &map, divisor, eps, tracked: x.is_tracked() };
    let Compared { value, gradient } = dispatch::run(&map, work)?;
    Ok(with_gradients(&[x], value, vec![gradient]))
}

/// Two maps (N, H, W, C), the divisor of a channel's squares, and whether a gradient is asked for.
struct Standardized<'a> {
    target: &'a Tensor,
    x: &'a Tensor,
    divisor: f64,
    eps: f64,
    tracked: bool,
}

impl Host for Standardized<'_> {
    type Output = Compared;

    fn on_host(self) -> Result<Compared> {
        let Self { target, x: like, divisor, eps, tracked } = self;
        let (n, h, w, c) = like.dims4()?;
        let count = n * h * w;
        let (t, x) = (elements(target)?, elements(like)?);
        let (t, x): (&[f32], &[f32]) = (&t, &x);
        let mean = |x: &[f32]| -> Vec<f64> {
            image_sums(x, (1, c, count)).into_iter().map(|sum| sum / count as f64).collect()
        };
        let (mean_t, mean_x) = (mean(t), mean(x));
        let [tt, xx, tx] = centred_products((t, &mean_t), (x, &mean_x), c);

        let all = (count * c) as f64;
        let mut loss = 0.0;
        // The derivatives are a (x - mean) + b (t - mean) in each channel.
        let (mut a, mut b) = (vec![0f64; c], vec![0f64; c]);
        for channel in 0..c {
            let (tt, xx, tx) = (tt[channel], xx[channel], tx[channel]);
            let (dev_t, dev_x) = ((tt / divisor).sqrt(), (xx / divisor).sqrt());
            let (size_t, size_x) = (dev_t + eps, dev_x + eps);
            loss += (xx / (size_x * size_x) + tt / (size_t * size_t) - 2.0 * tx / (size_x * size_t))
                / (2.0 * all);
            if dev_x > 0.0 {
                let along = (xx / size_x - tx / size_t) / (dev_x * size_x * divisor);
                a[channel] = (1.0 / size_x - along) / (size_x * all);
                b[channel] = -1.0 / (size_x * size_t * all);
            }
        }
        let value = scalar(loss, like)?;
        if !tracked {
            return Ok(Compared { value, gradient: None });
        }
        let mut gradient = vec![0f32; count * c];
        let cells = t.par_chunks_exact(c).zip(x.par_chunks_exact(c));
        gradient.par_chunks_exact_mut(c).zip(cells).for_each(|(gradient, (t, x))| {
            for k in 0..c {
                let (x, t) = (f64::from(x[k]) - mean_x[k], f64::from(t[k]) - mean_t[k]);
                gradient[k] = (a[k] * x + b[k] * t) as f32;
            }
        });
        let gradient = from_channels_last(gradient, (n, h, w, c), like)?;
        Ok(Compared { value, gradient: Some(gradient) })
    }
}

/// Σ over all cells of the products of the centred channels: t t, x x, t x.
fn centred_products((t, mean_t): (&[f32], &[f64]), (x, mean_x): (&[f32], &[f64]), c: usize) -> [Vec<f64>; 3] {
    let sum = |(t, x): (&[f32], &[f32])| {
        let mut sums = [vec![0f64; c], vec![0f64; c], vec![0f64; c]];
        for (t, x) in t.chunks_exact(c).zip(x.chunks_exact(c)) {
            for k in 0..c {
                let (t, x) = (f64::from(t[k]) - mean_t[k], f64::from(x[k]) - mean_x[k]);
                sums[0][k] += t * t;
                sums[1][k] += x * x;
                sums[2][k] += t * x;
            }
        }
        sums
    };
    let parts: Vec<[Vec<f64>; 3]> = t.par_chunks(PIECE * c).zip(x.par_chunks(PIECE * c)).map(sum).collect();
    let mut sums = [vec![0f64; c], vec![0f64; c], vec![0f64; c]];
    for part in parts {
        for (sums, part) in sums.iter_mut().zip(part) {
            sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
    }
    sums
}
