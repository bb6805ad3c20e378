//! Memory banks: rows that are remembered, compared with, and never have a gradient.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::dispatch::{self, Host};
use crate::in_place::lend;
use crate::memory::{elements, from_elements, on_host};
use crate::reduce::dot;
use crate::{Error, Result, Value};

/// Similarities `factor` x_i·bank_j of each row to the rows of a bank that were drawn for it. The gradient reads the bank,
/// which may move only after the way back.
///
/// # Shapes
/// `x` (B, D), `bank` (n, D), `drawn` B·K rows of the bank; (B, K).
///
/// # Errors
/// If the shapes do not fit, or a row of the bank does not exist.
pub fn drawn_similarities(x: &Value, bank: &Tensor, drawn: &[u32], factor: f64) -> Result<Value> {
    let ((n, d), (b, width)) = (bank.dims2()?, x.tensor().dims2()?);
    let columns = drawn.len().checked_div(b).unwrap_or(0);
    if width != d || columns * b != drawn.len() || drawn.iter().any(|&at| at as usize >= n) {
        let reason = format!("rows {:?}, {} places in a bank of {n} x {d}", x.dims(), drawn.len());
        return Err(Error::invalid("drawn_similarities", reason));
    }
    let sizes = Sizes { b, columns, d, factor };
    let out = dispatch::run(x.tensor(), Drawn { x: x.tensor(), bank, drawn, sizes })?;
    let (bank, drawn) = (bank.clone(), drawn.to_vec());
    Ok(Value::operation(&[x], out, move |g| {
        Ok(vec![Some(dispatch::run(g, DrawnGradient { g, bank: &bank, drawn: &drawn, sizes })?)])
    }))
}

#[derive(Debug, Clone, Copy)]
struct Sizes {
    b: usize,
    columns: usize,
    d: usize,
    factor: f64,
}

/// Rows (b, d), and the rows of a bank that they are compared with.
struct Drawn<'a> {
    x: &'a Tensor,
    bank: &'a Tensor,
    drawn: &'a [u32],
    sizes: Sizes,
}

impl Host for Drawn<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { x: like, bank, drawn, sizes: Sizes { b, columns, d, factor } } = self;
        let (x, bank) = (on_host(like)?, on_host(bank)?);
        let (x, bank) = (elements(&x)?, elements(&bank)?);
        let (x, bank): (&[f32], &[f32]) = (&x, &bank);
        let similarity = |(place, &at): (usize, &u32)| {
            (dot(&x[place / columns * d..][..d], &bank[at as usize * d..][..d]) * factor) as f32
        };
        let out = drawn.par_iter().enumerate().map(similarity).collect();
        from_elements(out, (b, columns), like)
    }
}

/// The gradient (b, columns) of the similarities.
struct DrawnGradient<'a> {
    g: &'a Tensor,
    bank: &'a Tensor,
    drawn: &'a [u32],
    sizes: Sizes,
}

impl Host for DrawnGradient<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { g: like, bank, drawn, sizes: Sizes { b, columns, d, factor } } = self;
        let (g, bank) = (on_host(like)?, on_host(bank)?);
        let (g, bank) = (elements(&g)?, elements(&bank)?);
        let (g, bank): (&[f32], &[f32]) = (&g, &bank);
        let mut gradient = vec![0f32; b * d];
        gradient.par_chunks_exact_mut(d.max(1)).enumerate().for_each(|(i, out)| {
            let range = i * columns..(i + 1) * columns;
            let mut sum = vec![0f64; d];
            for (g, &at) in g[range.clone()].iter().zip(&drawn[range]) {
                let factor = f64::from(*g) * factor;
                let row = &bank[at as usize * d..][..d];
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += factor * f64::from(*x));
            }
            out.iter_mut().zip(sum).for_each(|(out, sum)| *out = sum as f32);
        });
        from_elements(gradient, (b, d), like)
    }
}

/// Moves rows of a bank, in place: each of `samples` becomes unit(`momentum` old + (1 - `momentum`) new). A sample that comes
/// twice moves twice.
///
/// # Shapes
/// `bank` (n, D), `samples` B rows of it, `new` (B, D).
///
/// # Errors
/// If the shapes do not fit, or a row of the bank does not exist.
pub fn remember(bank: &Tensor, samples: &[u32], new: &Tensor, momentum: f64) -> Result<()> {
    let (n, d) = bank.dims2()?;
    if new.dims() != [samples.len(), d] || samples.iter().any(|&sample| sample as usize >= n) {
        let reason = format!("{} samples and rows {:?} for a bank of {n} x {d}", samples.len(), new.dims());
        return Err(Error::invalid("remember", reason));
    }
    let new = new.to_device(bank.device())?.contiguous()?;
    dispatch::run(bank, Remember { bank, samples, new: &new, momentum })
}

/// A bank, and new rows of its samples.
struct Remember<'a> {
    bank: &'a Tensor,
    samples: &'a [u32],
    new: &'a Tensor,
    momentum: f64,
}

impl Host for Remember<'_> {
    type Output = ();

    fn on_host(self) -> Result<()> {
        let Self { bank, samples, new, momentum } = self;
        let (_, d) = bank.dims2()?;
        lend("remember", [bank], [new], |[bank], [new]| {
            for (&sample, new) in samples.iter().zip(new.chunks_exact(d.max(1))) {
                let old = &mut bank[sample as usize * d..][..d];
                let mix = |(old, new): (&f32, &f32)| {
                    momentum * f64::from(*old) + (1.0 - momentum) * f64::from(*new)
                };
                let mixed: Vec<f64> = old.iter().zip(new).map(mix).collect();
                let length = mixed.iter().map(|x| x * x).sum::<f64>().sqrt();
                let scale = if length == 0.0 { 0.0 } else { length.recip() };
                old.iter_mut().zip(mixed).for_each(|(old, mixed)| *old = (mixed * scale) as f32);
            }
        })
    }
}

/// Constant Z of exponentials that are probabilities among `n` rows of a bank: `kept` unless that is 0, and then n times
/// the mean of exp(`x`).
///
/// # Shapes
/// `x` of any shape, `kept` one number; (1).
///
/// # Errors
/// If `kept` is not one number.
pub fn partition(x: &Tensor, kept: &Tensor, n: usize) -> Result<Tensor> {
    if kept.dims() != [1] {
        return Err(Error::invalid("partition", format!("(1) expected, got {:?}", kept.dims())));
    }
    dispatch::run(x, Partition { x, kept, n })
}

/// Exponents, and the constant that was kept.
struct Partition<'a> {
    x: &'a Tensor,
    kept: &'a Tensor,
    n: usize,
}

impl Host for Partition<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { x: like, kept, n } = self;
        let (x, kept) = (on_host(like)?, on_host(kept)?);
        let (x, kept) = (elements(&x)?, elements(&kept)?[0]);
        let mean = || x.iter().map(|&x| f64::from(x).exp()).sum::<f64>() / x.len().max(1) as f64;
        let z = if kept == 0.0 { (mean() * n as f64) as f32 } else { kept };
        from_elements(vec![z], 1, like)
    }
}
