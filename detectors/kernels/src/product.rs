//! Matrix products of slices, by the crate gemm.

use gemm::Parallelism;

/// Order of a matrix in its row-major buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Stored in the orientation in which it is used.
    Plain,
    /// Operand whose transpose is stored.
    Transposed,
}

/// Treatment of the values that the result already holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accumulate {
    /// The product replaces them.
    Replace,
    /// The product is added to them.
    Add,
}

/// Matrix product: out (rows x columns, row-major) = or += a (rows x inner) b (inner x columns), on all
/// threads.
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

/// Matrix [`product`] on the calling thread alone: for many products in parallel.
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
