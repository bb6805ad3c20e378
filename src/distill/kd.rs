//! Knowledge distillation (KD; Hinton et al., arXiv 1503.02531).
//!
//! ```text
//! loss = T²/B sum_i KL( softmax(t_i / T) || softmax(s_i / T) )
//! ```

use candle_core::Tensor;
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;

use super::rows::{softened_kl, sum_over_rows};
use super::{DistillError, Distiller, Lesson, Term, expect_positive, term_at_each};

/// KD at one tap.
#[derive(Debug, Clone, PartialEq)]
pub struct Kd {
    /// Where; its values are (B, C) logits.
    pub at: Tap,
    /// The term's weight.
    pub weight: f64,
    /// What logits are divided by.
    pub temperature: f64,
}

impl Distiller for Kd {
    fn name(&self) -> &str {
        "kd"
    }

    fn taps(&self) -> Vec<Tap> {
        vec![self.at]
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        term_at_each("kd", &[self.at], self.weight, lesson, |_, teacher, student| {
            kd(teacher, student, self.temperature)
        })
    }
}

/// The KD loss of B rows; 0 without rows.
///
/// # Shapes
/// `teacher` and `student` (B, C); a scalar.
///
/// # Errors
/// Shapes that differ or are not matrices; a temperature that is not positive.
pub fn kd(teacher: &Tensor, student: &Value, temperature: f64) -> Result<Value, DistillError> {
    expect_positive("kd", "temperature", temperature)?;
    let rows = student.dims().first().copied().unwrap_or(0) as f64;
    sum_over_rows("kd", teacher, student, rows, |_, t, s, gradient| softened_kl(t, s, temperature, gradient))
}
