//! The losses of a whole cohort: every matrix of similarities is made once, however many terms look at it.
//!
//! Images are compared with those of the batch or, for data sets where a batch holds too few images of a
//! class, with remembered embeddings of last layers: of themselves, of another image of their class, and of K
//! of other classes.
//!
//! ```text
//! G_ab   = u_a · memory_b[drawn] / tau     drawn: itself, one of its class, K of others        (B, 2 + K)
//! VCL_a  = contrast of G_aa without its first column; then the first is the positive
//! ICL_ab = contrast of G_ab; its first two are positives
//! sVCL, sICL: as in the batch, of G_aa without its first column and of G_ab
//! ```
//!
//! Each network contrasts with its own memory (the authors' L-MCL code once mixes them up). Remembered rows
//! are constants.
//!
//! NCE is linear in the samples' weights, so a layer's own contrast, which is part of each of its pairs, is
//! one term with the sum of their weights.

use candle_core::{Device, Tensor};
use ckd_kernels::Value;
use ckd_kernels::elementwise::weighted_sum;

use super::pair::{Instance, Pair, constant_weights, nce, similarities, softened};
use crate::distill::bank::{contrast_columns, likeness};
use crate::distill::distiller::{DistillError, Term};
use crate::distill::scalar::expect_positive;

/// A layer of a network: their numbers.
type LayerAt = (usize, usize);

/// Similarities of the images of a batch in each layer of each network, and across networks.
#[derive(Debug, Clone)]
pub struct Likenesses {
    with: With,
    /// G(U, U), by network and layer.
    own: Vec<Vec<Value>>,
    across: Vec<Across>,
}

/// Images that a batch is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum With {
    /// The images of the batch; labels say which are positives.
    Batch,
    /// Remembered ones; the first columns are positives.
    Memories,
}

/// Two layers of different networks.
#[derive(Debug, Clone)]
struct Across {
    ends: (LayerAt, LayerAt),
    /// G(U, V).
    forth: Value,
    /// G(V, U).
    back: Value,
}

impl Likenesses {
    /// Similarities of `embeddings`, by network and layer, within the batch.
    ///
    /// # Shapes
    /// Each (B, D), unit rows.
    ///
    /// # Errors
    /// Shapes that differ; a `tau` that is not positive.
    pub fn of(embeddings: &[Vec<Value>], tau: f64) -> Result<Self, DistillError> {
        let of_layer = |u: &Value| similarities(u, u, tau);
        let of_network = |layers: &Vec<Value>| layers.iter().map(of_layer).collect();
        let own = embeddings.iter().map(of_network).collect::<Result<_, DistillError>>()?;
        let mut across = Vec::new();
        for ends in pairs(embeddings) {
            let [u, v] = [ends.0, ends.1].map(|(network, layer)| &embeddings[network][layer]);
            across.push(Across { ends, forth: similarities(u, v, tau)?, back: similarities(v, u, tau)? });
        }
        Ok(Self { with: With::Batch, own, across })
    }

    /// Similarities of `embeddings`, by network and layer, to memory banks of the networks' last layers;
    /// `drawn` as [`ByClass::partners`](crate::distill::ByClass::partners) gives it. The memories may move
    /// only after the way back.
    ///
    /// # Shapes
    /// Embeddings (B, D), unit rows; memories (n, D); `drawn` B · (2 + K) rows of the memories.
    ///
    /// # Errors
    /// Shapes that do not fit; another number of memories than of networks; a `tau` that is not positive.
    pub fn to_memories(
        embeddings: &[Vec<Value>],
        memories: &[&Tensor],
        drawn: &[u32],
        tau: f64,
    ) -> Result<Self, DistillError> {
        let images = embeddings.iter().flatten().next().map_or(0, |u| u.dims().first().copied().unwrap_or(0));
        let columns = drawn.len().checked_div(images).unwrap_or(0);
        if columns < 2 || columns * images != drawn.len() || memories.len() != embeddings.len() {
            let (networks, given) = (embeddings.len(), memories.len());
            let reason =
                format!("{images} images of {networks} networks, {} rows of {given} memories", drawn.len());
            return Err(DistillError::invalid("mcl", reason));
        }
        let others: Vec<u32> = drawn.chunks_exact(columns).flat_map(|row| &row[1..]).copied().collect();
        // By network, layer, and whose memory: the own one without the image itself.
        let to_all = |network: usize, u: &Value| {
            let to = |(owner, memory): (usize, &&Tensor)| {
                likeness(u, memory, if owner == network { &others } else { drawn }, tau)
            };
            memories.iter().enumerate().map(to).collect::<Result<Vec<Value>, _>>()
        };
        let of_network = |(network, layers): (usize, &Vec<Value>)| {
            layers.iter().map(|u| to_all(network, u)).collect::<Result<Vec<_>, _>>()
        };
        let to = embeddings.iter().enumerate().map(of_network).collect::<Result<Vec<_>, DistillError>>()?;
        let across = |(first, second): (LayerAt, LayerAt)| Across {
            ends: (first, second),
            forth: to[first.0][first.1][second.0].clone(),
            back: to[second.0][second.1][first.0].clone(),
        };
        let own = |(network, layers): (usize, &Vec<Vec<Value>>)| {
            layers.iter().map(|to| to[network].clone()).collect()
        };
        Ok(Self {
            with: With::Memories,
            own: to.iter().enumerate().map(own).collect(),
            across: pairs(embeddings).into_iter().map(across).collect(),
        })
    }

    /// The pairs of layers of different networks, a lower one first, in the order of their weights.
    pub fn pairs(&self) -> impl Iterator<Item = (LayerAt, LayerAt)> {
        self.across.iter().map(|across| across.ends)
    }

    fn device(&self) -> &Device {
        self.own.iter().flatten().next().map_or(&Device::Cpu, |own| own.tensor().device())
    }

    /// The similarities as constants, the targets of the soft terms.
    #[must_use]
    pub fn detached(&self) -> Self {
        let across = |across: &Across| Across {
            ends: across.ends,
            forth: across.forth.detach(),
            back: across.back.detach(),
        };
        Self {
            with: self.with,
            own: self.own.iter().map(|layers| layers.iter().map(Value::detach).collect()).collect(),
            across: self.across.iter().map(across).collect(),
        }
    }

    /// MCL of networks with one layer each: VCL of every network, the other terms of every pair. Likenesses
    /// to memories use of `labels` their number alone, and of `settings` not whether an image pairs with
    /// itself: it does.
    ///
    /// # Errors
    /// Labels that do not fit; a temperature that is not positive.
    pub fn mcl(&self, labels: &[u32], settings: &Pair) -> Result<Vec<Term>, DistillError> {
        let one = constant_weights(labels.len(), 1.0, self.device())?;
        let own: Vec<Vec<Value>> = self.own.iter().map(|layers| vec![one.clone(); layers.len()]).collect();
        let weights = vec![one; self.across.len()];
        self.terms("mcl", (labels, 1.0), (&own, &weights), settings, self)
    }

    /// L-MCL: the sum of [`pair`](super::pair()) over ordered pairs of networks and all pairs of their
    /// layers. The `weights` are in the order of [`pairs`](Self::pairs); `targets` are the likenesses that
    /// the soft terms aim at, if not these.
    ///
    /// # Shapes
    /// Each of `weights` (B).
    ///
    /// # Errors
    /// As [`mcl`](Self::mcl); other numbers of weights or targets.
    pub fn layer_wise(
        &self,
        labels: &[u32],
        weights: &[Value],
        settings: &Pair,
        targets: Option<&Self>,
    ) -> Result<Vec<Term>, DistillError> {
        let targets = targets.unwrap_or(self);
        if weights.len() != self.across.len() || targets.across.len() != self.across.len() {
            let (pairs, given, held) = (self.across.len(), weights.len(), targets.across.len());
            let reason = format!("{pairs} pairs of layers, but weights of {given} and targets of {held}");
            return Err(DistillError::invalid("l_mcl", reason));
        }
        let of_layer = |at: LayerAt| -> Result<Value, DistillError> {
            let its =
                self.across.iter().zip(weights).filter(|(pair, _)| pair.ends.0 == at || pair.ends.1 == at);
            let its: Vec<(&Value, f64)> = its.map(|(_, weight)| (weight, 1.0)).collect();
            match its.is_empty() {
                true => constant_weights(labels.len(), 0.0, self.device()),
                false => Ok(weighted_sum(&its)?),
            }
        };
        let of_network = |(network, layers): (usize, &Vec<Value>)| {
            (0..layers.len()).map(|layer| of_layer((network, layer))).collect()
        };
        let own = self.own.iter().enumerate().map(of_network).collect::<Result<Vec<Vec<Value>>, _>>()?;
        // Ordered pairs are twice the unordered ones.
        self.terms("l_mcl", (labels, 2.0), (&own, weights), settings, targets)
    }

    /// The terms with `factor` times their weights; `own` weighs each layer's own contrast, `pairs` each
    /// pair's.
    fn terms(
        &self,
        name: &'static str,
        (labels, factor): (&[u32], f64),
        (own, pairs): (&[Vec<Value>], &[Value]),
        settings: &Pair,
        targets: &Self,
    ) -> Result<Vec<Term>, DistillError> {
        expect_positive(name, "temperature", settings.temperature)?;
        let Pair { temperature, instance, .. } = *settings;
        let contrast = |g: &Value, w: &Value, instance: Instance, positives: usize| match self.with {
            With::Batch => nce(g, labels, w, instance),
            With::Memories => contrast_columns(g, positives, w),
        };
        let mut kinds = Kinds::default();
        if settings.vcl != 0.0 {
            for (g, w) in self.own.iter().flatten().zip(own.iter().flatten()) {
                kinds.vcl.push(contrast(g, w, Instance::Excluded, 1)?);
            }
        }
        for ((pair, target), w) in self.across.iter().zip(&targets.across).zip(pairs) {
            let Across { ends: (first, second), forth, back } = pair;
            if settings.icl != 0.0 {
                kinds.icl.extend([contrast(forth, w, instance, 2)?, contrast(back, w, instance, 2)?]);
            }
            if settings.soft_vcl != 0.0 {
                for (own, other) in [(first, second), (second, first)] {
                    let (own, aim) = (&self.own[own.0][own.1], &targets.own[other.0][other.1]);
                    kinds.soft_vcl.push(softened(own, aim.tensor(), w, temperature)?);
                }
            }
            if settings.soft_icl != 0.0 {
                let (to_forth, to_back) = (target.back.tensor(), target.forth.tensor());
                kinds.soft_icl.push(softened(forth, to_forth, w, temperature)?);
                kinds.soft_icl.push(softened(back, to_back, w, temperature)?);
            }
        }
        kinds.terms(name, settings, factor)
    }
}

/// The scalars of each kind of term.
#[derive(Debug, Default)]
struct Kinds {
    vcl: Vec<Value>,
    icl: Vec<Value>,
    soft_vcl: Vec<Value>,
    soft_icl: Vec<Value>,
}

impl Kinds {
    /// A term `NAME/KIND` of each kind that counts, with `factor` times its weight.
    fn terms(&self, name: &str, settings: &Pair, factor: f64) -> Result<Vec<Term>, DistillError> {
        let kinds = [
            ("vcl", settings.vcl, &self.vcl),
            ("icl", settings.icl, &self.icl),
            ("soft_vcl", settings.soft_vcl, &self.soft_vcl),
            ("soft_icl", settings.soft_icl, &self.soft_icl),
        ];
        let on = kinds.into_iter().filter(|(_, weight, parts)| *weight != 0.0 && !parts.is_empty());
        on.map(|(kind, weight, parts)| {
            let value = weighted_sum(&parts.iter().map(|part| (part, 1.0)).collect::<Vec<_>>())?;
            Ok(Term { name: format!("{name}/{kind}"), value, weight: factor * weight })
        })
        .collect()
    }
}

/// Pairs of layers of different networks, a lower one first.
fn pairs<T>(networks: &[Vec<T>]) -> Vec<(LayerAt, LayerAt)> {
    let mut pairs = Vec::new();
    for first in 0..networks.len() {
        for second in first + 1..networks.len() {
            for layer in 0..networks[first].len() {
                pairs.extend((0..networks[second].len()).map(|other| ((first, layer), (second, other))));
            }
        }
    }
    pairs
}
