//! Operands of a level's kernels: sizes and pointers, every access of which was checked.

use crate::activation::Activation;

/// Rows of a tile.
pub(crate) const ROWS: usize = 12;
/// Columns of a tile, and of a panel.
pub(crate) const COLUMNS: usize = 32;

/// A run of consecutive inner indices: `len` numbers at `offset` from a row's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

/// Operands of the product; every access was checked.
#[derive(Clone, Copy)]
pub(super) struct Dot<'a> {
    pub(super) left: *const f32,
    /// Starts of the rows, as many as `out_starts`.
    pub(super) left_starts: &'a [usize],
    /// Between neighbouring rows, if all are as far apart.
    pub(super) left_step: Option<usize>,
    pub(super) segments: &'a [Segment],
    /// Whether the next tile's numbers are asked for while one is computed, a cache line for each inner index.
    pub(super) left_ahead: bool,
    pub(super) panel: *const f32,
    pub(super) out: *mut f32,
    pub(super) out_starts: &'a [usize],
    /// Whether a tile's places are asked for before its sums.
    pub(super) out_ahead: bool,
    pub(super) columns: usize,
    pub(super) accumulate: bool,
    pub(super) shift: Option<*const f32>,
    pub(super) residual: Option<*const f32>,
    pub(super) activation: Activation,
    /// Whole vectors are written past the caches; all their places are multiples of 64 bytes.
    pub(super) stream: bool,
}

impl Dot<'_> {
    /// Returns whether the sums are only written, and nothing is asked for ahead.
    pub(super) fn is_plain(&self) -> bool {
        let finished = self.accumulate || self.shift.is_some() || self.residual.is_some();
        !finished && self.activation == Activation::Identity && !self.stream && !self.out_ahead
    }

    /// Distance between the rows of the tile from `first` on, if it is whole and all are as far apart.
    #[inline]
    pub(super) fn step_of_tile(&self, first: usize) -> Option<usize> {
        self.left_step.or_else(|| step(self.left_starts.get(first..first + ROWS)?))
    }
}

/// Distance between neighbours, if all are as far apart.
fn step(starts: &[usize]) -> Option<usize> {
    let [first, second, ..] = starts else { return None };
    let step = second.checked_sub(*first)?;
    starts.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == step).then_some(step)
}

/// Where rows start: looked through once for all products of the same rows.
#[derive(Clone, Copy)]
pub(crate) struct Starts<'a> {
    each: &'a [usize],
    furthest: usize,
    joined: usize,
    /// Between neighbours, if all are as far apart.
    step: Option<usize>,
}

impl<'a> Starts<'a> {
    pub(crate) fn new(each: &'a [usize]) -> Self {
        let (furthest, joined) =
            each.iter().fold((0, 0), |(furthest, joined), &start| (start.max(furthest), start | joined));
        Self { each, furthest, joined, step: step(each) }
    }

    pub(crate) fn each(self) -> &'a [usize] {
        self.each
    }

    pub(crate) fn furthest(self) -> usize {
        self.furthest
    }

    pub(crate) fn step(self) -> Option<usize> {
        self.step
    }

    /// Returns whether all are multiples of `count`, a power of two.
    pub(crate) fn are_multiples_of(self, count: usize) -> bool {
        self.joined.is_multiple_of(count)
    }
}

/// The R `starts` from `first` on. Rows that are not there repeat the last one; their sums are not written.
///
/// # Safety
/// There is a row.
#[inline(always)]
pub(crate) unsafe fn tile_starts<const R: usize>(starts: &[usize], first: usize) -> [usize; R] {
    let last = starts.len() - 1;
    // SAFETY: an index up to the last row's.
    std::array::from_fn(|i| unsafe { *starts.get_unchecked((first + i).min(last)) })
}

/// The operands of the sum of outer products.
pub(super) struct Outer {
    pub(super) terms: usize,
    pub(super) left: *const f32,
    pub(super) left_stride: usize,
    pub(super) right: *const f32,
    pub(super) right_stride: usize,
    pub(super) accumulate: bool,
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
}
