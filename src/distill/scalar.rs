//! Numbers that divide, and the loss of nothing.

use ckd_kernels::Value;

use super::distiller::DistillError;

/// An error unless a number that divides is positive.
pub(super) fn expect_positive(method: &'static str, what: &str, value: f64) -> Result<(), DistillError> {
    match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(DistillError::invalid(method, format!("the {what} must be positive, got {value}"))),
    }
}

/// The constant 0, for a step that has nothing to compare; the student's gradient is 0 there.
///
/// # Shapes
/// `student` any; a scalar.
pub(super) fn nothing(student: &Value) -> Result<Value, DistillError> {
    Ok(ckd_kernels::scalar::nothing(student)?)
}
