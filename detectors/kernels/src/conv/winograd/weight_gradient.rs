//! The gradient of 3x3 weights: output gradients and inputs meet at the 36 points.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::super::geometry::Geometry;
use super::super::map::Map;
use super::tiles::{self, POINTS, Tiles, apart, point_stride};
use super::transforms::{self, gradient_tile, input_tile};

use crate::lanes::LANES;
use crate::memory::written;
use crate::microkernel::{COLUMNS, Memory, ROWS, Terms, outer, pack_columns, pack_tiles};
use crate::panels::Aligned;
use crate::simd::Simd;

/// Floats of transformed tiles that are held at once: they stay in the L3 cache.
const CHUNK: usize = 3 << 20;
/// Floats of transformed tiles that a task of its own holds at once: part of a 1 MiB L2 cache.
const OWN_CHUNK: usize = 96 * 1024;
/// Tiles that are summed in registers at once.
const TERMS: usize = 256;
/// Fewer tiles than this do not pay for the transforms.
const LEAST_TILES: usize = 24;
/// Weights (floats) up to which tasks share the tiles and add their sums; beyond, all share the points of some tiles.
const SMALL: usize = 9 * 32 * 32;
/// Shares of the tiles: fixed, so that the sums do not depend on the number of threads.
const SHARES: usize = 8;

thread_local! {
    /// Transformed inputs and gradients of a task of its own.
    static TILES: RefCell<(Aligned, Aligned)> = RefCell::default();
    /// Both factors of a point's sums, brought together.
    static PACKED: RefCell<(Aligned, Aligned)> = RefCell::default();
}

/// Returns whether the gradient of the weights is computed in Winograd's form.
pub(in super::super) fn suits(geometry: &Geometry) -> bool {
    tiles::suits(geometry) && Tiles::of(geometry.n, (geometry.oh, geometry.ow)).count() >= LEAST_TILES
}

/// The gradient (K, 3, 3, C) from the input `x` and the output's gradient `g`.
pub(in super::super) fn weight_gradient(geometry: &Geometry, x: &[f32], g: &[f32]) -> Vec<f32> {
    let &Geometry { config, n, oh, ow, c, k, .. } = geometry;
    let factors = Factors {
        x: geometry.input_map(x),
        g: geometry.output_map(g),
        tiles: Tiles::of(n, (oh, ow)),
        padding: config.padding.map(|padding| padding as isize),
    };
    let sums = if 9 * k * c <= SMALL { factors.by_tiles() } else { factors.by_points() };
    let mut weights = vec![0f32; k * 9 * c];
    weights
        .par_chunks_exact_mut(9 * c)
        .enumerate()
        .for_each(|(row, weights)| transforms::weight_gradient(&sums[row * c..], apart(k * c), c, weights));
    weights
}

/// Both factors of the sums over tiles.
struct Factors<'a> {
    x: Map<'a>,
    g: Map<'a>,
    tiles: Tiles,
    padding: [isize; 2],
}

/// Transformed tiles, and where each starts.
struct Chunk<'a> {
    inputs: &'a [f32],
    gradients: &'a [f32],
    /// Of the inputs and of the gradients.
    starts: [&'a [usize]; 2],
}

impl Factors<'_> {
    /// Floats of a transformed tile of the inputs and of the gradients.
    fn sizes(&self) -> (usize, usize) {
        (POINTS * point_stride(self.x.c), POINTS * point_stride(self.g.c))
    }

    /// The sums (36, k, c), points apart, each task taking some tiles.
    fn by_tiles(&self) -> Vec<f32> {
        let (input_size, gradient_size) = self.sizes();
        let (count, size) = (self.tiles.count(), apart(self.x.c * self.g.c));
        let chunk = (OWN_CHUNK / (input_size + gradient_size)).clamp(2 * ROWS, TERMS);
        let (share, starts) = (count.div_ceil(SHARES), self.starts(chunk));
        let partial: Vec<Vec<f32>> = (0..count.div_ceil(share))
            .into_par_iter()
            .map(|index| {
                let tiles = index * share..count.min((index + 1) * share);
                let write = |sums: &mut [MaybeUninit<f32>]| {
                    TILES.with_borrow_mut(|(inputs, gradients)| {
                        for first in tiles.clone().step_by(chunk) {
                            let count = chunk.min(tiles.end - first);
                            let inputs = inputs.at_least(count * input_size);
                            let gradients = gradients.at_least(count * gradient_size);
                            let places = inputs
                                .chunks_exact_mut(input_size)
                                .zip(gradients.chunks_exact_mut(gradient_size));
                            places.zip(first..).for_each(|(places, tile)| self.transform(tile, places));
                            let starts = starts.each_ref().map(|starts| &starts[..count]);
                            let chunk = Chunk { inputs, gradients, starts };
                            for (point, sums) in sums.chunks_mut(size).enumerate() {
                                self.sum(point, &chunk, first > tiles.start, sums);
                            }
                        }
                    });
                };
                // SAFETY: there are tiles.
                unsafe { written(POINTS * size, write) }
            })
            .collect();
        let mut sums = vec![0f32; POINTS * size];
        for partial in partial {
            sums.iter_mut().zip(partial).for_each(|(sum, partial)| *sum += partial);
        }
        sums
    }

    /// The sums (36, k, c), points apart, each task taking a point of some tiles.
    fn by_points(&self) -> Vec<f32> {
        let (input_size, gradient_size) = self.sizes();
        let count = self.tiles.count();
        let chunk = (CHUNK / (input_size + gradient_size)).clamp(2 * ROWS, TERMS).min(count);
        let starts = self.starts(chunk);
        let size = apart(self.x.c * self.g.c);
        let mut inputs = Aligned::recycled(chunk * input_size);
        let mut gradients = Aligned::recycled(chunk * gradient_size);
        let write = |sums: &mut [MaybeUninit<f32>]| {
            for first in (0..count).step_by(chunk) {
                let count = chunk.min(count - first);
                let inputs = &mut inputs.as_mut_slice()[..count * input_size];
                let gradients = &mut gradients.as_mut_slice()[..count * gradient_size];
                inputs
                    .par_chunks_exact_mut(input_size)
                    .zip(gradients.par_chunks_exact_mut(gradient_size))
                    .enumerate()
                    .for_each(|(index, places)| self.transform(first + index, places));
                let chunk = Chunk { inputs, gradients, starts: [&starts[0][..count], &starts[1][..count]] };
                let points = sums.par_chunks_mut(size).enumerate();
                points.for_each(|(point, sums)| self.sum(point, &chunk, first > 0, sums));
            }
        };
        // SAFETY: there are tiles.
        unsafe { written(POINTS * size, write) }
    }

    /// Where `count` transformed tiles of the inputs and of the gradients start.
    fn starts(&self, count: usize) -> [Vec<usize>; 2] {
        let (input_size, gradient_size) = self.sizes();
        [input_size, gradient_size].map(|size| (0..count).map(|tile| tile * size).collect())
    }

    fn transform(&self, tile: usize, (input, gradient): (&mut [f32], &mut [f32])) {
        let (image, top, left) = self.tiles.at(tile);
        let at = (image, top as isize - self.padding[0], left as isize - self.padding[1]);
        input_tile(&self.x, at, input);
        gradient_tile(&self.g, (image, top, left), gradient);
    }

    /// Writes what transformed tiles give to the sums (k, c) of a point, added to those that `are_written`; every one is written.
    fn sum(&self, point: usize, chunk: &Chunk, are_written: bool, sums: &mut [MaybeUninit<f32>]) {
        let (c, k) = (self.x.c, self.g.c);
        let [input_starts, gradient_starts] = chunk.starts;
        let (inputs, gradients) =
            (&chunk.inputs[point * point_stride(c)..], &chunk.gradients[point * point_stride(k)..]);
        let count = input_starts.len();
        let tile = apart(count * ROWS);
        PACKED.with_borrow_mut(|(rows, panel)| {
            // Rows that meet one panel are not worth it.
            let rows = (c > COLUMNS).then(|| {
                let rows = rows.at_least(k.div_ceil(ROWS) * tile);
                pack_tiles(gradients, gradient_starts, (0, k), rows, tile);
                &*rows
            });
            let panel = panel.at_least(count * COLUMNS);
            for column in (0..c).step_by(COLUMNS) {
                let width = COLUMNS.min(c - column);
                pack_columns(inputs, input_starts, (column, width), panel);
                let right = Terms { values: panel, stride: COLUMNS };
                // Every sum of a tile hides the latency of the others.
                let height = if width > LANES || rows.is_some() { ROWS } else { 8 };
                for row in (0..k).step_by(height) {
                    let left = match rows {
                        Some(rows) => Terms { values: &rows[row / ROWS * tile..], stride: ROWS },
                        None => Terms { values: &gradients[row..], stride: self.sizes().1 },
                    };
                    let size = (height.min(k - row), width);
                    // SAFETY: passed on.
                    let out = unsafe { Memory::of(&mut sums[row * c + column..], are_written) };
                    outer(Simd::level(), count, size, left, right, out, c);
                }
            }
        });
        sums[k * c..].fill(MaybeUninit::new(0.0));
    }
}
