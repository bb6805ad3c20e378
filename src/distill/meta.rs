//! The gradient of L-MCL's meta step (Yang et al., arXiv 2207.11518): how the weights phi of the layer pairs
//! should change so that a few steps on the contrastive loss, then one on the task, leave a lower loss of the
//! task.
//!
//! ```text
//! theta_1..K: SGD steps on inner(theta, phi)      theta_{K+1}: one SGD step on outer(theta)      F = outer(theta_{K+1})
//! v' = mu v + g + wd theta,  theta' = theta - lr v'                                             v starts at 0
//! ```
//!
//! dF/dphi goes back through the steps. With the cotangents (a0, a1) of (theta', v'):
//!
//! ```text
//! q = a1 - lr a0      dF/dphi += (dg/dphi)ᵀ q      a0 <- a0 + wd q + H q      a1 <- mu q
//! ```
//!
//! H q and (dg/dphi)ᵀ q are central differences of first-order gradients at theta ± eps q: one pair of passes
//! gives both. What the objective treats as a constant (the targets of its KL terms) must be that of the
//! unperturbed theta in both passes: the objective [holds](Objective::hold) it. Then the result equals
//! reverse-mode differentiation of the unrolled steps. The authors' code lost the factor wd on q; it is here.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;
use ckd_kernels::sgd::squared_norm;

use super::distiller::DistillError;

/// Tensors by name: parameters, or gradients by them. A missing gradient is 0.
pub type Parameters = BTreeMap<Arc<str>, Tensor>;

/// The two losses of a meta step.
pub trait Objective {
    /// Constants of the inner loss.
    type Held;
    /// Errors of the networks.
    type Error: From<DistillError>;

    /// The constants of the inner loss at `theta`.
    ///
    /// # Errors
    /// Errors of the networks.
    fn hold(&self, theta: &Parameters) -> Result<Self::Held, Self::Error>;

    /// The gradients of the inner loss by theta and by phi, with the constants `held`.
    ///
    /// # Errors
    /// Errors of the networks.
    fn inner(
        &self,
        theta: &Parameters,
        phi: &Parameters,
        held: &Self::Held,
    ) -> Result<(Parameters, Parameters), Self::Error>;

    /// The outer loss and its gradient by theta.
    ///
    /// # Errors
    /// Errors of the networks.
    fn outer(&self, theta: &Parameters) -> Result<(f64, Parameters), Self::Error>;
}

/// The virtual steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MetaStep {
    /// Learning rate of the virtual updates.
    pub lr: f64,
    /// Momentum of the virtual updates.
    pub momentum: f64,
    /// Weight decay of the virtual updates, for every parameter of theta.
    pub weight_decay: f64,
    /// Steps on the inner loss; one on the outer loss follows.
    pub inner_steps: usize,
    /// The length of a central difference, relative to that of theta: 1e-3 balances rounding and curvature in
    /// f32.
    pub difference: f64,
}

/// Result of a meta step.
#[derive(Debug, Clone)]
pub struct MetaGradient {
    /// F.
    pub loss: f64,
    /// dF/dphi.
    pub phi: Parameters,
    /// theta after the virtual steps; the caller's is untouched.
    pub theta: Parameters,
}

/// Outer loss F after the virtual steps, and its gradient dF/dphi, at (`theta`, `phi`).
///
/// # Errors
/// Errors of the objective.
pub fn meta_gradient<O: Objective>(
    objective: &O,
    theta: &Parameters,
    phi: &Parameters,
    step: &MetaStep,
) -> Result<MetaGradient, O::Error> {
    let MetaStep { lr, momentum, weight_decay, inner_steps, .. } = *step;
    let mut theta = theta.clone();
    let mut velocity = Parameters::new();
    let mut passed = Vec::with_capacity(inner_steps + 1);
    for number in 0..=inner_steps {
        let (gradient, held) = match number < inner_steps {
            true => {
                let held = objective.hold(&theta)?;
                (objective.inner(&theta, phi, &held)?.0, Some(held))
            }
            false => (objective.outer(&theta)?.1, None),
        };
        let decayed = combined(&theta, weight_decay, &gradient, 1.0)?;
        velocity = combined(&decayed, 1.0, &velocity, momentum)?;
        let next = combined(&theta, 1.0, &velocity, -lr)?;
        passed.push((std::mem::replace(&mut theta, next), held));
    }
    let (loss, mut by_theta) = objective.outer(&theta)?;

    let mut by_velocity = Parameters::new();
    let mut by_phi = Parameters::new();
    for (before, held) in passed.iter().rev() {
        let q = combined(&by_velocity, 1.0, &by_theta, -lr)?;
        let (curved, crossed) = differences(objective, before, phi, held.as_ref(), &q, step.difference)?;
        by_phi = combined(&by_phi, 1.0, &crossed, 1.0)?;
        by_theta = combined(&combined(&by_theta, 1.0, &q, weight_decay)?, 1.0, &curved, 1.0)?;
        by_velocity = combined(&q, momentum, &Parameters::new(), 0.0)?;
    }
    Ok(MetaGradient { loss, phi: by_phi, theta })
}

/// H q and (dg/dphi)ᵀ q at `theta`, of the inner loss (with what it holds) or of the outer one.
fn differences<O: Objective>(
    objective: &O,
    theta: &Parameters,
    phi: &Parameters,
    held: Option<&O::Held>,
    q: &Parameters,
    difference: f64,
) -> Result<(Parameters, Parameters), O::Error> {
    let length = norm(q)?;
    if length == 0.0 {
        return Ok((Parameters::new(), Parameters::new()));
    }
    let size = norm(theta)?;
    let eps = difference * if size > 0.0 { size } else { 1.0 } / length;
    let at = |eps: f64| {
        let moved = combined(theta, 1.0, q, eps)?;
        match held {
            Some(held) => objective.inner(&moved, phi, held),
            None => Ok((objective.outer(&moved)?.1, Parameters::new())),
        }
    };
    let (above, below) = (at(eps)?, at(-eps)?);
    let slope = |above: &Parameters, below: &Parameters| combined(above, 0.5 / eps, below, -0.5 / eps);
    Ok((slope(&above.0, &below.0)?, slope(&above.1, &below.1)?))
}

/// `a` x + `b` y; a tensor that one of them lacks is 0 there.
fn combined(x: &Parameters, a: f64, y: &Parameters, b: f64) -> Result<Parameters, DistillError> {
    let mut sums = Parameters::new();
    for (name, x) in x {
        let scaled = x.affine(a, 0.0)?;
        let sum = match y.get(name) {
            Some(y) => (scaled + y.affine(b, 0.0)?)?,
            None => scaled,
        };
        sums.insert(name.clone(), sum);
    }
    for (name, y) in y.iter().filter(|(name, _)| !x.contains_key(*name)) {
        sums.insert(name.clone(), y.affine(b, 0.0)?);
    }
    Ok(sums)
}

fn norm(x: &Parameters) -> Result<f64, DistillError> {
    Ok(squared_norm(&x.values().collect::<Vec<_>>())?.sqrt())
}
