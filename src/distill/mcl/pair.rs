//! Losses of a pair of peers in MCL and L-MCL (Yang et al., arXiv 2207.11518).
//!
//! For unit embeddings U and V (B, D) of two networks, or of layers of two networks, G(U, V) = U Vᵀ / tau,
//! and sample weights w:
//!
//! ```text
//! NCE(G; w)      = -1/B sum_i w_i/|P(i)| sum_{j in P(i)} [ G_ij - log sum_{k != i} exp G_ik ]
//! KLT(G, G'; w)  = T²/B sum_i w_i KL( softmax(sg(G'_i) / T) || softmax(G_i / T) )         the diagonal included
//!
//! VCL  = NCE(G(U,U)) + NCE(G(V,V))                        sVCL = KLT(G(U,U), G(V,V)) + KLT(G(V,V), G(U,U))
//! ICL  = NCE(G(U,V)) + NCE(G(V,U))                        sICL = KLT(G(U,V), G(V,U)) + KLT(G(V,U), G(U,V))
//! pair = alpha VCL + beta ICL + gamma sVCL + lambda sICL
//! ```
//!
//! P(i): the other samples of i's class in the batch. A row without any counts 0; the mean still divides by
//! B. G is divided by tau and, in KLT, by T again. L-MCL sums `pair` over ordered pairs of networks: twice
//! the unordered sum, as `pair` and its weights are symmetric. The targets of KLT are constants; [`Targets`]
//! holds them where the same ones must serve again ([`meta`](crate::distill::meta)).

use candle_core::{Device, Tensor};
use ckd_kernels::elementwise::weighted_sum;
use ckd_kernels::row_losses::{Positives, contrast, softened_divergence};
use ckd_kernels::{Value, similarity};
use ckd_settings::choices;

use crate::distill::distiller::DistillError;
use crate::distill::rows::{paired, weighted_mean_over_rows};
use crate::distill::scalar::expect_positive;

pub(super) const NAME: &str = "mcl";

/// The weights and temperatures of a pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// alpha, of VCL (0.1; 0.01 for L-MCL on ImageNet).
    pub vcl: f64,
    /// beta, of ICL (as alpha).
    pub icl: f64,
    /// gamma, of sVCL (1).
    pub soft_vcl: f64,
    /// lambda, of sICL (1).
    pub soft_icl: f64,
    /// Divides the cosines (0.1; 0.07 on ImageNet).
    pub tau: f64,
    /// T, which softens the targets further (3).
    pub temperature: f64,
    /// Role of the pair of an image and itself across the networks in ICL.
    pub instance: Instance,
}

impl Default for Pair {
    /// The authors' settings for CIFAR-100.
    fn default() -> Self {
        Self {
            vcl: 0.1,
            icl: 0.1,
            soft_vcl: 1.0,
            soft_icl: 1.0,
            tau: 0.1,
            temperature: 3.0,
            instance: Instance::Excluded,
        }
    }
}

choices! {
    /// Role of the pair (i, i), an image and itself seen by another network, in ICL.
    pub enum Instance {
        /// Neither positive nor negative: the authors' code for CIFAR.
        Excluded = "excluded",
        /// A positive: as with their memory, on ImageNet.
        Included = "included",
    }
}

/// The matrices that the soft terms aim at, as constants.
#[derive(Debug, Clone)]
pub struct Targets {
    uu: Tensor,
    vv: Tensor,
    uv: Tensor,
    vu: Tensor,
}

impl Targets {
    /// Targets of a pair of embeddings.
    ///
    /// # Shapes
    /// `u` and `v` (B, D), unit rows.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn of(u: &Tensor, v: &Tensor, tau: f64) -> Result<Self, DistillError> {
        let (u, v) = (Value::constant(u.clone()), Value::constant(v.clone()));
        let of = |a: &Value, b: &Value| Ok::<_, DistillError>(similarities(a, b, tau)?.tensor().clone());
        Ok(Self { uu: of(&u, &u)?, vv: of(&v, &v)?, uv: of(&u, &v)?, vu: of(&v, &u)? })
    }
}

/// The loss of a pair of embeddings. `targets` are those of the embeddings themselves unless given.
///
/// # Shapes
/// `u` and `v` (B, D), unit rows; `labels` B classes; `weights` (B); a scalar.
///
/// # Errors
/// Shapes that do not fit; temperatures that are not positive.
pub fn pair(
    u: &Value,
    v: &Value,
    labels: &[u32],
    weights: &Value,
    settings: &Pair,
    targets: Option<&Targets>,
) -> Result<Value, DistillError> {
    let Pair { tau, temperature, instance, .. } = *settings;
    let mut terms = Vec::new();
    if settings.vcl != 0.0 {
        terms.push((vcl(u, v, labels, weights, tau)?, settings.vcl));
    }
    if settings.icl != 0.0 {
        terms.push((icl(u, v, labels, weights, tau, instance)?, settings.icl));
    }
    if settings.soft_vcl != 0.0 || settings.soft_icl != 0.0 {
        let own;
        let targets = match targets {
            Some(targets) => targets,
            None => {
                own = Targets::of(u.tensor(), v.tensor(), tau)?;
                &own
            }
        };
        if settings.soft_vcl != 0.0 {
            terms.push((soft_vcl(u, v, weights, (tau, temperature), targets)?, settings.soft_vcl));
        }
        if settings.soft_icl != 0.0 {
            terms.push((soft_icl(u, v, weights, (tau, temperature), targets)?, settings.soft_icl));
        }
    }
    sum(&terms)
}

/// Equal weights of samples, on `device`.
///
/// # Shapes
/// (B).
pub(super) fn constant_weights(samples: usize, weight: f32, device: &Device) -> Result<Value, DistillError> {
    Ok(Value::constant(Tensor::from_vec(vec![weight; samples], samples, device)?))
}

fn sum(terms: &[(Value, f64)]) -> Result<Value, DistillError> {
    Ok(weighted_sum(&terms.iter().map(|(term, weight)| (term, *weight)).collect::<Vec<_>>())?)
}

/// Vanilla contrastive learning (VCL): each network on its own.
///
/// # Shapes
/// As [`pair`]'s.
///
/// # Errors
/// Shapes that do not fit; temperatures that are not positive.
pub fn vcl(u: &Value, v: &Value, labels: &[u32], weights: &Value, tau: f64) -> Result<Value, DistillError> {
    let of = |a: &Value| nce(&similarities(a, a, tau)?, labels, weights, Instance::Excluded);
    sum(&[(of(u)?, 1.0), (of(v)?, 1.0)])
}

/// Interactive contrastive learning (ICL): across the networks.
///
/// # Shapes
/// As [`pair`]'s.
///
/// # Errors
/// Shapes that do not fit; temperatures that are not positive.
pub fn icl(
    u: &Value,
    v: &Value,
    labels: &[u32],
    weights: &Value,
    tau: f64,
    instance: Instance,
) -> Result<Value, DistillError> {
    let of = |a: &Value, b: &Value| nce(&similarities(a, b, tau)?, labels, weights, instance);
    sum(&[(of(u, v)?, 1.0), (of(v, u)?, 1.0)])
}

/// Soft VCL: the similarities within one network are to be those within the other.
///
/// # Shapes
/// As [`pair`]'s.
///
/// # Errors
/// Shapes that do not fit; temperatures that are not positive.
pub fn soft_vcl(
    u: &Value,
    v: &Value,
    weights: &Value,
    (tau, temperature): (f64, f64),
    targets: &Targets,
) -> Result<Value, DistillError> {
    let (uu, vv) = (similarities(u, u, tau)?, similarities(v, v, tau)?);
    let of = |a: &Value, target: &Tensor| softened(a, target, weights, temperature);
    sum(&[(of(&uu, &targets.vv)?, 1.0), (of(&vv, &targets.uu)?, 1.0)])
}

/// Soft ICL: the similarities across the networks are to be the same from both sides.
///
/// # Shapes
/// As [`pair`]'s.
///
/// # Errors
/// Shapes that do not fit; temperatures that are not positive.
pub fn soft_icl(
    u: &Value,
    v: &Value,
    weights: &Value,
    (tau, temperature): (f64, f64),
    targets: &Targets,
) -> Result<Value, DistillError> {
    let (uv, vu) = (similarities(u, v, tau)?, similarities(v, u, tau)?);
    let of = |a: &Value, target: &Tensor| softened(a, target, weights, temperature);
    sum(&[(of(&uv, &targets.vu)?, 1.0), (of(&vu, &targets.uv)?, 1.0)])
}

/// Similarities G(U, V) of the rows of two matrices.
///
/// # Shapes
/// `u` and `v` (B, D); (B, B).
pub(super) fn similarities(u: &Value, v: &Value, tau: f64) -> Result<Value, DistillError> {
    expect_positive(NAME, "tau", tau)?;
    paired(NAME, u.tensor(), v)?;
    Ok(similarity::similarities(u, v, tau.recip())?)
}

/// Contrast NCE(G; w) with the rows of the same class.
///
/// # Shapes
/// `g` (B, B), `labels` B classes, `weights` (B); a scalar.
pub(super) fn nce(
    g: &Value,
    labels: &[u32],
    weights: &Value,
    instance: Instance,
) -> Result<Value, DistillError> {
    let b = labels.len();
    if g.dims() != [b, b] {
        let reason = format!("{b} samples, but similarities {:?}", g.dims());
        return Err(DistillError::invalid(NAME, reason));
    }
    let positives = Positives::Alike { labels, itself: instance == Instance::Included };
    weighted_mean_over_rows(NAME, g, weights, || contrast(g, positives))
}

/// KLT(G, `target`; w): of likenesses to the samples of the batch, or to others.
///
/// # Shapes
/// `g` and `target` (B, K), `weights` (B); a scalar.
///
/// # Errors
/// Shapes that do not fit; a temperature that is not positive.
pub fn softened(
    g: &Value,
    target: &Tensor,
    weights: &Value,
    temperature: f64,
) -> Result<Value, DistillError> {
    expect_positive(NAME, "temperature", temperature)?;
    paired(NAME, target, g)?;
    weighted_mean_over_rows(NAME, g, weights, || softened_divergence(target, g, temperature))
}
