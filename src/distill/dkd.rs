//! Decoupled knowledge distillation (DKD; Zhao et al., CVPR 2022, arXiv 2203.08679).
//!
//! With p the probability of the true class (softmax at temperature T) and r the distribution over the
//! others:
//!
//! ```text
//! TCKD = T² KL( (p_t, 1 - p_t) || (p_s, 1 - p_s) )      NCKD = T² KL( r_t || r_s )
//! loss = alpha TCKD + beta NCKD, means over the rows     KD = TCKD + (1 - p_t) NCKD
//! ```

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
pub use ckd_kernels::row_losses::Part;
use ckd_kernels::row_losses::decoupled_divergence;
use ckd_settings::{Check, section};

use super::distiller::{DistillError, Distiller};
use super::method::{Method, MethodSetting};
use super::on_rows::OnRows;
use super::place::{Rows, RowsAt};
use super::prepared::standardized;
use super::rows::{check_labels, mean_over_rows, paired};
use super::scalar::expect_positive;

const NAME: &str = "dkd";

section! {
    /// Decoupled knowledge distillation: the probability of the true class (TCKD) and the distribution over
    /// the others (NCKD), weighted apart. At roi_logits the true class of a region may be the background.
    pub struct Dkd with place: Rows {
        /// Weight of alpha TCKD + beta NCKD.
        pub weight: f32 = 1.0,
        /// Weight of TCKD within it.
        pub alpha: f32 = 1.0,
        /// Weight of NCKD within it: 0.25 for the authors' detectors, 2 to 8 on CIFAR-100, 0.5 to 2 on
        /// ImageNet.
        pub beta: f32 = 0.25,
        /// Divides the logits: 4 on CIFAR, 1 elsewhere.
        pub temperature: f32 = 1.0,
        /// Logit standardisation (Sun et al., arXiv 2403.01427): each row of both sides minus its mean, over its
        /// deviation (at least 0.01) over the classes. Published with it: temperature 2, alpha 9, beta 72. Not for two classes.
        pub standardize: bool = false,
    }
}

impl Dkd {
    fn check(&self, check: &mut Check<'_>) {
        check.not_negative("alpha", self.alpha.into());
        check.not_negative("beta", self.beta.into());
        check.positive("temperature", self.temperature.into());
    }
}

impl Method for Dkd {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Zhao et al., CVPR 2022, arXiv 2203.08679";
    // Softmaxes are compared, which a RetinaNet's sigmoids are not.
    const ROWS: &'static [RowsAt] = &[RowsAt::RoiLogits, RowsAt::Logits];

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(&self, setting: &MethodSetting<'_>, _: Builder) -> Result<Box<dyn Distiller>, DistillError> {
        let prepared = standardized(NAME, self.standardize, &self.place, &setting.widths)?;
        let (weight, temperature) = (f64::from(self.weight), f64::from(self.temperature));
        let parts = [("target", Part::Target, self.alpha), ("others", Part::Others, self.beta)];
        let mut rows = OnRows::new(NAME, &self.place).prepared(prepared);
        for (kind, part, share) in parts {
            rows = rows.kind(kind, weight * f64::from(share), move |teacher, student, lesson| {
                dkd(teacher, student, lesson.labels, temperature, part)
            });
        }
        Ok(Box::new(rows))
    }
}

/// A part of the DKD loss of B rows; 0 without rows, and without a second class.
///
/// # Shapes
/// `teacher` and `student` (B, C), `labels` B classes; a scalar.
///
/// # Errors
/// Shapes that differ; labels that are no classes; a temperature that is not positive.
pub fn dkd(
    teacher: &Tensor,
    student: &Value,
    labels: &[u32],
    temperature: f64,
    part: Part,
) -> Result<Value, DistillError> {
    expect_positive(NAME, "temperature", temperature)?;
    check_labels(NAME, labels, paired(NAME, teacher, student)?)?;
    mean_over_rows(NAME, teacher, student, || {
        decoupled_divergence(teacher, student, labels, temperature, part)
    })
}
