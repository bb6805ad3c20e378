//! MCL with a memory, for data sets where a batch holds too few images of a class: the likenesses of each image to
//! remembered embeddings, of itself, of another image of its class, and of many of other classes.
//!
//! ```text
//! G_ab   = u_a · memory_b[drawn] / tau     drawn: itself, one of its class, K of others        (B, 2 + K)
//! VCL_a  = contrast of G_aa without its first column; then the first is the positive
//! ICL_ab = contrast of G_ab; its first two are positives
//! sVCL, sICL: G_aa and G_bb, G_ab and G_ba are to be alike, softened
//! ```
//!
//! Each network contrasts with its own memory (the authors' L-MCL code once mixes them up). Remembered rows are constants.

use candle_core::Tensor;
use ckd_kernels::Value;
use ckd_kernels::elementwise::weighted_sum;
use rand::RngCore;

use super::model::Layer;
use super::{CohortSets, pair};
use crate::config::Bank;
use crate::data::LabelledBatch;
use crate::distill::mcl::softened;
use crate::distill::{DistillError, Term, contrast_columns, draw_partners, likeness, remember};
use crate::engine::Result;
use crate::engine::task::Setting;

/// The terms of a batch; its embeddings are remembered.
pub(super) fn terms(
    setting: &Setting<'_, CohortSets>,
    bank: &Bank,
    layers: &[Vec<Layer>],
    batch: &LabelledBatch,
) -> Result<Vec<Term>> {
    let settings = pair(setting.config);
    let sides: Vec<(&Value, &Tensor)> = layers
        .iter()
        .zip(setting.student.peers())
        .filter_map(|(own, peer)| Some((&own.last()?.embedding, peer.memory.as_ref()?)))
        .collect();
    let drawn = draw_partners(
        setting.student.classes(),
        &batch.indices,
        bank.negatives,
        setting.random().next_u64(),
    )?;
    let columns = bank.negatives + 2;
    let without_itself: Vec<u32> = drawn.chunks_exact(columns).flat_map(|row| &row[1..]).copied().collect();
    let weights = ones(batch.labels.len(), sides.first().map(|(u, _)| u.tensor()))?;
    let own = sides
        .iter()
        .map(|(u, memory)| likeness(u, memory, &without_itself, settings.tau))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let mut sums: [Vec<Value>; 4] = Default::default();
    let [vcl, icl, soft_vcl, soft_icl] = &mut sums;
    for g in &own {
        vcl.push(contrast_columns(g, 1, &weights)?);
    }
    let soft = |g: &Value, aim: &Value| softened(g, aim.tensor(), &weights, settings.temperature);
    for (first, (u, own_memory)) in sides.iter().enumerate() {
        for (second, (v, other_memory)) in sides.iter().enumerate().skip(first + 1) {
            let forth = likeness(u, other_memory, &drawn, settings.tau)?;
            let back = likeness(v, own_memory, &drawn, settings.tau)?;
            icl.extend([contrast_columns(&forth, 2, &weights)?, contrast_columns(&back, 2, &weights)?]);
            soft_vcl.extend([soft(&own[first], &own[second])?, soft(&own[second], &own[first])?]);
            soft_icl.extend([soft(&forth, &back)?, soft(&back, &forth)?]);
        }
    }
    for (u, memory) in &sides {
        remember(memory, &batch.indices, u.tensor(), bank.momentum)?;
    }
    let kinds = [
        ("vcl", settings.vcl),
        ("icl", settings.icl),
        ("soft_vcl", settings.soft_vcl),
        ("soft_icl", settings.soft_icl),
    ];
    let term =
        |((kind, weight), parts): ((&str, f64), &Vec<Value>)| -> std::result::Result<Term, DistillError> {
            let parts: Vec<(&Value, f64)> = parts.iter().map(|part| (part, 1.0)).collect();
            Ok(Term { name: format!("mcl/{kind}"), value: weighted_sum(&parts)?, weight })
        };
    let on = kinds.into_iter().zip(&sums).filter(|((_, weight), _)| *weight != 0.0);
    Ok(on.map(term).collect::<std::result::Result<_, _>>()?)
}

/// The weights of as many images.
fn ones(images: usize, like: Option<&Tensor>) -> Result<Value> {
    let device = like.map_or(&candle_core::Device::Cpu, Tensor::device);
    Ok(Value::constant(Tensor::from_vec(vec![1f32; images], images, device)?))
}
