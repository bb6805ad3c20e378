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
//! gives both. What reverse mode takes for a constant at theta must be that constant in both passes: the targets of KL
//! terms, and the choices of ReLUs and poolings, across whose kinks a difference would step. The unperturbed pass
//! [keeps](Slope::held) all of it. Then the result equals reverse-mode differentiation of the unrolled steps. The authors'
//! code lost the factor wd on q; it is here.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;
use ckd_kernels::sgd::squared_norm;

use super::distiller::DistillError;

/// Tensors by name: parameters, or gradients by them. A missing gradient is 0.
pub type Parameters = BTreeMap<Arc<str>, Tensor>;

/// A loss of a meta step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Loss of the virtual updates, which phi weighs.
    Inner,
    /// Loss of the task.
    Outer,
}

/// A loss at a point: value, gradients, and what was a constant there.
#[derive(Debug, Clone)]
pub struct Slope<H> {
    /// Value of the loss.
    pub loss: f64,
    /// Gradient by theta.
    pub theta: Parameters,
    /// Gradient by phi.
    pub phi: Parameters,
    /// Constants of the loss at this point.
    pub held: H,
}

/// The two losses of a meta step.
pub trait Objective {
    /// Constants of a loss at a point.
    type Held;
    /// Errors of the networks.
    type Error: From<DistillError>;

    /// `loss` and its gradients at (`theta`, `phi`).
    ///
    /// # Errors
    /// Errors of the networks.
    fn slope(
        &self,
        loss: Loss,
        theta: &Parameters,
        phi: &Parameters,
    ) -> Result<Slope<Self::Held>, Self::Error>;

    /// The gradients of `loss` by theta and by phi beside the point that `held` is of, with its constants.
    ///
    /// # Errors
    /// Errors of the networks.
    fn slope_beside(
        &self,
        loss: Loss,
        theta: &Parameters,
        phi: &Parameters,
        held: &Self::Held,
    ) -> Result<(Parameters, Parameters), Self::Error>;
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
    /// The length of a central difference, relative to that of theta: 1e-4 balances rounding and curvature in
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
        let of = if number < inner_steps { Loss::Inner } else { Loss::Outer };
        let Slope { theta: gradient, held, .. } = objective.slope(of, &theta, phi)?;
        let decayed = combined(&theta, weight_decay, &gradient, 1.0)?;
        velocity = combined(&decayed, 1.0, &velocity, momentum)?;
        let next = combined(&theta, 1.0, &velocity, -lr)?;
        passed.push((of, std::mem::replace(&mut theta, next), held));
    }
    let Slope { loss, theta: mut by_theta, .. } = objective.slope(Loss::Outer, &theta, phi)?;

    let mut by_velocity = Parameters::new();
    let mut by_phi = Parameters::new();
    // What a step held is freed once the walk has passed it.
    while let Some((of, before, held)) = passed.pop() {
        let q = combined(&by_velocity, 1.0, &by_theta, -lr)?;
        let beside = |theta: &Parameters| objective.slope_beside(of, theta, phi, &held);
        let (curved, crossed) = differences(&before, &q, step.difference, beside)?;
        by_phi = combined(&by_phi, 1.0, &crossed, 1.0)?;
        by_theta = combined(&combined(&by_theta, 1.0, &q, weight_decay)?, 1.0, &curved, 1.0)?;
        by_velocity = combined(&q, momentum, &Parameters::new(), 0.0)?;
    }
    Ok(MetaGradient { loss, phi: by_phi, theta })
}

/// H q and (dg/dphi)ᵀ q at `theta`, from the gradients `beside` it.
fn differences<E: From<DistillError>>(
    theta: &Parameters,
    q: &Parameters,
    difference: f64,
    beside: impl Fn(&Parameters) -> Result<(Parameters, Parameters), E>,
) -> Result<(Parameters, Parameters), E> {
    let length = norm(q)?;
    if length == 0.0 {
        return Ok((Parameters::new(), Parameters::new()));
    }
    let size = norm(theta)?;
    let eps = difference * if size > 0.0 { size } else { 1.0 } / length;
    let at = |eps: f64| beside(&combined(theta, 1.0, q, eps)?);
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
