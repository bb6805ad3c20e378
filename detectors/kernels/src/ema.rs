//! Exponential moving average of weights, in place (Polyak and Juditsky 1992; Tarvainen and Valpola 2017).

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::dispatch::{self, Host};
use crate::in_place::{in_memory_order, lend, same_shape};
use crate::memory::CHUNK;
use crate::simd::for_each_level;
use crate::{Error, Result};

/// Moves `average` towards `weights`: average = `decay` · average + (1 − `decay`) · weights.
///
/// Each element is computed in f64 and rounded once, so an average of equal weights stays what it is.
///
/// # Shapes
/// Two tensors of one shape; `average` is written in place, in the memory order of `weights`.
///
/// # Errors
/// If `decay` is not in 0..=1, shapes differ, a tensor is not f32 or lies in no known order, or both share
/// their memory.
pub fn update_average(average: &Tensor, weights: &Tensor, decay: f64) -> Result<()> {
    same_shape("ema", &[average, weights])?;
    if !(0.0..=1.0).contains(&decay) {
        return Err(Error::invalid("ema", format!("the decay must lie in 0..=1, got {decay}")));
    }
    let weights = in_memory_order(weights)?.to_device(average.device())?.contiguous()?;
    dispatch::run(average, Update { average: &in_memory_order(average)?, weights: &weights, decay })
}

struct Update<'a> {
    average: &'a Tensor,
    weights: &'a Tensor,
    decay: f64,
}

impl Host for Update<'_> {
    type Output = ();

    fn on_host(self) -> Result<()> {
        let decay = self.decay;
        lend("ema", [self.average], [self.weights], |[average], [weights]| {
            let chunks = average.par_chunks_mut(CHUNK).zip(weights.par_chunks(CHUNK));
            chunks.for_each(|(average, weights)| update(average, weights, decay));
        })
    }
}

for_each_level! {
    fn update(average: &mut [f32], weights: &[f32], decay: f64) {
        for (average, weight) in average.iter_mut().zip(weights) {
            *average = (decay * f64::from(*average) + (1.0 - decay) * f64::from(*weight)) as f32;
        }
    }
}
