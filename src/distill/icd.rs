//! Invariant consistency distillation (ICD, later ICKD and DCD; Giakoumoglou and Stathaki, arXiv 2407.11802).
//!
//! With unit rows h_s, h_t of trained linear heads and Z = k h_s h_tᵀ + b, k = exp(theta) held to [0, 10]:
//!
//! ```text
//! contrast   = mean_i CE(Z_i, i)                   student i finds teacher i
//! invariance = mean_i KL(Q_i || P_i)               P = softmax over rows of Z, Q = the same of Zᵀ
//! loss       = contrast + alpha invariance
//! ```
//!
//! Nothing is detached. b shifts all of Z and so never gets a gradient; it is kept for parity. A symmetric Z
//! has no invariance term. k multiplies: it is an inverse temperature.

use ckd_detectors::init::Init;
use ckd_detectors::nn::Linear;
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::elementwise::{permute, weighted_sum};
use ckd_kernels::linear::Activation;
use ckd_kernels::normalize::l2_normalize_rows;
use ckd_kernels::relations::{mutual_divergence, times_exponential};
use ckd_kernels::row_losses::{Positives, contrast, weighted_mean};
use ckd_kernels::similarity::similarities;
use ckd_settings::{Check, choices, section};

use super::distiller::{DistillError, Distiller, Lesson, Term, at_tap, width_at};
use super::method::{Method, MethodSetting};
use super::parts::NegativesFrom;
use super::place::Rows;
use super::scalar::nothing;

const NAME: &str = "icd";

/// The largest k.
const LARGEST_SCALE: f64 = 10.0;

choices! {
    /// The direction of ICD's invariance term.
    pub enum Direction {
        /// KL(p(student | teacher) || p(teacher | student)), KL(Q || P): the authors' code.
        TeacherAnchors = "teacher_anchors",
        /// KL(p(teacher | student) || p(student | teacher)).
        StudentAnchors = "student_anchors",
    }
}

choices! {
    /// Training of ICD's scale.
    pub enum Scale {
        /// theta and b are trained (the authors' CIFAR code). b has no gradient: a shift changes nothing.
        Trained = "trained",
        /// They stay as they are (the authors' ImageNet code).
        Fixed = "fixed",
    }
}

section! {
    /// Invariant consistency distillation: through a trained linear head on each side, the teacher's row of a
    /// sample must be found among all of the batch (contrast), equally well from both sides (invariance).
    pub struct Icd with place: Rows {
        /// Weight of contrast + alpha invariance.
        pub weight: f32 = 1.0,
        /// Weight of the invariance term within it.
        pub alpha: f32 = 0.5,
        /// Width of the heads.
        pub width: usize = 128,
        /// Cosines are multiplied with exp(theta), at most 10: where theta starts.
        pub theta: f32 = 1.0,
        /// Training of theta and b.
        pub scale: Scale = Scale::Trained,
        /// The direction of the invariance term.
        pub direction: Direction = Direction::TeacherAnchors,
        /// The rows among which a sample is to be found: those of the batch or of the whole update.
        pub negatives_from: NegativesFrom = NegativesFrom::Part,
    }
}

impl Icd {
    fn check(&self, check: &mut Check<'_>) {
        check.not_negative("alpha", self.alpha.into());
        check.at_least_one("width", self.width);
    }
}

impl Method for Icd {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Giakoumoglou and Stathaki, arXiv 2407.11802";

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(
        &self,
        setting: &MethodSetting<'_>,
        builder: Builder,
    ) -> Result<Box<dyn Distiller>, DistillError> {
        let widths = width_at(&setting.widths, self.place.at.tap())?;
        let scale = match self.scale {
            Scale::Trained => builder.within("scale"),
            Scale::Fixed => builder.within("scale").frozen(),
        };
        Ok(Box::new(Heads {
            keys: self.clone(),
            student: Linear::new(&builder.within("student"), widths.student, self.width)?,
            teacher: Linear::new(&builder.within("teacher"), widths.teacher, self.width)?,
            theta: scale.weight("theta", &[1], Init::Constant(self.theta))?,
            bias: scale.weight("b", &[1], Init::Constant(0.0))?,
            params: builder.finish(),
        }))
    }
}

/// A part of ICD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcdPart {
    /// Student i among the teachers.
    Contrast,
    /// Both sides find each other equally well.
    Invariance(Direction),
}

/// ICD at one tap, with its heads and its scale.
#[derive(Debug)]
struct Heads {
    keys: Icd,
    student: Linear,
    teacher: Linear,
    theta: Value,
    bias: Value,
    params: ParamStore,
}

impl Distiller for Heads {
    fn name(&self) -> &str {
        NAME
    }

    fn taps(&self) -> Vec<Tap> {
        vec![self.keys.place.at.tap()]
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        let (at, direction) = (self.keys.place.at.tap(), self.keys.direction);
        let (weight, alpha) = (f64::from(self.keys.weight), f64::from(self.keys.alpha));
        let (teacher, student) = at_tap(at, lesson)?;
        let unit = |head: &Linear, rows: &Value| -> Result<Value, DistillError> {
            Ok(l2_normalize_rows(&head.forward(rows, Activation::Identity)?, 1e-12)?)
        };
        let s = unit(&self.student, &student).map_err(|error| error.at(at))?;
        let t = unit(&self.teacher, &Value::constant(teacher)).map_err(|error| error.at(at))?;
        let (s, t) = match self.keys.negatives_from {
            NegativesFrom::Part => (s, t),
            NegativesFrom::Update => {
                (lesson.rows_of_update("student", &s)?, lesson.rows_of_update("teacher", &t)?)
            }
        };
        let parts = [
            ("contrast", IcdPart::Contrast, weight),
            ("invariance", IcdPart::Invariance(direction), weight * alpha),
        ];
        let term = |(kind, part, weight): (&str, IcdPart, f64)| {
            let value = icd(&s, &t, &self.theta, &self.bias, part).map_err(|error| error.at(at))?;
            Ok(Term { name: format!("{NAME}/{at}/{kind}"), value, weight })
        };
        parts.into_iter().filter(|(_, _, weight)| *weight != 0.0).map(term).collect()
    }

    fn looks_at_all_parts(&self) -> bool {
        self.keys.negatives_from == NegativesFrom::Update
    }

    fn params(&self) -> Option<&ParamStore> {
        Some(&self.params)
    }
}

/// A part of the ICD loss of unit rows; 0 without rows, and for one row.
///
/// # Shapes
/// `student` and `teacher` (B, D), `theta` and `bias` one number each; a scalar.
///
/// # Errors
/// Shapes that differ or are not matrices.
pub fn icd(
    student: &Value,
    teacher: &Value,
    theta: &Value,
    bias: &Value,
    part: IcdPart,
) -> Result<Value, DistillError> {
    let (b, d) = super::rows::paired(NAME, teacher.tensor(), student)?;
    if b == 0 || d == 0 {
        return nothing(student);
    }
    let z = times_exponential(&similarities(student, teacher, 1.0)?, theta, LARGEST_SCALE)?;
    let losses = match part {
        IcdPart::Contrast => contrast(&z, Positives::Own)?,
        IcdPart::Invariance(direction) => {
            let turned = permute(&z, &[1, 0])?;
            match direction {
                Direction::TeacherAnchors => mutual_divergence(&turned, &z)?,
                Direction::StudentAnchors => mutual_divergence(&z, &turned)?,
            }
        }
    };
    // A shift of all of z changes no softmax.
    Ok(weighted_sum(&[(&weighted_mean(&losses, None)?, 1.0), (&nothing(bias)?, 1.0)])?)
}
