//! RoIAlign (He et al. 2017, torchvision's formula), on one map or on the levels of a feature pyramid.
//!
//! A bin's value is the mean of bilinear samples on a regular grid. Samples, bilinear shares and the rule "a sample
//! more than a pixel outside counts 0" all split into a vertical and a horizontal factor. So per RoI and axis the
//! samples are merged once into shares of pixels, and a bin is Σ_y Σ_x share_y share_x pixel: 2x2 samples (16 reads)
//! become 4 to 16, in runs of whole pixels (C contiguous numbers), and the two short lists are all that is kept for
//! the gradient. That runs the other way with the lists turned round: a pixel's gradient is Σ Σ (share share g of a bin).
//!
//! Layout: maps (N, H, W, C), results (R, C, OH, OW) row-major, as a fully connected layer flattens them.
//! Forward, a task owns a RoI; backward, a band of rows of a map, and adds its RoIs in their order: the same bits
//! on any number of threads.

mod shares;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::elementwise::CHUNK;
use crate::memory::{
    Place, channels_last, elements, from_channels_last, from_elements, on_host, written_in_chunks,
};
use crate::simd::for_each_level;
use crate::transpose::transpose;
use crate::{Error, Result, Value};
use shares::{Share, Shares, axis_shares};

/// How many samples a bin takes along each axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// As many as the bin is pixels long, rounded up (torchvision's `sampling_ratio` 0 or -1); at most [`MAX_SAMPLES`].
    Adaptive,
    /// This many, from 1 to [`MAX_SAMPLES`].
    Fixed(usize),
}

/// Where a RoI's corners lie on the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alignment {
    /// Corner x at x·scale, sides of at least one pixel (torchvision's `aligned=False`: its Faster R-CNN).
    Legacy,
    /// Corner x at x·scale - 1/2, the centre of a pixel being its coordinate (`aligned=True`: Detectron2).
    HalfPixel,
}

/// The most samples a bin takes along an axis, so that no RoI costs more than a map's worth of work.
pub const MAX_SAMPLES: usize = 1024;

/// The features of each RoI of one map, resampled to `output` (height, width).
///
/// A RoI is (batch index, x1, y1, x2, y2) in the units of `spatial_scale`⁻¹ pixels. Where it has no area (and `Adaptive`
/// so takes no sample), lies outside, or has a coordinate that is not finite, its features are 0.
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

/// [`roi_align`] on a pyramid: RoI i reads level `level_of[i]`, whose pixels are 1 / `scales[level]` apart.
///
/// # Shapes
/// `levels` (N, C, H_l, W_l), with N and C alike, to (R, C, `output.0`, `output.1`) in the order of `rois`.
///
/// # Errors
/// As [`roi_align`]; also if levels, scales and RoIs do not fit each other.
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
    let c = sizes[0].c;
    let (oh, ow) = output;
    let placed: Vec<Placed> = rois
        .par_iter()
        .zip(level_of)
        .map(|(roi, &level)| {
            let size = &sizes[level];
            let [image, x1, y1, x2, y2] = *roi;
            let finite = [x1, y1, x2, y2].iter().all(|at| at.is_finite());
            let axis = |low, high, pixels, bins| match finite {
                true => axis_shares(low, high, scales[level], pixels, bins, sampling, alignment),
                false => Shares::none(bins),
            };
            // `check` saw that the index is a small whole number.
            Placed { level, image: image as usize, y: axis(y1, y2, size.h, oh), x: axis(x1, x2, size.w, ow) }
        })
        .collect();

    let maps = levels.iter().map(|level| channels_last(level.tensor())).collect::<Result<Vec<_>>>()?;
    let out = {
        let maps = maps.iter().map(elements).collect::<Result<Vec<_>>>()?;
        written_in_chunks(rois.len() * c * oh * ow, c * oh * ow, |index, out| {
            let roi = &placed[index];
            let Size { h, w, c, .. } = sizes[roi.level];
            let image = &maps[roi.level][roi.image * h * w * c..][..h * w * c];
            let mut bins = vec![0f32; c * oh * ow];
            for (bin, to) in bins.chunks_exact_mut(c).enumerate() {
                let (ys, xs) = (roi.y.of(bin / ow), roi.x.of(bin % ow));
                add_weighted(to, image, w, ys, xs);
            }
            transpose(&bins, oh * ow, c, out.zeros());
        })
    };
    let out = from_elements(out, (rois.len(), c, oh, ow), levels[0].tensor())?;

    let tracked: Vec<bool> = levels.iter().map(|level| level.is_tracked()).collect();
    Ok(Value::operation(levels, out, move |gradient| {
        let host = on_host(gradient)?;
        let g = by_bins(&elements(&host)?, c, oh * ow);
        let turned: Vec<Placed> = placed.par_iter().map(Placed::turned).collect();
        let level_gradient = |(level, tracked): (usize, bool)| -> Result<Option<Tensor>> {
            let size = &sizes[level];
            let spread = tracked.then(|| spread(&g, &turned, level, size, (oh, ow)));
            spread.map(|g| from_channels_last(g, (size.n, size.h, size.w, size.c), gradient)).transpose()
        };
        tracked.into_iter().enumerate().map(level_gradient).collect()
    }))
}

/// Sizes of one map.
#[derive(Debug, Clone, Copy)]
struct Size {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
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

/// A RoI on its map: the shares that its bins have in rows and columns of pixels (or, turned, the other way round).
struct Placed {
    level: usize,
    image: usize,
    y: Shares,
    x: Shares,
}

impl Placed {
    fn turned(&self) -> Self {
        Self { level: self.level, image: self.image, y: self.y.turned(), x: self.x.turned() }
    }
}

/// Channels whose sums are held in registers at a time.
const BLOCK: usize = 64;

for_each_level! {
    /// out += Σ_y Σ_x share_y share_x pixel(y, x), pixels of a map of width `w` with as many channels as `out`.
    fn add_weighted(out: &mut [f32], map: &[f32], w: usize, ys: &[Share], xs: &[Share]) {
        let c = out.len();
        let mut blocks = out.chunks_exact_mut(BLOCK);
        let mut first = 0;
        for out in &mut blocks {
            let mut sums = [0f32; BLOCK];
            for y in ys {
                for x in xs {
                    let weight = y.weight * x.weight;
                    let pixel = &map[(y.source * w + x.source) * c + first..][..BLOCK];
                    for (sum, value) in sums.iter_mut().zip(pixel) {
                        *sum += weight * value;
                    }
                }
            }
            out.iter_mut().zip(&sums).for_each(|(out, sum)| *out += sum);
            first += BLOCK;
        }
        let rest = blocks.into_remainder();
        for y in ys {
            for x in xs {
                let weight = y.weight * x.weight;
                let pixel = &map[(y.source * w + x.source) * c + first..];
                rest.iter_mut().zip(pixel).for_each(|(out, value)| *out += weight * value);
            }
        }
    }
}

/// Rows of a map that one task of the backward pass owns.
const BAND: usize = 8;

/// The gradient of map `level`, (N, H, W, C); `g` (R, bins, C), `rois` turned.
fn spread(g: &[f32], rois: &[Placed], level: usize, size: &Size, (oh, ow): (usize, usize)) -> Vec<f32> {
    let &Size { n, h, w, c } = size;
    // All zeros.
    let mut out = written_in_chunks(n * h * w * c, CHUNK, |_, _: &mut Place<f32>| ());
    if out.is_empty() {
        return out;
    }
    let mut bands = Vec::new();
    for (image, out) in out.chunks_mut(h * w * c).enumerate() {
        bands.extend(out.chunks_mut(BAND * w * c).enumerate().map(|(band, out)| (image, band * BAND, out)));
    }
    bands.into_par_iter().for_each(|(image, first, out)| {
        let rows = first..first + out.len() / (w * c);
        for (r, roi) in rois.iter().enumerate() {
            if roi.level != level || roi.image != image {
                continue;
            }
            let g = &g[r * oh * ow * c..][..oh * ow * c];
            let touched = roi.y.targets();
            for y in touched.start.max(rows.start)..touched.end.min(rows.end) {
                let row = &mut out[(y - first) * w * c..][..w * c];
                for x in roi.x.targets() {
                    let to = &mut row[x * c..][..c];
                    add_weighted(to, g, ow, roi.y.of(y), roi.x.of(x));
                }
            }
        }
    });
    out
}

/// `g` (R, C, bins) as (R, bins, C).
fn by_bins(g: &[f32], c: usize, bins: usize) -> Vec<f32> {
    written_in_chunks(g.len(), c * bins, |roi, turned| {
        transpose(&g[roi * c * bins..][..c * bins], c, bins, turned.zeros())
    })
}
