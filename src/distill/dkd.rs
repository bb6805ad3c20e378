//! Decoupled knowledge distillation (DKD; Zhao et al., CVPR 2022, arXiv 2203.08679).
//!
//! With p the probability of the true class (softmax at temperature T) and r the distribution over the others:
//!
//! ```text
//! TCKD = T² KL( (p_t, 1 - p_t) || (p_s, 1 - p_s) )      NCKD = T² KL( r_t || r_s )
//! loss = alpha TCKD + beta NCKD, means over the rows     KD = TCKD + (1 - p_t) NCKD
//! ```

use candle_core::Tensor;
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;

use super::rows::{check_labels, paired, softmax, sum_over_rows};
use super::{DistillError, Distiller, Lesson, Term, at_tap, expect_positive};

const NAME: &str = "dkd";

/// DKD at one tap, whose rows have labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Dkd {
    /// Where; its values are (B, C) logits.
    pub at: Tap,
    /// The weight of TCKD.
    pub alpha: f64,
    /// The weight of NCKD.
    pub beta: f64,
    /// What logits are divided by.
    pub temperature: f64,
}

/// A part of DKD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// TCKD: the true class against all others.
    Target,
    /// NCKD: the others among themselves.
    Others,
}

impl Distiller for Dkd {
    fn name(&self) -> &str {
        NAME
    }

    fn taps(&self) -> Vec<Tap> {
        vec![self.at]
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        let (teacher, student) = at_tap(self.at, lesson)?;
        let parts = [("target", Part::Target, self.alpha), ("others", Part::Others, self.beta)];
        let term = |(kind, part, weight): (&str, Part, f64)| {
            let value = dkd(teacher, student, lesson.labels, self.temperature, part)
                .map_err(|error| error.at(self.at))?;
            Ok(Term { name: format!("{NAME}/{}/{kind}", self.at), value, weight })
        };
        parts.into_iter().filter(|(_, _, weight)| *weight != 0.0).map(term).collect()
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
