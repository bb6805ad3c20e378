//! The gradient of 3x3 weights: output gradients and inputs meet at the 36 points.

use rayon::prelude::*;

use super::super::geometry::Geometry;
use super::tiles::{self, POINTS, Tiles, point_stride};
use super::transforms::{self, gradient_tile, input_tile};

use crate::microkernel::{COLUMNS, ROWS, Terms, outer};
use crate::panels::Aligned;
use crate::simd::Simd;

/// Floats of transformed tiles that are held at once: they stay in the L3 cache.
const CHUNK: usize = 3 << 20;
/// Tiles that are summed in registers at once.
const TERMS: usize = 256;
/// Fewer tiles than this do not pay for the transforms.
const LEAST_TILES: usize = 60;

/// Returns whether the gradient of the weights is computed in Winograd's form.
pub(in super::super) fn suits(geometry: &Geometry) -> bool {
    tiles::suits(geometry) && Tiles::of(geometry.n, (geometry.oh, geometry.ow)).count() >= LEAST_TILES
}

/// The gradient (K, 3, 3, C) from the input `x` and the output's gradient `g`.
pub(in super::super) fn weight_gradient(geometry: &Geometry, x: &[f32], g: &[f32]) -> Vec<f32> {
    let &Geometry { config, n, oh, ow, c, k, .. } = geometry;
    let tiles = Tiles::of(n, (oh, ow));
    let (x, g) = (geometry.input_map(x), geometry.output_map(g));
    let padding = config.padding.map(|padding| padding as isize);
    let (input_size, gradient_size) = (POINTS * point_stride(c), POINTS * point_stride(k));
    let chunk = (CHUNK / (input_size + gradient_size)).clamp(2 * ROWS, TERMS).min(tiles.count());
    let mut inputs = Aligned::recycled(chunk * input_size);
    let mut gradients = Aligned::recycled(chunk * gradient_size);
    let mut sums = vec![0f32; POINTS * k * c];
    let level = Simd::level();
    for first in (0..tiles.count()).step_by(chunk) {
        let count = chunk.min(tiles.count() - first);
        inputs
            .as_mut_slice()
            .par_chunks_exact_mut(input_size)
            .zip(gradients.as_mut_slice().par_chunks_exact_mut(gradient_size))
            .take(count)
            .enumerate()
            .for_each(|(index, (input, gradient))| {
                let (image, top, left) = tiles.at(first + index);
                let at = (image, top as isize - padding[0], left as isize - padding[1]);
                input_tile(&x, at, input);
                gradient_tile(&g, (image, top, left), gradient);
            });
        let (inputs, gradients) = (inputs.as_slice(), gradients.as_slice());
        sums.par_chunks_mut(k * c).enumerate().for_each(|(point, sums)| {
            let (input, gradient) =
                (&inputs[point * point_stride(c)..], &gradients[point * point_stride(k)..]);
            // Reused by all rows of the sums: worth being brought together.
            let mut panel = Aligned::recycled(count * COLUMNS);
            for column in (0..c).step_by(COLUMNS) {
                let width = COLUMNS.min(c - column);
                for (tile, to) in panel.as_mut_slice().chunks_exact_mut(COLUMNS).enumerate() {
                    to[..width].copy_from_slice(&input[tile * input_size + column..][..width]);
                }
                let right = Terms { values: panel.as_slice(), stride: COLUMNS };
                for row in (0..k).step_by(ROWS) {
                    let left = Terms { values: &gradient[row..], stride: gradient_size };
                    let size = (ROWS.min(k - row), width);
                    outer(level, count, size, left, right, &mut sums[row * c + column..], c);
                }
            }
        });
    }
    let mut weights = vec![0f32; k * 9 * c];
    weights
        .par_chunks_exact_mut(9 * c)
        .enumerate()
        .for_each(|(row, weights)| transforms::weight_gradient(&sums[row * c..], k * c, c, weights));
    weights
}
