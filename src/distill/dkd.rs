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
use ckd_kernels::reduce::softmax;
use ckd_settings::{Check, section};

use super::distiller::{DistillError, Distiller};
use super::method::{Method, MethodSetting};
use super::on_rows::OnRows;
use super::place::{Rows, RowsAt};
use super::rows::{check_labels, paired, sum_over_rows};
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

    fn build(&self, _: &MethodSetting<'_>, _: Builder) -> Result<Box<dyn Distiller>, DistillError> {
        let (weight, temperature) = (f64::from(self.weight), f64::from(self.temperature));
        let parts = [("target", Part::Target, self.alpha), ("others", Part::Others, self.beta)];
        let mut rows = OnRows::new(NAME, &self.place);
        for (kind, part, share) in parts {
            rows = rows.kind(kind, weight * f64::from(share), move |teacher, student, lesson| {
                dkd(teacher, student, lesson.labels, temperature, part)
            });
        }
        Ok(Box::new(rows))
    }
}

/// A part of DKD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// TCKD: the true class against all others.
    Target,
    /// NCKD: the others among themselves.
    Others,
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
    let size = paired(NAME, teacher, student)?;
    check_labels(NAME, labels, size)?;
    sum_over_rows(NAME, teacher, student, size.0 as f64, |i, t, s, gradient| {
        let label = labels[i] as usize;
        let loss = match part {
            Part::Target => target(t, s, label, temperature, gradient),
            Part::Others => others(t, s, label, temperature, gradient),
        };
        gradient.iter_mut().for_each(|g| *g *= temperature as f32);
        loss * temperature * temperature
    })
}

/// KL of (true class, the rest), with its derivatives by s / T.
fn target(t: &[f32], s: &[f32], label: usize, temperature: f64, gradient: &mut [f32]) -> f64 {
    let (teacher, student) = (Split::of(t, label, temperature), Split::of(s, label, temperature));
    let share = |p: f64, log_p: f64, log_q: f64| if p > 0.0 { p * (log_p - log_q) } else { 0.0 };
    let (p, q) = (teacher.log_own.exp(), student.log_own.exp());
    let (p_rest, q_rest) = (teacher.log_rest.exp(), student.log_rest.exp());
    // q - p as the difference of the smaller probabilities: both sum to 1.
    let difference = if q < 0.5 { q - p } else { p_rest - q_rest };
    let rest = student.others.iter().enumerate();
    rest.for_each(|(j, &r)| gradient[j + usize::from(j >= label)] = (-r * difference) as f32);
    gradient[label] = if student.others.is_empty() { 0.0 } else { difference as f32 };
    share(p, teacher.log_own, student.log_own) + share(p_rest, teacher.log_rest, student.log_rest)
}

/// KL among the other classes, with its derivatives by s / T.
fn others(t: &[f32], s: &[f32], label: usize, temperature: f64, gradient: &mut [f32]) -> f64 {
    let without = |x: &[f32]| [&x[..label], &x[label + 1..]].concat();
    let ((p, log_p), (q, log_q)) = (softmax(&without(t), temperature), softmax(&without(s), temperature));
    let mut loss = 0.0;
    for j in 0..p.len() {
        loss += p[j] * (log_p[j] - log_q[j]);
        gradient[j + usize::from(j >= label)] = (q[j] - p[j]) as f32;
    }
    loss
}

/// A softmax split into the true class and the distribution over the others.
struct Split {
    log_own: f64,
    log_rest: f64,
    others: Vec<f64>,
}

impl Split {
    fn of(x: &[f32], label: usize, temperature: f64) -> Self {
        let (_, logs) = softmax(x, temperature);
        let rest: Vec<f64> = [&logs[..label], &logs[label + 1..]].concat();
        let top = rest.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_rest = match rest.is_empty() {
            true => f64::NEG_INFINITY,
            false => top + rest.iter().map(|log| (log - top).exp()).sum::<f64>().ln(),
        };
        Self {
            log_own: logs[label],
            log_rest,
            others: rest.iter().map(|log| (log - log_rest).exp()).collect(),
        }
    }
}
