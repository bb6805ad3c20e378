//! Rows turned into unit vectors or into log-probabilities.

use rayon::prelude::*;

use crate::elementwise::CHUNK;
use crate::memory::{elements, from_elements, on_host};
use crate::{Error, Result, Value};

/// x_i / max(|x_i|, `eps`) for every row i.
///
/// Below `eps` that is linear, so the gradient is g / eps there; at a row of zeros, where the direction
/// is undefined, it is 0.
///
/// # Shapes
/// `x` (M, D) to (M, D).
///
/// # Errors
/// A rank other than 2; an `eps` that is not positive.
pub fn l2_normalize_rows(x: &Value, eps: f64) -> Result<Value> {
    const NAME: &str = "l2_normalize_rows";
    let &[_, d] = x.dims() else {
        return Err(Error::invalid(NAME, format!("(M, D) expected, got {:?}", x.dims())));
    };
    if !(eps > 0.0 && eps.is_finite()) {
        return Err(Error::invalid(NAME, format!("eps must be positive, got {eps}")));
    }
    let out = by_rows(x, d, |x, out| {
        let scale = dot(x, x).sqrt().max(eps).recip();
        for (out, x) in out.iter_mut().zip(x) {
            *out = (f64::from(*x) * scale) as f32;
        }
    })?;
    let shape = x.tensor().shape().clone();
    let saved = x.tensor().clone();
    let result = from_elements(out, shape.clone(), x.tensor())?;
    Ok(Value::operation(&[x], result, move |g| {
        let (saved, host) = (on_host(&saved)?, on_host(g)?);
        let (saved, g_all) = (elements(&saved)?, elements(&host)?);
        let mut gradient = vec![0f32; saved.len()];
        let rows = saved.chunks_exact(d.max(1)).zip(g_all.chunks_exact(d.max(1)));
        for ((x, g), gradient) in rows.zip(gradient.chunks_exact_mut(d.max(1))) {
            let norm = dot(x, x).sqrt();
            if norm == 0.0 {
                continue;
            }
            let scale = norm.max(eps).recip();
            let along = if norm > eps { dot(x, g) / (norm * norm) } else { 0.0 };
            for ((gradient, g), x) in gradient.iter_mut().zip(g).zip(x) {
                *gradient = ((f64::from(*g) - along * f64::from(*x)) * scale) as f32;
            }
        }
        Ok(vec![Some(from_elements(gradient, shape, g)?)])
    }))
}

/// x - logsumexp(x) over the last dimension.
///
/// # Shapes
/// `x` (.., K) to the same.
///
/// # Errors
/// A scalar.
pub fn log_softmax(x: &Value) -> Result<Value> {
    let Some(&k) = x.dims().last() else {
        return Err(Error::invalid("log_softmax", "a scalar has no classes"));
    };
    let out = by_rows(x, k, |x, out| {
        let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let shifted = |x: f32| f64::from(x) - f64::from(largest);
        let log_total = x.iter().map(|&x| shifted(x).exp()).sum::<f64>().ln();
        for (out, &x) in out.iter_mut().zip(x) {
            *out = (shifted(x) - log_total) as f32;
        }
    })?;
    let shape = x.tensor().shape().clone();
    let result = from_elements(out, shape.clone(), x.tensor())?;
    let saved = result.clone();
    Ok(Value::operation(&[x], result, move |g| {
        let (saved, host) = (on_host(&saved)?, on_host(g)?);
        let (saved, g_all) = (elements(&saved)?, elements(&host)?);
        let mut gradient = vec![0f32; saved.len()];
        let rows = saved.chunks_exact(k.max(1)).zip(g_all.chunks_exact(k.max(1)));
        for ((y, g), gradient) in rows.zip(gradient.chunks_exact_mut(k.max(1))) {
            let total: f64 = g.iter().map(|&g| f64::from(g)).sum();
            for ((gradient, g), y) in gradient.iter_mut().zip(g).zip(y) {
                *gradient = (f64::from(*g) - f64::from(*y).exp() * total) as f32;
            }
        }
        Ok(vec![Some(from_elements(gradient, shape, g)?)])
    }))
}

/// Maps every row of `width` elements, in parallel.
fn by_rows(x: &Value, width: usize, f: impl Fn(&[f32], &mut [f32]) + Sync) -> Result<Vec<f32>> {
    let mut out = vec![0f32; x.tensor().elem_count()];
    if out.is_empty() {
        return Ok(out);
    }
    let host = on_host(x.tensor())?;
    let task = CHUNK.div_ceil(width) * width;
    out.par_chunks_mut(task).zip(elements(&host)?.par_chunks(task)).for_each(|(out, x)| {
        out.chunks_exact_mut(width).zip(x.chunks_exact(width)).for_each(|(out, x)| f(x, out));
    });
    Ok(out)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
