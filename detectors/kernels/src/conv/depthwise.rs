//! Depthwise convolution: every channel on its own (MobileNets).
//!
//! There is no matrix product in it: each tap is an elementwise product over the channels of a pixel, which
//! lie side by side. All three passes read and write each map about once.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::geometry::{Geometry, Phase};
use super::map::Map;
use crate::microkernel::Finish;
use crate::simd::for_each_level;

/// Channels that are summed in registers at once.
const LANES: usize = 32;
/// Shares of the rows of a weight gradient: fixed, so that the sums do not depend on the number of threads.
const SHARES: usize = 8;

/// The forward pass, to every number of `out` (n, oh, ow, c); weights (c, r, s) times `scale` (c).
pub(super) fn forward(
    geometry: &Geometry,
    input: &[f32],
    weight: &[f32],
    scale: Option<&[f32]>,
    finish: Finish,
    out: &mut [MaybeUninit<f32>],
) {
    let phases = [geometry.forward_phase()];
    let weights = by_tap(geometry, weight, scale);
    let result = (geometry.oh, geometry.ow);
    slide(geometry.input_map(input), result, [1, 1], geometry.config.stride, &phases, &weights, finish, out);
}

/// The gradient of the input, to every number of `out` (n, h, w, c).
pub(super) fn input_gradient(
    geometry: &Geometry,
    g: &[f32],
    weight: &[f32],
    scale: Option<&[f32]>,
    out: &mut [MaybeUninit<f32>],
) {
    let phases = geometry.gradient_phases();
    let weights = by_tap(geometry, weight, scale);
    let (result, stride) = ((geometry.h, geometry.w), geometry.config.stride);
    slide(geometry.output_map(g), result, stride, [1, 1], &phases, &weights, Finish::default(), out);
}

/// The gradient of the weights (c, r, s).
pub(super) fn weight_gradient(geometry: &Geometry, x: &[f32], g: &[f32]) -> Vec<f32> {
    let &Geometry { config, n, oh, ow, c, r, s, .. } = geometry;
    let (rows, taps) = (n * oh, r * s);
    let phase = geometry.forward_phase();
    let x = geometry.input_map(x);
    let share = rows.div_ceil(SHARES).max(1);
    let partial: Vec<Vec<f32>> = (0..rows.div_ceil(share))
        .into_par_iter()
        .map(|index| {
            let mut sums = vec![0f32; taps * c];
            let mut row_sums = vec![0f32; taps * c];
            let mut seen = Vec::with_capacity(taps);
            for row in index * share..rows.min((index + 1) * share) {
                row_sums.fill(0.0);
                for column in 0..ow {
                    look(&x, &phase, config.stride, (row / oh, row % oh, column), &mut seen);
                    let g = &g[(row * ow + column) * c..][..c];
                    add_products(x.values, &seen, g, &mut row_sums);
                }
                sums.iter_mut().zip(&row_sums).for_each(|(sum, row)| *sum += row);
            }
            sums
        })
        .collect();
    let mut weights = vec![0f32; c * taps];
    for sums in partial {
        for (tap, sums) in sums.chunks_exact(c).enumerate() {
            sums.iter().enumerate().for_each(|(channel, sum)| weights[channel * taps + tap] += sum);
        }
    }
    weights
}

/// Weights (c, taps) as (taps, c).
fn by_tap(geometry: &Geometry, weight: &[f32], scale: Option<&[f32]>) -> Vec<f32> {
    let (c, taps) = (geometry.c, geometry.r * geometry.s);
    let mut turned = vec![0f32; taps * c];
    for (channel, weight) in weight.chunks_exact(taps.max(1)).enumerate() {
        let scale = scale.map_or(1.0, |scale| scale[channel]);
        weight.iter().enumerate().for_each(|(tap, weight)| turned[tap * c + channel] = weight * scale);
    }
    turned
}

/// For each result pixel, the sum of what its taps see times their weights (taps, c).
#[allow(clippy::too_many_arguments)]
fn slide(
    source: Map,
    (h, w): (usize, usize),
    stride: [usize; 2],
    step: [usize; 2],
    phases: &[Phase],
    weights: &[f32],
    finish: Finish,
    out: &mut [MaybeUninit<f32>],
) {
    let c = source.c;
    if out.is_empty() {
        return;
    }
    out.par_chunks_mut(w * c).enumerate().for_each(|(row, out)| {
        let (image, y) = (row / h, row % h);
        let mut seen = Vec::with_capacity(16);
        for (x, out) in out.chunks_exact_mut(c).enumerate() {
            let phase = &phases[(y % stride[0]) * stride[1] + x % stride[1]];
            look(&source, phase, step, (image, y / stride[0], x / stride[1]), &mut seen);
            let residual = finish.residual.map(|residual| &residual[(row * w + x) * c..][..c]);
            sum_channels(&source, &seen, weights, finish, residual, out);
        }
    });
}

for_each_level! {
    /// To the sums (taps, c), what the taps of one pixel see times its gradient (c).
    fn add_products(x: &[f32], seen: &[(usize, usize)], g: &[f32], sums: &mut [f32]) {
        let c = g.len();
        for &(tap, at) in seen {
            let (sums, x) = (&mut sums[tap * c..][..c], &x[at..][..c]);
            sums.iter_mut().zip(x).zip(g).for_each(|((sum, x), g)| *sum += x * g);
        }
    }

    /// All channels of one pixel.
    fn sum_channels(
        source: &Map,
        seen: &[(usize, usize)],
        weights: &[f32],
        finish: Finish,
        residual: Option<&[f32]>,
        out: &mut [MaybeUninit<f32>],
    ) {
        let c = source.c;
        let whole = c / LANES * LANES;
        for first in (0..whole).step_by(LANES) {
            sum::<LANES>(source, seen, weights, first..first + LANES, finish, residual, out);
        }
        for channel in whole..c {
            sum::<1>(source, seen, weights, channel..channel + 1, finish, residual, out);
        }
    }
}

/// The channels `channels` (L of them) of one pixel.
#[inline(always)]
fn sum<const L: usize>(
    source: &Map,
    seen: &[(usize, usize)],
    weights: &[f32],
    channels: Range<usize>,
    finish: Finish,
    residual: Option<&[f32]>,
    out: &mut [MaybeUninit<f32>],
) {
    let first = channels.start;
    let mut sums = [0f32; L];
    for &(tap, at) in seen {
        let x: &[f32; L] = source.values[at + first..].first_chunk().expect("L channels");
        let weights: &[f32; L] = weights[tap * source.c + first..].first_chunk().expect("L channels");
        for l in 0..L {
            sums[l] += x[l] * weights[l];
        }
    }
    if let Some(shift) = finish.shift {
        sums.iter_mut().zip(&shift[channels.clone()]).for_each(|(sum, shift)| *sum += shift);
    }
    if let Some(residual) = residual {
        sums.iter_mut().zip(&residual[channels.clone()]).for_each(|(sum, residual)| *sum += residual);
    }
    finish.activation.apply(&mut sums);
    out[channels].iter_mut().zip(sums).for_each(|(out, sum)| {
        out.write(sum);
    });
}

/// The taps of a pixel of a phase that lie on the map: their index and where their channels start.
#[inline]
fn look(
    source: &Map,
    phase: &Phase,
    step: [usize; 2],
    (image, row, column): (usize, usize, usize),
    seen: &mut Vec<(usize, usize)>,
) {
    seen.clear();
    for tap in &phase.taps {
        let y = (row * step[0]) as isize + tap.dy;
        let x = (column * step[1]) as isize + tap.dx;
        if y >= 0 && (y as usize) < source.h && x >= 0 && (x as usize) < source.w {
            let pixel = (image * source.h + y as usize) * source.w + x as usize;
            seen.push((tap.index, pixel * source.c));
        }
    }
}
