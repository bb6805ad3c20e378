//! Pearson's correlation of probabilities (Huang et al. 2022, arXiv 2205.10536).

use candle_core::Tensor;

use crate::dispatch::{self, Host};
use crate::memory::{elements, from_elements, on_host};
use crate::reduce::softmax;
use crate::scalar::with_gradients;
use crate::{Error, Result, Value};

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

/// Added to the product of the lengths.
pub(super) const EPS: f64 = 1e-8;

/// T² (1 - mean r) of Pearson's correlations r of the probabilities of `target` / T and `x` / T, along `relation`.
///
/// # Shapes
/// `target` and `x` (B, C), at least one row and class; a scalar.
///
/// # Errors
/// Other shapes; a temperature that is not positive.
pub fn correlation(
    target: &Tensor,
    x: &Value,
    temperature: f64,
    probabilities: Probabilities,
    relation: Relation,
) -> Result<Value> {
    const NAME: &str = "correlation";
    let (rows, columns, _) = super::same_rows(NAME, target, x)?;
    if target.dims() != x.dims() || !(temperature > 0.0 && temperature.is_finite()) {
        let reason = format!("{:?} and {:?} at a temperature of {temperature}", target.dims(), x.dims());
        return Err(Error::invalid(NAME, reason));
    }
    let lines = match relation {
        Relation::Inter => Lines { count: rows, len: columns, start: columns, step: 1 },
        Relation::Intra => Lines { count: columns, len: rows, start: 1, step: columns },
    };
    let tensors = [target, x.tensor()];
    let work = Correlations { tensors, sizes: (rows, columns), temperature, probabilities, lines };
    let (loss, gradient) = dispatch::run(x.tensor(), work)?;
    Ok(with_gradients(&[x], loss, vec![Some(gradient)]))
}

/// Logits of both sides (rows, columns), and how they are compared.
pub(super) struct Correlations<'a> {
    pub(super) tensors: [&'a Tensor; 2],
    pub(super) sizes: (usize, usize),
    pub(super) temperature: f64,
    pub(super) probabilities: Probabilities,
    pub(super) lines: Lines,
}

/// Rows or columns of a matrix.
pub(super) struct Lines {
    pub(super) count: usize,
    pub(super) len: usize,
    pub(super) start: usize,
    pub(super) step: usize,
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

impl Host for Correlations<'_> {
    /// The loss, and its derivatives by the second side.
    type Output = (Tensor, Tensor);

    fn on_host(self) -> Result<(Tensor, Tensor)> {
        let Self { tensors: [target, like], sizes: (rows, columns), temperature, probabilities, lines } =
            self;
        let (target, host) = (on_host(target)?, on_host(like)?);
        let probable = |logits: &[f32]| -> Vec<f64> {
            let row = |row: &[f32]| match probabilities {
                Probabilities::Softmax => softmax(row, temperature).0,
                Probabilities::Sigmoid => {
                    row.iter().map(|&x| (1.0 + (-f64::from(x) / temperature).exp()).recip()).collect()
                }
            };
            logits.chunks_exact(columns).flat_map(row).collect()
        };
        let (t, s) = (probable(&elements(&target)?), probable(&elements(&host)?));
        let factor = temperature * temperature / lines.count as f64;
        let mut by_probability = vec![0f64; t.len()];
        // A sigmoid makes a probability of an infinite logit too: a diverged network must show.
        let mut loss: f64 = elements(&host)?.iter().map(|&x| 0.0 * f64::from(x)).sum();
        for line in 0..lines.count {
            let (x, y) = (lines.centred(&t, line), lines.centred(&s, line));
            let (correlation, derivatives) = pearson(&x, &y);
            loss += factor * (1.0 - correlation);
            lines.positions(line).zip(derivatives).for_each(|(at, d)| by_probability[at] = -factor * d);
        }
        let gradient =
            by_probability.chunks_exact(columns).zip(s.chunks_exact(columns)).flat_map(|(g, p)| {
                let along: f64 = g.iter().zip(p).map(|(g, p)| g * p).sum();
                let through = move |(g, p): (&f64, &f64)| match probabilities {
                    Probabilities::Softmax => p * (g - along) / temperature,
                    Probabilities::Sigmoid => p * (1.0 - p) * g / temperature,
                };
                g.iter().zip(p).map(through).map(|g| g as f32)
            });
        let gradient = from_elements(gradient.collect(), (rows, columns), like)?;
        Ok((from_elements(vec![loss as f32], (), like)?, gradient))
    }
}

/// x·y / (|x| |y| + eps) of centred x and y, and its derivatives by y.
fn pearson(x: &[f64], y: &[f64]) -> (f64, Vec<f64>) {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (long_x, long_y) = (dot(x, x).sqrt(), dot(y, y).sqrt());
    let size = long_x * long_y + EPS;
    let value = dot(x, y) / size;
    // A constant line has no direction: its length gets no gradient.
    let by_length = if long_y > 0.0 { value * long_x / (size * long_y) } else { 0.0 };
    let by_centred = x.iter().zip(y).map(|(x, y)| x / size - by_length * y);
    (value, by_centred.collect())
}
