//! Memory banks of samples: a row for each, seen again and again, and never with a gradient.
//!
//! CRD contrasts with them, and so does MCL on large data sets (Yang et al., arXiv 2207.11518), where a batch
//! holds too few samples of a class: the first columns of a row of likenesses are its positives, the others
//! other classes.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::Tensor;
use ckd_detectors::init::stream;
use ckd_kernels::Value;
use ckd_kernels::bank::{self, drawn_similarities};
use ckd_kernels::row_losses::{Positives, contrast};
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::distiller::DistillError;
use super::rows::weighted_mean_over_rows;
use super::scalar::expect_positive;

const NAME: &str = "memory";

/// The training samples by class, to draw from.
#[derive(Debug, Clone)]
pub struct ByClass {
    /// The class of each sample.
    classes: Vec<u32>,
    /// The samples, class by class.
    sorted: Vec<u32>,
    /// Range of each class in `sorted`.
    places: BTreeMap<u32, Range<usize>>,
}

impl ByClass {
    /// Samples of these classes.
    ///
    /// # Errors
    /// Samples that are all of one class.
    pub fn new(classes: Vec<u32>) -> Result<Self, DistillError> {
        let mut sorted: Vec<u32> = (0..classes.len() as u32).collect();
        sorted.sort_by_key(|&sample| classes[sample as usize]);
        let mut places = BTreeMap::new();
        for alike in sorted.chunk_by(|&a, &b| classes[a as usize] == classes[b as usize]) {
            let start = places.last_key_value().map_or(0, |(_, before): (_, &Range<usize>)| before.end);
            places.insert(classes[alike[0] as usize], start..start + alike.len());
        }
        if places.len() < 2 {
            let reason = format!("{} training samples of one class have no negatives", classes.len());
            return Err(DistillError::invalid(NAME, reason));
        }
        Ok(Self { classes, sorted, places })
    }

    /// Range of the class of `sample`.
    fn alike(&self, sample: u32) -> Result<Range<usize>, DistillError> {
        let class = self.classes.get(sample as usize);
        class.and_then(|class| self.places.get(class)).cloned().ok_or_else(|| {
            let reason = format!("sample {sample} of {} is not in the memory", self.classes.len());
            DistillError::invalid(NAME, reason)
        })
    }

    /// Draws negatives: for each of `samples` itself and `count` samples of other classes, without
    /// replacement (with, where there are fewer).
    ///
    /// # Errors
    /// A sample that is not one of these.
    pub fn negatives(&self, samples: &[u32], count: usize, seed: u64) -> Result<Vec<u32>, DistillError> {
        let mut drawn = Vec::with_capacity(samples.len() * (count + 1));
        for (position, &sample) in samples.iter().enumerate() {
            drawn.push(sample);
            self.draw_others(
                &self.alike(sample)?,
                count,
                &mut stream_at(seed, "negatives", position),
                &mut drawn,
            );
        }
        Ok(drawn)
    }

    /// Draws partners and negatives: for each of `samples` itself, another sample of its class (itself, if it
    /// is the only one), and `negatives` samples of other classes, drawn as [`negatives`](Self::negatives).
    ///
    /// # Errors
    /// A sample that is not one of these.
    pub fn partners(&self, samples: &[u32], negatives: usize, seed: u64) -> Result<Vec<u32>, DistillError> {
        let mut drawn = Vec::with_capacity(samples.len() * (negatives + 2));
        for (position, &sample) in samples.iter().enumerate() {
            let alike = self.alike(sample)?;
            let others = self.sorted[alike.clone()].iter().filter(|&&other| other != sample);
            let partner = others.choose(&mut stream_at(seed, "partner", position));
            drawn.extend([sample, *partner.unwrap_or(&sample)]);
            self.draw_others(&alike, negatives, &mut stream_at(seed, "negatives", position), &mut drawn);
        }
        Ok(drawn)
    }

    /// Adds `count` samples that are not in the class `alike`.
    fn draw_others(&self, alike: &Range<usize>, count: usize, random: &mut ChaCha8Rng, drawn: &mut Vec<u32>) {
        let others = self.sorted.len() - alike.len();
        let other = |index: usize| self.sorted[if index < alike.start { index } else { index + alike.len() }];
        match others >= count {
            true => drawn.extend(rand::seq::index::sample(random, others, count).into_iter().map(other)),
            false => drawn.extend((0..count).map(|_| other(random.random_range(..others)))),
        }
    }
}

/// The random numbers of a sample of the batch.
fn stream_at(seed: u64, what: &str, position: usize) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(stream(seed, &format!("{what}/{position}")))
}

/// The rows of `samples` in `memory` become unit(`momentum` old + (1 - `momentum`) new); a sample that comes
/// twice moves twice.
///
/// # Shapes
/// `memory` (n, D), `new` (B, D), `samples` B rows of the memory.
///
/// # Errors
/// Shapes that do not fit.
pub fn remember(memory: &Tensor, samples: &[u32], new: &Tensor, momentum: f64) -> Result<(), DistillError> {
    Ok(bank::remember(memory, samples, new, momentum)?)
}

/// G_ik = u_i · memory\[drawn_ik\] / `temperature`. The gradient reads the memory: it may move only after the
/// way back.
///
/// # Shapes
/// `rows` (B, D), `memory` (n, D), `drawn` B·K rows of the memory; (B, K).
///
/// # Errors
/// Shapes that do not fit; a temperature that is not positive.
pub fn likeness(
    rows: &Value,
    memory: &Tensor,
    drawn: &[u32],
    temperature: f64,
) -> Result<Value, DistillError> {
    expect_positive(NAME, "temperature", temperature)?;
    Ok(drawn_similarities(rows, memory, drawn, temperature.recip())?)
}

/// 1/B Σ_i w_i [ logsumexp(G_i) - the mean of the first `positives` columns of G_i ]; 0 without rows.
///
/// # Shapes
/// `likenesses` (B, K), `weights` (B); a scalar.
///
/// # Errors
/// Shapes that do not fit; no positive.
pub fn contrast_columns(
    likenesses: &Value,
    positives: usize,
    weights: &Value,
) -> Result<Value, DistillError> {
    let (b, columns) = likenesses.tensor().dims2()?;
    if positives == 0 || (positives > columns && b > 0) {
        let reason = format!("{positives} positives in {:?}", likenesses.dims());
        return Err(DistillError::invalid(NAME, reason));
    }
    weighted_mean_over_rows(NAME, likenesses, weights, || contrast(likenesses, Positives::First(positives)))
}
