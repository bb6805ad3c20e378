//! Exponential moving average of weights, in place (Polyak and Juditsky 1992; Tarvainen and Valpola 2017).

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::dispatch::{self, Host};
use crate::in_place::{in_memory_order, lend, refuse_shared, same_shape};
use crate::memory::CHUNK;
use crate::simd::for_each_level;
use crate::{Error, Result};

/// Moves averages towards weights, pairs of (average, weights): average = `decay` · average + (1 − `decay`) · weights.
///
/// Each element is computed in f64 and rounded once, so an average of equal weights stays what it is. One launch on a GPU.
///
/// # Shapes
/// Two tensors of one shape each; an average is written in place, in the memory order of its weights.
///
/// # Errors
/// If `decay` is not in 0..=1, shapes differ, a tensor is not f32 or lies in no known order, both share
/// their memory, or averages lie on several devices.
pub fn update_averages(pairs: &[(&Tensor, &Tensor)], decay: f64) -> Result<()> {
    if !(0.0..=1.0).contains(&decay) {
        return Err(Error::invalid("ema", format!("the decay must lie in 0..=1, got {decay}")));
    }
    let in_order = pairs.iter().map(|&(average, weights)| {
        same_shape("ema", &[average, weights])?;
        refuse_shared("ema", &[average], &[weights])?;
        let weights = in_memory_order(weights)?.to_device(average.device())?.contiguous()?;
        Ok((in_memory_order(average)?, weights))
    });
    let in_order = in_order.collect::<Result<Vec<_>>>()?;
    match in_order.first() {
        Some((first, _)) => dispatch::run(first, Updates { pairs: &in_order, decay }),
        None => Ok(()),
    }
}

struct Updates<'a> {
    pairs: &'a [(Tensor, Tensor)],
    decay: f64,
}

impl Host for Updates<'_> {
    type Output = ();

    fn on_host(self) -> Result<()> {
        let decay = self.decay;
        self.pairs.iter().try_for_each(|(average, weights)| {
            lend("ema", [average], [weights], |[average], [weights]| {
                let chunks = average.par_chunks_mut(CHUNK).zip(weights.par_chunks(CHUNK));
                chunks.for_each(|(average, weights)| update(average, weights, decay));
            })
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
