//! Layer matching of L-MCL, a weight for each pair of layers and image, and the teacher that a network's
//! layers make together.

use ckd_kernels::Value;
use ckd_kernels::memory::{elements, from_elements, on_host};
use ckd_kernels::reduce::{dot, softmax};

use super::pair::NAME;
use crate::distill::distiller::DistillError;
use crate::distill::rows::paired;
use ckd_kernels::unit_rows::UnitRows;

/// L-MCL's weight of a pair of layers for each sample: the sigmoid of the cosine of its two (mapped)
/// features, always between 0.2689 and 0.7311.
///
/// # Shapes
/// `a` and `b` (B, D); (B).
///
/// # Errors
/// Shapes that differ.
pub fn layer_weights(a: &Value, b: &Value) -> Result<Value, DistillError> {
    let (rows, d) = paired(NAME, a.tensor(), b)?;
    let (a_host, b_host) = (on_host(a.tensor())?, on_host(b.tensor())?);
    let (x, y) = (UnitRows::of(&elements(&a_host)?, d), UnitRows::of(&elements(&b_host)?, d));
    let weight = |i: usize| {
        let cosine = dot(&x.values[i * d..][..d], &y.values[i * d..][..d]);
        (1.0 + (-cosine).exp()).recip()
    };
    let weights: Vec<f64> = (0..rows).map(weight).collect();
    let out = from_elements(weights.iter().map(|&w| w as f32).collect(), rows, a.tensor())?;
    Ok(Value::operation(&[a, b], out, move |g| {
        let host = on_host(g)?;
        let by_cosine: Vec<f64> =
            elements(&host)?.iter().zip(&weights).map(|(g, w)| f64::from(*g) * w * (1.0 - w)).collect();
        let gradient = |own: &UnitRows, other: &UnitRows| {
            let mut out = other.values.clone();
            for (row, by_cosine) in out.chunks_exact_mut(d.max(1)).zip(&by_cosine) {
                row.iter_mut().for_each(|x| *x = (f64::from(*x) * by_cosine) as f32);
            }
            own.pull_back(&mut out);
            from_elements(out, (rows, d), g)
        };
        Ok(vec![Some(gradient(&x, &y)?), Some(gradient(&y, &x)?)])
    }))
}

/// L-MCL's aggregated logits of a network: Σ_l softmax(`a`)_l `logits`_l.
///
/// # Shapes
/// `logits` L matrices (B, C), `a` (B, L); (B, C).
///
/// # Errors
/// Shapes that do not fit.
pub fn aggregate(logits: &[Value], a: &Value) -> Result<Value, DistillError> {
    let (b, layers) = a.tensor().dims2()?;
    let Some(&[_, c]) = logits.first().map(Value::dims) else {
        return Err(DistillError::invalid(NAME, "logits (B, C) of at least one layer expected"));
    };
    if layers != logits.len() || logits.iter().any(|z| z.dims() != [b, c]) {
        let shapes: Vec<_> = logits.iter().map(Value::dims).collect();
        return Err(DistillError::invalid(NAME, format!("logits {shapes:?} and weights {:?}", a.dims())));
    }
    let hosts = logits.iter().map(|z| on_host(z.tensor())).collect::<Result<Vec<_>, _>>()?;
    let shares: Vec<Vec<f64>> = {
        let a = on_host(a.tensor())?;
        elements(&a)?.chunks_exact(layers).map(|row| softmax(row, 1.0).0).collect()
    };
    let mut out = vec![0f64; b * c];
    for (layer, host) in hosts.iter().enumerate() {
        let z = elements(host)?;
        for (i, (out, z)) in out.chunks_exact_mut(c.max(1)).zip(z.chunks_exact(c.max(1))).enumerate() {
            out.iter_mut().zip(z).for_each(|(out, z)| *out += shares[i][layer] * f64::from(*z));
        }
    }
    let out = from_elements(out.into_iter().map(|z| z as f32).collect(), (b, c), a.tensor())?;
    let inputs: Vec<&Value> = logits.iter().chain([a]).collect();
    Ok(Value::operation(&inputs, out, move |incoming| {
        let g_host = on_host(incoming)?;
        let g = elements(&g_host)?;
        let mut gradients = Vec::with_capacity(layers + 1);
        // Derivatives by the shares.
        let mut by_share = vec![0f64; b * layers];
        for (layer, host) in hosts.iter().enumerate() {
            let z = elements(host)?;
            let mut by_z = vec![0f32; b * c];
            for i in 0..b {
                let (g, z) = (&g[i * c..][..c], &z[i * c..][..c]);
                by_share[i * layers + layer] = dot(g, z);
                let parts = by_z[i * c..][..c].iter_mut().zip(g);
                parts.for_each(|(out, g)| *out = (shares[i][layer] * f64::from(*g)) as f32);
            }
            gradients.push(Some(from_elements(by_z, (b, c), incoming)?));
        }
        let by_a = by_share.chunks_exact(layers).zip(&shares).flat_map(|(by_share, shares)| {
            let along: f64 = by_share.iter().zip(shares).map(|(g, p)| g * p).sum();
            by_share.iter().zip(shares).map(move |(g, p)| (p * (g - along)) as f32)
        });
        gradients.push(Some(from_elements(by_a.collect(), (b, layers), incoming)?));
        Ok(gradients)
    }))
}
