//! Relational knowledge distillation (RKD; Park et al., CVPR 2019, arXiv 1904.05068).
//!
//! ```text
//! distance = mean_ij  H( |s_i - s_j| / mean_s  -  |t_i - t_j| / mean_t )        mean: of all positive distances
//! angle    = mean_ijk H( cos(s_j - s_i, s_k - s_i) - cos(t_j - t_i, t_k - t_i) )
//! ```
//!
//! H is Huber's function with its corner at 1; both means are over all entries, B² and B³, as in the authors'
//! code.

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::linear::{Accumulate, Form, product_on_this_thread};
use ckd_kernels::memory::{elements, from_elements, on_host};
use ckd_kernels::unit_rows::UnitRows;
use ckd_settings::section;
use rayon::prelude::*;

use super::distiller::{DistillError, Distiller};
use super::method::{Method, MethodSetting};
use super::on_rows::OnRows;
use super::place::{Rows, RowsAt};
use super::scalar::{nothing, scalar_of};

const NAME: &str = "rkd";

/// Distances are no smaller than the root of this.
const EPS: f64 = 1e-12;

section! {
    /// Relations between the samples of a batch: distances, relative to their mean, and angles of triples.
    pub struct Rkd with place: Rows {
        /// Weight of the distances.
        pub weight: f32 = 25.0,
        /// Weight of the angles; 0 leaves them out. Their cost grows with the cube of the rows.
        pub weight_angle: f32 = 50.0,
    }
}

impl Method for Rkd {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Park et al., CVPR 2019, arXiv 1904.05068";
    // Relations of triples: of images, not of regions.
    const ROWS: &'static [RowsAt] = &[RowsAt::Logits, RowsAt::Embedding];

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight), ("weight_angle", self.weight_angle)]
    }

    fn build(&self, _: &MethodSetting<'_>, _: Builder) -> Result<Box<dyn Distiller>, DistillError> {
        let relations = [
            ("distance", RkdRelation::Distance, self.weight),
            ("angle", RkdRelation::Angle, self.weight_angle),
        ];
        let mut rows = OnRows::new(NAME, &self.place);
        for (kind, relation, weight) in relations {
            rows = rows.kind(kind, weight.into(), move |teacher, student, _| rkd(teacher, student, relation));
        }
        Ok(Box::new(rows))
    }
}

/// Relation of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RkdRelation {
    /// Distances of pairs, relative to their mean.
    Distance,
    /// Angles of triples.
    Angle,
}

/// A term of RKD; 0 without rows. Equal samples get no gradient from each other.
///
/// # Shapes
/// `teacher` (B, P), `student` (B, Q); a scalar.
///
/// # Errors
/// Other ranks, or different numbers of rows.
pub fn rkd(teacher: &Tensor, student: &Value, relation: RkdRelation) -> Result<Value, DistillError> {
    let (&[b, p], &[rows, q]) = (teacher.dims(), student.dims()) else {
        let reason = format!("matrices expected, got {:?} and {:?}", teacher.dims(), student.dims());
        return Err(DistillError::invalid(NAME, reason));
    };
    if b != rows {
        let reason =
            format!("teacher {:?} and student {:?} need the same rows", teacher.dims(), student.dims());
        return Err(DistillError::invalid(NAME, reason));
    }
    if b == 0 || p == 0 || q == 0 {
        return nothing(student);
    }
    let (t_host, s_host) = (on_host(teacher)?, on_host(student.tensor())?);
    let (t, s) = (elements(&t_host)?, elements(&s_host)?);
    let (loss, gradient) = match relation {
        RkdRelation::Distance => distances(&t, &s, (b, p, q)),
        RkdRelation::Angle => angles(&t, &s, (b, p, q)),
    };
    let gradient = student
        .is_tracked()
        .then(|| from_elements(gradient.into_iter().map(|g| g as f32).collect(), (b, q), student.tensor()));
    scalar_of(student, loss, gradient.transpose()?)
}

/// Huber's function of a difference, and its derivative.
fn huber(difference: f64) -> (f64, f64) {
    match difference.abs() {
        size if size < 1.0 => (0.5 * difference * difference, difference),
        size => (size - 0.5, difference.signum()),
    }
}

/// All distances of rows, and the mean of the positive ones.
struct Distances {
    all: Vec<f64>,
    mean: f64,
    positive: usize,
}

impl Distances {
    fn of(rows: &[f32], (b, width): (usize, usize)) -> Self {
        let row = |i: usize| &rows[i * width..][..width];
        let between = |at: usize| {
            let (i, j) = (at / b, at % b);
            if i == j {
                return 0.0;
            }
            let square: f64 =
                row(i).iter().zip(row(j)).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
            // Not `max`, which would lose a NaN.
            if square < EPS { EPS.sqrt() } else { square.sqrt() }
        };
        let all: Vec<f64> = (0..b * b).into_par_iter().map(between).collect();
        let positive = b * b - b;
        let mean = if positive == 0 { 1.0 } else { all.iter().sum::<f64>() / positive as f64 };
        Self { all, mean, positive }
    }
}

fn distances(t: &[f32], s: &[f32], (b, p, q): (usize, usize, usize)) -> (f64, Vec<f64>) {
    let (t, own) = (Distances::of(t, (b, p)), Distances::of(s, (b, q)));
    let share = ((b * b) as f64).recip();
    let mut loss = 0.0;
    let mut by_relative = vec![0f64; b * b];
    for at in (0..b * b).filter(|at| at / b != at % b) {
        let (value, derivative) = huber(own.all[at] / own.mean - t.all[at] / t.mean);
        loss += share * value;
        by_relative[at] = share * derivative;
    }
    // All distances are divided by their mean, which depends on each of them.
    let through_mean: f64 = by_relative.iter().zip(&own.all).map(|(g, d)| g * d).sum::<f64>()
        / (own.mean * own.mean * own.positive.max(1) as f64);
    let mut gradient = vec![0f64; b * q];
    for at in (0..b * b).filter(|at| at / b != at % b) {
        let (i, j, distance) = (at / b, at % b, own.all[at]);
        if distance * distance <= EPS {
            continue;
        }
        let factor = (by_relative[at] / own.mean - through_mean) / distance;
        for k in 0..q {
            let along = factor * (f64::from(s[i * q + k]) - f64::from(s[j * q + k]));
            gradient[i * q + k] += along;
            gradient[j * q + k] -= along;
        }
    }
    (loss, gradient)
}

fn angles(t: &[f32], s: &[f32], (b, p, q): (usize, usize, usize)) -> (f64, Vec<f64>) {
    let share = ((b * b * b) as f64).recip();
    // A fixed number of groups, added in order: the sums do not depend on the number of threads.
    let group = b.div_ceil(16);
    let groups: Vec<(f64, Vec<f64>)> = (0..b.div_ceil(group))
        .into_par_iter()
        .map(|index| {
            let (mut loss, mut gradient) = (0.0, vec![0f64; b * q]);
            for i in index * group..((index + 1) * group).min(b) {
                loss += share * angles_at(i, t, s, (b, p, q), share, &mut gradient);
            }
            (loss, gradient)
        })
        .collect();
    let (mut loss, mut gradient) = (0.0, vec![0f64; b * q]);
    for (part, by_part) in groups {
        loss += part;
        gradient.iter_mut().zip(by_part).for_each(|(sum, part)| *sum += part);
    }
    (loss, gradient)
}

/// The angles at sample `i`: Σ_jk H; its derivatives times `share` are added to `gradient`.
fn angles_at(
    i: usize,
    t: &[f32],
    s: &[f32],
    (b, p, q): (usize, usize, usize),
    share: f64,
    gradient: &mut [f64],
) -> f64 {
    let away = |rows: &[f32], width: usize| {
        let own = &rows[i * width..][..width];
        let all: Vec<f32> =
            rows.chunks_exact(width).flat_map(|row| row.iter().zip(own).map(|(x, own)| x - own)).collect();
        UnitRows::of(&all, width)
    };
    let cosines = |units: &UnitRows, width: usize| {
        let mut out = vec![0f32; b * b];
        let (x, replace) = (&units.values, Accumulate::Replace);
        product_on_this_thread(&mut out, (b, b, width), x, Form::Plain, x, Form::Transposed, replace);
        out
    };
    let (unit_t, unit_s) = (away(t, p), away(s, q));
    let (cos_t, mut cos_s) = (cosines(&unit_t, p), cosines(&unit_s, q));
    let mut loss = 0.0;
    for (s, t) in cos_s.iter_mut().zip(&cos_t) {
        let (value, derivative) = huber(f64::from(*s) - f64::from(*t));
        loss += value;
        // The matrix is symmetric: each element counts twice.
        *s = (2.0 * share * derivative) as f32;
    }
    let mut by_unit = vec![0f32; b * q];
    let (units, replace) = (&unit_s.values, Accumulate::Replace);
    product_on_this_thread(&mut by_unit, (b, q, b), &cos_s, Form::Plain, units, Form::Plain, replace);
    unit_s.pull_back(&mut by_unit);
    for (j, by_row) in by_unit.chunks_exact(q).enumerate().filter(|(j, _)| *j != i) {
        for (k, &g) in by_row.iter().enumerate() {
            gradient[j * q + k] += f64::from(g);
            gradient[i * q + k] -= f64::from(g);
        }
    }
    loss
}
