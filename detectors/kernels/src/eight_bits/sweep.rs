//! Bands of result rows: a task brings the part of the source that its band sees together in cache, in steps,
//! and multiplies; there every tap is a constant offset from its pixel.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::call::Residual;
use super::dot::{Columns, Left, Memory, Target, dot};
use super::grid::{Grid, to_steps};
use super::map::bytes_of_mut;
use crate::Conv2dConfig;
use crate::activation::Activation;
use crate::microkernel::{COLUMNS, ROWS, Segment, Starts};
use crate::simd::Simd;

/// Numbers of a source map, channels last.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    Real(&'a [f32]),
    Steps(&'a [u32]),
}

/// A layer's sweep over its result.
#[derive(Clone, Copy)]
pub(super) struct Sweep<'a> {
    pub(super) source: Source<'a>,
    /// Grid of the source's steps.
    pub(super) grid: Grid,
    /// (N, H, W, C) of the source.
    pub(super) sizes: [usize; 4],
    /// (H, W, K) of the result's images.
    pub(super) result: [usize; 3],
    pub(super) kernel: [usize; 2],
    pub(super) config: Conv2dConfig,
    pub(super) residual: Residual<'a>,
    pub(super) activation: Activation,
}

/// Bytes of source and result that a task keeps in the L2 cache, beside a panel.
const BAND: usize = 384 * 1024;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    copy: Vec<u32>,
    lefts: Vec<usize>,
    outs: Vec<usize>,
}

impl Sweep<'_> {
    /// The sweep over one long column of the same pixels, if nothing depends on where a pixel lies.
    pub(super) fn flattened(self) -> Self {
        let Conv2dConfig { stride, padding, .. } = self.config;
        if self.kernel != [1, 1] || stride != [1, 1] || padding != [0, 0] {
            return self;
        }
        let ([n, h, w, c], [_, _, k]) = (self.sizes, self.result);
        let pixels = n * h * w;
        Self { sizes: [1, pixels, 1, c], result: [pixels, 1, k], ..self }
    }

    /// Writes the whole result: `a_pixel` elements of `out` for each pixel, which `memory` makes writable. `panels`
    /// gives a panel of a group.
    pub(super) fn run<'p, E: Send>(
        &self,
        out: &mut [MaybeUninit<E>],
        a_pixel: usize,
        panels: impl Fn(usize, usize) -> (&'p [u32], Columns<'p>) + Sync,
        memory: impl Fn(&mut [MaybeUninit<E>]) -> Memory<'_> + Sync,
    ) {
        if out.is_empty() {
            return;
        }
        let [_, ow, k] = self.result;
        let rows = out.len() / (ow * a_pixel);
        let [_, _, w, _] = self.sizes;
        let a_row = self.config.stride[0] * w * 4 * self.quads() + ow * a_pixel * size_of::<E>();
        let shared = rows.div_ceil(4 * rayon::current_num_threads());
        // Whole tiles, where rows are shorter than a tile.
        let tile = ROWS.div_ceil(ow);
        let band = (BAND / a_row).min(shared).next_multiple_of(tile).max(tile);
        let level = Simd::level();
        let segments = self.segments();
        out.par_chunks_mut(band * ow * a_pixel).enumerate().for_each(|(index, out)| {
            SCRATCH.with_borrow_mut(|scratch| {
                let Scratch { copy, lefts, outs } = scratch;
                lefts.clear();
                outs.clear();
                let first = index * band;
                let rows = first..first + out.len() / (ow * a_pixel);
                let quads = self.gather(rows.clone(), copy, lefts);
                outs.extend((0..lefts.len()).map(|pixel| pixel * k));
                let (starts, places) = (Starts::new(lefts), Starts::new(outs));
                let residual = |column: usize| match self.residual {
                    Residual::None => Residual::None,
                    Residual::Real(numbers) => Residual::Real(&numbers[first * ow * k + column..]),
                    Residual::Steps(steps, grid) => Residual::Steps(&steps[first * ow * k + column..], grid),
                };
                let groups = self.config.groups;
                let (group_quads, group_k) = (self.quads() / groups, k / groups);
                for group in 0..groups {
                    for index in 0..group_k.div_ceil(COLUMNS) {
                        let (panel, columns) = panels(group, index);
                        let column = group * group_k + index * COLUMNS;
                        let width = COLUMNS.min(group_k - index * COLUMNS);
                        let left = Left { quads: &quads[group * group_quads..], starts, segments: &segments };
                        let memory = memory(&mut *out).from(column);
                        let target = Target { memory, starts: places, columns: width };
                        dot(level, left, panel, columns, target, residual(column), self.activation);
                    }
                }
            });
        });
    }

    /// Quads of a pixel.
    fn quads(&self) -> usize {
        self.sizes[3].div_ceil(4)
    }

    /// Source columns of a row in the copy: of a 1x1 kernel only those that it sees.
    fn columns(&self) -> usize {
        let [_, ow, _] = self.result;
        match self.kernel {
            [1, 1] => ow,
            [_, s] => (ow - 1) * self.config.stride[1] + (s - 1) * self.config.dilation[1] + 1,
        }
    }

    /// Copied source columns between neighbours of a result row.
    fn step(&self) -> usize {
        if self.kernel == [1, 1] { 1 } else { self.config.stride[1] }
    }

    /// Whether the source is read where it lies.
    fn reads_in_place(&self) -> bool {
        let Conv2dConfig { stride, padding, .. } = self.config;
        matches!(self.source, Source::Steps(_))
            && self.kernel == [1, 1]
            && stride == [1, 1]
            && padding == [0, 0]
    }

    /// Runs of quads that a pixel of a group sees.
    fn segments(&self) -> Vec<Segment> {
        let quads = self.quads();
        let len = quads / self.config.groups;
        let row = self.columns() * quads;
        let mut segments: Vec<Segment> = Vec::new();
        for r in 0..self.kernel[0] {
            for s in 0..self.kernel[1] {
                // Rows of the kernel follow each other in the copy, whatever lies between them in the source.
                let offset = r * row + s * self.config.dilation[1] * quads;
                match segments.last_mut() {
                    Some(last) if last.offset + last.len == offset => last.len += len,
                    _ => segments.push(Segment { offset, len }),
                }
            }
        }
        segments
    }

    /// Makes the source of the result `rows` readable, and notes where each pixel's window starts.
    fn gather<'a>(
        &'a self,
        rows: std::ops::Range<usize>,
        copy: &'a mut Vec<u32>,
        lefts: &mut Vec<usize>,
    ) -> &'a [u32] {
        let [_, h, w, _] = self.sizes;
        let [oh, ow, _] = self.result;
        let quads = self.quads();
        if let (true, Source::Steps(source)) = (self.reads_in_place(), self.source) {
            lefts.extend((rows.start * ow..rows.end * ow).map(|pixel| pixel * quads));
            return source;
        }
        let Conv2dConfig { stride, padding, dilation, .. } = self.config;
        let row_quads = self.columns() * quads;
        // Dilated kernels and strides of more than the kernel leave rows out; without dilation, windows of neighbouring
        // rows share theirs.
        let mut copied: Vec<(usize, isize)> = Vec::new();
        for row in rows {
            let (image, top) = (row / oh, (row % oh * stride[0]) as isize - padding[0] as isize);
            let wanted = (0..self.kernel[0]).map(|r| (image, top + (r * dilation[0]) as isize));
            let known = (copied.len().saturating_sub(self.kernel[0])..copied.len())
                .find(|&at| wanted.clone().zip(&copied[at..]).all(|(wanted, known)| wanted == *known))
                .unwrap_or(copied.len());
            copied.extend(wanted.skip(copied.len() - known));
            lefts.extend((0..ow).map(|column| known * row_quads + column * self.step() * quads));
        }
        let len = copied.len() * row_quads;
        if copy.len() < len {
            copy.resize(len, 0);
        }
        let nothing = u32::from_le_bytes([self.grid.zero; 4]);
        for (&(image, y), to) in copied.iter().zip(copy.chunks_exact_mut(row_quads.max(1))) {
            match (0..h as isize).contains(&y) {
                true => self.copy_row((image * h + y as usize) * w, to, nothing),
                false => to.fill(nothing),
            }
        }
        &copy[..len]
    }

    /// Copies the row of source pixels from `start` on to its place between `nothing`, in steps.
    fn copy_row(&self, start: usize, to: &mut [u32], nothing: u32) {
        let [_, _, w, c] = self.sizes;
        let quads = self.quads();
        let padding = self.config.padding[1];
        let stride = self.config.stride[1];
        if self.kernel == [1, 1] {
            // Only the pixels that are seen.
            for (column, to) in to.chunks_exact_mut(quads).enumerate() {
                match (column * stride).checked_sub(padding).filter(|x| *x < w) {
                    Some(x) => self.copy_pixels(start + x, to, c),
                    None => to.fill(nothing),
                }
            }
            return;
        }
        let width = to.len() / quads;
        let inside = w.min(width.saturating_sub(padding));
        let (left, to) = to.split_at_mut(padding.min(width) * quads);
        let (to, right) = to.split_at_mut(inside * quads);
        left.fill(nothing);
        right.fill(nothing);
        match c.is_multiple_of(4) {
            true => self.copy_pixels(start, to, inside * c),
            false => {
                for (pixel, to) in to.chunks_exact_mut(quads).enumerate() {
                    self.copy_pixels(start + pixel, to, c);
                }
            }
        }
    }

    /// Copies `count` numbers from source pixel `pixel` on.
    fn copy_pixels(&self, pixel: usize, to: &mut [u32], count: usize) {
        let c = self.sizes[3];
        match self.source {
            Source::Real(numbers) => {
                to_steps(self.grid, &numbers[pixel * c..][..count], &mut bytes_of_mut(to)[..count]);
            }
            Source::Steps(quads) => to.copy_from_slice(&quads[pixel * c / 4..][..count / 4]),
        }
    }
}
