//! Factors of [`outer`](super::outer) brought together: each number is read many times.

use super::call::{COLUMNS, ROWS};
use crate::lanes::{LANES, over_lanes};
use crate::memory::prefetch;

/// `height` numbers at `first` from each of `starts`, as tiles of [`ROWS`] of every term, `tile` numbers apart. Every start's
/// numbers are read at once, as they lie in memory.
pub(crate) fn pack_tiles(
    values: &[f32],
    starts: &[usize],
    (first, height): (usize, usize),
    to: &mut [f32],
    tile: usize,
) {
    for (term, start) in starts.iter().enumerate() {
        let row = &values[start + first..][..height];
        for (from, to) in row.chunks(ROWS).zip(to.chunks_exact_mut(tile)) {
            let to = &mut to[term * ROWS..][..ROWS];
            // Of a known length, a copy is a few moves.
            match from.first_chunk::<ROWS>() {
                Some(from) => to.copy_from_slice(from),
                None => to[..from.len()].copy_from_slice(from),
            }
        }
    }
}

over_lanes! {
    /// `width` numbers at `first` from each of `starts`, one after another at every [`COLUMNS`].
    pub(crate) fn pack_columns<V>(
        values: &[f32],
        starts: &[usize],
        columns: (usize, usize),
        to: &mut [f32],
    ) {
        let (first, width) = columns;
        for (to, start) in to.chunks_exact_mut(COLUMNS).zip(starts) {
            let from = &values[start + first..][..width];
            // The columns that are wanted next lie on pages of their own for each start.
            for next in [COLUMNS, COLUMNS + LANES] {
                if let Some(next) = values.get(start + first + next) {
                    prefetch(next);
                }
            }
            match width {
                COLUMNS => {
                    V::load(from).store(to);
                    V::load(&from[LANES..]).store(&mut to[LANES..]);
                }
                LANES => V::load(from).store(to),
                _ => to[..width].copy_from_slice(from),
            }
        }
    }
}
