//! Pairs of feature maps: of one shape, brought to one size, their mean squared difference.

use candle_core::Tensor;
use ckd_kernels::Value;
use ckd_kernels::maps::{Weights, squared_difference};
use ckd_kernels::pool::adaptive_avg_pool2d;

use super::distiller::DistillError;

/// Extents of both maps, which must agree.
///
/// # Shapes
/// `teacher` and `student` (N, C, H, W).
pub(super) fn paired(
    method: &'static str,
    teacher: &Tensor,
    student: &Value,
) -> Result<(usize, usize, usize, usize), DistillError> {
    match *student.dims() {
        [n, c, h, w] if teacher.dims() == student.dims() => Ok((n, c, h, w)),
        _ => Err(DistillError::invalid(
            method,
            format!(
                "maps (N, C, H, W) of one shape expected, got teacher {:?} and student {:?}",
                teacher.dims(),
                student.dims()
            ),
        )),
    }
}

/// Both maps at the smaller height and width: the larger is averaged over cells.
///
/// # Shapes
/// `teacher` (N, C', H', W'), `student` (N, C, H, W); (N, C', h, w) and (N, C, h, w).
pub(super) fn at_equal_sizes(
    method: &'static str,
    teacher: &Tensor,
    student: &Value,
) -> Result<(Tensor, Value), DistillError> {
    let (&[_, _, th, tw], &[_, _, h, w]) = (teacher.dims(), student.dims()) else {
        let reason = format!("maps (N, C, H, W) expected, got {:?} and {:?}", teacher.dims(), student.dims());
        return Err(DistillError::invalid(method, reason));
    };
    let size = (h.min(th), w.min(tw));
    let fitted = |map: &Value, own: (usize, usize)| match own == size {
        true => Ok(map.clone()),
        false => adaptive_avg_pool2d(map, size),
    };
    let teacher = fitted(&Value::constant(teacher.clone()), (th, tw))?;
    Ok((teacher.tensor().clone(), fitted(student, (h, w))?))
}

/// The mean of (student - teacher)² over all elements; 0 without any.
///
/// # Shapes
/// (N, C, H, W), both; a scalar.
///
/// # Errors
/// Shapes that differ.
pub fn mean_squared_difference(teacher: &Tensor, student: &Value) -> Result<Value, DistillError> {
    paired("mean_squared_difference", teacher, student)?;
    let count = student.tensor().elem_count();
    Ok(squared_difference(teacher, student, Weights::default(), count as f64)?)
}
