//! The convolution: transform, multiply, transform back.

#![allow(clippy::needless_range_loop, reason = "indexed loops of fixed length stay in registers")]

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::super::map::Map;
use super::tiles::{POINTS, Tiles, apart, point_stride};
use super::transforms::{both_ways, input_tile, output_line, weight_panel};

use crate::activation::{Activation, SIX};
use crate::lanes::{LANES, by_lanes, over_lanes};
use crate::memory::prefetch;
use crate::microkernel::{COLUMNS, Finish, Left, Memory, ROWS, Segment, Starts, Target, dot};
use crate::panels::{Aligned, Panels};
use crate::precision::Precision;
use crate::simd::Simd;

/// Floats of transformed tiles and their products that a task of few channels works on: part of a 1 MiB L2 cache.
const TASK: usize = 64 * 1024;
/// Floats of a whole transformed map that is better transformed once and shared, the output channels being
/// divided.
const SHARED: usize = 3 << 20;
/// Output channels from which on it pays to ask for the next tile's products, which lie beyond the L2 cache.
const FAR: usize = 256;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    inputs: Aligned,
    weights: Aligned,
    products: Aligned,
    lefts: Vec<usize>,
    outs: Vec<usize>,
}

/// Convolves `source` with 3x3 weights `panels` (9 · channels, outputs) and writes every number of `out`
/// (n, `h`, `w`, outputs); `padding` zeros lie above and left of the source, enough below and right.
pub(in super::super) fn convolve(
    source: Map,
    (h, w): (usize, usize),
    padding: [isize; 2],
    panels: &Panels,
    finish: Finish,
    out: &mut [MaybeUninit<f32>],
) {
    let tiles = Tiles::of(source.n, (h, w));
    let k = panels.columns;
    assert!(out.len() == source.n * h * w * k, "winograd: result {}", out.len());
    assert!(finish.residual.is_none_or(|residual| residual.len() == out.len()), "winograd: residual");
    if tiles.count() == 0 {
        return;
    }
    let out = Shared { start: out.as_mut_ptr().cast(), len: out.len() };
    let task = Task { source, tiles, size: (h, w), padding, panels, finish, out };
    // Enough panels for all threads to have a like share.
    let divisible = panels.count() >= 4 * rayon::current_num_threads();
    if divisible && tiles.count() * POINTS * source.c <= SHARED {
        task.by_channels();
    } else {
        task.by_tiles();
    }
}

struct Task<'a> {
    source: Map<'a>,
    tiles: Tiles,
    size: (usize, usize),
    padding: [isize; 2],
    panels: &'a Panels,
    finish: Finish<'a>,
    out: Shared,
}

/// The result, which tasks write at places of their own.
struct Shared {
    start: *mut f32,
    len: usize,
}

// SAFETY: tasks write disjoint tiles or disjoint channels.
unsafe impl Sync for Shared {}

impl Shared {
    /// The `count` numbers from `at` on.
    ///
    /// # Safety
    /// They lie within the result, and no other task writes them.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "tasks write places of their own")]
    unsafe fn numbers(&self, at: usize, count: usize) -> &mut [f32] {
        debug_assert!(at + count <= self.len, "winograd: {at} of {}", self.len);
        // SAFETY: the caller says so.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), count) }
    }
}

impl Task<'_> {
    /// Each task takes some tiles through all output channels; its inputs stay in the L2 cache, the weights
    /// in L3.
    fn by_tiles(&self) {
        let (c, k) = (self.source.c, self.panels.columns);
        let count = self.tiles.count();
        // Of many channels, the weights are larger than the tiles, and are read for every task.
        let fits = match c.max(k) {
            0..=64 => (TASK / (tile_stride(c) + tile_stride(k))).next_multiple_of(ROWS),
            65..=512 => 8 * ROWS,
            // As many tiles of RetinaNet's 810 logits would take 10 MB a thread, and be no faster.
            _ => 4 * ROWS,
        };
        let threads = rayon::current_num_threads();
        let tasks = count.div_ceil(fits).next_multiple_of(threads);
        let share = count.div_ceil(tasks).next_multiple_of(4);
        let point_size = apart(self.panels.count() * c * COLUMNS);
        let mut weights = Aligned::recycled(POINTS * point_size);
        // By points, then panels: the order in which they are read.
        let mut by_panel: Vec<Vec<&mut [f32]>> =
            (0..self.panels.count()).map(|_| Vec::with_capacity(POINTS)).collect();
        for point in weights.as_mut_slice().chunks_exact_mut(point_size) {
            for (points, weights) in by_panel.iter_mut().zip(point.chunks_exact_mut(c * COLUMNS)) {
                points.push(weights);
            }
        }
        by_panel
            .into_par_iter()
            .enumerate()
            .for_each(|(panel, mut points)| weight_panel(self.panels.panel(panel, 0), c, &mut points));
        let weights = weights.as_slice();
        (0..count.div_ceil(share)).into_par_iter().for_each(|index| {
            let tiles = index * share..count.min((index + 1) * share);
            SCRATCH.with_borrow_mut(|Scratch { inputs, products, lefts, outs, .. }| {
                let rows =
                    Rows { inputs: starts(tiles.len(), c, lefts), products: starts(tiles.len(), k, outs) };
                let inputs = inputs.at_least(tiles.len() * tile_stride(c));
                for (tile, to) in tiles.clone().zip(inputs.chunks_exact_mut(tile_stride(c))) {
                    self.input(tile, to);
                }
                let products = products.at_least(tiles.len() * tile_stride(k));
                for point in 0..POINTS {
                    for panel in 0..self.panels.count() {
                        let weights = &weights[point * point_size + panel * c * COLUMNS..];
                        multiply(rows, (inputs, c), weights, point, panel * COLUMNS, (products, k));
                    }
                }
                self.output(tiles, 0..k, products);
            });
        });
    }

    /// All tiles are transformed first; each task takes them through some output channels, and transforms
    /// those channels' weights itself: large weights are read once.
    fn by_channels(&self) {
        let c = self.source.c;
        let count = self.tiles.count();
        let mut inputs = Aligned::recycled(count * tile_stride(c));
        inputs
            .as_mut_slice()
            .par_chunks_mut(tile_stride(c))
            .enumerate()
            .for_each(|(tile, to)| self.input(tile, to));
        let inputs = inputs.as_slice();
        (0..self.panels.count()).into_par_iter().for_each(|panel| {
            SCRATCH.with_borrow_mut(|Scratch { weights, products, lefts, outs, .. }| {
                let point_size = apart(c * COLUMNS);
                let weights = weights.at_least(POINTS * point_size);
                let mut points: Vec<&mut [f32]> = weights.chunks_exact_mut(point_size).collect();
                weight_panel(self.panels.panel(panel, 0), c, &mut points);
                let first = panel * COLUMNS;
                let width = COLUMNS.min(self.panels.columns - first);
                let products = products.at_least(count * tile_stride(width));
                let rows = Rows { inputs: starts(count, c, lefts), products: starts(count, width, outs) };
                for point in 0..POINTS {
                    let weights = &weights[point * point_size..];
                    multiply(rows, (inputs, c), weights, point, 0, (products, width));
                }
                self.output(0..count, first..first + width, products);
            });
        });
    }

    fn input(&self, tile: usize, to: &mut [f32]) {
        let (image, y, x) = self.tiles.at(tile);
        input_tile(&self.source, (image, y as isize - self.padding[0], x as isize - self.padding[1]), to);
    }

    /// Transforms the products of `tiles` (each 36, `channels`) back, finishes and writes them.
    fn output(&self, tiles: Range<usize>, channels: Range<usize>, products: &[f32]) {
        let (stride, size) = (point_stride(channels.len()), tile_stride(channels.len()));
        for (index, tile) in tiles.enumerate() {
            output_channels(self, tile, &products[index * size..], stride, channels.start, channels.len());
        }
    }
}

/// Asks for the points of the next tile. Not inlined: it would cost tiles of few channels registers.
#[inline(never)]
fn ask_for_next(products: &[f32], stride: usize) {
    for point in POINTS..2 * POINTS {
        if let Some(product) = products.get(point * stride) {
            prefetch(product);
        }
    }
}

over_lanes! {
    /// `count` channels from `start` on of one output tile, from its 36 points, which begin the products.
    fn output_channels<V>(
        task: &Task,
        tile: usize,
        products: &[f32],
        stride: usize,
        start: usize,
        count: usize,
    ) {
        let (h, w) = task.size;
        let k = task.panels.columns;
        let Finish { shift, residual, activation, .. } = task.finish;
        let (image, top, left) = task.tiles.at(tile);
        let (rows, columns) = ((h - top).min(4), (w - left).min(4));
        let corner = ((image * h + top) * w + left) * k + start;
        by_lanes!(count, |first, WHOLE| {
            let shift = match shift {
                Some(shift) => V::load_some::<WHOLE>(&shift[start + first..]),
                None => V::zero(),
            };
            let products = &products[first..];
            if k >= FAR {
                ask_for_next(products, stride);
            }
            both_ways!(
                output_line: 6 to 4, V,
                |i, j| V::load(&products[(6 * i + j) * stride..]),
                |row, pixels| if row < rows {
                    for j in 0..4 {
                        if j == columns {
                            break;
                        }
                        let at = corner + first + (row * w + j) * k;
                        let mut y = pixels[j].add(shift);
                        if let Some(residual) = residual {
                            y = y.add(V::load_some::<WHOLE>(&residual[at..]));
                        }
                        if activation != Activation::Identity {
                            y = y.rectified();
                        }
                        if activation == Activation::Relu6 {
                            y = y.at_most(SIX);
                        }
                        // SAFETY: (image, y, x, channel) is within (n, h, w, k), and this task's alone.
                        let size = if WHOLE { LANES } else { count - first };
                        y.store_some::<WHOLE>(unsafe { task.out.numbers(at, size) });
                    }
                }
            );
        });
    }
}

fn tile_stride(channels: usize) -> usize {
    POINTS * point_stride(channels)
}

/// Rows of the products of tiles: the same at every point.
#[derive(Clone, Copy)]
struct Rows<'a> {
    inputs: Starts<'a>,
    products: Starts<'a>,
}

/// At one point, all tiles of `inputs` (c channels) times a panel, to the columns from `first` on of `products` (k channels).
fn multiply(
    rows: Rows,
    (inputs, c): (&[f32], usize),
    panel: &[f32],
    point: usize,
    first: usize,
    (products, k): (&mut [f32], usize),
) {
    let left = Left {
        precision: Precision::F32,
        values: &inputs[point * point_stride(c)..],
        starts: rows.inputs,
        segments: &[Segment { offset: 0, len: c }],
        ahead: false,
    };
    let memory = Memory::Written(&mut products[point * point_stride(k) + first..]);
    let target = Target { memory, starts: rows.products, columns: COLUMNS.min(k - first), ahead: false };
    dot(Simd::level(), left, panel, target, Finish::default());
}

/// Where `count` tiles of `channels` start.
fn starts(count: usize, channels: usize, to: &mut Vec<usize>) -> Starts<'_> {
    to.clear();
    to.extend((0..count).map(|tile| tile * tile_stride(channels)));
    Starts::new(to)
}
