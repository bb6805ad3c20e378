//! Sums over a window that slides across a map: the direct form of the forward pass and of the input's
//! gradient.
//!
//! A [`Sweep`] visits the pixels of a result and takes, for each of them, the numbers that its taps see in a
//! source map, times a packed matrix. A task owns a band of result rows. It copies the part of the source
//! that the band sees, with zeros around the map, into a scratch that stays in the L2 cache; there every tap
//! is a constant offset from its pixel, and the taps of a kernel row are one run of numbers. A window that
//! never leaves the map (1x1) reads it in place.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::geometry::Phase;
use super::map::Map;
use crate::activation::Activation;
use crate::microkernel::{COLUMNS, Finish, Left, Memory, ROWS, Segment, Starts, Target, dot, dot_onto};
use crate::panels::{Aligned, Panels};
use crate::precision::{Precision, pack};
use crate::simd::Simd;

/// One sweep: a source, the shape (h, w, k) of the result's images, and the phases of its pixels.
pub(super) struct Sweep<'a> {
    /// Precision of the panels, to which the source is rounded.
    pub(super) precision: Precision,
    pub(super) source: Map<'a>,
    pub(super) result: (usize, usize, usize),
    /// Result pixels between neighbours of a phase.
    pub(super) stride: [usize; 2],
    /// Source pixels between what neighbours of a phase see.
    pub(super) step: [usize; 2],
    pub(super) phases: &'a [Phase],
    /// The packed weights of each phase and group: (phase, group) row-major.
    pub(super) panels: &'a [Panels],
    pub(super) groups: usize,
    pub(super) finish: Finish<'a>,
}

/// The panels in `precision`, or in f32 if this processor has no such products or the `channels` of a group have
/// no pairs.
pub(super) fn in_precision(
    precision: Precision,
    channels: usize,
    panels: Vec<Panels>,
) -> (Precision, Vec<Panels>) {
    match precision {
        Precision::Bf16 if precision.is_native() && channels.is_multiple_of(2) => {
            (precision, panels.iter().map(Panels::in_pairs).collect())
        }
        _ => (Precision::F32, panels),
    }
}

/// Floats of a source band that a task copies or reads: part of a 1 MiB L2 cache, which it shares with a
/// panel.
const BAND: usize = 96 * 1024;
/// Floats of a result that is larger than what the caches may still hold when it is read.
const STREAMED: usize = 6 << 20;
/// Inner indices that are summed in registers at once: longer sums are sums of such sums, which is also more
/// exact.
const BLOCK: usize = 1024;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    window: Aligned,
    lefts: Vec<usize>,
    outs: Vec<usize>,
}

impl Sweep<'_> {
    /// Writes every number of the result (n·h·w·k).
    pub(super) fn run(&self, out: &mut [MaybeUninit<f32>]) {
        let (h, w, k) = self.result;
        if out.is_empty() {
            return;
        }
        let rows = out.len() / (w * k);
        // A single tap is read a block at a time.
        let channels = match self.phases {
            [phase] if phase.taps.len() == 1 => self.source.c.min(BLOCK),
            _ => self.source.c,
        };
        let seen = (w * self.step[1]).div_ceil(self.stride[1]).max(1) * channels;
        let band = band_rows(rows, w, seen * self.step[0] / self.stride[0] + w * k / 2);
        let level = Simd::level();
        let blocks: Vec<Vec<Block>> = self.phases.iter().map(|phase| self.blocks(phase)).collect();
        out.par_chunks_mut(band * w * k).enumerate().for_each(|(index, out)| {
            if self.phases.iter().any(|phase| phase.taps.is_empty()) {
                out.fill(MaybeUninit::new(0.0));
            }
            SCRATCH.with_borrow_mut(|scratch| {
                for (number, phase) in self.phases.iter().enumerate() {
                    if !phase.taps.is_empty() {
                        self.phase_band(
                            level,
                            (number, phase),
                            &blocks[number],
                            (index * band, h),
                            out,
                            scratch,
                        );
                    }
                }
            });
        });
    }

    /// The pixels of one phase in the band that starts at flat row `first`.
    fn phase_band(
        &self,
        level: Simd,
        (number, phase): (usize, &Phase),
        blocks: &[Block],
        (first, h): (usize, usize),
        out: &mut [MaybeUninit<f32>],
        scratch: &mut Scratch,
    ) {
        let (_, w, k) = self.result;
        let window = self.window(phase);
        let columns = window.columns;
        let rows = (first..first + out.len() / (w * k)).filter(|row| row % h % self.stride[0] == phase.at[0]);
        let pixel_size = window.pixel_size();
        let Scratch { window: copy, lefts, outs } = scratch;
        lefts.clear();
        outs.clear();
        let lattice = rows.map(|row| (row / h, row % h / self.stride[0], (row - first) * w));
        let source = window.place(lattice, copy, |left, at| {
            for column in 0..columns {
                lefts.push(left + column * self.step[1] * pixel_size);
                outs.push((at + phase.at[1] + column * self.stride[1]) * k);
            }
        });
        // A narrow band may lie between two rows of the phase.
        if lefts.is_empty() {
            return;
        }
        let (starts, places) = (Starts::new(lefts), Starts::new(outs));
        let (group_c, group_k) = (window.channels() / self.groups, k / self.groups);
        let stream = blocks.len() == 1 && self.source.n * h * w * k >= STREAMED;
        let in_place = window.reads_in_place();
        for group in 0..self.groups {
            let panels = &self.panels[number * self.groups + group];
            for (index, block) in blocks.iter().enumerate() {
                let last = index + 1 == blocks.len();
                for panel in 0..panels.count() {
                    let column = group * group_k + panel * COLUMNS;
                    let width = COLUMNS.min(group_k - panel * COLUMNS);
                    let offset = first * w * k + column;
                    let finish = Finish {
                        shift: self.finish.shift.filter(|_| last).map(|shift| &shift[column..]),
                        residual: self.finish.residual.filter(|_| last).map(|residual| &residual[offset..]),
                        activation: if last { self.finish.activation } else { Activation::Identity },
                        stream,
                    };
                    let left = Left {
                        precision: self.precision,
                        values: &source[group * group_c..],
                        starts,
                        segments: &block.segments,
                        // The first panel meets the source when it is not in cache yet.
                        ahead: panel == 0 && in_place,
                    };
                    let memory = Memory::Fresh(&mut out[column..]);
                    let target = Target { memory, starts: places, columns: width, ahead: true };
                    let panel = panels.panel(panel, block.first);
                    match index {
                        0 => dot(level, left, panel, target, finish),
                        // SAFETY: the first block wrote the same places.
                        _ => unsafe { dot_onto(level, left, panel, target, finish) },
                    }
                }
            }
        }
    }

    fn window<'a>(&'a self, phase: &'a Phase) -> Window<'a> {
        let (h, w, _) = self.result;
        let count =
            |axis: usize, size: usize| size.saturating_sub(phase.at[axis]).div_ceil(self.stride[axis]);
        Window {
            precision: self.precision,
            source: self.source,
            step: self.step,
            phase,
            rows: count(0, h),
            columns: count(1, w),
            in_tiles: true,
        }
    }

    /// The segments of a phase's taps, at most [`BLOCK`] inner indices at a time.
    fn blocks(&self, phase: &Phase) -> Vec<Block> {
        let window = self.window(phase);
        let (width, pixel_size) = (window.row_pixels(), window.pixel_size());
        let group_c = window.channels() / self.groups;
        // One block at least: a sum of nothing is still written.
        let mut blocks = vec![Block { first: 0, segments: Vec::new() }];
        let (mut inner, mut in_block) = (0, 0);
        for tap in &phase.taps {
            let [dy, dx] = phase.offset(tap);
            let mut segment = Segment { offset: (dy * width + dx) * pixel_size, len: group_c };
            while segment.len > 0 {
                if in_block == BLOCK {
                    blocks.push(Block { first: inner, segments: Vec::new() });
                    in_block = 0;
                }
                let len = segment.len.min(BLOCK - in_block);
                let segments = &mut blocks.last_mut().expect("one was pushed").segments;
                match segments.last_mut() {
                    Some(last) if last.offset + last.len == segment.offset => last.len += len,
                    _ => segments.push(Segment { offset: segment.offset, len }),
                }
                segment = Segment { offset: segment.offset + len, len: segment.len - len };
                inner += len;
                in_block += len;
            }
        }
        blocks
    }
}

struct Block {
    first: usize,
    segments: Vec<Segment>,
}

/// Part of the source that the pixels of a phase see.
pub(super) struct Window<'a> {
    /// Precision that the part is rounded to; pairs of channels take the place of one number.
    pub(super) precision: Precision,
    pub(super) source: Map<'a>,
    pub(super) step: [usize; 2],
    pub(super) phase: &'a Phase,
    /// Rows of the phase in an image.
    pub(super) rows: usize,
    /// Pixels of the phase in a row.
    pub(super) columns: usize,
    /// Whether the pixels of a tile are read together, again and again.
    pub(super) in_tiles: bool,
}

impl<'a> Window<'a> {
    /// Returns whether no tap of any pixel leaves the map.
    fn is_inside(&self) -> bool {
        let fits = |axis: usize, count: usize, size: usize| {
            let reach = count.saturating_sub(1) * self.step[axis] + self.phase.span[axis];
            self.phase.origin[axis] >= 0 && self.phase.origin[axis] as usize + reach <= size
        };
        fits(0, self.rows, self.source.h) && fits(1, self.columns, self.source.w)
    }

    /// Returns whether rows of a tile would all fall into the same few sets of the L1 cache.
    fn collides(&self) -> bool {
        let size = self.channels();
        self.in_tiles
            && size > 0
            && self.rows * self.columns > 1
            && (size * self.step[1]).is_multiple_of(1024)
    }

    fn reads_in_place(&self) -> bool {
        self.precision == Precision::F32 && self.is_inside() && !self.collides()
    }

    /// Numbers of a pixel, where the window is read.
    fn channels(&self) -> usize {
        match self.precision {
            Precision::Bf16 => self.source.c / 2,
            _ => self.source.c,
        }
    }

    /// Floats from one pixel to the next, where the window is read.
    pub(super) fn pixel_size(&self) -> usize {
        self.channels() + if self.collides() { 16 } else { 0 }
    }

    /// Pixels from one row to the next, where the window is read.
    pub(super) fn row_pixels(&self) -> usize {
        match self.reads_in_place() {
            true => self.source.w,
            false => self.columns.saturating_sub(1) * self.step[1] + self.phase.span[1],
        }
    }

    /// Makes the source of lattice rows (image, row, key) readable: in place or as a copy.
    ///
    /// Calls `put` with the start of each row's first window and its key.
    pub(super) fn place<'b>(
        &self,
        lattice: impl Iterator<Item = (usize, usize, usize)>,
        copy: &'b mut Aligned,
        mut put: impl FnMut(usize, usize),
    ) -> &'b [f32]
    where
        'a: 'b,
    {
        let Map { values, h, w, c, .. } = self.source;
        let [origin_y, origin_x] = self.phase.origin;
        if self.reads_in_place() {
            for (image, row, key) in lattice {
                let y = row * self.step[0] + origin_y as usize;
                put(((image * h + y) * w + origin_x as usize) * c, key);
            }
            return values;
        }
        let (width, pixel_size) = (self.row_pixels(), self.pixel_size());
        let row_size = width * pixel_size;
        // Source rows that are in the copy: those of an image from one row on, each once.
        let mut rows: Vec<(usize, isize)> = Vec::new();
        for (image, row, key) in lattice {
            let top = (row * self.step[0]) as isize + origin_y;
            // Tops ascend, so only the last window's rows can be seen again.
            let recent = rows.len().saturating_sub(self.phase.span[0]);
            let known = rows[recent..].iter().position(|&row| row == (image, top));
            let known = known.map_or(rows.len(), |at| recent + at);
            put(known * row_size, key);
            for dy in (rows.len() - known)..self.phase.span[0] {
                rows.push((image, top + dy as isize));
            }
        }
        let copy = copy.at_least(rows.len() * row_size);
        let left = (-origin_x).clamp(0, width as isize) as usize;
        let first = origin_x.max(0) as usize;
        let inside = w.saturating_sub(first).min(width - left);
        for (&(image, y), to) in rows.iter().zip(copy.chunks_exact_mut(row_size.max(1))) {
            if y < 0 || y as usize >= h {
                to.fill(0.0);
                continue;
            }
            let from = &values[((image * h + y as usize) * w + first.min(w)) * c..][..inside * c];
            to[..left * pixel_size].fill(0.0);
            let (middle, right) = to[left * pixel_size..].split_at_mut(inside * pixel_size);
            right.fill(0.0);
            let channels = self.channels();
            let place = |from: &[f32], to: &mut [f32]| match self.precision {
                Precision::Bf16 => pack(from, to),
                _ => to.copy_from_slice(from),
            };
            if pixel_size == channels {
                place(from, middle);
            } else {
                for (to, from) in middle.chunks_exact_mut(pixel_size).zip(from.chunks_exact(c)) {
                    place(from, &mut to[..channels]);
                }
            }
        }
        copy
    }
}

/// Result rows of `w` pixels that one task takes, where a row reads `seen` floats of the source: what the
/// cache holds, and enough tasks for all threads.
pub(super) fn band_rows(rows: usize, w: usize, seen: usize) -> usize {
    let fits = BAND / seen.max(1);
    let shared = rows.div_ceil(4 * rayon::current_num_threads());
    // Whole tiles, where rows are shorter than a tile.
    let tile = ROWS.div_ceil(w.max(1));
    fits.min(shared).next_multiple_of(tile).max(tile)
}
