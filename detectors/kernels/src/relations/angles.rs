//! Angles of all triples of rows (Park et al. 2019, arXiv 1904.05068).

use candle_core::Tensor;
use rayon::prelude::*;

use super::huber;
use crate::dispatch::{self, Host};
use crate::memory::{elements, from_elements, on_host};
use crate::product::{Accumulate, Form, product_on_this_thread};
use crate::scalar::with_gradients;
use crate::unit_rows::UnitRows;
use crate::{Result, Value};

/// Mean over all B³ triples of Huber's function of cos(x_j - x_i, x_k - x_i) - cos(t_j - t_i, t_k - t_i). Equal rows get no
/// gradient from each other.
///
/// # Shapes
/// `target` (B, P), `x` (B, Q), none empty; a scalar.
///
/// # Errors
/// Other shapes.
pub fn angles(target: &Tensor, x: &Value) -> Result<Value> {
    let (b, p, q) = super::same_rows("angles", target, x)?;
    let (loss, gradient) = dispatch::run(x.tensor(), Angles { target, x: x.tensor(), sizes: (b, p, q) })?;
    Ok(with_gradients(&[x], loss, vec![Some(gradient)]))
}

/// Rows (B, P) and (B, Q).
pub(super) struct Angles<'a> {
    pub(super) target: &'a Tensor,
    pub(super) x: &'a Tensor,
    pub(super) sizes: (usize, usize, usize),
}

impl Host for Angles<'_> {
    /// The loss, and its derivatives by the second side.
    type Output = (Tensor, Tensor);

    fn on_host(self) -> Result<(Tensor, Tensor)> {
        let Self { target, x: like, sizes: (b, p, q) } = self;
        let (target, host) = (on_host(target)?, on_host(like)?);
        let (t, x) = (elements(&target)?, elements(&host)?);
        let (t, x): (&[f32], &[f32]) = (&t, &x);
        let share = ((b * b * b) as f64).recip();
        // A fixed number of groups, added in order: the sums do not depend on the number of threads.
        let group = b.div_ceil(16);
        let groups: Vec<(f64, Vec<f64>)> = (0..b.div_ceil(group))
            .into_par_iter()
            .map(|index| {
                let (mut loss, mut gradient) = (0.0, vec![0f64; b * q]);
                for i in index * group..((index + 1) * group).min(b) {
                    loss += share * angles_at(i, t, x, (b, p, q), share, &mut gradient);
                }
                (loss, gradient)
            })
            .collect();
        let (mut loss, mut gradient) = (0.0, vec![0f64; b * q]);
        for (part, by_part) in groups {
            loss += part;
            gradient.iter_mut().zip(by_part).for_each(|(sum, part)| *sum += part);
        }
        let gradient = gradient.into_iter().map(|g| g as f32).collect();
        Ok((from_elements(vec![loss as f32], (), like)?, from_elements(gradient, (b, q), like)?))
    }
}

/// The angles at row `i`: Σ_jk H; its derivatives times `share` are added to `gradient`.
fn angles_at(
    i: usize,
    t: &[f32],
    x: &[f32],
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
    let (unit_t, unit_x) = (away(t, p), away(x, q));
    let (cos_t, mut cos_x) = (cosines(&unit_t, p), cosines(&unit_x, q));
    let mut loss = 0.0;
    for (x, t) in cos_x.iter_mut().zip(&cos_t) {
        let (value, derivative) = huber(f64::from(*x) - f64::from(*t));
        loss += value;
        // The matrix is symmetric: each element counts twice.
        *x = (2.0 * share * derivative) as f32;
    }
    let mut by_unit = vec![0f32; b * q];
    let (units, replace) = (&unit_x.values, Accumulate::Replace);
    product_on_this_thread(&mut by_unit, (b, q, b), &cos_x, Form::Plain, units, Form::Plain, replace);
    unit_x.pull_back(&mut by_unit);
    for (j, by_row) in by_unit.chunks_exact(q).enumerate().filter(|(j, _)| *j != i) {
        for (k, &g) in by_row.iter().enumerate() {
            gradient[j * q + k] += f64::from(g);
            gradient[i * q + k] -= f64::from(g);
        }
    }
    loss
}
