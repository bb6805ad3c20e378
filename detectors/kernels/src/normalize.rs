//! Rows turned into unit vectors or into log-probabilities.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;

use crate::dispatch::{self, Host};
use crate::memory::{CHUNK, Place, elements, from_elements, on_host, written_in_chunks};
use crate::reduce::{dot, exp_of_negative, exponentials, largest, sum};
use crate::simd::for_each_level;
use crate::{Error, Result, Value};

#[cfg(feature = "cuda")]
pub(crate) use gpu::{of_rows, row_shape};

/// L2 normalisation of rows: x_i / max(|x_i|, `eps`) for every row i.
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
    let saved = x.tensor().clone();
    let result = dispatch::run(&saved, UnitRows { x: &saved, d, eps })?;
    Ok(Value::operation(&[x], result, move |g| {
        Ok(vec![Some(dispatch::run(g, UnitRowsGradient { g, x: &saved, d, eps })?)])
    }))
}

/// Rows of the last dimension as unit vectors, on any device.
#[cfg(feature = "cuda")]
pub(crate) fn unit_rows(x: &Tensor, eps: f64) -> Result<Tensor> {
    dispatch::run(x, UnitRows { x, d: x.dim(candle_core::D::Minus1)?, eps })
}

/// The gradient by `x` of [`unit_rows`], of the result's `g`.
#[cfg(feature = "cuda")]
pub(crate) fn unit_rows_gradient(g: &Tensor, x: &Tensor, eps: f64) -> Result<Tensor> {
    dispatch::run(g, UnitRowsGradient { g, x, d: x.dim(candle_core::D::Minus1)?, eps })
}

/// Rows of `d` numbers.
struct UnitRows<'a> {
    x: &'a Tensor,
    d: usize,
    eps: f64,
}

impl Host for UnitRows<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { x: like, d, eps } = self;
        let host = on_host(like)?;
        let x = elements(&host)?;
        let out = by_rows(x.len(), d, |row, out| {
            let x = &x[row * d..][..d];
            scaled(out, x, dot(x, x).sqrt().max(eps).recip());
        });
        from_elements(out, like.shape(), like)
    }
}

/// The gradient of unit rows, and the rows that they were made of.
struct UnitRowsGradient<'a> {
    g: &'a Tensor,
    x: &'a Tensor,
    d: usize,
    eps: f64,
}

impl Host for UnitRowsGradient<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { g, x, d, eps } = self;
        let (saved, host) = (on_host(x)?, on_host(g)?);
        let (saved, g_all) = (elements(&saved)?, elements(&host)?);
        let gradient = by_rows(saved.len(), d, |row, gradient| {
            let (x, g) = (&saved[row * d..][..d], &g_all[row * d..][..d]);
            let norm = dot(x, x).sqrt();
            // At 0 all factors are 0.
            let scale = if norm == 0.0 { 0.0 } else { norm.max(eps).recip() };
            let along = if norm > eps { dot(x, g) / (norm * norm) } else { 0.0 };
            projected(gradient, (g, x), along, scale);
        });
        from_elements(gradient, x.shape(), g)
    }
}

/// Log-softmax over the last dimension: x - logsumexp(x).
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
    let result = dispatch::run(x.tensor(), LogSoftmax { x: x.tensor(), k })?;
    let saved = result.clone();
    Ok(Value::operation(&[x], result, move |g| {
        Ok(vec![Some(dispatch::run(g, LogSoftmaxGradient { g, y: &saved, k })?)])
    }))
}

/// Rows of `k` logits.
struct LogSoftmax<'a> {
    x: &'a Tensor,
    k: usize,
}

impl Host for LogSoftmax<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { x: like, k } = self;
        let host = on_host(like)?;
        let x = elements(&host)?;
        let out = by_rows(x.len(), k, |row, out| {
            let x = &x[row * k..][..k];
            let highest = largest(x);
            let out = out.zeros();
            out.copy_from_slice(x);
            let log_total = exponentials(out, highest, 1.0).ln();
            shifted(out, x, f64::from(highest) + log_total);
        });
        from_elements(out, like.shape(), like)
    }
}

/// The gradient of log-probabilities, and these themselves.
struct LogSoftmaxGradient<'a> {
    g: &'a Tensor,
    y: &'a Tensor,
    k: usize,
}

impl Host for LogSoftmaxGradient<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { g, y, k } = self;
        let (saved, host) = (on_host(y)?, on_host(g)?);
        let (saved, g_all) = (elements(&saved)?, elements(&host)?);
        let gradient = by_rows(saved.len(), k, |row, gradient| {
            let (y, g) = (&saved[row * k..][..k], &g_all[row * k..][..k]);
            let total = sum(g) as f32;
            log_softmax_gradient(gradient, g, y, total);
        });
        from_elements(gradient, y.shape(), g)
    }
}

for_each_level! {
    /// `scale` x.
    fn scaled(out: &mut Place<f32>, x: &[f32], scale: f64) {
        out.extend(x.iter().map(|x| (f64::from(*x) * scale) as f32));
    }

    /// (g - `along` x) `scale`, of `pair` (g, x).
    fn projected(out: &mut Place<f32>, pair: (&[f32], &[f32]), along: f64, scale: f64) {
        let terms = pair.0.iter().zip(pair.1);
        out.extend(terms.map(|(g, x)| ((f64::from(*g) - along * f64::from(*x)) * scale) as f32));
    }

    /// x - `by`.
    fn shifted(out: &mut [f32], x: &[f32], by: f64) {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = (f64::from(*x) - by) as f32);
    }

    /// g - exp(y) `total`.
    fn log_softmax_gradient(out: &mut Place<f32>, g: &[f32], y: &[f32], total: f32) {
        out.extend(g.iter().zip(y).map(|(g, y)| g - exp_of_negative(-y) * total));
    }
}

/// `len` numbers, written row by row in parallel; rows have `width` elements.
fn by_rows(len: usize, width: usize, write: impl Fn(usize, &mut Place<f32>) + Sync) -> Vec<f32> {
    let width = width.max(1);
    let rows_a_task = CHUNK.div_ceil(width);
    written_in_chunks(len, rows_a_task * width, |task, out| {
        let first = task * rows_a_task;
        for row in first..first + out.len() / width {
            out.part(width, |out| write(row, out));
        }
    })
}
