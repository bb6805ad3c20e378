//! The gradient of the input.

use candle_core::Tensor;
use gemm::Parallelism;
use rayon::prelude::*;

use super::gather::{Source, band_rows, tile_pixels};
use super::geometry::{Geometry, Tap};
use crate::Result;
use crate::linear::{Accumulate, Strides, strided_product};
use crate::memory::{channels_last, elements, from_channels_last};

/// Gradient of the input, NCHW over channels-last memory. `g` (N, OH, OW, K).
pub(super) fn input_gradient(geometry: &Geometry, g: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let &Geometry { config, n, h, w, c, r, s, .. } = geometry;
    let (_, group_k) = geometry.group_channels();
    let like = g;
    let (g, weight) = (elements(g)?, channels_last(weight)?);
    let weight = elements(&weight)?;
    let phases: Vec<Phase> = (0..config.stride[0])
        .flat_map(|py| (0..config.stride[1]).map(move |px| (py, px)))
        .map(|(py, px)| Phase::new(geometry, &weight, py, px))
        .collect();
    let mut out = vec![0f32; n * h * w * c];
    let band = band_rows(n * h, w, r * s * group_k);
    if !out.is_empty() {
        out.par_chunks_mut(band * w * c).enumerate().for_each_init(
            || (Vec::new(), Vec::new()),
            |(tile, result), (index, out)| {
                for phase in phases.iter().filter(|phase| !phase.taps.is_empty()) {
                    for group in 0..config.groups {
                        phase_gradient(geometry, phase, group, &g, index * band, out, tile, result);
                    }
                }
            },
        );
    }
    from_channels_last(out, (n, h, w, c), like)
}

/// The pixels of one phase and group in a band of image rows that starts at flat row `first_row`.
#[allow(clippy::too_many_arguments)]
fn phase_gradient(
    geometry: &Geometry,
    phase: &Phase,
    group: usize,
    g: &[f32],
    first_row: usize,
    out: &mut [f32],
    tile: &mut Vec<f32>,
    result: &mut Vec<f32>,
) {
    let &Geometry { config, h, w, c, oh, ow, k, .. } = geometry;
    let (group_c, group_k) = geometry.group_channels();
    let [stride_y, stride_x] = config.stride;
    let rows: Vec<usize> =
        (0..out.len() / (w * c)).filter(|row| (first_row + row) % h % stride_y == phase.py).collect();
    let columns = w.saturating_sub(phase.px).div_ceil(stride_x);
    let source = Source { values: g, h: oh, w: ow, c: k, first: group * group_k, channels: group_k };
    let width = phase.taps.len() * group_k;
    let weight = &phase.weight[group * width * group_c..][..width * group_c];
    let step = tile_pixels(width);
    let pixels = rows.len() * columns;
    tile.resize(step * width, 0.0);
    for start in (0..pixels).step_by(step) {
        let count = step.min(pixels - start);
        let mut done = 0;
        while done < count {
            let (row, column) = ((start + done) / columns, (start + done) % columns);
            let run = (columns - column).min(count - done);
            let (image, y) = ((first_row + rows[row]) / h, (first_row + rows[row]) % h);
            let to = &mut tile[done * width..];
            source.gather(&phase.taps, image, (y / stride_y) as isize, column as isize, 1, run, to);
            done += run;
        }
        let shape = (count, group_c, width);
        let multiply = |to: &mut [f32], out_row| {
            let strides = Strides { out_row, a: (width, 1), b: (group_c, 1) };
            strided_product(to, shape, tile, weight, strides, Accumulate::Replace, Parallelism::None);
        };
        if config.stride == [1, 1] {
            multiply(&mut out[start * c + group * group_c..], c);
            continue;
        }
        result.resize(step * group_c, 0.0);
        multiply(result, group_c);
        for (i, pixel) in result.chunks_exact(group_c).take(count).enumerate() {
            let (row, column) = ((start + i) / columns, (start + i) % columns);
            let at = (rows[row] * w + column * stride_x + phase.px) * c + group * group_c;
            out[at..at + group_c].copy_from_slice(pixel);
        }
    }
}

/// Input pixels with equal remainders of the stride: their taps and those taps' weights, (groups, taps·K, C).
struct Phase {
    py: usize,
    px: usize,
    taps: Vec<Tap>,
    weight: Vec<f32>,
}

impl Phase {
    fn new(geometry: &Geometry, weight: &[f32], py: usize, px: usize) -> Self {
        let (group_c, group_k) = geometry.group_channels();
        let all = geometry.r * geometry.s;
        let taps = geometry.phase_taps(py, px);
        let mut packed = Vec::with_capacity(geometry.config.groups * taps.len() * group_k * group_c);
        for group in 0..geometry.config.groups {
            for tap in &taps {
                for k in 0..group_k {
                    let from = ((group * group_k + k) * all + tap.index) * group_c;
                    packed.extend_from_slice(&weight[from..][..group_c]);
                }
            }
        }
        Self { py, px, taps, weight: packed }
    }
}
