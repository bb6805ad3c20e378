//! Sums, scalings, views and gathers.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::memory::{channels_last, elements, from_channels_last, from_elements, on_host};
use crate::{Error, Result, Value};

/// Elements that one task of an elementwise pass takes: 64 KiB a stream.
pub(crate) const CHUNK: usize = 16 * 1024;

/// Combines two tensors of equal shape, element by element, in the memory order of the first.
pub(crate) fn zip_map(
    operation: &'static str,
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> Result<Tensor> {
    if a.dims() != b.dims() {
        return Err(Error::invalid(operation, format!("shapes differ: {:?} and {:?}", a.shape(), b.shape())));
    }
    let combine = |a: &Tensor, b: &Tensor| -> Result<Vec<f32>> {
        let (a, b) = (elements(a)?, elements(b)?);
        let mut out = vec![0f32; a.len()];
        out.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK)).for_each(
            |((out, a), b)| {
                for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                    *out = f(*a, *b);
                }
            },
        );
        Ok(out)
    };
    if is_channels_last(a) {
        let (n, c, h, w) = a.dims4()?;
        return from_channels_last(combine(&channels_last(a)?, &channels_last(b)?)?, (n, h, w, c), a);
    }
    from_elements(combine(&on_host(a)?, &on_host(b)?)?, a.shape(), a)
}

/// Maps every element, keeping the memory order.
pub(crate) fn map(a: &Tensor, f: impl Fn(f32) -> f32 + Sync) -> Result<Tensor> {
    let apply = |a: &Tensor| -> Result<Vec<f32>> {
        let a = elements(a)?;
        let mut out = vec![0f32; a.len()];
        out.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).for_each(|(out, a)| {
            for (out, a) in out.iter_mut().zip(a) {
                *out = f(*a);
            }
        });
        Ok(out)
    };
    if is_channels_last(a) {
        let (n, c, h, w) = a.dims4()?;
        return from_channels_last(apply(&channels_last(a)?)?, (n, h, w, c), a);
    }
    from_elements(apply(&on_host(a)?)?, a.shape(), a)
}

fn is_channels_last(a: &Tensor) -> bool {
    a.rank() == 4 && !a.is_contiguous() && a.permute((0, 2, 3, 1)).is_ok_and(|a| a.is_contiguous())
}

/// The sum of two gradients.
pub(crate) fn sum_of(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    zip_map("sum", a, b, |a, b| a + b)
}

/// a + b, of equal shapes.
pub fn add(a: &Value, b: &Value) -> Result<Value> {
    let out = sum_of(a.tensor(), b.tensor())?;
    Ok(Value::operation(&[a, b], out, |g| Ok(vec![Some(g.clone()), Some(g.clone())])))
}

/// The sum of scalars (loss terms), each times its weight; a term of weight 0 is left out entirely.
pub fn weighted_sum(terms: &[(&Value, f64)]) -> Result<Value> {
    let mut sum: Option<Value> = None;
    for (term, weight) in terms {
        let weighted = match *weight {
            0.0 => continue,
            1.0 => (*term).clone(),
            weight => scale(term, weight)?,
        };
        sum = Some(match sum {
            Some(sum) => add(&sum, &weighted)?,
            None => weighted,
        });
    }
    match sum {
        Some(sum) => Ok(sum),
        None => Ok(Value::constant(Tensor::zeros((), DType::F32, &Device::Cpu)?)),
    }
}

/// `factor` a.
pub fn scale(a: &Value, factor: f64) -> Result<Value> {
    let factor = factor as f32;
    let out = map(a.tensor(), |a| a * factor)?;
    Ok(Value::operation(&[a], out, move |g| Ok(vec![Some(map(g, |g| g * factor)?)])))
}

/// max(a, 0); the derivative at 0 is 0.
pub fn relu(a: &Value) -> Result<Value> {
    let out = map(a.tensor(), rectified)?;
    let saved = out.clone();
    Ok(Value::operation(&[a], out, move |g| Ok(vec![Some(zip_map("relu", g, &saved, through_relu)?)])))
}

/// min(max(a, 0), 6); the derivative at 0 and at 6 is 0.
pub fn relu6(a: &Value) -> Result<Value> {
    let out = map(a.tensor(), clipped)?;
    let saved = out.clone();
    Ok(Value::operation(&[a], out, move |g| Ok(vec![Some(zip_map("relu6", g, &saved, through_clip)?)])))
}

/// The ReLU of one number. Not `f32::max`, which makes 0 of a NaN: a diverged network must show.
#[inline]
pub(crate) fn rectified(y: f32) -> f32 {
    if y < 0.0 { 0.0 } else { y }
}

/// The gradient `g` through a ReLU whose output was `y`; 0 at 0, and NaN outputs let it through.
#[inline]
pub(crate) fn through_relu(g: f32, y: f32) -> f32 {
    if y <= 0.0 { 0.0 } else { g }
}

/// Where a ReLU6 is flat again.
pub(crate) const SIX: f32 = 6.0;

/// The ReLU6 of one number; a NaN stays one.
#[inline]
pub(crate) fn clipped(y: f32) -> f32 {
    y.clamp(0.0, SIX)
}

/// The gradient `g` through a ReLU6 whose output was `y`; 0 at 0 and at 6, and NaN outputs let it through.
#[inline]
pub(crate) fn through_clip(g: f32, y: f32) -> f32 {
    if y <= 0.0 || y >= SIX { 0.0 } else { g }
}

/// The same elements, row-major, in another shape.
pub fn reshape(a: &Value, shape: &[usize]) -> Result<Value> {
    let out = a.tensor().reshape(shape)?;
    let before = a.dims().to_vec();
    Ok(Value::operation(&[a], out, move |g| Ok(vec![Some(g.reshape(before)?)])))
}

/// Dimension `order[i]` of `a` becomes dimension i; no element moves in memory.
pub fn permute(a: &Value, order: &[usize]) -> Result<Value> {
    let out = a.tensor().permute(order)?;
    let mut inverse = vec![0; order.len()];
    for (to, &from) in order.iter().enumerate() {
        inverse[from] = to;
    }
    Ok(Value::operation(&[a], out, move |g| Ok(vec![Some(g.permute(inverse)?)])))
}

/// The values one after another along dimension `dim`.
pub fn concatenate(parts: &[Value], dim: usize) -> Result<Value> {
    let tensors: Vec<&Tensor> = parts.iter().map(Value::tensor).collect();
    let out = Tensor::cat(&tensors, dim)?;
    let sizes: Vec<usize> = parts.iter().map(|part| part.dims()[dim]).collect();
    let inputs: Vec<&Value> = parts.iter().collect();
    Ok(Value::operation(&inputs, out, move |g| {
        let mut start = 0;
        let mut gradients = Vec::with_capacity(sizes.len());
        for size in sizes {
            gradients.push(Some(g.narrow(dim, start, size)?));
            start += size;
        }
        Ok(gradients)
    }))
}

/// The `count` rows of a matrix from row `first` on.
///
/// # Shapes
/// `a` (M, D) to (`count`, D).
pub fn narrow_rows(a: &Value, first: usize, count: usize) -> Result<Value> {
    let (m, d) = a.tensor().dims2()?;
    if count > m || first > m - count {
        return Err(Error::invalid("narrow_rows", format!("{count} rows from {first} on, of {m}")));
    }
    if count == m {
        return Ok(a.clone());
    }
    let out = a.tensor().narrow(0, first, count)?;
    Ok(Value::operation(&[a], out, move |g| {
        let host = on_host(g)?;
        let mut spread = vec![0f32; m * d];
        spread[first * d..(first + count) * d].copy_from_slice(&elements(&host)?);
        Ok(vec![Some(from_elements(spread, (m, d), g)?)])
    }))
}

/// Rows of a matrix, in the order of `indices`, which may repeat.
///
/// # Shapes
/// `a` (M, D) to (`indices.len()`, D).
pub fn rows(a: &Value, indices: &[u32]) -> Result<Value> {
    let (m, d) = a.tensor().dims2()?;
    if let Some(outside) = indices.iter().find(|&&i| i as usize >= m) {
        return Err(Error::invalid("rows", format!("row {outside} of {m}")));
    }
    let source = on_host(a.tensor())?;
    let mut out = Vec::with_capacity(indices.len() * d);
    {
        let source = elements(&source)?;
        for &i in indices {
            out.extend_from_slice(&source[i as usize * d..][..d]);
        }
    }
    let out = from_elements(out, (indices.len(), d), a.tensor())?;
    let indices = indices.to_vec();
    Ok(Value::operation(&[a], out, move |g| {
        let host = on_host(g)?;
        let host = elements(&host)?;
        let mut spread = vec![0f32; m * d];
        for (&i, g) in indices.iter().zip(host.chunks_exact(d)) {
            for (sum, g) in spread[i as usize * d..][..d].iter_mut().zip(g) {
                *sum += g;
            }
        }
        Ok(vec![Some(from_elements(spread, (m, d), g)?)])
    }))
}
