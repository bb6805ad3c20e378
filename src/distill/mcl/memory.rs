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

use super::{Kinds, Pair, constant_weights, softened};
use crate::distill::{DistillError, Term, contrast_columns, likeness};

/// MCL of the last layers of several networks: each one's embeddings and its memory; `drawn` as
/// [`draw_partners`](crate::distill::draw_partners) gives it.
///
/// # Shapes
/// Embeddings (B, D), memories (n, D), `drawn` B · (2 + K) rows of the memories.
///
/// # Errors
/// Shapes that do not fit; temperatures that are not positive.
pub fn remembered(
    networks: &[(&Value, &Tensor)],
    drawn: &[u32],
    settings: &Pair,
) -> Result<Vec<Term>, DistillError> {
    let images = networks.first().map_or(0, |(u, _)| u.dims().first().copied().unwrap_or(0));
    let columns = drawn.len().checked_div(images).unwrap_or(0);
    if columns < 2 || columns * images != drawn.len() {
        let reason = format!("{images} images and {} rows of a memory", drawn.len());
        return Err(DistillError::invalid("mcl", reason));
    }
    let without_itself: Vec<u32> = drawn.chunks_exact(columns).flat_map(|row| &row[1..]).copied().collect();
    let own = networks
        .iter()
        .map(|(u, memory)| likeness(u, memory, &without_itself, settings.tau))
        .collect::<Result<Vec<_>, _>>()?;
    let weights = constant_weights(images, 1.0);
    let soft = |g: &Value, aim: &Value| softened(g, aim.tensor(), &weights, settings.temperature);
    let mut kinds = Kinds::default();
    for g in &own {
        kinds.vcl.push(contrast_columns(g, 1, &weights)?);
    }
    for (first, (u, memory)) in networks.iter().enumerate() {
        for (second, (v, other)) in networks.iter().enumerate().skip(first + 1) {
            let forth = likeness(u, other, drawn, settings.tau)?;
            let back = likeness(v, memory, drawn, settings.tau)?;
            kinds.icl.extend([contrast_columns(&forth, 2, &weights)?, contrast_columns(&back, 2, &weights)?]);
            kinds.soft_vcl.extend([soft(&own[first], &own[second])?, soft(&own[second], &own[first])?]);
            kinds.soft_icl.extend([soft(&forth, &back)?, soft(&back, &forth)?]);
        }
    }
    kinds.terms("mcl", settings, 1.0)
}
