//! Differentiable sums, scalings, views and gathers.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::{DType, Device, Tensor};

use crate::activation::Activation;
use crate::dispatch::{self, Host};
use crate::gradient::{Gradient, SomeRows};
use crate::memory::{CHUNK, elements, from_elements, on_host, written_in_chunks};
use crate::piecewise::{Piecewise, applied};
pub use crate::pointwise::add_in_place;
use crate::pointwise::{Function, hard_sigmoid_gradient, hard_swish_gradient, map, sigmoid_gradient, sum_of};
use crate::stored::stored_as;
use crate::{Error, Result, Value};

/// Sum a + b, element by element.
///
/// # Shapes
/// Two of one shape, to the same.
///
/// # Errors
/// If the shapes differ.
pub fn add(a: &Value, b: &Value) -> Result<Value> {
    let out = sum_of(a.tensor(), b.tensor())?;
    Ok(Value::operation(&[a, b], out, |g| Ok(vec![Some(g.clone()), Some(g.clone())])))
}

/// Weighted sum of scalars (loss terms); a term of weight 0 is left out entirely.
///
/// # Shapes
/// Scalars, to a scalar: 0 if there are none.
///
/// # Errors
/// If shapes differ.
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

/// Product of `a` and a number.
///
/// # Shapes
/// Any, to the same.
///
/// # Errors
/// If `a` is not f32.
pub fn scale(a: &Value, factor: f64) -> Result<Value> {
    let times = Function::Times(factor as f32);
    let out = map(times, a.tensor())?;
    Ok(Value::operation(&[a], out, move |g| Ok(vec![Some(map(times, g)?)])))
}

/// ReLU: max(a, 0); the derivative at 0 is 0.
///
/// # Shapes
/// Any, to the same.
///
/// # Errors
/// If `a` is not f32.
pub fn relu(a: &Value) -> Result<Value> {
    applied(Piecewise::Relu, a, || {
        let out = map(Function::Relu, a.tensor())?;
        let saved = out.clone();
        Ok(Value::operation(&[a], out, move |g| Ok(vec![Some(Activation::Relu.mask(g, &saved)?)])))
    })
}

/// ReLU6: min(max(a, 0), 6) (Howard et al. 2017); the derivative at 0 and at 6 is 0.
///
/// # Shapes
/// Any, to the same.
///
/// # Errors
/// If `a` is not f32.
pub fn relu6(a: &Value) -> Result<Value> {
    applied(Piecewise::Relu6, a, || {
        let out = map(Function::Relu6, a.tensor())?;
        let saved = out.clone();
        Ok(Value::operation(&[a], out, move |g| Ok(vec![Some(Activation::Relu6.mask(g, &saved)?)])))
    })
}

/// Hard sigmoid: min(max(a + 3, 0), 6) / 6 (Howard et al. 2019, arXiv 1905.02244); the derivative at -3 and
/// at 3 is 0.
///
/// # Shapes
/// Any, to the same.
///
/// # Errors
/// If `a` is not f32.
pub fn hard_sigmoid(a: &Value) -> Result<Value> {
    applied(Piecewise::HardSigmoid, a, || {
        let out = map(Function::HardSigmoid, a.tensor())?;
        let input = a.tensor().clone();
        Ok(Value::operation(&[a], out, move |g| Ok(vec![Some(hard_sigmoid_gradient(g, &input)?)])))
    })
}

/// Hard swish: a min(max(a + 3, 0), 6) / 6 (Howard et al. 2019); the derivative at -3 is 0 and at 3 is 1.
///
/// Two inputs between -3 and 0 have the same result. The gradient follows from the input, therefore, and the
/// function is no [`Activation`], whose gradient follows from its result.
///
/// # Shapes
/// Any, to the same.
///
/// # Errors
/// If `a` is not f32.
pub fn hard_swish(a: &Value) -> Result<Value> {
    applied(Piecewise::HardSwish, a, || {
        let out = map(Function::HardSwish, a.tensor())?;
        let input = a.tensor().clone();
        Ok(Value::operation(&[a], out, move |g| Ok(vec![Some(hard_swish_gradient(g, &input)?)])))
    })
}

/// Sigmoid: 1 / (1 + exp(-a)).
///
/// # Shapes
/// Any, to the same.
///
/// # Errors
/// If `a` is not f32.
pub fn sigmoid(a: &Value) -> Result<Value> {
    let out = map(Function::Sigmoid, a.tensor())?;
    let result = out.clone();
    Ok(Value::operation(&[a], out, move |g| Ok(vec![Some(sigmoid_gradient(g, &result)?)])))
}

/// The numbers of `a` in f32: itself, but for maps that lie in bf16 on a GPU ([`Precision`](crate::Precision)).
///
/// # Shapes
/// Any, to the same.
///
/// # Errors
/// If `a` is neither f32 nor bf16.
pub fn in_f32(a: &Value) -> Result<Value> {
    if a.tensor().dtype() == DType::F32 {
        return Ok(a.clone());
    }
    let out = stored_as(a.tensor(), DType::F32)?;
    Ok(Value::consuming_operation(&[a], out, |g| Ok(vec![Some(g)])))
}

/// Reshapes `a`, whose elements count row-major.
///
/// # Shapes
/// Any, to `shape`.
///
/// # Errors
/// If `shape` has another number of elements.
pub fn reshape(a: &Value, shape: &[usize]) -> Result<Value> {
    let out = a.tensor().reshape(shape)?;
    let before = a.dims().to_vec();
    Ok(Value::operation(&[a], out, move |g| Ok(vec![Some(g.reshape(before)?)])))
}

/// Permutes dimensions: dimension `order[i]` of `a` becomes dimension i. No element moves in memory.
///
/// # Shapes
/// Rank `order.len()`, to the same rank.
///
/// # Errors
/// If `order` is no permutation of the dimensions.
pub fn permute(a: &Value, order: &[usize]) -> Result<Value> {
    let out = a.tensor().permute(order)?;
    let mut inverse = vec![0; order.len()];
    for (to, &from) in order.iter().enumerate() {
        inverse[from] = to;
    }
    Ok(Value::operation(&[a], out, move |g| Ok(vec![Some(g.permute(inverse)?)])))
}

/// Concatenates values along dimension `dim`, row-major in memory.
///
/// # Shapes
/// Shapes that differ in dimension `dim` alone, to the sum of them there.
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
    shape[dim] = parts.iter().map(|part| part.dims()[dim]).sum();
    let tensors: Vec<&Tensor> = parts.iter().map(Value::tensor).collect();
    let out = dispatch::run(tensors[0], Concatenate { parts: &tensors, dim, shape: &shape })?;
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

/// Tensors one after another along `dim`, to a tensor of `shape`.
struct Concatenate<'a> {
    parts: &'a [&'a Tensor],
    dim: usize,
    shape: &'a [usize],
}

impl Host for Concatenate<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { parts, dim, shape } = self;
        // A part is one run of elements for each index before `dim`.
        let within: usize = shape[dim + 1..].iter().product();
        let runs: Vec<usize> = parts.iter().map(|part| part.dims()[dim] * within).collect();
        let row: usize = runs.iter().sum();
        let hosts = parts.iter().map(|part| on_host(part)).collect::<Result<Vec<_>>>()?;
        let values = hosts.iter().map(elements).collect::<Result<Vec<_>>>()?;
        let out = written_in_chunks(shape.iter().product(), CHUNK, |index, out| {
            let range = index * CHUNK..index * CHUNK + out.len();
            gather_runs(range, row, &runs, |part, from, count| {
                out.extend_from_slice(&values[part][from..][..count])
            });
        });
        from_elements(out, shape, parts[0])
    }
}

/// Calls `copy(part, from, count)` for the pieces that elements `range` are made of, in order; a row of `row`
/// elements has `runs[part]` elements of each part.
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
///
/// # Errors
/// If `a` is no matrix, or an index is not below M.
pub fn rows(a: &Value, indices: &[u32]) -> Result<Value> {
    let (m, d) = a.tensor().dims2()?;
    if let Some(outside) = indices.iter().find(|&&i| i as usize >= m) {
        return Err(Error::invalid("rows", format!("row {outside} of {m}")));
    }
    let out = dispatch::run(a.tensor(), Gather { a: a.tensor(), indices })?;
    let indices = indices.to_vec();
    Ok(Value::consuming_operation(&[a], out, move |g| {
        Ok(vec![Some(Gradient::Rows(SomeRows { rows: g.into_tensor()?, indices, shape: (m, d) }))])
    }))
}

/// The rows `indices` of a matrix.
struct Gather<'a> {
    a: &'a Tensor,
    indices: &'a [u32],
}

impl Host for Gather<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let (_, d) = self.a.dims2()?;
        let source = on_host(self.a)?;
        let source = elements(&source)?;
        let mut out = Vec::with_capacity(self.indices.len() * d);
        for &i in self.indices {
            out.extend_from_slice(&source[i as usize * d..][..d]);
        }
        from_elements(out, (self.indices.len(), d), self.a)
    }
}
