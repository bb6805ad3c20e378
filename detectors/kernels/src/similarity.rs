//! Similarities of rows: inner products of all pairs of rows, or of each row with its own partner.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::dispatch::{self, Host};
use crate::memory::{CHUNK, elements, from_elements, on_host};
use crate::product::{Accumulate, Form, product};
use crate::reduce::{dot, multiply};
use crate::{Error, Result, Value};

/// Similarities `factor` a_i·b_j of all pairs of rows.
///
/// # Shapes
/// `a` (M, D), `b` (N, D); (M, N).
///
/// # Errors
/// Other ranks, or rows of another length.
pub fn similarities(a: &Value, b: &Value, factor: f64) -> Result<Value> {
    let ((m, d), (n, width)) = (a.tensor().dims2()?, b.tensor().dims2()?);
    if d != width {
        let reason = format!("rows of one length expected, got {:?} and {:?}", a.dims(), b.dims());
        return Err(Error::invalid("similarities", reason));
    }
    let (x, y) = (a.tensor().clone(), b.tensor().clone());
    let multiplied = move |left: &Tensor, left_form, right: &Tensor, right_form, sizes| {
        let forms = [left_form, right_form];
        dispatch::run(left, Product { left, right, forms, sizes, factor })
    };
    let out = multiplied(&x, Form::Plain, &y, Form::Transposed, (m, n, d))?;
    let tracked = (a.is_tracked(), b.is_tracked());
    Ok(Value::operation(&[a, b], out, move |g| {
        let of_a = || multiplied(g, Form::Plain, &y, Form::Plain, (m, d, n));
        let of_b = || multiplied(g, Form::Transposed, &x, Form::Plain, (n, d, m));
        Ok(vec![tracked.0.then(of_a).transpose()?, tracked.1.then(of_b).transpose()?])
    }))
}

/// `factor` left right, (rows, inner) by (inner, columns).
struct Product<'a> {
    left: &'a Tensor,
    right: &'a Tensor,
    forms: [Form; 2],
    /// (rows, columns, inner).
    sizes: (usize, usize, usize),
    factor: f64,
}

impl Host for Product<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { left: like, right, forms, sizes, factor } = self;
        let (left, right) = (on_host(like)?, on_host(right)?);
        let mut out = vec![0f32; sizes.0 * sizes.1];
        let (left, right) = (elements(&left)?, elements(&right)?);
        product(&mut out, sizes, &left, forms[0], &right, forms[1], Accumulate::Replace);
        if factor != 1.0 {
            let scaled =
                |part: &mut [f32]| part.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
            out.par_chunks_mut(CHUNK).for_each(scaled);
        }
        from_elements(out, (sizes.0, sizes.1), like)
    }
}

/// Similarities a_i·b_i of rows with their own partners.
///
/// # Shapes
/// `a` and `b` (M, D); (M).
///
/// # Errors
/// Shapes that differ or are not matrices.
pub fn row_products(a: &Value, b: &Value) -> Result<Value> {
    let (rows, width) = a.tensor().dims2()?;
    if b.dims() != a.dims() {
        let reason = format!("two matrices of one shape expected, got {:?} and {:?}", a.dims(), b.dims());
        return Err(Error::invalid("row_products", reason));
    }
    let (x, y) = (a.tensor().clone(), b.tensor().clone());
    let out = dispatch::run(&x, RowProducts { a: &x, b: &y, rows, width })?;
    let tracked = (a.is_tracked(), b.is_tracked());
    Ok(Value::operation(&[a, b], out, move |factors| {
        let times = |wanted: bool, other| wanted.then(|| times_rows(other, factors)).transpose();
        Ok(vec![times(tracked.0, &y)?, times(tracked.1, &x)?])
    }))
}

/// Rows (rows, width) with a partner each.
struct RowProducts<'a> {
    a: &'a Tensor,
    b: &'a Tensor,
    rows: usize,
    width: usize,
}

impl Host for RowProducts<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { a: like, b, rows, width } = self;
        let (a, b) = (on_host(like)?, on_host(b)?);
        let (a, b) = (elements(&a)?, elements(&b)?);
        let of_row = |i: usize| dot(&a[i * width..][..width], &b[i * width..][..width]) as f32;
        from_elements((0..rows).map(of_row).collect(), rows, like)
    }
}

/// The rows of a matrix (M, D) times the `factors` (M).
pub(crate) fn times_rows(x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    dispatch::run(x, TimesRows { x, factors, rows, width })
}

/// Rows (rows, width) times a factor each.
struct TimesRows<'a> {
    x: &'a Tensor,
    factors: &'a Tensor,
    rows: usize,
    width: usize,
}

impl Host for TimesRows<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { x: like, factors, rows, width } = self;
        let (x, factors) = (on_host(like)?, on_host(factors)?);
        let (x, factors) = (elements(&x)?, elements(&factors)?);
        let mut out = x.to_vec();
        let lines = out.par_chunks_exact_mut(width.max(1)).zip(&*factors);
        lines.for_each(|(row, &factor)| multiply(row, factor));
        from_elements(out, (rows, width), like)
    }
}

/// The matrix `x` with another `diagonal`.
///
/// # Shapes
/// `x` (M, M), `diagonal` (M); (M, M).
///
/// # Errors
/// If the shapes do not fit.
pub fn with_diagonal(x: &Value, diagonal: &Value) -> Result<Value> {
    let (rows, columns) = x.tensor().dims2()?;
    if rows != columns || diagonal.dims() != [rows] {
        let reason = format!("(M, M) and (M) expected, got {:?} and {:?}", x.dims(), diagonal.dims());
        return Err(Error::invalid("with_diagonal", reason));
    }
    let work = WithDiagonal { x: x.tensor(), diagonal: Some(diagonal.tensor()), rows };
    let out = dispatch::run(x.tensor(), work)?;
    Ok(Value::operation(&[x, diagonal], out, move |g| {
        let others = dispatch::run(g, WithDiagonal { x: g, diagonal: None, rows })?;
        Ok(vec![Some(others), Some(dispatch::run(g, Diagonal { x: g, rows })?)])
    }))
}

/// A matrix (rows, rows) with another diagonal, or with zeros there.
struct WithDiagonal<'a> {
    x: &'a Tensor,
    diagonal: Option<&'a Tensor>,
    rows: usize,
}

impl Host for WithDiagonal<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { x: like, diagonal, rows } = self;
        let (x, diagonal) = (on_host(like)?, diagonal.map(on_host).transpose()?);
        let diagonal = diagonal.as_ref().map(elements).transpose()?;
        let mut out = elements(&x)?.to_vec();
        for i in 0..rows {
            out[i * (rows + 1)] = diagonal.as_ref().map_or(0.0, |diagonal| diagonal[i]);
        }
        from_elements(out, (rows, rows), like)
    }
}

/// The diagonal of a matrix (rows, rows).
struct Diagonal<'a> {
    x: &'a Tensor,
    rows: usize,
}

impl Host for Diagonal<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { x: like, rows } = self;
        let host = on_host(like)?;
        let x = elements(&host)?;
        from_elements((0..rows).map(|i| x[i * (rows + 1)]).collect(), rows, like)
    }
}
