//! The gradient of the weights.

use candle_core::Tensor;
use gemm::Parallelism;
use rayon::prelude::*;

use super::Conv2dConfig;
use super::gather::{Source, gather_pixels, tile_pixels};
use super::geometry::Geometry;
use crate::Result;
use crate::linear::{Accumulate, Strides, strided_product};
use crate::memory::{channels_last, elements, from_channels_last};

/// Gradient of the weights, (K, C/groups, R, S) over channels-last memory. `g` (N, OH, OW, K).
pub(super) fn weight_gradient(geometry: &Geometry, g: &Tensor, x: &Tensor) -> Result<Tensor> {
    let &Geometry { config, n, h, w, c, oh, ow, k, r, s } = geometry;
    let (group_c, group_k) = geometry.group_channels();
    let taps = geometry.forward_taps();
    let width = taps.len() * group_c;
    let like = g;
    let (g, x) = (elements(g)?, channels_last(x)?);
    let x = elements(&x)?;
    let pixels = n * oh * ow;
    let step = tile_pixels(width);
    let direct = r * s == 1 && config == Conv2dConfig { groups: config.groups, ..Conv2dConfig::default() };
    let share = pixels.div_ceil(rayon::current_num_threads()).max(1);
    let partial_sums: Vec<Vec<f32>> = (0..pixels.div_ceil(share))
        .into_par_iter()
        .map(|part| {
            let mut sum = vec![0f32; k * width];
            let mut tile = vec![0f32; if direct { 0 } else { step * width }];
            let end = pixels.min((part + 1) * share);
            for start in (part * share..end).step_by(step) {
                let count = step.min(end - start);
                for group in 0..config.groups {
                    let source = Source { values: &x, h, w, c, first: group * group_c, channels: group_c };
                    let (rows, row_stride): (&[f32], usize) = if direct {
                        (&x[start * c + source.first..], c)
                    } else {
                        gather_pixels(&source, &taps, start, count, geometry, &mut tile);
                        (&tile, width)
                    };
                    let strides = Strides { out_row: width, a: (1, k), b: (row_stride, 1) };
                    strided_product(
                        &mut sum[group * group_k * width..],
                        (group_k, width, count),
                        &g[start * k + group * group_k..],
                        rows,
                        strides,
                        Accumulate::Add,
                        Parallelism::None,
                    );
                }
            }
            sum
        })
        .collect();
    let mut partial_sums = partial_sums.into_iter();
    let mut sum = partial_sums.next().unwrap_or_else(|| vec![0f32; k * width]);
    for partial in partial_sums {
        sum.iter_mut().zip(partial).for_each(|(sum, partial)| *sum += partial);
    }
    from_channels_last(sum, (k, r, s, group_c), like)
}
