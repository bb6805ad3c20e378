//! The gradient of the weights.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use candle_core::Tensor;
use rayon::prelude::*;

use super::geometry::{Geometry, Phase};
use super::map::Map;
use super::sweep::Window;
use super::{depthwise, winograd};
use crate::Result;
use crate::dispatch::Host;
use crate::memory::{channels_last, elements, from_channels_last, on_host, written};
use crate::microkernel::{COLUMNS, Memory, Piece, ROWS, Terms, outer, pack_columns, pack_pieces, pack_tiles};
use crate::panels::Aligned;
use crate::precision::Precision;
use crate::simd::Simd;

/// The gradient of the result, and the input.
pub(super) struct WeightGradient<'a> {
    pub(super) geometry: &'a Geometry,
    /// (N, OH, OW, K).
    pub(super) g: &'a Tensor,
    /// (N, C, H, W).
    pub(super) x: &'a Tensor,
    /// Row k of the gradient is times `scale[k]`.
    pub(super) scale: Option<&'a Tensor>,
}

impl Host for WeightGradient<'_> {
    /// (K, C/groups, R, S), channels last in memory.
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let &Geometry { k, r, s, .. } = self.geometry;
        let (group_c, _) = self.geometry.group_channels();
        let (g, x) = (elements(self.g)?, channels_last(self.x)?);
        let mut sums = sums(self.geometry, &elements(&x)?, &g);
        if let Some(scale) = self.scale {
            let scale = on_host(scale)?;
            let rows = sums.chunks_exact_mut((group_c * r * s).max(1));
            for (row, scale) in rows.zip(elements(&scale)?.iter()) {
                row.iter_mut().for_each(|w| *w *= scale);
            }
        }
        from_channels_last(sums, (k, r, s, group_c), self.g)
    }
}

/// The gradient (k, r, s, c/groups) from the input and the result's gradient `g`.
pub(super) fn sums(geometry: &Geometry, x: &[f32], g: &[f32]) -> Vec<f32> {
    if geometry.is_depthwise() {
        depthwise::weight_gradient(geometry, x, g)
    } else if winograd::suits_weight_gradient(geometry) {
        winograd::weight_gradient(geometry, x, g)
    } else {
        Direct::new(&geometry.flattened(), x, g).sums()
    }
}

/// Sums of outer products of output gradients and the input windows that they come from.
struct Direct<'a> {
    geometry: Geometry,
    phase: Phase,
    x: Map<'a>,
    g: &'a [f32],
    /// Rows of windows that are placed at once.
    band: usize,
}

/// Weights (floats) up to which tasks share the pixels and add their sums; beyond, they share the output
/// channels.
const SMALL: usize = 64 * 1024;
/// Shares of the pixels: fixed, so that the sums do not depend on the number of threads.
const SHARES: usize = 8;
/// The most output channels of a task.
const TASK_CHANNELS: usize = 22 * ROWS;
/// Pixels that are summed in registers at once.
const TERMS: usize = 256;
/// Floats from one tile of packed rows to the next: neighbours never share a set of the cache.
const TILE: usize = TERMS * ROWS + 16;

#[derive(Default)]
struct Scratch {
    window: Aligned,
    windows: Vec<usize>,
    gradients: Vec<usize>,
    left: Aligned,
    right: Aligned,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<'a> Direct<'a> {
    fn new(geometry: &Geometry, x: &'a [f32], g: &'a [f32]) -> Self {
        let (phase, x) = (geometry.forward_phase(), geometry.input_map(x));
        let band = (2 * TERMS / geometry.ow.max(1)).max(1);
        Self { geometry: *geometry, phase, x, g, band }
    }

    fn sums(&self) -> Vec<f32> {
        let &Geometry { n, oh, k, r, s, .. } = &self.geometry;
        let (group_c, _) = self.geometry.group_channels();
        let width = r * s * group_c;
        let rows = n * oh;
        let size = k * width;
        if size == 0 || rows == 0 || self.geometry.ow == 0 {
            return vec![0f32; size];
        }
        if size > SMALL {
            // Few, large tasks: each brings the inputs together anew.
            let share = k
                .div_ceil(rayon::current_num_threads())
                .next_multiple_of(ROWS)
                .clamp(2 * ROWS, TASK_CHANNELS);
            let write = |sums: &mut [MaybeUninit<f32>]| {
                let tasks = sums.par_chunks_mut(share * width).enumerate();
                tasks.for_each(|(index, sums)| self.write(0..rows, index * share, sums));
            };
            // SAFETY: there are rows of pixels.
            return unsafe { written(size, write) };
        }
        let share = rows.div_ceil(SHARES).next_multiple_of(self.band);
        let partial: Vec<Vec<f32>> = (0..rows.div_ceil(share))
            .into_par_iter()
            .map(|index| {
                let rows = index * share..rows.min((index + 1) * share);
                // SAFETY: as above.
                unsafe { written(size, |sums| self.write(rows, 0, sums)) }
            })
            .collect();
        let mut sums = vec![0f32; size];
        for partial in partial {
            sums.iter_mut().zip(partial).for_each(|(sum, partial)| *sum += partial);
        }
        sums
    }

    /// Writes what the output rows `rows` give to the weights of the output channels from `first_k` on. If there are pixels, every
    /// sum is written.
    fn write(&self, rows: std::ops::Range<usize>, first_k: usize, sums: &mut [MaybeUninit<f32>]) {
        let &Geometry { config, oh, ow, k, .. } = &self.geometry;
        let (group_c, group_k) = self.geometry.group_channels();
        let window = Window {
            precision: Precision::F32,
            source: self.x,
            step: config.stride,
            phase: &self.phase,
            rows: oh,
            columns: ow,
            in_tiles: false,
        };
        let (pixel_size, panels) = (window.pixel_size(), self.panels(&window));
        let inner = self.phase.taps.len() * group_c;
        let level = Simd::level();
        let last_k = first_k + sums.len() / inner;
        let mut are_written = false;
        SCRATCH.with_borrow_mut(|Scratch { window: copy, windows, gradients, left, right }| {
            for first in rows.clone().step_by(self.band) {
                windows.clear();
                gradients.clear();
                let band = first..rows.end.min(first + self.band);
                let lattice = band.map(|row| (row / oh, row % oh, row));
                let source = window.place(lattice, copy, |left, row| {
                    for column in 0..ow {
                        windows.push(left + column * config.stride[1] * pixel_size);
                        gradients.push((row * ow + column) * k);
                    }
                });
                for (windows, gradients) in windows.chunks(TERMS).zip(gradients.chunks(TERMS)) {
                    for group in first_k / group_k..last_k.div_ceil(group_k) {
                        let channels = first_k.max(group * group_k)..last_k.min((group + 1) * group_k);
                        // Both factors are brought together: each is read many times.
                        let height = channels.len();
                        let left = left.at_least(height.div_ceil(ROWS) * TILE);
                        pack_tiles(self.g, gradients, (channels.start, height), left, TILE);
                        for Columns { first, width, pieces } in &panels {
                            let panel = right.at_least(TERMS * COLUMNS);
                            let source = &source[group * group_c..];
                            match &pieces[..] {
                                [Piece { from, len, .. }] => {
                                    pack_columns(source, windows, (*from, *len), panel)
                                }
                                pieces => pack_pieces(source, windows, pieces, panel),
                            }
                            let right = Terms { values: right.as_slice(), stride: COLUMNS };
                            for row in (0..height).step_by(ROWS) {
                                let left = Terms { values: &left[row / ROWS * TILE..], stride: ROWS };
                                let size = (ROWS.min(height - row), *width);
                                let at = (channels.start - first_k + row) * inner + first;
                                // SAFETY: the first pixels' sums were written for all weights.
                                let out = unsafe { Memory::of(&mut sums[at..], are_written) };
                                outer(level, windows.len(), size, left, right, out, inner);
                            }
                        }
                    }
                    are_written = true;
                }
            }
        });
    }

    /// The weights of an output channel, as columns of panels.
    fn panels(&self, window: &Window) -> Vec<Columns> {
        let (group_c, _) = self.geometry.group_channels();
        let (width, pixel_size) = (window.row_pixels(), window.pixel_size());
        let mut panels: Vec<Columns> = Vec::new();
        for tap in &self.phase.taps {
            let [dy, dx] = self.phase.offset(tap);
            let from = (dy * width + dx) * pixel_size;
            let mut channel = 0;
            while channel < group_c {
                let (from, weight) = (from + channel, tap.index * group_c + channel);
                let to = weight % COLUMNS;
                let len = (COLUMNS - to).min(group_c - channel);
                if to == 0 {
                    panels.push(Columns { first: weight, width: 0, pieces: Vec::new() });
                }
                let panel = panels.last_mut().expect("taps begin with the first weight");
                match panel.pieces.last_mut() {
                    Some(last) if last.from + last.len == from => last.len += len,
                    _ => panel.pieces.push(Piece { from, to, len }),
                }
                panel.width += len;
                channel += len;
            }
        }
        panels
    }
}

/// Neighbouring weights of an output channel, at most [`COLUMNS`], and where a window holds what they are multiplied with.
struct Columns {
    first: usize,
    width: usize,
    pieces: Vec<Piece>,
}
