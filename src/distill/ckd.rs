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
use ckd_kernels::linear::{Accumulate, Form, product};
use ckd_kernels::memory::{elements, from_elements, on_host};
use ckd_kernels::reduce::{dot, exponentials, largest, multiply, sum};
use ckd_kernels::unit_rows::UnitRows;
use ckd_settings::{Check, choices, section};
use rayon::prelude::*;

use super::distiller::{DistillError, Distiller};
use super::method::{Method, MethodSetting};
use super::on_rows::OnRows;
use super::place::Rows;
use super::scalar::{expect_positive, nothing, scalar_of};

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
        let rows = OnRows::new(Self::WORD, &self.place);
        Ok(Box::new(rows.term(self.weight.into(), move |teacher, student, _| {
            ckd(teacher, student, temperature, negatives)
        })))
    }
}

/// The CKD loss of B rows.
///
/// One row, or none, gives 0. A row of zeros is similar to nothing and gets no gradient.
/// The products take 2 B² C multiply-adds, 3 with a gradient (4 and 6 among students), and one B x B matrix.
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
    let (teacher, host) = (on_host(teacher)?, on_host(student.tensor())?);
    let t = UnitRows::of(&elements(&teacher)?, c).values;
    let s = UnitRows::of(&elements(&host)?, c);
    let inverse = temperature.recip();

    // Similarities, turned row by row into the loss and its derivatives by them.
    let mut a = vec![0f32; b * b];
    let anchors = if negatives == Negatives::Cross { &t } else { &s.values };
    product(&mut a, (b, b, c), anchors, Form::Plain, &s.values, Form::Transposed, Accumulate::Replace);
    let losses: Vec<f64> = a
        .par_chunks_exact_mut(b)
        .enumerate()
        .map(|(i, row)| {
            if negatives == Negatives::Student {
                row[i] = dot(&t[i * c..][..c], &s.values[i * c..][..c]) as f32;
            }
            contrast(row, i, inverse, (b as f64).recip())
        })
        .collect();
    let loss = losses.iter().sum::<f64>() / b as f64;
    if !student.is_tracked() {
        return scalar_of(student, loss, None);
    }

    let mut gradient = vec![0f32; b * c];
    match negatives {
        Negatives::Cross => {
            product(&mut gradient, (b, c, b), &a, Form::Transposed, &t, Form::Plain, Accumulate::Replace);
        }
        Negatives::Student => {
            // The diagonal pairs a student's row with the teacher's; the rest pairs students, both ways.
            for (i, gradient) in gradient.chunks_exact_mut(c).enumerate() {
                let diagonal = std::mem::take(&mut a[i * b + i]);
                gradient.iter_mut().zip(&t[i * c..]).for_each(|(g, t)| *g = diagonal * t);
            }
            for form in [Form::Plain, Form::Transposed] {
                product(&mut gradient, (b, c, b), &a, form, &s.values, Form::Plain, Accumulate::Add);
            }
        }
    }
    s.pull_back(&mut gradient);
    let gradient = from_elements(gradient, (b, c), student.tensor())?;
    scalar_of(student, loss, Some(gradient))
}

/// logsumexp(row) - row[positive] of similarities over the temperature; the row becomes its derivatives
/// by the similarities, times `share`.
fn contrast(row: &mut [f32], positive: usize, inverse_temperature: f64, share: f64) -> f64 {
    let highest = largest(row);
    let own = f64::from(row[positive] - highest) * inverse_temperature;
    let total = exponentials(row, highest, inverse_temperature as f32);
    let scale = share * inverse_temperature;
    let by_total = scale / total;
    // softmax - 1 as minus the others' share: no digits are lost where it is close to 1.
    row[positive] = 0.0;
    let others = sum(row);
    multiply(row, by_total as f32);
    row[positive] = (-others * by_total) as f32;
    total.ln() - own
}
