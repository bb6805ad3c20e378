//! Memories of samples: a row for each, seen again and again, and never with a gradient.
//!
//! CRD contrasts with them, and so does MCL on large data sets (Yang et al., arXiv 2207.11518), where a batch holds too
//! few samples of a class: the first columns of a row of likenesses are its positives, the others other classes.

use candle_core::Tensor;
use ckd_detectors::init::stream;
use ckd_detectors::param::write_in_place;
use ckd_kernels::Value;
use ckd_kernels::memory::{elements, from_elements, on_host};
use ckd_kernels::reduce::dot;
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::crd::draw_negatives;
use super::{DistillError, expect_positive, nothing, scalar_of_all};

const NAME: &str = "memory";

/// The rows of `samples` in `memory` become unit(`momentum` old + (1 - `momentum`) new); a sample that comes twice
/// moves twice.
///
/// # Shapes
/// `memory` (n, D), `new` (B, D), `samples` B rows of the memory.
///
/// # Errors
/// Shapes that do not fit.
pub fn remember(memory: &Tensor, samples: &[u32], new: &Tensor, momentum: f64) -> Result<(), DistillError> {
    let (n, d) = memory.dims2()?;
    if new.dims() != [samples.len(), d] || samples.iter().any(|&sample| sample as usize >= n) {
        let reason = format!("{} samples and rows {:?} for a memory of {n} x {d}", samples.len(), new.dims());
        return Err(DistillError::invalid(NAME, reason));
    }
    let (host, new) = (on_host(memory)?, on_host(new)?);
    let mut rows = elements(&host)?.to_vec();
    for (&sample, new) in samples.iter().zip(elements(&new)?.chunks_exact(d.max(1))) {
        let row = &mut rows[sample as usize * d..][..d];
        let mix = |(old, new): (&f32, &f32)| momentum * f64::from(*old) + (1.0 - momentum) * f64::from(*new);
        let mixed: Vec<f64> = row.iter().zip(new).map(mix).collect();
        let length = mixed.iter().map(|x| x * x).sum::<f64>().sqrt();
        let scale = if length == 0.0 { 0.0 } else { length.recip() };
        row.iter_mut().zip(mixed).for_each(|(row, x)| *row = (x * scale) as f32);
    }
    Ok(write_in_place(memory, &from_elements(rows, (n, d), &host)?)?)
}

/// For each of `samples` itself, another sample of its class (itself, if it is the only one), and `negatives` samples of
/// other classes.
///
/// # Errors
/// A sample that has no class; samples that are all of one class.
pub fn draw_partners(
    classes: &[u32],
    samples: &[u32],
    negatives: usize,
    seed: u64,
) -> Result<Vec<u32>, DistillError> {
    if let Some(&outside) = samples.iter().find(|&&sample| sample as usize >= classes.len()) {
        let reason = format!("sample {outside} of {} is not in the memory", classes.len());
        return Err(DistillError::invalid(NAME, reason));
    }
    if classes.iter().all(|class| Some(class) == classes.first()) {
        let reason = format!("{} training samples of one class have no negatives", classes.len());
        return Err(DistillError::invalid(NAME, reason));
    }
    let others = draw_negatives(classes, samples, negatives, seed);
    let mut drawn = Vec::with_capacity(samples.len() * (negatives + 2));
    for (position, row) in others.chunks_exact(negatives + 1).enumerate() {
        let itself = row[0];
        let class = classes[itself as usize];
        let alike = |&other: &u32| other != itself && classes[other as usize] == class;
        let alike: Vec<u32> = (0..classes.len() as u32).filter(alike).collect();
        let mut random = ChaCha8Rng::seed_from_u64(stream(seed, &format!("partner/{position}")));
        let partner = alike.choose(&mut random).copied().unwrap_or(itself);
        drawn.extend([itself, partner]);
        drawn.extend(&row[1..]);
    }
    Ok(drawn)
}

/// G_ik = u_i · memory[drawn_ik] / `temperature`.
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
    let (n, d) = memory.dims2()?;
    let (b, width) = rows.tensor().dims2()?;
    let columns = drawn.len().checked_div(b).unwrap_or(0);
    if width != d || columns * b != drawn.len() || drawn.iter().any(|&at| at as usize >= n) {
        let reason = format!("rows {:?}, {} positions, a memory of {n} x {d}", rows.dims(), drawn.len());
        return Err(DistillError::invalid(NAME, reason));
    }
    let (host, memory) = (on_host(rows.tensor())?, on_host(memory)?);
    let mut out = vec![0f32; b * columns];
    if !out.is_empty() && d > 0 {
        let (u, memory) = (elements(&host)?, elements(&memory)?);
        let (u, memory): (&[f32], &[f32]) = (&u, &memory);
        out.par_iter_mut().zip(drawn).enumerate().for_each(|(position, (out, &at))| {
            let u = &u[position / columns * d..][..d];
            *out = (dot(u, &memory[at as usize * d..][..d]) / temperature) as f32;
        });
    }
    let out = from_elements(out, (b, columns), rows.tensor())?;
    let drawn = drawn.to_vec();
    // The memory moves on: the gradient needs it as it is now.
    let memory = memory.copy()?;
    Ok(Value::operation(&[rows], out, move |g| {
        let g_host = on_host(g)?;
        let (g, memory) = (elements(&g_host)?, elements(&memory)?);
        let (g, memory): (&[f32], &[f32]) = (&g, &memory);
        let mut gradient = vec![0f32; b * d];
        if !gradient.is_empty() && columns > 0 {
            let rows = g.par_chunks_exact(columns).zip(drawn.par_chunks_exact(columns));
            gradient.par_chunks_exact_mut(d).zip(rows).for_each(|(out, (g, drawn))| {
                let mut sum = vec![0f64; d];
                for (g, &at) in g.iter().zip(drawn) {
                    let row = &memory[at as usize * d..][..d];
                    let factor = f64::from(*g) / temperature;
                    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += factor * f64::from(*x));
                }
                out.iter_mut().zip(sum).for_each(|(out, sum)| *out = sum as f32);
            });
        }
        Ok(vec![Some(from_elements(gradient, (b, d), &g_host)?)])
    }))
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
    if weights.dims() != [b] || positives == 0 || (positives > columns && b > 0) {
        let reason =
            format!("{positives} positives in {:?}, weights {:?}", likenesses.dims(), weights.dims());
        return Err(DistillError::invalid(NAME, reason));
    }
    if b == 0 {
        return nothing(likenesses);
    }
    let (g_host, w_host) = (on_host(likenesses.tensor())?, on_host(weights.tensor())?);
    let (g, w) = (elements(&g_host)?, elements(&w_host)?);
    let (mut by_g, mut by_w) = (Vec::with_capacity(b * columns), Vec::with_capacity(b));
    let mut loss = 0.0;
    for (row, &w) in g.chunks_exact(columns).zip(w.iter()) {
        let (p, logs) = super::rows::softmax(row, 1.0);
        let own = -logs[..positives].iter().sum::<f64>() / positives as f64;
        let share = f64::from(w) / b as f64;
        loss += share * own;
        by_w.push((own / b as f64) as f32);
        let wanted = |k: usize| if k < positives { (positives as f64).recip() } else { 0.0 };
        by_g.extend(p.iter().enumerate().map(|(k, p)| (share * (p - wanted(k))) as f32));
    }
    let gradients = vec![
        Some(from_elements(by_g, (b, columns), likenesses.tensor())?),
        Some(from_elements(by_w, b, weights.tensor())?),
    ];
    scalar_of_all(&[likenesses, weights], loss, gradients)
}
