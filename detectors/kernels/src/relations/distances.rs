//! Distances of all pairs of rows, relative to their mean (Park et al. 2019, arXiv 1904.05068).

use candle_core::Tensor;
use rayon::prelude::*;

use super::huber;
use crate::dispatch::{self, Host};
use crate::memory::{elements, from_elements, on_host};
use crate::scalar::with_gradients;
use crate::{Result, Value};

/// Distances are no smaller than the root of this.
pub(super) const EPS: f64 = 1e-12;

/// Mean over all B² pairs of Huber's function of |x_i - x_j| / mean - |t_i - t_j| / mean, where the means are those of the
/// distances of different rows. Equal rows get no gradient from each other.
///
/// # Shapes
/// `target` (B, P), `x` (B, Q), none empty; a scalar.
///
/// # Errors
/// Other shapes.
pub fn relative_distances(target: &Tensor, x: &Value) -> Result<Value> {
    let (b, p, q) = super::same_rows("relative_distances", target, x)?;
    let work = RelativeDistances { target, x: x.tensor(), sizes: (b, p, q) };
    let (loss, gradient) = dispatch::run(x.tensor(), work)?;
    Ok(with_gradients(&[x], loss, vec![Some(gradient)]))
}

/// Rows (B, P) and (B, Q).
pub(super) struct RelativeDistances<'a> {
    pub(super) target: &'a Tensor,
    pub(super) x: &'a Tensor,
    pub(super) sizes: (usize, usize, usize),
}

impl Host for RelativeDistances<'_> {
    /// The loss, and its derivatives by the second side.
    type Output = (Tensor, Tensor);

    fn on_host(self) -> Result<(Tensor, Tensor)> {
        let Self { target, x: like, sizes: (b, p, q) } = self;
        let (target, host) = (on_host(target)?, on_host(like)?);
        let x = elements(&host)?;
        let (t, own) = (Distances::of(&elements(&target)?, (b, p)), Distances::of(&x, (b, q)));
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
                let along = factor * (f64::from(x[i * q + k]) - f64::from(x[j * q + k]));
                gradient[i * q + k] += along;
                gradient[j * q + k] -= along;
            }
        }
        let gradient = gradient.into_iter().map(|g| g as f32).collect();
        Ok((from_elements(vec![loss as f32], (), like)?, from_elements(gradient, (b, q), like)?))
    }
}

/// All distances of rows, and the mean of those of different rows.
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
