//! Distillation from a stronger teacher (DIST; Huang et al., NeurIPS 2022, arXiv 2205.10536): probabilities
//! are to correlate, not to be equal.
//!
//! ```text
//! inter = T² (1 - mean_i r(p_t,i·, p_s,i·))      over the classes of each sample
//! intra = T² (1 - mean_c r(p_t,·c, p_s,·c))      over the samples of each class
//! ```
//!
//! r is Pearson's, with 1e-8 added to its denominator: it does not vanish exactly where probabilities are
//! tiny.

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::memory::{elements, from_elements, on_host};
use ckd_kernels::reduce::softmax;
use ckd_settings::{Check, section};

use super::distiller::{DistillError, Distiller};
use super::method::{Method, MethodSetting};
use super::on_rows::OnRows;
use super::place::{Rows, RowsAt};
use super::rows::paired;
use super::scalar::{expect_positive, nothing, scalar_of};

const NAME: &str = "dist";

/// Added to the product of the lengths.
const EPS: f64 = 1e-8;

section! {
    /// Correlation instead of equality: of each sample's class probabilities (inter) and of each class over
    /// the samples (intra). At anchor_logits probabilities are sigmoids, elsewhere softmaxes.
    pub struct Dist with place: Rows {
        /// Weight of the term over each sample's classes (inter): 1 for detectors, 2 on CIFAR.
        pub weight: f32 = 1.0,
        /// Weight of the term over each class's samples (intra); 0 leaves it out.
        pub weight_intra: f32 = 1.0,
        /// Divides the logits; its square multiplies the terms. 4 on CIFAR.
        pub temperature: f32 = 1.0,
    }
}

impl Dist {
    fn check(&self, check: &mut Check<'_>) {
        check.positive("temperature", self.temperature.into());
    }
}

impl Method for Dist {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Huang et al., NeurIPS 2022, arXiv 2205.10536";
    const ROWS: &'static [RowsAt] = &[RowsAt::RoiLogits, RowsAt::AnchorLogits, RowsAt::Logits];

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight), ("weight_intra", self.weight_intra)]
    }

    fn build(&self, _: &MethodSetting<'_>, _: Builder) -> Result<Box<dyn Distiller>, DistillError> {
        let temperature = self.temperature.into();
        let probabilities = match self.place.at {
            RowsAt::AnchorLogits => Probabilities::Sigmoid,
            _ => Probabilities::Softmax,
        };
        let relations =
            [("inter", Relation::Inter, self.weight), ("intra", Relation::Intra, self.weight_intra)];
        let mut rows = OnRows::new(NAME, &self.place);
        for (kind, relation, weight) in relations {
            rows = rows.kind(kind, weight.into(), move |teacher, student, _| {
                dist(teacher, student, temperature, probabilities, relation)
            });
        }
        Ok(Box::new(rows))
    }
}

/// From logits to probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probabilities {
    /// Classes exclude each other.
    Softmax,
    /// Each class on its own (RetinaNet).
    Sigmoid,
}

/// Probabilities that are correlated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The classes of each sample.
    Inter,
    /// The samples of each class.
    Intra,
}

/// A term of DIST; 0 without rows.
///
/// # Shapes
/// `teacher` and `student` (B, C); a scalar.
///
/// # Errors
/// Shapes that differ or are not matrices; a temperature that is not positive.
pub fn dist(
    teacher: &Tensor,
    student: &Value,
    temperature: f64,
    probabilities: Probabilities,
    relation: Relation,
) -> Result<Value, DistillError> {
    expect_positive(NAME, "temperature", temperature)?;
    let (rows, columns) = paired(NAME, teacher, student)?;
    if rows == 0 || columns == 0 {
        return nothing(student);
    }
    let (teacher, host) = (on_host(teacher)?, on_host(student.tensor())?);
    let probable = |logits: &[f32]| -> Vec<f64> {
        let row = |row: &[f32]| match probabilities {
            Probabilities::Softmax => softmax(row, temperature).0,
            Probabilities::Sigmoid => {
                row.iter().map(|&x| (1.0 + (-f64::from(x) / temperature).exp()).recip()).collect()
            }
        };
        logits.chunks_exact(columns).flat_map(row).collect()
    };
    let (t, s) = (probable(&elements(&teacher)?), probable(&elements(&host)?));
    let lines = match relation {
        Relation::Inter => Lines { count: rows, len: columns, start: columns, step: 1 },
        Relation::Intra => Lines { count: columns, len: rows, start: 1, step: columns },
    };
    let factor = temperature * temperature / lines.count as f64;
    let mut by_probability = vec![0f64; t.len()];
    // A sigmoid makes a probability of an infinite logit too: a diverged network must show.
    let mut loss: f64 = elements(&host)?.iter().map(|&x| 0.0 * f64::from(x)).sum();
    for line in 0..lines.count {
        let (x, y) = (lines.centred(&t, line), lines.centred(&s, line));
        let (correlation, mut derivatives) = correlation(&x, &y);
        loss += factor * (1.0 - correlation);
        let mean = derivatives.iter().sum::<f64>() / lines.len as f64;
        derivatives.iter_mut().for_each(|d| *d = -factor * (*d - mean));
        lines.positions(line).zip(derivatives).for_each(|(at, d)| by_probability[at] = d);
    }
    let gradient = by_probability.chunks_exact(columns).zip(s.chunks_exact(columns)).flat_map(|(g, p)| {
        let along: f64 = g.iter().zip(p).map(|(g, p)| g * p).sum();
        let through = move |(g, p): (&f64, &f64)| match probabilities {
            Probabilities::Softmax => p * (g - along) / temperature,
            Probabilities::Sigmoid => p * (1.0 - p) * g / temperature,
        };
        g.iter().zip(p).map(through).map(|g| g as f32)
    });
    let gradient =
        student.is_tracked().then(|| from_elements(gradient.collect(), (rows, columns), student.tensor()));
    scalar_of(student, loss, gradient.transpose()?)
}

/// Rows or columns of a matrix.
struct Lines {
    count: usize,
    len: usize,
    start: usize,
    step: usize,
}

impl Lines {
    fn positions(&self, line: usize) -> impl Iterator<Item = usize> + use<> {
        let (start, step) = (line * self.start, self.step);
        (0..self.len).map(move |i| start + i * step)
    }

    fn centred(&self, values: &[f64], line: usize) -> Vec<f64> {
        let mean = self.positions(line).map(|at| values[at]).sum::<f64>() / self.len as f64;
        self.positions(line).map(|at| values[at] - mean).collect()
    }
}

/// x·y / (|x| |y| + eps), and its derivatives by y.
fn correlation(x: &[f64], y: &[f64]) -> (f64, Vec<f64>) {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (long_x, long_y) = (dot(x, x).sqrt(), dot(y, y).sqrt());
    let size = long_x * long_y + EPS;
    let value = dot(x, y) / size;
    // A constant line has no direction: its length gets no gradient.
    let by_length = if long_y > 0.0 { value * long_x / (size * long_y) } else { 0.0 };
    (value, x.iter().zip(y).map(|(x, y)| x / size - by_length * y).collect())
}
