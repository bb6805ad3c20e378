//! Tiles of 16-float vectors.

#![allow(clippy::needless_range_loop, reason = "indexed loops of fixed length stay in registers")]

use std::arch::x86_64::*;

use super::call::{COLUMNS, Dot, Outer, ROWS, tile_starts};
use crate::activation::{Activation, SIX};

/// Number of floats of a panel that are asked for ahead of their use.
const AHEAD: usize = 24 * COLUMNS;

/// Finishes the sums of the `R` rows from `first` on, and writes those of rows that are there: a step at a time for all rows, so that each
/// is decided once. No function: the sums would be kept in memory for it, in the loops before, too.
macro_rules! finish {
    ($call:ident, $first:ident, $sums:ident, $rows:ident) => {{
        let masks: [__mmask16; V] = masks($call.columns);
        // Rows that are not there read what the last one reads.
        let starts: [usize; $rows] = tile_starts($call.out_starts, $first);
        macro_rules! every {
            (|$i:ident, $v:ident| $result:expr) => {
                for $i in 0..$rows {
                    for $v in 0..V {
                        $sums[$i][$v] = $result;
                    }
                }
            };
        }
        if $call.accumulate {
            every!(|i, v| {
                let before = _mm512_maskz_loadu_ps(masks[v], $call.out.add(starts[i] + 16 * v));
                _mm512_add_ps($sums[i][v], before)
            });
        }
        if let Some(shift) = $call.shift {
            let shift: [__m512; V] =
                std::array::from_fn(|v| _mm512_maskz_loadu_ps(masks[v], shift.add(16 * v)));
            every!(|i, v| _mm512_add_ps($sums[i][v], shift[v]));
        }
        if let Some(residual) = $call.residual {
            every!(|i, v| {
                let residual = _mm512_maskz_loadu_ps(masks[v], residual.add(starts[i] + 16 * v));
                _mm512_add_ps($sums[i][v], residual)
            });
        }
        // The second operand of a minimum or maximum wins where it is NaN.
        if $call.activation != Activation::Identity {
            every!(|i, v| _mm512_max_ps(_mm512_setzero_ps(), $sums[i][v]));
        }
        if $call.activation == Activation::Relu6 {
            every!(|i, v| _mm512_min_ps(_mm512_set1_ps(SIX), $sums[i][v]));
        }
        for i in 0..$rows {
            for v in 0..V {
                let out = $call.out.add(starts[i] + 16 * v);
                match $first + i < $call.out_starts.len() {
                    true if $call.stream => _mm512_stream_ps(out, $sums[i][v]),
                    true => _mm512_mask_storeu_ps(out, masks[v], $sums[i][v]),
                    false => (),
                }
            }
        }
    }};
}

/// The kernel of one precision: its instructions, and its multiply-add of a broadcast left number (bits), a
/// vector of right numbers and the sums.
macro_rules! dot_kernel {
    ($dot:ident, $tile:ident, $even:ident, $features:literal, |$factor:ident, $right:ident, $sum:ident| $multiply_add:expr) => {
        /// # Safety
        /// Every access of `call` is in bounds, and the processor has the instructions.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $dot(call: &Dot) {
            let rows = call.left_starts.len();
            // SAFETY: passed on.
            unsafe {
                let plain = call.is_plain();
                for first in (0..rows).step_by(ROWS) {
                    match (rows - first, call.columns, call.step_of_tile(first)) {
                        (12.., 32, Some(step)) if plain => $even::<2, true>(call, first, step),
                        (12.., 16, Some(step)) if plain => $even::<1, true>(call, first, step),
                        (12.., 17.., Some(step)) => $even::<2, false>(call, first, step),
                        (12.., _, Some(step)) => $even::<1, false>(call, first, step),
                        (9.., 17.., _) => $tile::<12, 2>(call, first),
                        (5..=8, 17.., _) => $tile::<8, 2>(call, first),
                        (_, 17.., _) => $tile::<4, 2>(call, first),
                        (9.., _, _) => $tile::<12, 1>(call, first),
                        (5..=8, _, _) => $tile::<8, 1>(call, first),
                        (_, _, _) => $tile::<4, 1>(call, first),
                    }
                }
            }
        }

        /// The R rows from `first` on, or as many as there are, by V vectors.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn $tile<const R: usize, const V: usize>(call: &Dot, first: usize) {
            let mut sums = [[_mm512_setzero_ps(); V]; R];
            // SAFETY: the caller checked every access.
            unsafe {
                let starts: [usize; R] = tile_starts(call.left_starts, first);
                ask_for_rows::<R>(call, first);
                let mut panel = call.panel;
                let mut next = match call.left_starts.get(first + R) {
                    Some(&start) if call.left_ahead => call.left.add(start),
                    _ => panel,
                };
                for segment in call.segments {
                    let left = call.left.add(segment.offset);
                    let rows: [*const f32; R] = std::array::from_fn(|i| left.add(starts[i]));
                    for inner in 0..segment.len {
                        // The panel comes from the L2 cache or beyond; a prefetch past its end does nothing.
                        _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(AHEAD).cast());
                        _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(AHEAD + 16).cast());
                        _mm_prefetch::<_MM_HINT_T1>(next.cast());
                        next = next.wrapping_add(16);
                        let right: [__m512; V] = std::array::from_fn(|v| _mm512_loadu_ps(panel.add(16 * v)));
                        for i in 0..R {
                            let $factor = _mm512_set1_ps(*rows[i].add(inner));
                            for v in 0..V {
                                let ($right, $sum) = (right[v], sums[i][v]);
                                sums[i][v] = $multiply_add;
                            }
                        }
                        panel = panel.add(COLUMNS);
                    }
                }
                finish!(call, first, sums, R);
            }
        }

        /// [`ROWS`] rows, `step` apart: fewer addresses are kept than of rows anywhere. If `PLAIN`, whole vectors of the sums are
        /// written as they are.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn $even<const V: usize, const PLAIN: bool>(call: &Dot, first: usize, step: usize) {
            let mut sums = [[_mm512_setzero_ps(); V]; ROWS];
            // SAFETY: the caller checked every access.
            unsafe {
                if !PLAIN {
                    ask_for_rows::<ROWS>(call, first);
                }
                let start = call.left.add(*call.left_starts.get_unchecked(first));
                let mut panel = call.panel;
                let mut next = match call.left_starts.get(first + ROWS) {
                    Some(&start) if call.left_ahead => call.left.add(start),
                    _ => panel,
                };
                for segment in call.segments {
                    let mut left = start.add(segment.offset);
                    for _ in 0..segment.len {
                        if V > 1 || !PLAIN {
                            _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(AHEAD).cast());
                            _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(AHEAD + 16).cast());
                        }
                        if !PLAIN {
                            _mm_prefetch::<_MM_HINT_T1>(next.cast());
                            next = next.wrapping_add(16);
                        }
                        let right: [__m512; V] = std::array::from_fn(|v| _mm512_loadu_ps(panel.add(16 * v)));
                        for i in 0..ROWS {
                            let $factor = _mm512_set1_ps(*left.add(i * step));
                            for v in 0..V {
                                let ($right, $sum) = (right[v], sums[i][v]);
                                sums[i][v] = $multiply_add;
                            }
                        }
                        panel = panel.add(COLUMNS);
                        left = left.wrapping_add(1);
                    }
                }
                if !PLAIN {
                    finish!(call, first, sums, ROWS);
                    return;
                }
                write_rows!(call, first, sums: 0 1 2 3 4 5 6 7 8 9 10 11);
            }
        }
    };
}

/// Lanes of each vector that are within `columns`.
#[inline(always)]
fn masks<const V: usize>(columns: usize) -> [__mmask16; V] {
    std::array::from_fn(|v| ((1u32 << columns.saturating_sub(16 * v).min(16)) - 1) as __mmask16)
}

/// Asks for what the R rows from `first` on are finished with: it comes from beyond the caches while the sums are computed.
///
/// # Safety
/// There is a row.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn ask_for_rows<const R: usize>(call: &Dot, first: usize) {
    // SAFETY: there is a row; a prefetch reads nothing.
    unsafe {
        for start in tile_starts::<R>(call.out_starts, first) {
            for at in [start, start + 16] {
                if let Some(residual) = call.residual {
                    _mm_prefetch::<_MM_HINT_T0>(residual.wrapping_add(at).cast());
                }
                if call.out_ahead && !call.stream {
                    _mm_prefetch::<_MM_HINT_ET0>(call.out.wrapping_add(at).cast());
                }
            }
        }
    }
}

/// Written out: a loop would index the sums, and so keep all of them in memory.
macro_rules! write_rows {
    ($call:ident, $first:ident, $sums:ident: $($row:literal)*) => {$(
        let out = $call.out.add(*$call.out_starts.get_unchecked($first + $row));
        for (v, sum) in $sums[$row].iter().enumerate() {
            _mm512_storeu_ps(out.add(16 * v), *sum);
        }
    )*};
}

dot_kernel!(dot, dot_tile, dot_even, "avx512f", |factor, right, sum| _mm512_fmadd_ps(factor, right, sum));
dot_kernel!(dot_pairs, dot_pairs_tile, dot_even_pairs, "avx512f,avx512bf16", |factor, right, sum| {
    _mm512_dpbf16_ps(sum, as_pairs(factor), as_pairs(right))
});

/// The bits of 16 floats as 16 pairs of bfloat16.
#[inline(always)]
fn as_pairs(bits: __m512) -> __m512bh {
    // SAFETY: both are 64 bytes of which any are valid.
    unsafe { std::mem::transmute::<__m512, __m512bh>(bits) }
}

/// # Safety
/// Every access of `call` is in bounds, and the processor has AVX-512F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn outer(call: &Outer) {
    // SAFETY: passed on; a tile of fewer rows than R never runs.
    unsafe {
        let mut row = 0;
        while row < call.rows {
            row += match (call.rows - row, call.columns > 16) {
                (12.., true) => outer_tile::<12, 2>(call, row),
                (8.., true) => outer_tile::<8, 2>(call, row),
                (4.., true) => outer_tile::<4, 2>(call, row),
                (_, true) => outer_tile::<1, 2>(call, row),
                (12.., false) => outer_tile::<12, 1>(call, row),
                (8.., false) => outer_tile::<8, 1>(call, row),
                (4.., false) => outer_tile::<4, 1>(call, row),
                (_, false) => outer_tile::<1, 1>(call, row),
            };
        }
    }
}

/// Rows `first` to `first + R` by V vectors; returns R.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn outer_tile<const R: usize, const V: usize>(call: &Outer, first: usize) -> usize {
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    // SAFETY: the caller checked every access.
    unsafe {
        let mut left = call.left.add(first);
        let mut right = call.right;
        for _ in 0..call.terms {
            let vectors: [__m512; V] = std::array::from_fn(|v| _mm512_loadu_ps(right.add(16 * v)));
            for i in 0..R {
                let factor = _mm512_set1_ps(*left.add(i));
                for v in 0..V {
                    sums[i][v] = _mm512_fmadd_ps(factor, vectors[v], sums[i][v]);
                }
            }
            left = left.wrapping_add(call.left_stride);
            right = right.wrapping_add(call.right_stride);
        }
        let masks: [__mmask16; V] = masks(call.columns);
        for i in 0..R {
            for v in 0..V {
                let out = call.out.add((first + i) * call.out_stride + 16 * v);
                let mut sum = sums[i][v];
                if call.accumulate {
                    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(masks[v], out));
                }
                _mm512_mask_storeu_ps(out, masks[v], sum);
            }
        }
    }
    R
}
