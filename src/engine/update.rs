//! One update of the weights: the gradient's norm, clipping, the optimiser's step.

use ckd_kernels::Gradients;

use super::Result;
use super::pass::{LossTerm, non_finite};
use crate::optim::{Optim, Optimizer, gradient_norm};

/// An update by summed gradients.
#[derive(Debug)]
pub(super) struct Update<'a> {
    pub(super) gradients: &'a Gradients,
    /// The learning rate.
    pub(super) lr: f64,
    /// The gradients are multiplied by this.
    pub(super) scale: f64,
    /// Finished updates, for an error.
    pub(super) step: u64,
    /// The gradients' name in an error.
    pub(super) of: &'a str,
    /// The losses that the gradients are of, for an error.
    pub(super) terms: &'a [LossTerm],
}

impl Update<'_> {
    /// Changes the weights; returns the norm of the gradient before clipping.
    ///
    /// # Errors
    /// A norm that is not finite; then nothing has changed.
    pub(super) fn apply(&self, optimizer: &mut dyn Optimizer, settings: &Optim) -> Result<f64> {
        let norm = gradient_norm(optimizer.parameters(), self.gradients, self.scale)?;
        if !norm.is_finite() {
            return Err(non_finite(self.step, &format!("the norm of the {}", self.of), norm, self.terms));
        }
        optimizer.step(self.gradients, self.lr, self.scale * settings.clip_factor(norm))?;
        Ok(norm)
    }
}
