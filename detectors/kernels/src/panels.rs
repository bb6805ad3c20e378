//! Weights packed into panels of 32 columns, as [`microkernel::dot`](crate::microkernel::dot) reads them.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::microkernel::COLUMNS;
use crate::precision::pair;
use crate::simd::for_each_level;
use crate::transpose::{TILE, transpose_tile};

/// Floats that start at a multiple of 64 bytes: a vector load never straddles two cache lines.
#[derive(Debug, Default)]
pub(crate) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

const LINE: usize = 16;

impl Aligned {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        Self { lines: vec![Line([0.0; LINE]); len.div_ceil(LINE)], len }
    }

    /// `len` numbers, those of an earlier use or zeros: for what is overwritten anyway.
    pub(crate) fn recycled(len: usize) -> Self {
        let count = len.div_ceil(LINE);
        let kept = SPARE.with_borrow_mut(|spare| {
            let fitting = spare.iter().position(|lines| (count..=2 * count).contains(&lines.len()));
            fitting.map(|index| spare.swap_remove(index))
        });
        kept.map_or_else(|| Self::zeros(len), |lines| Self { lines, len })
    }

    /// At least `len` numbers, which may be those of an earlier use.
    pub(crate) fn at_least(&mut self, len: usize) -> &mut [f32] {
        if self.len < len {
            *self = Self::zeros(len);
        }
        &mut self.as_mut_slice()[..len]
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        // SAFETY: the lines are `len` or more consecutive floats.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    /// Bits of the numbers.
    pub(crate) fn as_bits(&self) -> &[u32] {
        // SAFETY: as above; both types take any bits.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    /// Bits of the numbers, to be overwritten.
    pub(crate) fn as_mut_bits(&mut self) -> &mut [u32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// Bytes of a buffer that is kept for the next [`Aligned::recycled`], and how many are kept on a thread.
const SPARE_BYTES: usize = 2 << 20;
const SPARES: usize = 3;

thread_local! {
    static SPARE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

impl Drop for Aligned {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        if lines.is_empty() || size_of_val(&lines[..]) > SPARE_BYTES {
            return;
        }
        // A thread that ends has no place for it any more.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() == SPARES {
                spare.remove(0);
            }
            spare.push(lines);
        });
    }
}

/// A matrix (inner, columns) as panels: 32 columns at a time, (inner, 32) row-major, the last one filled with
/// 0.
pub(crate) struct Panels {
    values: Aligned,
    pub(crate) inner: usize,
    pub(crate) columns: usize,
}

impl Panels {
    /// Panel `index`, from inner index `first` on.
    #[inline]
    pub(crate) fn panel(&self, index: usize, first: usize) -> &[f32] {
        let size = self.inner * COLUMNS;
        &self.values.as_slice()[index * size..][..size][first * COLUMNS..]
    }

    /// The panels' number.
    pub(crate) fn count(&self) -> usize {
        self.columns.div_ceil(COLUMNS)
    }

    /// The transpose of `matrix` (columns, inner), whose row k is multiplied by `scale[k]`.
    pub(crate) fn of_transposed(
        matrix: &[f32],
        (inner, columns): (usize, usize),
        scale: Option<&[f32]>,
    ) -> Self {
        Self::fill((inner, columns), |first, panel| {
            let width = COLUMNS.min(columns - first);
            for (block, panel) in panel.chunks_mut(TILE * COLUMNS).enumerate() {
                let terms = panel.len() / COLUMNS;
                for column in (0..width).step_by(TILE) {
                    let rows = &matrix[(first + column) * inner + block * TILE..];
                    let size = (TILE.min(width - column), terms);
                    transpose_tile(rows, inner, size, &mut panel[column..], COLUMNS);
                }
                if let Some(scale) = scale {
                    scale_columns(panel, &scale[first..][..width]);
                }
            }
        })
    }

    /// Row i is `columns` numbers of `values` from `start(i)` on, times `scale(i)`.
    pub(crate) fn of_rows(
        values: &[f32],
        (inner, columns): (usize, usize),
        start: impl Fn(usize) -> usize + Sync,
        scale: impl Fn(usize) -> f32 + Sync,
    ) -> Self {
        Self::fill((inner, columns), |first, panel| {
            let width = COLUMNS.min(columns - first);
            for (i, panel) in panel.chunks_exact_mut(COLUMNS).enumerate() {
                scaled(&values[start(i) + first..][..width], scale(i), panel);
            }
        })
    }

    /// Panels in pairs of bfloat16: inner indices 2i and 2i + 1 in the place of one number.
    ///
    /// # Panics
    /// If the number of inner indices is odd.
    pub(crate) fn in_pairs(&self) -> Self {
        assert!(self.inner.is_multiple_of(2), "pairs of {} inner indices", self.inner);
        Self::fill((self.inner / 2, self.columns), |first, pairs| {
            let panel = self.panel(first / COLUMNS, 0).chunks_exact(2 * COLUMNS);
            for (pairs, rows) in pairs.chunks_exact_mut(COLUMNS).zip(panel) {
                let (low, high) = rows.split_at(COLUMNS);
                paired(low, high, pairs);
            }
        })
    }

    /// Panel by panel, each given its first column and itself, to overwrite; columns that are not there are
    /// 0.
    fn fill((inner, columns): (usize, usize), fill: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let mut values = Aligned::recycled(columns.div_ceil(COLUMNS) * inner * COLUMNS);
        let one = |(index, panel): (usize, &mut [f32])| {
            if columns < (index + 1) * COLUMNS {
                panel.fill(0.0);
            }
            fill(index * COLUMNS, panel);
        };
        let size = (inner * COLUMNS).max(1);
        // Small ones are not worth waking other threads for.
        match values.len < 1 << 15 {
            true => values.as_mut_slice().chunks_mut(size).enumerate().for_each(one),
            false => values.as_mut_slice().par_chunks_mut(size).enumerate().for_each(one),
        }
        Self { values, inner, columns }
    }
}

for_each_level! {
    fn scaled(from: &[f32], scale: f32, to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from * scale);
    }

    /// Column j of every row times `scale[j]`.
    fn scale_columns(panel: &mut [f32], scale: &[f32]) {
        for row in panel.chunks_exact_mut(COLUMNS) {
            row.iter_mut().zip(scale).for_each(|(value, scale)| *value *= scale);
        }
    }

    fn paired(low: &[f32], high: &[f32], to: &mut [f32]) {
        to.iter_mut().zip(low).zip(high).for_each(|((to, low), high)| *to = pair(*low, *high));
    }
}
