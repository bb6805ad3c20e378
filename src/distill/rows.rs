//! Losses that are means over pairs of rows.

use candle_core::Tensor;
use ckd_kernels::Value;
use ckd_kernels::row_losses::weighted_mean;

use super::distiller::DistillError;
use super::scalar::nothing;

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

/// Mean of `losses`, one of each row; 0 without rows.
///
/// # Shapes
/// `teacher` and `student` (B, C), losses (B); a scalar.
pub(super) fn mean_over_rows(
    method: &'static str,
    teacher: &Tensor,
    student: &Value,
    losses: impl FnOnce() -> ckd_kernels::Result<Value>,
) -> Result<Value, DistillError> {
    match paired(method, teacher, student)? {
        (0, _) | (_, 0) => nothing(student),
        _ => Ok(weighted_mean(&losses()?, None)?),
    }
}

/// Mean of `losses`, one of each row of `g`, times their `weights`; 0 without rows.
///
/// # Shapes
/// `g` (B, K), `weights` and losses (B); a scalar.
///
/// # Errors
/// Shapes that do not fit.
pub(super) fn weighted_mean_over_rows(
    method: &'static str,
    g: &Value,
    weights: &Value,
    losses: impl FnOnce() -> ckd_kernels::Result<Value>,
) -> Result<Value, DistillError> {
    let (b, columns) = g.tensor().dims2()?;
    if weights.dims() != [b] {
        let reason = format!("{b} samples, but weights {:?}", weights.dims());
        return Err(DistillError::invalid(method, reason));
    }
    match (b, columns) {
        (0, _) | (_, 0) => nothing(g),
        _ => Ok(weighted_mean(&losses()?, Some(weights))?),
    }
}
