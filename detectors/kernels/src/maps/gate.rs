//! Sums of two maps whose cells have gates.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;
use rayon::prelude::*;

use super::extents::paired;
use crate::dispatch::{self, Host};
use crate::memory::{elements, from_channels_last, from_elements, nhwc};
use crate::reduce::dot;
use crate::{Error, Result, Value};

/// Gated sum σ(a_0) x + σ(a_1) y, cell by cell.
///
/// # Shapes
/// `x` and `y` (N, C, H, W), `a` (N, 2, H, W); as `x`.
///
/// # Errors
/// Shapes that do not fit.
pub fn gated_sum(x: &Value, y: &Value, a: &Value) -> Result<Value> {
    const NAME: &str = "gated_sum";
    let (n, _, h, w) = paired(NAME, x.tensor(), y)?;
    if a.dims() != [n, 2, h, w] {
        return Err(Error::invalid(NAME, format!("gates {:?} for maps {:?}", a.dims(), x.dims())));
    }
    let (saved_x, saved_y, logits) = (nhwc(x.tensor())?, nhwc(y.tensor())?, nhwc(a.tensor())?);
    let Gated { gates, sum } = dispatch::run(&saved_x, Gate { x: &saved_x, y: &saved_y, logits: &logits })?;
    Ok(Value::operation(&[x, y, a], sum, move |g| {
        let g = nhwc(g)?;
        let work = GateGradient { g: &g, x: &saved_x, y: &saved_y, gates: &gates };
        Ok(dispatch::run(&g, work)?.map(Some).into())
    }))
}

/// Two maps (N, H, W, C) and the logits (N, H, W, 2) of their gates.
struct Gate<'a> {
    x: &'a Tensor,
    y: &'a Tensor,
    logits: &'a Tensor,
}

/// Gates (N, H, W, 2), and the sum (N, C, H, W).
struct Gated {
    gates: Tensor,
    sum: Tensor,
}

impl Host for Gate<'_> {
    type Output = Gated;

    fn on_host(self) -> Result<Gated> {
        let (n, h, w, c) = self.x.dims4()?;
        let sigmoid = |a: f32| (1.0 + (-f64::from(a)).exp()).recip() as f32;
        let gates: Vec<f32> = elements(self.logits)?.iter().map(|&a| sigmoid(a)).collect();
        let mut out = vec![0f32; n * c * h * w];
        if !out.is_empty() {
            let (x, y) = (elements(self.x)?, elements(self.y)?);
            let cells = x.par_chunks_exact(c).zip(y.par_chunks_exact(c)).zip(gates.par_chunks_exact(2));
            out.par_chunks_exact_mut(c).zip(cells).for_each(|(out, ((x, y), gates))| {
                let sums = x.iter().zip(y).map(|(x, y)| gates[0] * x + gates[1] * y);
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum);
            });
        }
        let gates = from_elements(gates, (n, h, w, 2), self.x)?;
        Ok(Gated { gates, sum: from_channels_last(out, (n, h, w, c), self.x)? })
    }
}

/// The gradient (N, H, W, C) of a gated sum, and what the sum was made of.
struct GateGradient<'a> {
    g: &'a Tensor,
    x: &'a Tensor,
    y: &'a Tensor,
    gates: &'a Tensor,
}

impl Host for GateGradient<'_> {
    /// By x, y and the gates' logits.
    type Output = [Tensor; 3];

    fn on_host(self) -> Result<[Tensor; 3]> {
        let (n, h, w, c) = self.x.dims4()?;
        let (g, x, y) = (elements(self.g)?, elements(self.x)?, elements(self.y)?);
        let gates = elements(self.gates)?;
        let gates: &[f32] = &gates;
        let scaled = |which: usize| {
            let mut out = g.to_vec();
            if c > 0 {
                let cells = out.par_chunks_exact_mut(c).zip(gates.par_chunks_exact(2));
                cells.for_each(|(out, gates)| out.iter_mut().for_each(|g| *g *= gates[which]));
            }
            out
        };
        let (by_x, by_y) = (scaled(0), scaled(1));
        let mut by_a = vec![0f32; gates.len()];
        if c > 0 {
            let cells = g.par_chunks_exact(c).zip(x.par_chunks_exact(c)).zip(y.par_chunks_exact(c));
            let cells = cells.zip(gates.par_chunks_exact(2));
            by_a.par_chunks_exact_mut(2).zip(cells).for_each(|(out, (((g, x), y), gates))| {
                for (which, side) in [x, y].into_iter().enumerate() {
                    let gate = f64::from(gates[which]);
                    out[which] = (dot(g, side) * gate * (1.0 - gate)) as f32;
                }
            });
        }
        let map = |values, channels| from_channels_last(values, (n, h, w, channels), self.g);
        Ok([map(by_x, c)?, map(by_y, c)?, map(by_a, 2)?])
    }
}
