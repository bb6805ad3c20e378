//! Losses as scalars whose gradient is known.

use candle_core::Tensor;
use ckd_kernels::Value;
use ckd_kernels::scalar::with_gradients;

use super::distiller::DistillError;

/// An error unless a number that divides is positive.
pub(super) fn expect_positive(method: &'static str, what: &str, value: f64) -> Result<(), DistillError> {
    match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(DistillError::invalid(method, format!("the {what} must be positive, got {value}"))),
    }
}

/// A scalar of `student` whose gradient is known already (`None` if `student` is not tracked).
///
/// # Shapes
/// `gradient` as `student`; a scalar.
pub(super) fn scalar_of(
    student: &Value,
    value: f64,
    gradient: Option<Tensor>,
) -> Result<Value, DistillError> {
    scalar_of_all(&[student], value, vec![gradient])
}

/// A scalar of several inputs whose gradients are known already.
///
/// # Shapes
/// A gradient for each input, of its shape and in memory of its own; a scalar.
pub(super) fn scalar_of_all(
    inputs: &[&Value],
    value: f64,
    gradients: Vec<Option<Tensor>>,
) -> Result<Value, DistillError> {
    let device = inputs.first().map_or(&candle_core::Device::Cpu, |input| input.tensor().device());
    let tensor = Tensor::new(value as f32, device)?;
    Ok(with_gradients(inputs, tensor, gradients))
}

/// The constant 0, for a step that has nothing to compare; the student's gradient is 0 there.
///
/// # Shapes
/// `student` any; a scalar.
pub(super) fn nothing(student: &Value) -> Result<Value, DistillError> {
    Ok(ckd_kernels::scalar::nothing(student)?)
}
