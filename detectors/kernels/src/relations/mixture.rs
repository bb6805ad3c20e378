//! Matrices mixed by a softmax of weights, row by row.

use candle_core::Tensor;

use crate::dispatch::{self, Host};
use crate::memory::{elements, from_elements, on_host};
use crate::reduce::{dot, softmax};
use crate::{Error, Result, Value};

/// Rows Σ_l softmax(`weights`)_l part_l of matrices.
///
/// # Shapes
/// L `parts` (B, C), `weights` (B, L); (B, C).
///
/// # Errors
/// Shapes that do not fit.
pub fn mixture(parts: &[Value], weights: &Value) -> Result<Value> {
    let (rows, count) = weights.tensor().dims2()?;
    let shapes: Vec<&[usize]> = parts.iter().map(Value::dims).collect();
    let columns = match shapes.first() {
        Some(&&[b, columns]) if b == rows && count == parts.len() => columns,
        _ => return Err(Error::invalid("mixture", format!("{shapes:?} by weights {:?}", weights.dims()))),
    };
    if shapes.iter().any(|shape| *shape != [rows, columns]) {
        return Err(Error::invalid("mixture", format!("{shapes:?} by weights {:?}", weights.dims())));
    }
    let saved: Vec<Tensor> = parts.iter().map(|part| part.tensor().clone()).collect();
    let logits = weights.tensor().clone();
    let out = dispatch::run(&logits, Mixture { parts: &saved, weights: &logits, rows, columns })?;
    let inputs: Vec<&Value> = parts.iter().chain([weights]).collect();
    Ok(Value::operation(&inputs, out, move |g| {
        let of = Mixture { parts: &saved, weights: &logits, rows, columns };
        Ok(dispatch::run(g, MixtureGradient { g, of })?.into_iter().map(Some).collect())
    }))
}

/// Matrices (rows, columns), and logits of their weights.
#[derive(Clone, Copy)]
pub(super) struct Mixture<'a> {
    pub(super) parts: &'a [Tensor],
    pub(super) weights: &'a Tensor,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Mixture<'_> {
    /// Shares of the parts in each row.
    fn shares(&self) -> Result<Vec<Vec<f64>>> {
        let weights = on_host(self.weights)?;
        Ok(elements(&weights)?.chunks_exact(self.parts.len()).map(|row| softmax(row, 1.0).0).collect())
    }
}

impl Host for Mixture<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let (shares, width) = (self.shares()?, self.columns.max(1));
        let mut out = vec![0f64; self.rows * self.columns];
        for (layer, part) in self.parts.iter().enumerate() {
            let part = on_host(part)?;
            let part = elements(&part)?;
            let rows = out.chunks_exact_mut(width).zip(part.chunks_exact(width)).zip(&shares);
            for ((out, part), shares) in rows {
                out.iter_mut().zip(part).for_each(|(out, z)| *out += shares[layer] * f64::from(*z));
            }
        }
        let out = out.into_iter().map(|z| z as f32).collect();
        from_elements(out, (self.rows, self.columns), self.weights)
    }
}

/// The gradient of a mixture, and what was mixed.
pub(super) struct MixtureGradient<'a> {
    pub(super) g: &'a Tensor,
    pub(super) of: Mixture<'a>,
}

impl Host for MixtureGradient<'_> {
    /// Gradients of the parts, and of the weights.
    type Output = Vec<Tensor>;

    fn on_host(self) -> Result<Vec<Tensor>> {
        let Self { g: like, of } = self;
        let Mixture { parts, rows, columns, .. } = of;
        let (count, shares) = (parts.len(), of.shares()?);
        let host = on_host(like)?;
        let g = elements(&host)?;
        let mut gradients = Vec::with_capacity(count + 1);
        let mut by_share = vec![0f64; rows * count];
        for (layer, part) in parts.iter().enumerate() {
            let part = on_host(part)?;
            let part = elements(&part)?;
            let mut by_part = vec![0f32; rows * columns];
            for row in 0..rows {
                let of_row = row * columns..(row + 1) * columns;
                let g = &g[of_row.clone()];
                by_share[row * count + layer] = dot(g, &part[of_row.clone()]);
                let places = by_part[of_row].iter_mut().zip(g);
                places.for_each(|(out, g)| *out = (shares[row][layer] * f64::from(*g)) as f32);
            }
            gradients.push(from_elements(by_part, (rows, columns), like)?);
        }
        let by_weight = by_share.chunks_exact(count).zip(&shares).flat_map(|(by_share, shares)| {
            let along: f64 = by_share.iter().zip(shares).map(|(g, p)| g * p).sum();
            by_share.iter().zip(shares).map(move |(g, p)| (p * (g - along)) as f32)
        });
        gradients.push(from_elements(by_weight.collect(), (rows, count), like)?);
        Ok(gradients)
    }
}
