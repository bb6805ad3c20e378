//! The transforms, 16 channels at a time. Where fewer are left, a vector has numbers of the next pixel too: none is kept.
//!
//! Matrices B, G and A for the points 0, ±a, ±b, infinity with a = 3/4 and b = 3/2.

#![allow(clippy::needless_range_loop, reason = "indexed loops of fixed length stay in registers")]

use std::mem::MaybeUninit;

use super::super::map::Map;
use super::tiles::{POINTS, point_stride};

use crate::lanes::{LANES, Lanes, by_lanes, over_lanes};
use crate::memory::prefetch;

const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

/// Bᵀd of one row or column of a tile.
#[inline(always)]
fn input_line<V: Lanes>(d: [V; 6]) -> [V; 6] {
    let (even_a, odd_a) = (d[4].plus(-B2, d[2]), d[3].scale(A).plus(-A * B2, d[1]));
    let (even_b, odd_b) = (d[4].plus(-A2, d[2]), d[3].scale(B).plus(-B * A2, d[1]));
    [
        d[4].plus(A2 * B2, d[0]).plus(-A2 - B2, d[2]),
        even_a.add(odd_a),
        even_a.sub(odd_a),
        even_b.add(odd_b),
        even_b.sub(odd_b),
        d[5].plus(A2 * B2, d[1]).plus(-A2 - B2, d[3]),
    ]
}

/// Aᵀm of one row or column: 6 points to 4 outputs.
#[inline(always)]
pub(super) fn output_line<V: Lanes>(m: [V; 6]) -> [V; 4] {
    let (sum_a, difference_a) = (m[1].add(m[2]), m[1].sub(m[2]));
    let (sum_b, difference_b) = (m[3].add(m[4]), m[3].sub(m[4]));
    [
        m[0].add(sum_a).add(sum_b),
        difference_a.scale(A).plus(B, difference_b),
        sum_a.scale(A2).plus(B2, sum_b),
        m[5].plus(A2 * A, difference_a).plus(B2 * B, difference_b),
    ]
}

/// A y of one row or column: 4 output gradients to 6 points.
#[inline(always)]
fn gradient_line<V: Lanes>(y: [V; 4]) -> [V; 6] {
    let (even_a, odd_a) = (y[0].plus(A2, y[2]), y[1].scale(A).plus(A2 * A, y[3]));
    let (even_b, odd_b) = (y[0].plus(B2, y[2]), y[1].scale(B).plus(B2 * B, y[3]));
    [y[0], even_a.add(odd_a), even_a.sub(odd_a), even_b.add(odd_b), even_b.sub(odd_b), y[3]]
}

const G0: f32 = 1.0 / (A2 * B2);
const GA: f32 = 1.0 / (2.0 * A2 * (A2 - B2));
const GB: f32 = 1.0 / (2.0 * B2 * (B2 - A2));

/// G g of one row or column: 3 weights to 6 points.
#[inline(always)]
fn weight_line<V: Lanes>(g: [V; 3]) -> [V; 6] {
    let (even_a, odd_a) = (g[0].plus(A2, g[2]).scale(GA), g[1].scale(GA * A));
    let (even_b, odd_b) = (g[0].plus(B2, g[2]).scale(GB), g[1].scale(GB * B));
    [g[0].scale(G0), even_a.add(odd_a), even_a.sub(odd_a), even_b.add(odd_b), even_b.sub(odd_b), g[2]]
}

/// Gᵀu of one row or column: 6 points to 3 weight gradients.
#[inline(always)]
fn weight_gradient_line<V: Lanes>(u: [V; 6]) -> [V; 3] {
    let (sum_a, difference_a) = (u[1].add(u[2]).scale(GA), u[1].sub(u[2]).scale(GA));
    let (sum_b, difference_b) = (u[3].add(u[4]).scale(GB), u[3].sub(u[4]).scale(GB));
    [
        sum_a.add(sum_b).plus(G0, u[0]),
        difference_a.scale(A).plus(B, difference_b),
        u[5].plus(A2, sum_a).plus(B2, sum_b),
    ]
}

/// Channels of a map from which on the next tile is asked for: with fewer, the processor does so by itself.
const ASKED: usize = 64;

// Below, no closure and no iterator touches lanes: they would be compiled apart, without the level's
// instructions.

/// Lines (columns first, then rows) of a tile whose numbers `load` reads; `done` takes the rows of the
/// result. One macro for all transforms.
macro_rules! both_ways {
    (
        $line:ident: $from:literal to $to:literal, $lanes:ident,
        |$i:ident, $j:ident| $load:expr, |$row:ident, $values:ident| $done:expr
    ) => {{
        // Without zeros first: the tile does not fit the registers, so they would really be written.
        let mut columns = [MaybeUninit::<[$lanes; $to]>::uninit(); $from];
        for $j in 0..$from {
            let mut line = [$lanes::zero(); $from];
            for $i in 0..$from {
                line[$i] = $load;
            }
            columns[$j].write($line(line));
        }
        for $row in 0..$to {
            let mut line = [$lanes::zero(); $from];
            for j in 0..$from {
                // SAFETY: all columns were written.
                line[j] = unsafe { columns[j].assume_init_ref() }[$row];
            }
            let $values = $line(line);
            $done
        }
    }};
}
pub(super) use both_ways;

over_lanes! {
    /// The 6x6 tile of `map` whose top-left pixel (image, y, x) may lie outside, to `to` (36, channels).
    pub(super) fn input_tile<V>(map: &Map, at: (usize, isize, isize), to: &mut [f32]) {
        let (image, y, x) = at;
        let stride = point_stride(map.c);
        // Where rows, and pixels in a row, start; what lies outside is beyond the end of all numbers.
        const OUTSIDE: usize = usize::MAX / 4;
        let (mut rows, mut columns) = ([OUTSIDE; 6], [OUTSIDE; 6]);
        for i in 0..6 {
            if let Some(y) = y.checked_add_unsigned(i).filter(|y| (0..map.h as isize).contains(y)) {
                rows[i] = (image * map.h + y as usize) * map.w * map.c;
            }
            if let Some(x) = x.checked_add_unsigned(i).filter(|x| (0..map.w as isize).contains(x)) {
                columns[i] = x as usize * map.c;
            }
        }
        by_lanes!(map.c, |first, WHOLE| {
            // The right neighbour is next: what it alone sees comes from beyond the caches.
            if map.c >= ASKED {
                for i in 0..6 {
                    for j in 2..6 {
                        if let Some(pixel) = map.values.get(rows[i] + columns[j] + 4 * map.c + first) {
                            prefetch(pixel);
                        }
                    }
                }
            }
            both_ways!(
                input_line: 6 to 6, V,
                |i, j| match map.values.get(rows[i] + columns[j] + first..) {
                    Some(pixel) => V::load_some::<WHOLE>(pixel),
                    None => V::zero(),
                },
                |row, points| for j in 0..6 {
                    points[j].store(&mut to[(6 * row + j) * stride + first..]);
                }
            );
        });
    }
}

over_lanes! {
    /// The 4x4 tile of output gradients at (image, y, x), zero outside the map, to `to` (36, channels).
    pub(super) fn gradient_tile<V>(map: &Map, at: (usize, usize, usize), to: &mut [f32]) {
        let (image, y, x) = at;
        let stride = point_stride(map.c);
        by_lanes!(map.c, |first, WHOLE| {
            // As above.
            if map.c >= ASKED {
                for i in 0..4 {
                    for j in 4..8 {
                        let pixel = ((image * map.h + y + i) * map.w + x + j) * map.c + first;
                        if let Some(pixel) = map.values.get(pixel) {
                            prefetch(pixel);
                        }
                    }
                }
            }
            both_ways!(
                gradient_line: 4 to 6, V,
                |i, j| match y + i < map.h && x + j < map.w {
                    true => V::load_some::<WHOLE>(&map.values[((image * map.h + y + i) * map.w + x + j) * map.c + first..]),
                    false => V::zero(),
                },
                |row, points| for j in 0..6 {
                    points[j].store(&mut to[(6 * row + j) * stride + first..]);
                }
            );
        });
    }
}

over_lanes! {
    /// A panel of 3x3 weights (9 · inner, 32) to its 36 points, each (inner, 32).
    pub(super) fn weight_panel<V>(panel: &[f32], inner: usize, to: &mut [&mut [f32]]) {
        let size = inner * 32;
        let to = &mut to[..POINTS];
        for first in (0..size).step_by(LANES) {
            both_ways!(
                weight_line: 3 to 6, V,
                |i, j| V::load(&panel[(3 * i + j) * size + first..]),
                |row, points| for j in 0..6 {
                    points[j].store(&mut to[6 * row + j][first..]);
                }
            );
        }
    }
}

over_lanes! {
    /// Transforms an output channel's gradient at the 36 points, `channels` numbers at every `stride`, to its
    /// weights' gradient (9, channels).
    pub(super) fn weight_gradient<V>(from: &[f32], stride: usize, channels: usize, to: &mut [f32]) {
        by_lanes!(channels, |first, WHOLE| {
            let last = channels.min(first + LANES);
            both_ways!(
                weight_gradient_line: 6 to 3, V,
                |i, j| V::load(&from[(6 * i + j) * stride + first..]),
                |row, weights| for j in 0..3 {
                    let tap = (3 * row + j) * channels;
                    weights[j].store_some::<WHOLE>(&mut to[tap + first..tap + last]);
                }
            );
        });
    }
}
