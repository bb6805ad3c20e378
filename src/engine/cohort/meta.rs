//! L-MCL's meta step: the weights of pairs of stages change so that virtual updates by the contrastive loss, followed by
//! one by the labels, would leave a lower loss of the labels. The networks are run for it with virtual weights, and are
//! afterwards as they were.

use candle_core::Tensor;
use ckd_detectors::classifier::smoothed_cross_entropy;
use ckd_detectors::images::Images;
use ckd_detectors::nn::Mode;
use ckd_detectors::param::{ParamStore, write_in_place};
use ckd_kernels::Value;
use ckd_kernels::elementwise::weighted_sum;
use ckd_kernels::graph::untracked;

use super::model::{Cohort, Layer};
use super::pass::{likenesses, weights};
use crate::config::CohortConfig;
use crate::distill::mcl::Likenesses;
use crate::distill::meta::{MetaGradient, MetaStep, Objective, Parameters, meta_gradient};
use crate::engine::{EngineError, Result};

/// The batch of a meta step.
#[derive(Debug, Clone, Copy)]
pub struct MetaBatch<'a> {
    /// The images.
    pub images: &'a Images,
    /// Classes of the images.
    pub labels: &'a [u32],
    /// The rows of the memories that they are compared with; empty without memories.
    pub drawn: &'a [u32],
}

/// F and its gradient by the weights of pairs of stages, on `batch`, where the networks learn with rate `lr`.
///
/// `cohort` is unchanged afterwards, bit for bit, batch norms' statistics too. Virtual updates leave the memories as they
/// are.
///
/// # Errors
/// If a network cannot be run; labels that do not fit the images.
pub fn meta_event(
    config: &CohortConfig,
    cohort: &Cohort,
    batch: MetaBatch<'_>,
    lr: f64,
) -> Result<MetaGradient> {
    let layers = &config.cohort.layers;
    let step = MetaStep {
        lr,
        momentum: config.run.optim.momentum,
        weight_decay: config.run.optim.weight_decay,
        inner_steps: layers.meta_steps,
        difference: layers.meta_difference,
    };
    let stores: Vec<&ParamStore> = cohort.theta().into_iter().chain([cohort.phi()]).collect();
    let before = Saved::of(&stores)?;
    let theta = trainable(&cohort.theta())?;
    let phi = trainable(&[cohort.phi()])?;
    let found = meta_gradient(&Lookahead { config, cohort, batch }, &theta, &phi, &step);
    before.restore()?;
    found
}

/// Copies of the trainable tensors of `stores`.
fn trainable(stores: &[&ParamStore]) -> Result<Parameters> {
    let named = stores.iter().flat_map(|store| store.trainable());
    named.map(|(name, tensor)| Ok((name.clone(), tensor.copy()?))).collect()
}

/// Tensors and what they held.
struct Saved(Vec<(Tensor, Tensor)>);

impl Saved {
    fn of(stores: &[&ParamStore]) -> Result<Self> {
        let tensors = stores.iter().flat_map(|store| store.iter());
        let saved = tensors.map(|(_, param)| {
            let tensor = param.value.tensor();
            Ok((tensor.clone(), tensor.copy()?))
        });
        Ok(Self(saved.collect::<Result<_>>()?))
    }

    fn restore(&self) -> Result<()> {
        self.0.iter().try_for_each(|(to, from)| Ok(write_in_place(to, from)?))
    }
}

/// The losses of the virtual updates.
struct Lookahead<'a> {
    config: &'a CohortConfig,
    cohort: &'a Cohort,
    batch: MetaBatch<'a>,
}

impl Lookahead<'_> {
    /// Puts the weights into the networks and heads.
    fn place(&self, theta: &Parameters) -> Result<()> {
        for store in self.cohort.theta() {
            for (name, tensor) in theta.iter().filter(|(name, _)| store.get(name).is_some()) {
                store.set(name, tensor)?;
            }
        }
        Ok(())
    }

    fn likenesses(&self, layers: &[Vec<Layer>]) -> Result<Likenesses> {
        likenesses(self.config, self.cohort, layers, self.batch.drawn)
    }

    fn split(&self, loss: &Value) -> Result<(Parameters, Parameters)> {
        let of_phi = |name: &str| self.cohort.phi().get(name).is_some();
        Ok(loss.backward()?.into_iter().partition(|(name, _)| !of_phi(name)))
    }
}

impl Objective for Lookahead<'_> {
    type Held = Likenesses;
    type Error = EngineError;

    fn hold(&self, theta: &Parameters) -> Result<Likenesses> {
        self.place(theta)?;
        let layers = untracked(|| self.cohort.layers(self.batch.images, Mode::Train))?;
        Ok(self.likenesses(&layers)?.detached())
    }

    fn inner(
        &self,
        theta: &Parameters,
        phi: &Parameters,
        held: &Likenesses,
    ) -> Result<(Parameters, Parameters)> {
        self.place(theta)?;
        phi.iter().try_for_each(|(name, tensor)| self.cohort.phi().set(name, tensor))?;
        let layers = self.cohort.layers(self.batch.images, Mode::Train)?;
        let likenesses = self.likenesses(&layers)?;
        let weights = weights(self.cohort, &layers, &likenesses)?;
        let terms =
            likenesses.layer_wise(self.batch.labels, &weights, &self.config.cohort.pair(), Some(held))?;
        drop((layers, likenesses));
        if terms.is_empty() {
            return Ok((Parameters::new(), Parameters::new()));
        }
        let loss = weighted_sum(&terms.iter().map(|term| (&term.value, term.weight)).collect::<Vec<_>>())?;
        drop(terms);
        self.split(&loss)
    }

    fn outer(&self, theta: &Parameters) -> Result<(f64, Parameters)> {
        self.place(theta)?;
        let layers = self.cohort.layers(self.batch.images, Mode::Train)?;
        let of = |logits: &Value| {
            smoothed_cross_entropy(logits, self.batch.labels, self.config.labelled.label_smoothing)
        };
        let losses =
            layers.iter().flatten().map(|layer| Ok(of(&layer.logits)?)).collect::<Result<Vec<_>>>()?;
        let loss = weighted_sum(&losses.iter().map(|loss| (loss, 1.0)).collect::<Vec<_>>())?;
        drop((layers, losses));
        Ok((f64::from(loss.item()?), self.split(&loss)?.0))
    }
}
