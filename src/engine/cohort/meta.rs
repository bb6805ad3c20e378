//! L-MCL's meta step: the weights of pairs of stages change so that virtual updates by the contrastive loss, followed by
//! one by the labels, would leave a lower loss of the labels. The networks are run for it with virtual weights, and are
//! afterwards as they were.

use candle_core::Tensor;
use ckd_detectors::classifier::smoothed_cross_entropy;
use ckd_detectors::images::Images;
use ckd_detectors::nn::Mode;
use ckd_detectors::param::{ParamStore, write_in_place};
use ckd_kernels::Value;
use ckd_kernels::conv::without_winograd;
use ckd_kernels::elementwise::weighted_sum;
use ckd_kernels::pattern::ActivationPattern;

use super::model::{Cohort, Layer};
use super::pass::{likenesses, weights};
use crate::config::CohortConfig;
use crate::distill::mcl::Likenesses;
use crate::distill::meta::{Loss, MetaGradient, MetaStep, Objective, Parameters, Slope, meta_gradient};
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

/// Scalars and their weights in a loss.
type Terms = Vec<(Value, f64)>;

/// The losses of the virtual updates. Their convolutions round as little as f32 can: what rounding moves across a ReLU's kink
/// gets another gradient.
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

    /// A loss and its gradients by theta and by phi; with `targets`, its soft terms aim at these.
    fn at(
        &self,
        loss: Loss,
        theta: &Parameters,
        phi: &Parameters,
        targets: Option<&Likenesses>,
    ) -> Result<Slope<Option<Likenesses>>> {
        self.place(theta)?;
        phi.iter().try_for_each(|(name, tensor)| self.cohort.phi().set(name, tensor))?;
        let layers = self.cohort.layers(self.batch.images, Mode::Train)?;
        let (terms, held) = match loss {
            Loss::Inner => self.contrasts(&layers, targets)?,
            Loss::Outer => (self.labelled(&layers)?, None),
        };
        drop(layers);
        let loss = weighted_sum(&terms.iter().map(|(term, weight)| (term, *weight)).collect::<Vec<_>>())?;
        drop(terms);
        let of_phi = |name: &str| self.cohort.phi().get(name).is_some();
        let (phi, theta) = loss.backward()?.into_iter().partition(|(name, _)| of_phi(name));
        Ok(Slope { loss: loss.item()?.into(), theta, phi, held })
    }

    /// The contrastive terms with their weights, and the targets of the soft ones.
    fn contrasts(
        &self,
        layers: &[Vec<Layer>],
        targets: Option<&Likenesses>,
    ) -> Result<(Terms, Option<Likenesses>)> {
        let likenesses = likenesses(self.config, self.cohort, layers, self.batch.drawn)?;
        let weights = weights(self.cohort, layers, &likenesses)?;
        let pair = self.config.cohort.pair();
        let terms = likenesses.layer_wise(self.batch.labels, &weights, &pair, targets)?;
        let terms = terms.into_iter().map(|term| (term.value, term.weight)).collect();
        Ok((terms, targets.is_none().then(|| likenesses.detached())))
    }

    /// The cross-entropies of all layers with the labels.
    fn labelled(&self, layers: &[Vec<Layer>]) -> Result<Terms> {
        let of = |layer: &Layer| {
            let smoothing = self.config.labelled.label_smoothing;
            Ok((smoothed_cross_entropy(&layer.logits, self.batch.labels, smoothing)?, 1.0))
        };
        layers.iter().flatten().map(of).collect()
    }
}

/// What reverse mode takes for a constant at a point: the targets of soft terms, and the choices of ReLUs and poolings.
struct Held {
    targets: Option<Likenesses>,
    pattern: ActivationPattern,
}

impl Objective for Lookahead<'_> {
    type Held = Held;
    type Error = EngineError;

    fn slope(&self, loss: Loss, theta: &Parameters, phi: &Parameters) -> Result<Slope<Held>> {
        let look = || without_winograd(|| self.at(loss, theta, phi, None));
        let (found, pattern) = ActivationPattern::recorded(look);
        let Slope { loss, theta, phi, held: targets } = found?;
        Ok(Slope { loss, theta, phi, held: Held { targets, pattern } })
    }

    fn slope_beside(
        &self,
        loss: Loss,
        theta: &Parameters,
        phi: &Parameters,
        held: &Held,
    ) -> Result<(Parameters, Parameters)> {
        let look = || without_winograd(|| self.at(loss, theta, phi, held.targets.as_ref()));
        let found = held.pattern.held(look)?;
        Ok((found.theta, found.phi))
    }
}
