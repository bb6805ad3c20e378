//! RoIAlign (He et al. 2017, torchvision's formula), on one map or on the levels of a feature pyramid.
//!
//! A bin's value is the mean of bilinear samples on a regular grid. Samples, bilinear shares and the rule "a
//! sample more than a pixel outside counts 0" all split into a vertical and a horizontal factor. So per RoI
//! and axis the samples are merged once into shares of pixels, and a bin is Σ_y Σ_x share_y share_x pixel:
//! 2x2 samples (16 reads) become 4 to 16, in runs of whole pixels (C contiguous numbers), and the two short
//! lists are all that is kept for the gradient. That runs the other way with the lists turned round: a
//! pixel's gradient is Σ Σ (share share g of a bin).
//!
//! Layout: maps (N, H, W, C), results (R, C, OH, OW) row-major, as a fully connected layer flattens them.
//! Forward, a task owns a RoI; backward, a band of rows of a map, and adds its RoIs in their order: the same
//! bits on any number of threads.

mod compute;
mod sampling;
mod shares;

pub use sampling::{Alignment, MAX_SAMPLES, Sampling};

use crate::dispatch;
use crate::memory::nhwc;
use crate::{Error, Result, Value};
use compute::{Regions, RoiAlign, RoiAlignGradient, Size};

/// RoI pooling by RoIAlign (He et al. 2017, arXiv 1703.06870): features of each RoI of one map, at `output`
/// (height, width).
///
/// A RoI is (batch index, x1, y1, x2, y2) in the units of `spatial_scale`⁻¹ pixels. Where it has no area (and
/// `Adaptive` so takes no sample), lies outside, or has a coordinate that is not finite, its features are 0.
///
/// # Shapes
/// `x` (N, C, H, W) and R `rois` to (R, C, `output.0`, `output.1`), row-major in memory.
///
/// # Errors
/// If a batch index is not one of 0..N, or the samples are not 1 to [`MAX_SAMPLES`].
pub fn roi_align(
    x: &Value,
    rois: &[[f32; 5]],
    output: (usize, usize),
    spatial_scale: f32,
    sampling: Sampling,
    alignment: Alignment,
) -> Result<Value> {
    multi_level_roi_align(&[x], &[spatial_scale], rois, &vec![0; rois.len()], output, sampling, alignment)
}

/// Multi-level RoI pooling: [`roi_align`] on a pyramid, where RoI i reads level `level_of[i]`.
///
/// The pixels of a level are 1 / `scales[level]` apart.
///
/// # Shapes
/// `levels` (N, C, H_l, W_l), with N and C alike, to (R, C, `output.0`, `output.1`) in the order of `rois`.
///
/// # Errors
/// The errors of [`roi_align`]; also if levels, scales and RoIs do not fit each other.
pub fn multi_level_roi_align(
    levels: &[&Value],
    scales: &[f32],
    rois: &[[f32; 5]],
    level_of: &[usize],
    output: (usize, usize),
    sampling: Sampling,
    alignment: Alignment,
) -> Result<Value> {
    let sizes = check(levels, scales, rois, level_of, sampling)?;
    let regions = Regions {
        sizes,
        scales: scales.to_vec(),
        rois: rois.to_vec(),
        level_of: level_of.to_vec(),
        output,
        sampling,
        alignment,
    };
    let maps = levels.iter().map(|level| nhwc(level.tensor())).collect::<Result<Vec<_>>>()?;
    let out = dispatch::run(levels[0].tensor(), RoiAlign { maps: &maps, regions: &regions })?;
    let wanted: Vec<bool> = levels.iter().map(|level| level.is_tracked()).collect();
    Ok(Value::operation(levels, out, move |g| {
        dispatch::run(g, RoiAlignGradient { g, regions: &regions, wanted: &wanted })
    }))
}

fn check(
    levels: &[&Value],
    scales: &[f32],
    rois: &[[f32; 5]],
    level_of: &[usize],
    sampling: Sampling,
) -> Result<Vec<Size>> {
    let invalid = |reason: String| Err(Error::invalid("roi_align", reason));
    if levels.is_empty() || levels.len() != scales.len() || rois.len() != level_of.len() {
        let (levels, scales) = (levels.len(), scales.len());
        let (rois, named) = (rois.len(), level_of.len());
        return invalid(format!(
            "{levels} levels with {scales} scales, {rois} RoIs with {named} level numbers"
        ));
    }
    let mut sizes = Vec::with_capacity(levels.len());
    for level in levels {
        let (n, c, h, w) = level.tensor().dims4()?;
        sizes.push(Size { n, h, w, c });
    }
    let Size { n, c, .. } = sizes[0];
    if let Some(other) = levels.iter().find(|level| level.dims()[..2] != [n, c]) {
        return invalid(format!(
            "levels {:?} and {:?}: images or channels differ",
            levels[0].dims(),
            other.dims()
        ));
    }
    if let Some(scale) = scales.iter().find(|scale| !(scale.is_finite() && **scale > 0.0)) {
        return invalid(format!("the spatial scale {scale} is not positive"));
    }
    if let Sampling::Fixed(samples) = sampling
        && !(1..=MAX_SAMPLES).contains(&samples)
    {
        return invalid(format!("{samples} samples, 1 to {MAX_SAMPLES} are possible"));
    }
    for (i, (roi, &level)) in rois.iter().zip(level_of).enumerate() {
        if level >= levels.len() {
            return invalid(format!("RoI {i} is of level {level}, there are {}", levels.len()));
        }
        // Also false for NaN.
        if !(roi[0] >= 0.0 && roi[0] < n as f32 && roi[0].fract() == 0.0) {
            return invalid(format!("RoI {i} is of image {}, there are {n}", roi[0]));
        }
    }
    Ok(sizes)
}
