//! Sums, scalings, views and gathers.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::dispatch::{self, Host};
use crate::in_place::{lend, same_shape};
use crate::memory::{
    Place, channels_last, elements, from_channels_last, from_elements, on_host, written_in_chunks,
};
use crate::simd::{Loops, at_level, for_each_level};
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
        Ok(written_in_chunks(a.len(), CHUNK, |index, out| {
            let range = index * CHUNK..index * CHUNK + out.len();
            at_level(ZipMap { a: &a[range.clone()], b: &b[range], f: &f, out });
        }))
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
        Ok(written_in_chunks(a.len(), CHUNK, |index, out| {
            let a = &a[index * CHUNK..][..out.len()];
            at_level(Map { a, f: &f, out });
        }))
    };
    if is_channels_last(a) {
        let (n, c, h, w) = a.dims4()?;
        return from_channels_last(apply(&channels_last(a)?)?, (n, h, w, c), a);
    }
    from_elements(apply(&on_host(a)?)?, a.shape(), a)
}

struct ZipMap<'a, 'p, F> {
    a: &'a [f32],
    b: &'a [f32],
    f: &'a F,
    out: &'a mut Place<'p, f32>,
}

impl<F: Fn(f32, f32) -> f32> Loops for ZipMap<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.out.extend(self.a.iter().zip(self.b).map(|(a, b)| (self.f)(*a, *b)));
    }
}

struct Map<'a, 'p, F> {
    a: &'a [f32],
    f: &'a F,
    out: &'a mut Place<'p, f32>,
}

impl<F: Fn(f32) -> f32> Loops for Map<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.out.extend(self.a.iter().map(|a| (self.f)(*a)));
    }
}

for_each_level! {
    fn add_to(to: &mut [f32], from: &[f32]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
    }
}

fn is_channels_last(a: &Tensor) -> bool {
    a.rank() == 4 && !a.is_contiguous() && a.permute((0, 2, 3, 1)).is_ok_and(|a| a.is_contiguous())
}

/// The sum of two gradients.
pub(crate) fn sum_of(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    zip_map("sum", a, b, |a, b| a + b)
}

/// to += from, in the memory of `to`: everything that shares that memory sees it.
///
/// # Shapes
/// Two f32 tensors of one shape; `to` is contiguous, or NCHW with its channels last in memory.
///
/// # Errors
/// If shapes, types or devices differ, `to` lies otherwise, or both share their memory.
pub fn add_in_place(to: &Tensor, from: &Tensor) -> Result<()> {
    same_shape("add_in_place", &[to, from])?;
    let in_order = |t: &Tensor| if is_channels_last(to) { t.permute((0, 2, 3, 1)) } else { Ok(t.clone()) };
    dispatch::run(to, AddInPlace { to: &in_order(to)?, from: &in_order(from)?.contiguous()? })
}

struct AddInPlace<'a> {
    to: &'a Tensor,
    from: &'a Tensor,
}

impl Host for AddInPlace<'_> {
    type Output = ();

    fn on_host(self) -> Result<()> {
        lend("add_in_place", [self.to], [self.from], |[to], [from]| {
            to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| add_to(to, from));
        })
    }
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

/// The values one after another along dimension `dim`, row-major.
///
/// # Errors
/// If there is none, or their other dimensions differ.
pub fn concatenate(parts: &[Value], dim: usize) -> Result<Value> {
    let invalid = || {
        let shapes: Vec<_> = parts.iter().map(Value::dims).collect();
        Error::invalid("concatenate", format!("shapes {shapes:?} along dimension {dim}"))
    };
    let mut shape = parts.first().filter(|part| dim < part.dims().len()).ok_or_else(invalid)?.dims().to_vec();
    let fits = |part: &Value| {
        let dims = part.dims();
        dims.len() == shape.len() && (0..shape.len()).all(|i| i == dim || dims[i] == shape[i])
    };
    if !parts.iter().all(fits) {
        return Err(invalid());
    }
    // A part is one run of elements for each index before `dim`.
    let within: usize = shape[dim + 1..].iter().product();
    let runs: Vec<usize> = parts.iter().map(|part| part.dims()[dim] * within).collect();
    let row: usize = runs.iter().sum();
    shape[dim] = parts.iter().map(|part| part.dims()[dim]).sum();
    let first = parts[0].tensor();
    let hosts = parts.iter().map(|part| on_host(part.tensor())).collect::<Result<Vec<_>>>()?;
    let values = hosts.iter().map(elements).collect::<Result<Vec<_>>>()?;
    let out = written_in_chunks(shape.iter().product(), CHUNK, |index, out| {
        let range = index * CHUNK..index * CHUNK + out.len();
        gather_runs(range, row, &runs, |part, from, count| {
            out.extend_from_slice(&values[part][from..][..count])
        });
    });
    let out = from_elements(out, shape, first)?;
    let sizes: Vec<usize> = parts.iter().map(|part| part.dims()[dim]).collect();
    let inputs: Vec<&Value> = parts.iter().collect();
    Ok(Value::operation(&inputs, out, move |g| {
        let mut start = 0;
        let mut gradients = Vec::with_capacity(sizes.len());
        for size in sizes {
            // candle cannot read a view that starts behind the end of an empty buffer.
            let part = if g.elem_count() == 0 { g.narrow(dim, 0, size) } else { g.narrow(dim, start, size) };
            gradients.push(Some(part?));
            start += size;
        }
        Ok(gradients)
    }))
}

/// Calls `copy(part, from, count)` for the pieces that elements `range` are made of, in order; a row of `row` elements
/// has `runs[part]` elements of each part.
fn gather_runs(
    range: std::ops::Range<usize>,
    row: usize,
    runs: &[usize],
    mut copy: impl FnMut(usize, usize, usize),
) {
    let mut at = range.start;
    while at < range.end {
        let (index, mut offset) = (at / row, at % row);
        for (part, &run) in runs.iter().enumerate() {
            if offset >= run {
                offset -= run;
                continue;
            }
            let count = (run - offset).min(range.end - at);
            if count == 0 {
                break;
            }
            copy(part, index * run + offset, count);
            at += count;
            offset = 0;
        }
    }
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
        // All zeros at first.
        let mut spread = written_in_chunks(m * d, CHUNK, |_, _: &mut Place<f32>| ());
        for (&i, g) in indices.iter().zip(host.chunks_exact(d)) {
            for (sum, g) in spread[i as usize * d..][..d].iter_mut().zip(g) {
                *sum += g;
            }
        }
        Ok(vec![Some(from_elements(spread, (m, d), g)?)])
    }))
}
