//! Localisation distillation (LD; Zheng et al., CVPR 2022, arXiv 2102.12252), for heads that predict each edge of a box
//! as a distribution over bins (GFL). No detector here has such a head yet.

use candle_core::Tensor;
use ckd_kernels::Value;

use super::rows::{softened_kl, sum_over_rows};
use super::{DistillError, expect_positive};

/// Σ_i `weights`_i T² KL_i / bins / `divisor`, with the divergence of the edge distributions of row i averaged over
/// its bins, as in the authors' code. No rows give 0.
///
/// # Shapes
/// `teacher` and `student` (M, bins), an edge a row; a scalar.
///
/// # Errors
/// Shapes that do not fit; a temperature or divisor that is not positive.
pub fn ld(
    teacher: &Tensor,
    student: &Value,
    weights: &[f32],
    temperature: f64,
    divisor: f64,
) -> Result<Value, DistillError> {
    expect_positive("ld", "temperature", temperature)?;
    expect_positive("ld", "divisor", divisor)?;
    let &[rows, bins] = student.dims() else {
        return Err(DistillError::invalid("ld", format!("(M, bins) expected, got {:?}", student.dims())));
    };
    if weights.len() != rows {
        let reason = format!("{rows} edges need as many weights, got {}", weights.len());
        return Err(DistillError::invalid("ld", reason));
    }
    sum_over_rows("ld", teacher, student, divisor * bins.max(1) as f64, |i, t, s, gradient| {
        let loss = softened_kl(t, s, temperature, gradient);
        gradient.iter_mut().for_each(|g| *g *= weights[i]);
        loss * f64::from(weights[i])
    })
}
