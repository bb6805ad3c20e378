//! Contrastive knowledge distillation (CKD; Zhu et al., arXiv 2404.14109).
//!
//! With unit rows t_i of the teacher and s_i of the student, and a_ij = t_i·s_j / temperature:
//!
//! ```text
//! loss = 1/B sum_i [ logsumexp_j a_ij - a_ii ]
//! ```
//!
//! Row i of the student is to resemble row i of the teacher more than the other rows of the student do.
//! No mean is subtracted and no softmax taken before; labels play no part. log B is the level of chance.

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::elementwise::scale;
use ckd_kernels::normalize::l2_normalize_rows;
use ckd_kernels::row_losses::{Positives, contrast, weighted_mean};
use ckd_kernels::similarity::{row_products, similarities, with_diagonal};
use ckd_settings::{Check, choices, section};

use super::distiller::{DistillError, Distiller};
use super::method::{Method, MethodSetting};
use super::on_rows::OnRows;
use super::parts::NegativesFrom;
use super::place::Rows;
use super::prepared::Prepared;
use super::scalar::{expect_positive, nothing};

/// Below the length of any row of f32 numbers that is not zero.
const SHORTEST: f64 = 1e-300;

choices! {
    /// Rows that a row is contrasted with.
    pub enum Negatives {
        /// Teacher row against the student's other rows (the authors' code).
        Cross = "cross",
        /// Student row against the student's other rows (the paper's summary).
        Student = "student",
    }
}

section! {
    /// Contrastive knowledge distillation: each row of the student's logits must
    /// be closer to the teacher's row of the same sample than the student's other rows are.
    pub struct Ckd with place: Rows {
        /// Weight in the total loss: 0.1 for the authors' detectors, 10 to 100 on CIFAR-100.
        pub weight: f32 = 0.1,
        /// Divides the cosines.
        pub temperature: f32 = 1.0,
        /// Rows that a row is contrasted with.
        pub negatives: Negatives = Negatives::Cross,
        /// Each row of both sides minus its mean over the classes first: Pearson's correlation instead of the cosine, so
        /// that a constant added to a row's logits changes nothing. Of no publication.
        pub center: bool = false,
        /// Whether these rows are those of the batch or of the whole update.
        pub negatives_from: NegativesFrom = NegativesFrom::Part,
    }
}

impl Ckd {
    fn check(&self, check: &mut Check<'_>) {
        check.positive("temperature", self.temperature.into());
    }
}

impl Method for Ckd {
    const WORD: &'static str = "ckd";
    const PAPER: &'static str = "Zhu et al., arXiv 2404.14109";

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(&self, _: &MethodSetting<'_>, _: Builder) -> Result<Box<dyn Distiller>, DistillError> {
        let (temperature, negatives) = (self.temperature.into(), self.negatives);
        let rows = OnRows::new(Self::WORD, &self.place)
            .over(self.negatives_from)
            .prepared(self.center.then_some(Prepared::Centred));
        Ok(Box::new(rows.term(self.weight.into(), move |teacher, student, _| {
            ckd(teacher, student, temperature, negatives)
        })))
    }
}

/// The CKD loss of B rows.
///
/// One row, or none, gives 0. A row of zeros is similar to nothing and gets no gradient.
/// The products take B² C multiply-adds, 2 with a gradient (3 among students), and two B x B matrices.
///
/// # Shapes
/// `teacher` and `student` (B, C); a scalar.
///
/// # Errors
/// Shapes that differ or are not matrices; a temperature that is not positive.
pub fn ckd(
    teacher: &Tensor,
    student: &Value,
    temperature: f64,
    negatives: Negatives,
) -> Result<Value, DistillError> {
    let &[b, c] = student.dims() else {
        return Err(DistillError::invalid("ckd", format!("(B, C) expected, got {:?}", student.dims())));
    };
    if teacher.dims() != student.dims() {
        return Err(DistillError::invalid(
            "ckd",
            format!(
                "teacher {:?} and student {:?} differ; both need the same rows and classes",
                teacher.dims(),
                student.dims()
            ),
        ));
    }
    expect_positive("ckd", "temperature", temperature)?;
    if b == 0 || c == 0 {
        return nothing(student);
    }
    let unit = |rows: &Value| l2_normalize_rows(rows, SHORTEST);
    let (t, s) = (unit(&Value::constant(teacher.clone()))?, unit(student)?);
    let inverse = temperature.recip();
    let compared = match negatives {
        Negatives::Cross => similarities(&t, &s, inverse)?,
        // The diagonal pairs a student's row with the teacher's.
        Negatives::Student => {
            with_diagonal(&similarities(&s, &s, inverse)?, &scale(&row_products(&t, &s)?, inverse)?)?
        }
    };
    Ok(weighted_mean(&contrast(&compared, Positives::Own)?, None)?)
}
