//! Distillation: what a student is told about its teacher, one method a file.
//!
//! | file | what lives there |
//! |---|---|
//! | `ckd` | [`ckd()`]: contrastive distillation over rows (RoIs, anchors, samples) |
//! | `rcka` | [`patch_cka`]: kernel alignment of feature maps, patch by patch |
//! | `ka` | [`ka()`]: kernel alignment of two matrices |
//!
//! A [`Distiller`] names the taps that it reads and turns what teacher and student found there into loss
//! [`Term`]s. It knows no detector. The teacher is a constant: a teacher that would get a gradient is an
//! error. Each operation computes its gradient by hand, together with its value and only if it is wanted.

mod ckd;
mod ka;
mod rcka;
mod unit_rows;

pub use ckd::{Ckd, Negatives, ckd};
pub use ka::{Kernel, RowNorm, ka};
pub use rcka::{PatchRows, Rcka, patch_cka};

use candle_core::Tensor;
use ckd_detectors::taps::{MissingTap, Tap, Taps};
use ckd_kernels::Value;
use ckd_kernels::elementwise::scale;

/// A method of distillation, configured.
pub trait Distiller {
    /// The method's name: the first part of its terms' names.
    fn name(&self) -> &str;

    /// The taps that it reads, of the teacher and of the student.
    fn taps(&self) -> Vec<Tap>;

    /// The loss terms of one step.
    ///
    /// # Errors
    /// A tap that either network does not offer; a teacher inside a graph; shapes that do not fit.
    fn terms(&self, teacher: &Taps, student: &Taps) -> Result<Vec<Term>, DistillError>;
}

/// A part of the loss.
#[derive(Debug, Clone)]
pub struct Term {
    /// `METHOD/TAP` and, where a method has several terms there, `/KIND`.
    pub name: String,
    /// The scalar, without its weight.
    pub value: Value,
    /// Its weight in the loss.
    pub weight: f64,
}

/// A distillation term could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum DistillError {
    /// A network does not offer a tap that a method reads.
    #[error("the {role} cannot be distilled there: {source}")]
    MissingTap {
        /// `teacher` or `student`.
        role: &'static str,
        /// The tap, and what there is.
        source: MissingTap,
    },
    /// The teacher's value would get a gradient.
    #[error("the teacher is part of a graph at {tap}; run it frozen, on constants")]
    TrackedTeacher {
        /// Where.
        tap: Tap,
    },
    /// Shapes or parameters that do not fit.
    #[error("{method}: {reason}")]
    Invalid {
        /// The method.
        method: &'static str,
        /// What does not fit, with the shapes.
        reason: String,
    },
    /// An error at a tap.
    #[error("at {tap}: {source}")]
    At {
        /// Where.
        tap: Tap,
        /// What.
        source: Box<DistillError>,
    },
    /// An operation failed.
    #[error(transparent)]
    Kernel(#[from] ckd_kernels::Error),
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl DistillError {
    fn invalid(method: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { method, reason: reason.into() }
    }

    fn at(self, tap: Tap) -> Self {
        Self::At { tap, source: Box::new(self) }
    }
}

/// What both networks found at `tap`.
fn at_tap<'a>(
    tap: Tap,
    teacher: &'a Taps,
    student: &'a Taps,
) -> Result<(&'a Tensor, &'a Value), DistillError> {
    let missing = |role| move |source| DistillError::MissingTap { role, source };
    let teacher = teacher.require(tap).map_err(missing("teacher"))?;
    let student = student.require(tap).map_err(missing("student"))?;
    if teacher.is_tracked() {
        return Err(DistillError::TrackedTeacher { tap });
    }
    Ok((teacher.tensor(), student))
}

/// A scalar of `student` whose gradient is known already (`None` if `student` is not tracked).
fn scalar_of(student: &Value, value: f64, gradient: Option<Tensor>) -> Result<Value, DistillError> {
    let tensor = Tensor::new(value as f32, student.tensor().device())?;
    let Some(gradient) = gradient else { return Ok(Value::constant(tensor)) };
    Ok(Value::operation(&[student], tensor, move |incoming| {
        let factor = incoming.reshape(())?.to_scalar::<f32>()?;
        let gradient = Value::constant(gradient);
        let scaled = if factor == 1.0 { gradient } else { scale(&gradient, f64::from(factor))? };
        Ok(vec![Some(scaled.tensor().clone())])
    }))
}

/// The constant 0, for a step that has nothing to compare; the student's gradient is 0 there.
fn nothing(student: &Value) -> Result<Value, DistillError> {
    let gradient = student.is_tracked().then(|| student.tensor().zeros_like()).transpose()?;
    scalar_of(student, 0.0, gradient)
}
