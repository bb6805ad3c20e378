//! Knowledge distillation (KD; Hinton et al., arXiv 1503.02531).
//!
//! ```text
//! loss = T²/B sum_i KL( softmax(t_i / T) || softmax(s_i / T) )
//! ```

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::row_losses::softened_divergence;
use ckd_settings::{Check, section};

use super::distiller::{DistillError, Distiller};
use super::method::{Method, MethodSetting};
use super::on_rows::OnRows;
use super::place::{Rows, RowsAt};
use super::prepared::standardized;
use super::rows::mean_over_rows;
use super::scalar::expect_positive;

section! {
    /// KL divergence of softened class probabilities, times the squared temperature.
    pub struct Kd with place: Rows {
        /// Weight in the total loss. No detector has a published one.
        pub weight: f32 = 1.0,
        /// Divides the logits: 4 on CIFAR, 1 on ImageNet and for regions.
        pub temperature: f32 = 1.0,
        /// Logit standardisation (Sun et al., arXiv 2403.01427): each row of both sides minus its mean, over its
        /// deviation (at least 0.01) over the classes. Published with it: temperature 2, weight 9. Not for two classes.
        pub standardize: bool = false,
    }
}

impl Kd {
    fn check(&self, check: &mut Check<'_>) {
        check.positive("temperature", self.temperature.into());
    }
}

impl Method for Kd {
    const WORD: &'static str = "kd";
    const PAPER: &'static str = "Hinton et al., arXiv 1503.02531";
    // Softmaxes are compared, which a RetinaNet's sigmoids are not.
    const ROWS: &'static [RowsAt] = &[RowsAt::RoiLogits, RowsAt::Logits];

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(&self, setting: &MethodSetting<'_>, _: Builder) -> Result<Box<dyn Distiller>, DistillError> {
        let temperature = self.temperature.into();
        let prepared = standardized(Self::WORD, self.standardize, &self.place, &setting.widths)?;
        let rows = OnRows::new(Self::WORD, &self.place).prepared(prepared);
        Ok(Box::new(
            rows.term(self.weight.into(), move |teacher, student, _| kd(teacher, student, temperature)),
        ))
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
    mean_over_rows("kd", teacher, student, || softened_divergence(teacher, student, temperature))
}
