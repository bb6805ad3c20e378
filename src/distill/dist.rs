//! Distillation from a stronger teacher (DIST; Huang et al., NeurIPS 2022, arXiv 2205.10536): probabilities
//! are to correlate, not to be equal.
//!
//! ```text
//! inter = T² (1 - mean_i r(p_t,i·, p_s,i·))      over the classes of each sample
//! intra = T² (1 - mean_c r(p_t,·c, p_s,·c))      over the samples of each class
//! ```
//!
//! r is Pearson's, with 1e-8 added to its denominator: it does not vanish exactly where probabilities are
//! tiny.

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::relations::correlation;
use ckd_settings::{Check, section};

use super::distiller::{DistillError, Distiller};
use super::method::{Method, MethodSetting};
use super::on_rows::OnRows;
use super::place::{Rows, RowsAt};
use super::prepared::standardized;
use super::rows::paired;
use super::scalar::{expect_positive, nothing};

pub use ckd_kernels::relations::{Probabilities, Relation};

const NAME: &str = "dist";

section! {
    /// Correlation instead of equality: of each sample's class probabilities (inter) and of each class over
    /// the samples (intra). At anchor_logits probabilities are sigmoids, elsewhere softmaxes.
    pub struct Dist with place: Rows {
        /// Weight of the term over each sample's classes (inter): 1 for detectors, 2 on CIFAR.
        pub weight: f32 = 1.0,
        /// Weight of the term over each class's samples (intra); 0 leaves it out.
        pub weight_intra: f32 = 1.0,
        /// Divides the logits; its square multiplies the terms. 4 on CIFAR.
        pub temperature: f32 = 1.0,
        /// Logit standardisation (Sun et al., arXiv 2403.01427): each row of both sides minus its mean, over its
        /// deviation (at least 0.01) over the classes. Not published for DIST; not for two classes, nor for sigmoids.
        pub standardize: bool = false,
    }
}

impl Dist {
    fn check(&self, check: &mut Check<'_>) {
        check.positive("temperature", self.temperature.into());
        check.that(
            !self.standardize || self.place.at != RowsAt::AnchorLogits,
            "standardize",
            "is true at anchor_logits, whose sigmoids depend on the mean of a row",
            "leave it out",
        );
    }
}

impl Method for Dist {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Huang et al., NeurIPS 2022, arXiv 2205.10536";
    const ROWS: &'static [RowsAt] = &[RowsAt::RoiLogits, RowsAt::AnchorLogits, RowsAt::Logits];

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight), ("weight_intra", self.weight_intra)]
    }

    fn build(&self, setting: &MethodSetting<'_>, _: Builder) -> Result<Box<dyn Distiller>, DistillError> {
        let prepared = standardized(NAME, self.standardize, &self.place, &setting.widths)?;
        let temperature = self.temperature.into();
        let probabilities = match self.place.at {
            RowsAt::AnchorLogits => Probabilities::Sigmoid,
            _ => Probabilities::Softmax,
        };
        let relations =
            [("inter", Relation::Inter, self.weight), ("intra", Relation::Intra, self.weight_intra)];
        let mut rows = OnRows::new(NAME, &self.place).prepared(prepared);
        for (kind, relation, weight) in relations {
            rows = rows.kind(kind, weight.into(), move |teacher, student, _| {
                dist(teacher, student, temperature, probabilities, relation)
            });
        }
        Ok(Box::new(rows))
    }
}

/// A term of DIST; 0 without rows.
///
/// # Shapes
/// `teacher` and `student` (B, C); a scalar.
///
/// # Errors
/// Shapes that differ or are not matrices; a temperature that is not positive.
pub fn dist(
    teacher: &Tensor,
    student: &Value,
    temperature: f64,
    probabilities: Probabilities,
    relation: Relation,
) -> Result<Value, DistillError> {
    expect_positive(NAME, "temperature", temperature)?;
    let (rows, columns) = paired(NAME, teacher, student)?;
    if rows == 0 || columns == 0 {
        return nothing(student);
    }
    Ok(correlation(teacher, student, temperature, probabilities, relation)?)
}
