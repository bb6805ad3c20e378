//! Extents of maps, and a comparison's outcome.

use candle_core::Tensor;

use crate::memory::from_elements;
use crate::{Error, Result, Value};

/// Numbers of images, channels, rows and columns of two maps of one shape.
pub(super) fn paired(
    operation: &'static str,
    target: &Tensor,
    x: &Value,
) -> Result<(usize, usize, usize, usize)> {
    match *x.dims() {
        [n, c, h, w] if target.dims() == x.dims() => Ok((n, c, h, w)),
        _ => Err(Error::invalid(
            operation,
            format!("maps (N, C, H, W) of one shape expected, got {:?} and {:?}", target.dims(), x.dims()),
        )),
    }
}

/// An error unless a number that divides is positive.
pub(super) fn expect_positive(operation: &'static str, what: &str, value: f64) -> Result<()> {
    match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(Error::invalid(operation, format!("the {what} must be positive, got {value}"))),
    }
}

/// A scalar on the device of `like`.
pub(super) fn scalar(value: f64, like: &Tensor) -> Result<Tensor> {
    from_elements(vec![value as f32], (), like)
}

/// A comparison's value and, if it was asked for, its gradient (N, C, H, W).
pub(super) struct Compared {
    pub(super) value: Tensor,
    pub(super) gradient: Option<Tensor>,
}
