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

/// Numbers that lie side by side both in a row of a factor and in a row of a panel.
pub(crate) struct Piece {
    /// From the start of the factor's row.
    pub(crate) from: usize,
    /// Column of the panel.
    pub(crate) to: usize,
    pub(crate) len: usize,
}

over_lanes! {
    /// The `pieces`, by ascending columns, of each of `starts`, one after another at every [`COLUMNS`]. Columns of no piece are left
    /// with anything.
    pub(crate) fn pack_pieces<V>(values: &[f32], starts: &[usize], pieces: &[Piece], to: &mut [f32]) {
        for (row, start) in starts.iter().enumerate() {
            for piece in pieces {
                for lane in (0..piece.len).step_by(LANES) {
                    let (from, column) = (start + piece.from + lane, row * COLUMNS + piece.to + lane);
                    // Whole lanes where they fit: what is too much, the next piece overwrites, or the next row's first.
                    match (values.get(from..from + LANES), to.get_mut(column..column + LANES)) {
                        (Some(from), Some(to)) => V::load(from).store(to),
                        _ => {
                            let len = LANES.min(piece.len - lane);
                            to[column..column + len].copy_from_slice(&values[from..from + len]);
                        }
                    }
                }
            }
        }
    }
}
