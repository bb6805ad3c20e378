//! Context of maps: their cells pooled by an attention, and added to every cell.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;
use rayon::prelude::*;

use super::sums::image_sums;
use crate::dispatch::{self, Host};
use crate::memory::{elements, elements_of, from_channels_last, from_elements, nhwc};
use crate::reduce::{dot, softmax};
use crate::{Error, Result, Value};

/// Attention pooling: Σ over an image's cells of softmax(`logits`) times `map`.
///
/// # Shapes
/// `map` (N, C, H, W), `logits` (N, 1, H, W); (N, C).
///
/// # Errors
/// Shapes that do not fit.
pub fn attention_pool(map: &Value, logits: &Value) -> Result<Value> {
    let (n, _, h, w) = map.tensor().dims4()?;
    if logits.dims() != [n, 1, h, w] {
        let reason = format!("logits {:?} for a map {:?}", logits.dims(), map.dims());
        return Err(Error::invalid("attention_pool", reason));
    }
    let (x, attention) = (nhwc(map.tensor())?, nhwc(logits.tensor())?);
    let Pooled { shares, seen } = dispatch::run(&x, Pool { x: &x, logits: &attention })?;
    let out = seen.clone();
    Ok(Value::operation(&[map, logits], out, move |g| {
        let g = g.contiguous()?;
        let work = PoolGradient { g: &g, x: &x, shares: &shares, seen: &seen };
        let (by_map, by_logits) = dispatch::run(&g, work)?;
        Ok(vec![Some(by_map), Some(by_logits)])
    }))
}

/// A map (N, H, W, C) and logits (N, H, W, 1).
struct Pool<'a> {
    x: &'a Tensor,
    logits: &'a Tensor,
}

/// The cells' shares (N, H·W) in f64, and what they show of the map (N, C).
struct Pooled {
    shares: Tensor,
    seen: Tensor,
}

impl Host for Pool<'_> {
    type Output = Pooled;

    fn on_host(self) -> Result<Pooled> {
        let (n, h, w, c) = self.x.dims4()?;
        let cells = h * w;
        let mut shares: Vec<f64> = Vec::with_capacity(n * cells);
        let mut seen = vec![0f64; n * c];
        if n * cells * c > 0 {
            for logits in elements(self.logits)?.chunks_exact(cells) {
                shares.extend(softmax(logits, 1.0).0);
            }
            let x = elements(self.x)?;
            for (cell, (x, share)) in x.chunks_exact(c).zip(&shares).enumerate() {
                let seen = &mut seen[cell / cells * c..][..c];
                seen.iter_mut().zip(x).for_each(|(sum, x)| *sum += share * f64::from(*x));
            }
        }
        shares.resize(n * cells, 0.0);
        let seen = seen.into_iter().map(|x| x as f32).collect();
        Ok(Pooled {
            shares: Tensor::from_vec(shares, (n, cells), self.x.device())?,
            seen: from_elements(seen, (n, c), self.x)?,
        })
    }
}

/// The gradient (N, C) of what is seen of a map (N, H, W, C) with the cells' shares (N, H·W).
struct PoolGradient<'a> {
    g: &'a Tensor,
    x: &'a Tensor,
    shares: &'a Tensor,
    seen: &'a Tensor,
}

impl Host for PoolGradient<'_> {
    type Output = (Tensor, Tensor);

    fn on_host(self) -> Result<(Tensor, Tensor)> {
        let (n, h, w, c) = self.x.dims4()?;
        let cells = h * w;
        let mut by_map = vec![0f32; n * cells * c];
        let mut by_logits = vec![0f32; n * cells];
        if !by_map.is_empty() {
            let (g, x, seen) = (elements(self.g)?, elements(self.x)?, elements(self.seen)?);
            let shares = elements_of::<f64>(self.shares)?;
            let (g, x, seen, shares): (&[f32], &[f32], &[f32], &[f64]) = (&g, &x, &seen, &shares);
            let of_image = |cell: usize| cell / cells * c..(cell / cells + 1) * c;
            by_map.par_chunks_exact_mut(c).enumerate().for_each(|(cell, out)| {
                let g = &g[of_image(cell)];
                out.iter_mut().zip(g).for_each(|(out, g)| *out = (shares[cell] * f64::from(*g)) as f32);
            });
            let by_logit = |(cell, x): (usize, &[f32])| {
                let (g, seen) = (&g[of_image(cell)], &seen[of_image(cell)]);
                (shares[cell] * (dot(g, x) - dot(g, seen))) as f32
            };
            by_logits = x.par_chunks_exact(c).enumerate().map(by_logit).collect();
        }
        Ok((
            from_channels_last(by_map, (n, h, w, c), self.g)?,
            from_channels_last(by_logits, (n, h, w, 1), self.g)?,
        ))
    }
}

/// Sum of a map and one number for each image and channel.
///
/// # Shapes
/// `map` (N, C, H, W), `shift` (N, C); as `map`.
///
/// # Errors
/// Shapes that do not fit.
pub fn add_to_channels(map: &Value, shift: &Value) -> Result<Value> {
    let (n, c, _, _) = map.tensor().dims4()?;
    if shift.dims() != [n, c] {
        let reason = format!("{:?} for a map {:?}", shift.dims(), map.dims());
        return Err(Error::invalid("add_to_channels", reason));
    }
    let (x, shifts) = (nhwc(map.tensor())?, shift.tensor().contiguous()?);
    let out = dispatch::run(&x, Add { x: &x, shifts: &shifts })?;
    let tracked = (map.is_tracked(), shift.is_tracked());
    Ok(Value::operation(&[map, shift], out, move |g| {
        let sums = || dispatch::run(g, CellSums { g: &nhwc(g)? });
        Ok(vec![tracked.0.then(|| g.clone()), tracked.1.then(sums).transpose()?])
    }))
}

/// A map (N, H, W, C) and shifts (N, C).
struct Add<'a> {
    x: &'a Tensor,
    shifts: &'a Tensor,
}

impl Host for Add<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let (n, h, w, c) = self.x.dims4()?;
        let mut out = vec![0f32; n * h * w * c];
        if !out.is_empty() {
            let (x, shifts) = (elements(self.x)?, elements(self.shifts)?);
            let (x, shifts): (&[f32], &[f32]) = (&x, &shifts);
            out.par_chunks_exact_mut(c).enumerate().for_each(|(cell, out)| {
                let shifts = &shifts[cell / (h * w) * c..][..c];
                let sums = x[cell * c..][..c].iter().zip(shifts).map(|(x, shift)| x + shift);
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum);
            });
        }
        from_channels_last(out, (n, h, w, c), self.x)
    }
}

/// A map (N, H, W, C) that is summed over the cells of each image.
struct CellSums<'a> {
    g: &'a Tensor,
}

impl Host for CellSums<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let (n, h, w, c) = self.g.dims4()?;
        let sums = image_sums(&elements(self.g)?, (n, c, h * w));
        from_elements(sums.into_iter().map(|sum| sum as f32).collect(), (n, c), self.g)
    }
}
