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
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::linear::{Accumulate, Form, product};
use ckd_kernels::memory::{elements, from_elements, on_host};
use ckd_kernels::reduce::{dot, exponentials, largest, multiply, sum};
use rayon::prelude::*;

use super::unit_rows::UnitRows;
use super::{DistillError, Distiller, Lesson, Term, expect_positive, nothing, scalar_of, term_at_each};

/// What row i is contrasted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Negatives {
    /// The teacher's row i against the student's rows j: a_ij = t_i·s_j (the authors' code).
    #[default]
    Cross,
    /// The student's row i against the student's rows j: a_ij = s_i·s_j for j != i (the paper's second version).
    Student,
}

/// CKD at one tap: one row per RoI, anchor or sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Ckd {
    /// Where; its values are (B, C) logits or embeddings.
    pub at: Tap,
    /// The term's weight (0.1 for RoI logits in the authors' detectors).
    pub weight: f64,
    /// What similarities are divided by (1 there).
    pub temperature: f64,
    /// What a row is contrasted with.
    pub negatives: Negatives,
}

impl Distiller for Ckd {
    fn name(&self) -> &str {
        "ckd"
    }

    fn taps(&self) -> Vec<Tap> {
        vec![self.at]
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        term_at_each("ckd", &[self.at], self.weight, lesson, |_, teacher, student| {
            ckd(teacher, student, self.temperature, self.negatives)
        })
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
