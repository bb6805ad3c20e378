//! Divergence of channels as distributions over the cells.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;
use rayon::prelude::*;

use super::extents::{Compared, expect_positive, paired, scalar};
use crate::dispatch::{self, Host};
use crate::memory::{elements, from_elements};
use crate::reduce::softened_kl;
use crate::scalar::{nothing, with_gradients};
use crate::{Result, Value};

/// Softened Kullback-Leibler divergence of the channels of maps, each a distribution over the cells: the mean over images and
/// channels of T² KL(softmax(target / T) || softmax(x / T)).
///
/// # Shapes
/// `target` and `x` (N, C, H, W); a scalar.
///
/// # Errors
/// Shapes that differ; a temperature that is not positive.
pub fn channel_divergence(target: &Tensor, x: &Value, temperature: f64) -> Result<Value> {
    const NAME: &str = "channel_divergence";
    expect_positive(NAME, "temperature", temperature)?;
    paired(NAME, target, x)?;
    if x.tensor().elem_count() == 0 {
        return nothing(x);
    }
    let work = Divergence { target, x: x.tensor(), temperature, tracked: x.is_tracked() };
    let Compared { value, gradient } = dispatch::run(x.tensor(), work)?;
    Ok(with_gradients(&[x], value, vec![gradient]))
}

/// Two maps (N, C, H, W), the temperature, and whether a gradient is asked for.
struct Divergence<'a> {
    target: &'a Tensor,
    x: &'a Tensor,
    temperature: f64,
    tracked: bool,
}

impl Host for Divergence<'_> {
    type Output = Compared;

    fn on_host(self) -> Result<Compared> {
        let Self { target, x: like, temperature, tracked } = self;
        let (n, c, h, w) = like.dims4()?;
        let (rows, cells) = (n * c, h * w);
        // A channel's cells one after another.
        let (target, x) = (target.contiguous()?, like.contiguous()?);
        let (target, x) = (elements(&target)?, elements(&x)?);
        let (target, x): (&[f32], &[f32]) = (&target, &x);
        let mut gradient = vec![0f32; rows * cells];
        let scale = (rows as f64).recip() as f32;
        let losses: Vec<f64> = gradient
            .par_chunks_exact_mut(cells)
            .enumerate()
            .map(|(row, gradient)| {
                let (target, x) = (&target[row * cells..][..cells], &x[row * cells..][..cells]);
                let loss = softened_kl(target, x, temperature, gradient);
                gradient.iter_mut().for_each(|g| *g *= scale);
                loss
            })
            .collect();
        let value = scalar(losses.iter().sum::<f64>() / rows as f64, like)?;
        let gradient = tracked.then(|| from_elements(gradient, (n, c, h, w), like)).transpose()?;
        Ok(Compared { value, gradient })
    }
}
