//! Losses that are sums over pairs of rows.

use candle_core::Tensor;
use ckd_kernels::Value;
use ckd_kernels::memory::{elements, from_elements, on_host};
use rayon::prelude::*;

use super::distiller::DistillError;
use super::scalar::{nothing, scalar_of, scalar_of_all};

/// Rows and columns of both matrices, which must agree.
///
/// # Shapes
/// `teacher` and `student` (B, C).
pub(super) fn paired(
    method: &'static str,
    teacher: &Tensor,
    student: &Value,
) -> Result<(usize, usize), DistillError> {
    match *student.dims() {
        [rows, columns] if teacher.dims() == student.dims() => Ok((rows, columns)),
        _ => Err(DistillError::invalid(
            method,
            format!(
                "matrices (B, C) of the same rows and classes expected, got teacher {:?} and student {:?}",
                teacher.dims(),
                student.dims()
            ),
        )),
    }
}

/// An error unless each row has a class below `classes`.
pub(super) fn check_labels(
    method: &'static str,
    labels: &[u32],
    (rows, classes): (usize, usize),
) -> Result<(), DistillError> {
    if labels.len() != rows {
        let reason = format!("{rows} rows need as many labels, got {}", labels.len());
        return Err(DistillError::invalid(method, reason));
    }
    match labels.iter().find(|&&label| label as usize >= classes) {
        Some(label) => Err(DistillError::invalid(method, format!("label {label} of {classes} classes"))),
        None => Ok(()),
    }
}

/// The scalar Σ_i loss(row i) / `divisor`.
///
/// `row` gets the number of a row, the teacher's and the student's elements, and zeros to write the
/// derivatives by the latter to; it returns the row's loss. No rows give 0.
///
/// # Shapes
/// `teacher` and `student` (B, C); a scalar.
pub(super) fn sum_over_rows(
    method: &'static str,
    teacher: &Tensor,
    student: &Value,
    divisor: f64,
    row: impl Fn(usize, &[f32], &[f32], &mut [f32]) -> f64 + Sync,
) -> Result<Value, DistillError> {
    let (rows, columns) = paired(method, teacher, student)?;
    if rows == 0 || columns == 0 {
        return nothing(student);
    }
    let (teacher, host) = (on_host(teacher)?, on_host(student.tensor())?);
    let (teacher, values) = (elements(&teacher)?, elements(&host)?);
    let (teacher, values): (&[f32], &[f32]) = (&teacher, &values);
    let mut gradient = vec![0f32; rows * columns];
    let scale = divisor.recip() as f32;
    let losses: Vec<f64> = gradient
        .par_chunks_exact_mut(columns)
        .enumerate()
        .map(|(i, gradient)| {
            let loss =
                row(i, &teacher[i * columns..][..columns], &values[i * columns..][..columns], gradient);
            gradient.iter_mut().for_each(|g| *g *= scale);
            loss
        })
        .collect();
    let gradient = student.is_tracked().then(|| from_elements(gradient, (rows, columns), student.tensor()));
    scalar_of(student, losses.iter().sum::<f64>() / divisor, gradient.transpose()?)
}

/// 1/B sum_i w_i f(g_i) over the rows of `g` with their `weights`; 0 without rows.
///
/// `of_row` gets the number of a row, w_i / B, the row, and zeros to write w_i / B times f's derivatives to;
/// it returns f.
///
/// # Shapes
/// `g` (B, K), `weights` (B); a scalar.
///
/// # Errors
/// Shapes that do not fit.
pub(super) fn weighted_mean_over_rows(
    method: &'static str,
    g: &Value,
    weights: &Value,
    of_row: impl Fn(usize, f64, &[f32], &mut [f32]) -> f64 + Sync,
) -> Result<Value, DistillError> {
    let (b, columns) = g.tensor().dims2()?;
    if weights.dims() != [b] {
        let reason = format!("{b} samples, but weights {:?}", weights.dims());
        return Err(DistillError::invalid(method, reason));
    }
    if b == 0 || columns == 0 {
        return nothing(g);
    }
    let (g_host, w_host) = (on_host(g.tensor())?, on_host(weights.tensor())?);
    let (values, w) = (elements(&g_host)?, elements(&w_host)?);
    let (values, w): (&[f32], &[f32]) = (&values, &w);
    let mut by_g = vec![0f32; b * columns];
    let rows = by_g.par_chunks_exact_mut(columns).zip(values.par_chunks_exact(columns)).enumerate();
    let losses: Vec<f64> =
        rows.map(|(i, (by_row, row))| of_row(i, f64::from(w[i]) / b as f64, row, by_row)).collect();
    let mean = losses.iter().zip(w).map(|(loss, &w)| f64::from(w) / b as f64 * loss).sum();
    let by_w = losses.iter().map(|loss| (loss / b as f64) as f32).collect();
    let gradients = vec![
        Some(from_elements(by_g, (b, columns), g.tensor())?),
        Some(from_elements(by_w, b, weights.tensor())?),
    ];
    scalar_of_all(&[g, weights], mean, gradients)
}
