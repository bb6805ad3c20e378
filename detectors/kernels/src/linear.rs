//! Fully connected layers.

use candle_core::Tensor;
use gemm::Parallelism;
use rayon::prelude::*;

use crate::conv::pixels;
use crate::elementwise::{CHUNK, clipped, rectified, through_clip, through_relu, zip_map};
use crate::memory::{elements, from_elements, on_host};
use crate::microkernel::Finish;
use crate::{Error, Result, Value};

/// What a layer does to its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// max(y, 0).
    Relu,
    /// min(max(y, 0), 6).
    Relu6,
}

impl Activation {
    /// Applies it to every number; NaN stays NaN.
    #[inline(always)]
    pub(crate) fn apply(self, values: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Relu => values.iter_mut().for_each(|y| *y = rectified(*y)),
            Self::Relu6 => values.iter_mut().for_each(|y| *y = clipped(*y)),
        }
    }

    /// The gradient `g` through it where its result was `y`.
    pub(crate) fn mask(self, g: &Tensor, y: &Tensor) -> Result<Tensor> {
        match self {
            Self::Identity => Ok(g.clone()),
            Self::Relu => zip_map("relu", g, y, through_relu),
            Self::Relu6 => zip_map("relu6", g, y, through_clip),
        }
    }
}

/// y = activation(x Wᵀ + b).
///
/// # Shapes
/// `x` (M, I), `weight` (O, I), `bias` (O) to (M, O); M may be 0.
pub fn linear(x: &Value, weight: &Value, bias: Option<&Value>, activation: Activation) -> Result<Value> {
    let (m, i) = x.tensor().dims2()?;
    let (o, weight_i) = weight.tensor().dims2()?;
    if i != weight_i || bias.is_some_and(|bias| bias.dims() != [o]) {
        let bias = bias.map(Value::dims);
        return Err(Error::invalid(
            "linear",
            format!("x {:?}, weight {:?}, bias {bias:?} do not fit", x.dims(), weight.dims()),
        ));
    }
    crate::flops::count(m * i * o);
    let size = pixels::Sizes { m, i, o, precision: crate::Precision::current() };
    let out = {
        let (x, w) = (on_host(x.tensor())?, on_host(weight.tensor())?);
        let bias = bias.map(|bias| on_host(bias.tensor())).transpose()?;
        let bias = bias.as_ref().map(elements).transpose()?;
        let finish = Finish { shift: bias.as_deref(), activation, ..Finish::default() };
        pixels::product(size, &elements(&x)?, &elements(&w)?, finish)
    };
    let out = from_elements(out, (m, o), x.tensor())?;
    let tracked = (x.is_tracked(), weight.is_tracked(), bias.is_some_and(Value::is_tracked));
    let (saved_x, saved_w, saved_y) = (x.tensor().clone(), weight.tensor().clone(), out.clone());
    let mut inputs = vec![x, weight];
    inputs.extend(bias);
    let has_bias = bias.is_some();
    Ok(Value::operation(&inputs, out, move |g| {
        let g = activation.mask(g, &saved_y)?;
        let host = on_host(&g)?;
        let gy = elements(&host)?;
        let mut gradients = vec![None, None];
        if tracked.0 {
            let w = on_host(&saved_w)?;
            let gx = pixels::input_gradient(size, &gy, &elements(&w)?);
            gradients[0] = Some(from_elements(gx, (m, i), &g)?);
        }
        if tracked.1 {
            let x = on_host(&saved_x)?;
            let gw = pixels::weight_gradient(size, &elements(&x)?, &gy);
            gradients[1] = Some(from_elements(gw, (o, i), &g)?);
        }
        if has_bias {
            let gb = tracked.2.then(|| from_elements(column_sums(&gy, o), o, &g)).transpose()?;
            gradients.push(gb);
        }
        Ok(gradients)
    }))
}

/// Sums of the columns of a row-major matrix with `columns` columns, over fixed chunks of rows added in order.
pub(crate) fn column_sums(rows: &[f32], columns: usize) -> Vec<f32> {
    let columns = columns.max(1);
    let chunk = (CHUNK / columns).max(1) * columns;
    let sum_rows = |rows: &[f32]| {
        let mut sums = vec![0f64; columns];
        for row in rows.chunks_exact(columns) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        sums
    };
    let partial: Vec<Vec<f64>> = rows.par_chunks(chunk).map(sum_rows).collect();
    let mut sums = vec![0f64; columns];
    for partial in partial {
        sums.iter_mut().zip(partial).for_each(|(sum, partial)| *sum += partial);
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// How a matrix lies in its row-major buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is used.
    Plain,
    /// Its transpose is stored.
    Transposed,
}

/// What happens to the values that are already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accumulate {
    /// The product replaces them.
    Replace,
    /// The product is added to them.
    Add,
}

/// out (rows x columns, row-major) = or += a (rows x inner) b (inner x columns), on all threads.
///
/// # Panics
/// If a buffer does not have the size that the shapes give.
pub fn product(
    out: &mut [f32],
    (rows, columns, inner): (usize, usize, usize),
    a: &[f32],
    a_form: Form,
    b: &[f32],
    b_form: Form,
    accumulate: Accumulate,
) {
    // Small products are not worth waking other threads for.
    let work = rows * columns * inner;
    let parallelism = if work < 1 << 18 { Parallelism::None } else { Parallelism::Rayon(0) };
    let strides = Strides::of((rows, columns, inner), a_form, b_form);
    strided_product(out, (rows, columns, inner), a, b, strides, accumulate, parallelism);
}

/// As [`product`], on the calling thread alone: for many products in parallel.
///
/// # Panics
/// If a buffer does not have the size that the shapes give.
pub fn product_on_this_thread(
    out: &mut [f32],
    (rows, columns, inner): (usize, usize, usize),
    a: &[f32],
    a_form: Form,
    b: &[f32],
    b_form: Form,
    accumulate: Accumulate,
) {
    let strides = Strides::of((rows, columns, inner), a_form, b_form);
    strided_product(out, (rows, columns, inner), a, b, strides, accumulate, Parallelism::None);
}

/// Distances, in elements, between neighbours in a row and in a column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strides {
    pub(crate) out_row: usize,
    pub(crate) a: (usize, usize),
    pub(crate) b: (usize, usize),
}

impl Strides {
    fn of((rows, columns, inner): (usize, usize, usize), a: Form, b: Form) -> Self {
        let stored = |form, rows, columns| match form {
            Form::Plain => (columns, 1),
            Form::Transposed => (1, rows),
        };
        Self { out_row: columns, a: stored(a, rows, inner), b: stored(b, inner, columns) }
    }
}

pub(crate) fn strided_product(
    out: &mut [f32],
    (rows, columns, inner): (usize, usize, usize),
    a: &[f32],
    b: &[f32],
    strides: Strides,
    accumulate: Accumulate,
    parallelism: Parallelism,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    if inner == 0 {
        if accumulate == Accumulate::Replace {
            for row in 0..rows {
                out[row * strides.out_row..][..columns].fill(0.0);
            }
        }
        return;
    }
    let last = |(row, column): (usize, usize), rows: usize, columns: usize| {
        (rows - 1) * row + (columns - 1) * column
    };
    assert!(strides.out_row >= columns, "product: rows of the result overlap");
    assert!(last((strides.out_row, 1), rows, columns) < out.len(), "product: result too small");
    assert!(last(strides.a, rows, inner) < a.len(), "product: left factor too small");
    assert!(last(strides.b, inner, columns) < b.len(), "product: right factor too small");
    // SAFETY: the largest offset that each pointer is read or written at was checked above; rows of the
    // result do not overlap; `out` is borrowed mutably, so neither factor overlaps it.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            out.as_mut_ptr(),
            1,
            strides.out_row as isize,
            accumulate == Accumulate::Add,
            a.as_ptr(),
            strides.a.1 as isize,
            strides.a.0 as isize,
            b.as_ptr(),
            strides.b.1 as isize,
            strides.b.0 as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
