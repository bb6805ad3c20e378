//! The mean of the losses of rows.

use candle_core::Tensor;

use crate::dispatch::{self, Host};
use crate::memory::{elements, from_elements, on_host};
use crate::{Error, Result, Value};

/// Weighted mean of losses, 1/B Σ_i w_i l_i; 0 of none. Weights are 1 unless given.
///
/// # Shapes
/// `losses` (B), `weights` (B); a scalar.
///
/// # Errors
/// If the shapes do not fit.
pub fn weighted_mean(losses: &Value, weights: Option<&Value>) -> Result<Value> {
    let count = losses.tensor().dims1()?;
    if let Some(weights) = weights.filter(|weights| weights.dims() != [count]) {
        let reason = format!("{count} losses, but weights {:?}", weights.dims());
        return Err(Error::invalid("weighted_mean", reason));
    }
    let saved = (losses.tensor().clone(), weights.map(|weights| weights.tensor().clone()));
    let work = Mean { losses: &saved.0, weights: saved.1.as_ref(), count };
    let mean = dispatch::run(losses.tensor(), work)?;
    let by_weight = weights.is_some_and(Value::is_tracked);
    let inputs: Vec<&Value> = [losses].into_iter().chain(weights).collect();
    Ok(Value::operation(&inputs, mean, move |g| {
        let (losses, weights) = &saved;
        let mut gradients = vec![Some(dispatch::run(g, Shares { g, values: weights.as_ref(), count })?)];
        if weights.is_some() {
            let shares = || dispatch::run(g, Shares { g, values: Some(losses), count });
            gradients.push(by_weight.then(shares).transpose()?);
        }
        Ok(gradients)
    }))
}

/// Losses and weights (B).
pub(super) struct Mean<'a> {
    pub(super) losses: &'a Tensor,
    pub(super) weights: Option<&'a Tensor>,
    pub(super) count: usize,
}

impl Host for Mean<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { losses: like, weights, count } = self;
        let (losses, weights) = (on_host(like)?, weights.map(on_host).transpose()?);
        let weights = weights.as_ref().map(elements).transpose()?;
        let weight = |i: usize| weights.as_ref().map_or(1.0, |weights| f64::from(weights[i]));
        let sum: f64 = elements(&losses)?.iter().enumerate().map(|(i, &l)| weight(i) * f64::from(l)).sum();
        from_elements(vec![(sum / count.max(1) as f64) as f32], (), like)
    }
}

/// g / B times each of B values, or of ones.
pub(super) struct Shares<'a> {
    pub(super) g: &'a Tensor,
    pub(super) values: Option<&'a Tensor>,
    pub(super) count: usize,
}

impl Host for Shares<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { g: like, values, count } = self;
        let share = f64::from(like.reshape(())?.to_scalar::<f32>()?) / count.max(1) as f64;
        let shares = match values {
            None => vec![share as f32; count],
            Some(values) => {
                let values = on_host(values)?;
                elements(&values)?.iter().map(|&value| (share * f64::from(value)) as f32).collect()
            }
        };
        from_elements(shares, count, like)
    }
}
