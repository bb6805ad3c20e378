//! Teacher-bounded regression (TBR; Chen et al., NIPS 2017, "Learning efficient object detection models with knowledge
//! distillation").
//!
//! With R_s, R_t and y the deltas of student, teacher and truth of a region that is an object's:
//!
//! ```text
//! e_s = |R_s - y|², e_t = |R_t - y|²                        sums over the four deltas
//! loss = sum_i e_s [ e_s + margin > e_t ] / divisor         the divisor of the task's own box loss
//! ```
//!
//! The teacher opens the gate; what the student is pulled to is the truth. The loss is not continuous where the gate closes.

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::elementwise::{reshape, rows};
use ckd_kernels::maps::{Weights, squared_difference};
use ckd_kernels::memory::numbers;
use ckd_settings::{Check, section};

use super::distiller::{DistillError, Distiller, box_rows};
use super::method::{Method, MethodSetting};
use super::on_rows::OnRows;
use super::place::{Rows, RowsAt};
use super::rows::paired;
use super::scalar::nothing;

const NAME: &str = "tbr";

section! {
    /// Teacher-bounded regression: where the student's box deltas are farther from the truth than the teacher's are, their
    /// squared distance from the truth is added to the loss.
    pub struct Tbr with place: Rows {
        /// Weight in the total loss.
        pub weight: f32 = 0.5,
        /// The student counts as farther if its squared distance plus this is larger.
        pub margin: f32 = 0.0,
    }
}

impl Tbr {
    fn check(&self, check: &mut Check<'_>) {
        check.not_negative("margin", self.margin.into());
    }
}

impl Method for Tbr {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Chen et al., NIPS 2017";
    const ROWS: &'static [RowsAt] = RowsAt::BOXES;

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(&self, _: &MethodSetting<'_>, _: Builder) -> Result<Box<dyn Distiller>, DistillError> {
        let margin = self.margin;
        let rows = OnRows::new(NAME, &self.place);
        Ok(Box::new(rows.term(self.weight.into(), move |teacher, student, lesson| {
            let truth = box_rows(NAME, lesson)?;
            bounded(teacher, student, &truth.targets, margin, truth.divisor)
        })))
    }
}

/// The bounded part of the loss; 0 where no gate is open.
///
/// # Shapes
/// `teacher` and `student` (R, 4), R `targets`; a scalar.
///
/// # Errors
/// Shapes that do not fit.
pub fn bounded(
    teacher: &Tensor,
    student: &Value,
    targets: &[Option<[f32; 4]>],
    margin: f32,
    divisor: f64,
) -> Result<Value, DistillError> {
    let open = open_gates(teacher, student, targets, margin)?;
    if open.is_empty() {
        return nothing(student);
    }
    let wanted: Vec<f32> = open.iter().filter_map(|&row| targets[row as usize]).flatten().collect();
    let shape = [open.len(), 4, 1, 1];
    let wanted = Tensor::from_vec(wanted, &shape, student.tensor().device())?;
    let own = reshape(&rows(student, &open)?, &shape)?;
    Ok(squared_difference(&wanted, &own, Weights::default(), divisor)?)
}

/// Rows, ascending, in which the student is farther from the truth than the teacher is.
///
/// # Errors
/// Shapes that do not fit.
pub fn open_gates(
    teacher: &Tensor,
    student: &Value,
    targets: &[Option<[f32; 4]>],
    margin: f32,
) -> Result<Vec<u32>, DistillError> {
    let (count, columns) = paired(NAME, teacher, student)?;
    if count != targets.len() || (count > 0 && columns != 4) {
        let reason = format!("deltas {:?} for {} regions", student.dims(), targets.len());
        return Err(DistillError::invalid(NAME, reason));
    }
    let (theirs, ours) = (numbers(teacher)?, numbers(student.tensor())?);
    let rows = theirs.as_chunks::<4>().0.iter().zip(ours.as_chunks::<4>().0).zip(targets);
    let open = (0..).zip(rows).filter(|(_, ((theirs, ours), target))| {
        let Some(target) = target else { return false };
        let error = |deltas: &[f32; 4]| -> f64 {
            deltas.iter().zip(target).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
        };
        let (own, bound) = (error(ours), error(theirs));
        // A NaN must show.
        own + f64::from(margin) > bound || own.is_nan()
    });
    Ok(open.map(|(row, _)| row).collect())
}
