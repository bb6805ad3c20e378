//! The passes over maps and regions, forward and backward.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;
use rayon::prelude::*;

use super::sampling::{Alignment, Sampling};
use super::shares::{Share, Shares, axis_shares};
use crate::Result;
use crate::dispatch::Host;
use crate::memory::{elements, from_channels_last, from_elements, on_host, written_in_chunks, zeros};
use crate::simd::for_each_level;
use crate::transpose::transpose;

/// Sizes of one map.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) n: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) c: usize,
}

/// The regions of interest, checked, and the maps that they lie on.
pub(super) struct Regions {
    /// By level.
    pub(super) sizes: Vec<Size>,
    /// By level: the map's pixels are 1 / scale apart.
    pub(super) scales: Vec<f32>,
    /// Batch index, x1, y1, x2, y2.
    pub(super) rois: Vec<[f32; 5]>,
    pub(super) level_of: Vec<usize>,
    /// Bins (height, width) of a RoI.
    pub(super) output: (usize, usize),
    pub(super) sampling: Sampling,
    pub(super) alignment: Alignment,
}

impl Regions {
    /// Each RoI's shares on its map.
    fn placed(&self) -> Vec<Placed> {
        let place = |(roi, &level): (&[f32; 5], &usize)| {
            let (size, (oh, ow)) = (&self.sizes[level], self.output);
            let [image, x1, y1, x2, y2] = *roi;
            let finite = [x1, y1, x2, y2].iter().all(|at| at.is_finite());
            let axis = |low, high, pixels, bins| match finite {
                true => {
                    axis_shares(low, high, self.scales[level], pixels, bins, self.sampling, self.alignment)
                }
                false => Shares::none(bins),
            };
            // The index was checked to be a small whole number.
            Placed { level, image: image as usize, y: axis(y1, y2, size.h, oh), x: axis(x1, x2, size.w, ow) }
        };
        self.rois.par_iter().zip(&self.level_of).map(place).collect()
    }
}

/// The maps (N, H, W, C) of all levels.
pub(super) struct RoiAlign<'a> {
    pub(super) maps: &'a [Tensor],
    pub(super) regions: &'a Regions,
}

impl Host for RoiAlign<'_> {
    /// (R, C, OH, OW), row-major.
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let placed = self.regions.placed();
        let ((oh, ow), c) = (self.regions.output, self.regions.sizes[0].c);
        let maps = self.maps.iter().map(elements).collect::<Result<Vec<_>>>()?;
        let out = written_in_chunks(placed.len() * c * oh * ow, c * oh * ow, |index, out| {
            let roi = &placed[index];
            let Size { h, w, c, .. } = self.regions.sizes[roi.level];
            let image = &maps[roi.level][roi.image * h * w * c..][..h * w * c];
            let mut bins = vec![0f32; c * oh * ow];
            for (bin, to) in bins.chunks_exact_mut(c).enumerate() {
                let (ys, xs) = (roi.y.of(bin / ow), roi.x.of(bin % ow));
                add_weighted(to, image, w, ys, xs);
            }
            transpose(&bins, oh * ow, c, out.zeros());
        });
        from_elements(out, (placed.len(), c, oh, ow), &self.maps[0])
    }
}

/// The gradient (R, C, OH, OW) of the result, and of which levels it is wanted.
pub(super) struct RoiAlignGradient<'a> {
    pub(super) g: &'a Tensor,
    pub(super) regions: &'a Regions,
    pub(super) wanted: &'a [bool],
}

impl Host for RoiAlignGradient<'_> {
    /// Gradient for each level.
    type Output = Vec<Option<Tensor>>;

    fn on_host(self) -> Result<Vec<Option<Tensor>>> {
        let Regions { sizes, output: (oh, ow), .. } = self.regions;
        let host = on_host(self.g)?;
        let g = by_bins(&elements(&host)?, sizes[0].c, oh * ow);
        let placed = self.regions.placed();
        let turned: Vec<Placed> = placed.par_iter().map(Placed::turned).collect();
        let level_gradient = |(level, wanted): (usize, &bool)| -> Result<Option<Tensor>> {
            let size = &sizes[level];
            let spread = wanted.then(|| spread(&g, &turned, level, size, (*oh, *ow)));
            spread.map(|g| from_channels_last(g, (size.n, size.h, size.w, size.c), self.g)).transpose()
        };
        self.wanted.iter().enumerate().map(level_gradient).collect()
    }
}

/// A RoI on its map: the shares that its bins have in rows and columns of pixels (or, turned, the other way
/// round).
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
    /// out += Σ_y Σ_x share_y share_x pixel(y, x), pixels of a map of width `w` with as many channels as
    /// `out`.
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
    let mut out = zeros(n * h * w * c);
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
