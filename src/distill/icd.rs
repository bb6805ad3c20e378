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

use candle_core::Tensor;
use ckd_detectors::init::Init;
use ckd_detectors::nn::Linear;
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::linear::{Accumulate, Activation, Form, product};
use ckd_kernels::memory::{elements, from_elements, on_host};
use ckd_kernels::normalize::l2_normalize_rows;
use ckd_settings::{Check, choices, section};

use super::distiller::{DistillError, Distiller, Lesson, Term, at_tap, width_at};
use super::method::{Method, MethodSetting};
use super::parts::NegativesFrom;
use super::place::Rows;
use super::scalar::{nothing, scalar_of_all};

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
        let s = unit(&self.student, student).map_err(|error| error.at(at))?;
        let t = unit(&self.teacher, &Value::constant(teacher.clone())).map_err(|error| error.at(at))?;
        let (s, t) = match self.keys.negatives_from {
            NegativesFrom::Part => (s, t),
            NegativesFrom::Update => (lesson.rows_of_update("student", &s)?, lesson.rows_of_update("teacher", &t)?),
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
    let (s_host, t_host) = (on_host(student.tensor())?, on_host(teacher.tensor())?);
    let (s, t) = (elements(&s_host)?, elements(&t_host)?);
    let asked = f64::from(theta.item()?).exp();
    let k = asked.min(LARGEST_SCALE);
    let mut cosines = vec![0f32; b * b];
    product(&mut cosines, (b, b, d), &s, Form::Plain, &t, Form::Transposed, Accumulate::Replace);
    let shift = f64::from(bias.item()?);
    let z: Vec<f64> = cosines.iter().map(|&cosine| k * f64::from(cosine) + shift).collect();
    let (loss, by_z) = match part {
        IcdPart::Contrast => contrast(&z, b),
        IcdPart::Invariance(direction) => invariance(&z, b, direction),
    };

    let by_cosine: Vec<f32> = by_z.iter().map(|g| (k * g) as f32).collect();
    let mut by_s = vec![0f32; b * d];
    product(&mut by_s, (b, d, b), &by_cosine, Form::Plain, &t, Form::Plain, Accumulate::Replace);
    let mut by_t = vec![0f32; b * d];
    product(&mut by_t, (b, d, b), &by_cosine, Form::Transposed, &s, Form::Plain, Accumulate::Replace);
    let by_k: f64 = by_z.iter().zip(&cosines).map(|(g, &cosine)| g * f64::from(cosine)).sum();
    let by_theta = if asked <= LARGEST_SCALE { by_k * k } else { 0.0 };
    let by_bias: f64 = by_z.iter().sum();
    let number = |value: f64, like: &Value| -> Result<Option<Tensor>, DistillError> {
        Ok(Some(from_elements(vec![value as f32], like.dims(), like.tensor())?))
    };
    let gradients = vec![
        Some(from_elements(by_s, (b, d), student.tensor())?),
        Some(from_elements(by_t, (b, d), teacher.tensor())?),
        number(by_theta, theta)?,
        number(by_bias, bias)?,
    ];
    scalar_of_all(&[student, teacher, theta, bias], loss, gradients)
}

/// The log-softmax of each row of a b x b matrix.
fn log_softmax(z: &[f64], b: usize) -> Vec<f64> {
    z.chunks_exact(b)
        .flat_map(|row| {
            let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_total = row.iter().map(|z| (z - top).exp()).sum::<f64>().ln() + top;
            row.iter().map(move |z| z - log_total)
        })
        .collect()
}

fn transposed(z: &[f64], b: usize) -> Vec<f64> {
    (0..b * b).map(|at| z[at % b * b + at / b]).collect()
}

fn contrast(z: &[f64], b: usize) -> (f64, Vec<f64>) {
    let logs = log_softmax(z, b);
    let loss = -(0..b).map(|i| logs[i * b + i]).sum::<f64>() / b as f64;
    let own = |at: usize| if at % b == at / b { 1.0 } else { 0.0 };
    let by_z = logs.iter().enumerate().map(|(at, log)| (log.exp() - own(at)) / b as f64);
    (loss, by_z.collect())
}

fn invariance(z: &[f64], b: usize, direction: Direction) -> (f64, Vec<f64>) {
    let turned = transposed(z, b);
    // KL(a || c): a is made of z or of its transpose, c of the other one.
    let (log_a, log_c) = match direction {
        Direction::TeacherAnchors => (log_softmax(&turned, b), log_softmax(z, b)),
        Direction::StudentAnchors => (log_softmax(z, b), log_softmax(&turned, b)),
    };
    let (mut by_a, mut by_c) = (vec![0f64; b * b], vec![0f64; b * b]);
    let mut loss = 0.0;
    for i in 0..b {
        let row = i * b..(i + 1) * b;
        let kl: f64 = row.clone().map(|at| log_a[at].exp() * (log_a[at] - log_c[at])).sum();
        loss += kl / b as f64;
        for at in row {
            let a = log_a[at].exp();
            by_a[at] = a * (log_a[at] - log_c[at] - kl) / b as f64;
            by_c[at] = (log_c[at].exp() - a) / b as f64;
        }
    }
    let (by_z, by_turned) = match direction {
        Direction::TeacherAnchors => (by_c, by_a),
        Direction::StudentAnchors => (by_a, by_c),
    };
    let back = transposed(&by_turned, b);
    (loss, by_z.iter().zip(back).map(|(a, b)| a + b).collect())
}
