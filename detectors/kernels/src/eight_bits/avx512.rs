//! Tiles of 16 sums a vector, by AVX512-VNNI.

#![allow(clippy::needless_range_loop, reason = "indexed loops of fixed length stay in registers")]

use std::arch::x86_64::*;

use super::call::{Call, Out, Residual};
use crate::microkernel::{COLUMNS, ROWS, tile_starts};

/// Quads of a panel that are asked for ahead of their use.
const AHEAD: usize = 24 * COLUMNS;

/// Whether this processor multiplies quads.
pub(super) fn is_there() -> bool {
    std::arch::is_x86_feature_detected!("avx512vnni")
}

/// # Safety
/// Every access of `call` is in bounds, and the processor has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
pub(super) unsafe fn dot(call: &Call) {
    let rows = call.left_starts.len();
    // SAFETY: passed on.
    unsafe {
        for first in (0..rows).step_by(ROWS) {
            match (rows - first, call.columns > 16) {
                (9.., true) => tile::<12, 2>(call, first),
                (5..=8, true) => tile::<8, 2>(call, first),
                (_, true) => tile::<4, 2>(call, first),
                (9.., false) => tile::<12, 1>(call, first),
                (5..=8, false) => tile::<8, 1>(call, first),
                (_, false) => tile::<4, 1>(call, first),
            }
        }
    }
}

/// The R rows from `at` on, or as many as there are, by V vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
#[inline]
unsafe fn tile<const R: usize, const V: usize>(call: &Call, at: usize) {
    // SAFETY: the caller checked every access.
    unsafe {
        let first: [__m512i; V] = std::array::from_fn(|v| _mm512_loadu_si512(call.first.add(16 * v).cast()));
        let mut sums = [first; R];
        let starts: [usize; R] = tile_starts(call.left_starts, at);
        ask_for_rows::<R>(call, at);
        let mut panel = call.panel;
        for segment in call.segments {
            let left = call.left.add(segment.offset);
            let rows: [*const u32; R] = std::array::from_fn(|i| left.add(starts[i]));
            for inner in 0..segment.len {
                // The panel comes from the L2 cache or beyond; a prefetch past its end does nothing.
                _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(AHEAD).cast());
                _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(AHEAD + 16).cast());
                let right: [__m512i; V] =
                    std::array::from_fn(|v| _mm512_loadu_si512(panel.add(16 * v).cast()));
                for i in 0..R {
                    let factor = _mm512_set1_epi32(*rows[i].add(inner) as i32);
                    for v in 0..V {
                        sums[i][v] = _mm512_dpbusd_epi32(sums[i][v], factor, right[v]);
                    }
                }
                panel = panel.add(COLUMNS);
            }
        }
        match (call.out, call.residual) {
            (Out::Real { .. }, Residual::None) => finish::<R, V, REAL, NOTHING>(call, at, sums),
            (Out::Real { .. }, Residual::Real(_)) => finish::<R, V, REAL, NUMBERS>(call, at, sums),
            (Out::Real { .. }, Residual::Steps(..)) => finish::<R, V, REAL, STEPS>(call, at, sums),
            (Out::Steps { .. }, Residual::None) => finish::<R, V, STEPS, NOTHING>(call, at, sums),
            (Out::Steps { .. }, Residual::Real(_)) => finish::<R, V, STEPS, NUMBERS>(call, at, sums),
            (Out::Steps { .. }, Residual::Steps(..)) => finish::<R, V, STEPS, STEPS>(call, at, sums),
        }
    }
}

/// Asks for what the R rows from `at` on are finished with: it comes from beyond the caches while the sums are computed.
///
/// # Safety
/// There is a row.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
#[inline]
unsafe fn ask_for_rows<const R: usize>(call: &Call, at: usize) {
    // SAFETY: there is a row; a prefetch reads nothing.
    unsafe {
        for start in tile_starts::<R>(call.out_starts, at) {
            match call.residual {
                Residual::None => {}
                Residual::Real(numbers) => {
                    let numbers = numbers.as_ptr().wrapping_add(start);
                    _mm_prefetch::<_MM_HINT_T0>(numbers.cast());
                    _mm_prefetch::<_MM_HINT_T0>(numbers.wrapping_add(16).cast());
                }
                Residual::Steps(steps, _) => {
                    _mm_prefetch::<_MM_HINT_T0>(steps.as_ptr().wrapping_add(start).cast());
                }
            }
            match call.out {
                Out::Real { stream: true, .. } => {}
                Out::Real { out, stream: false } => {
                    _mm_prefetch::<_MM_HINT_ET0>(out.wrapping_add(start).cast());
                    _mm_prefetch::<_MM_HINT_ET0>(out.wrapping_add(start + 16).cast());
                }
                Out::Steps { out, .. } => _mm_prefetch::<_MM_HINT_ET0>(out.wrapping_add(start).cast()),
            }
        }
    }
}

/// Forms of a result and of what is added to it.
const NOTHING: u8 = 0;
const REAL: u8 = 1;
const NUMBERS: u8 = 1;
const STEPS: u8 = 2;

/// Constants of a tile's finish, in registers.
struct Finish<'a> {
    call: &'a Call<'a>,
    inverse: __m512,
    lower: __m512,
    upper: __m512,
    zero: __m512i,
    added_zero: __m512i,
    added_scale: __m512,
}

/// Written out: a loop would index the sums, and so keep all of them in memory.
macro_rules! finish_rows {
    ($finish:ident, $at:ident, $sums:ident, $rows:ident: $($row:literal)*) => {$(
        if $row < $rows && $at + $row < $finish.call.out_starts.len() {
            let start = *$finish.call.out_starts.get_unchecked($at + $row);
            finish_row::<V, OUT, ADDED>(&$finish, start, $sums[$row % $rows]);
        }
    )*};
}

/// Finishes and writes the sums: to an `OUT`, with an `ADDED`.
///
/// # Safety
/// Every access of `call` is in bounds, and its operands have these forms.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
#[inline]
unsafe fn finish<const R: usize, const V: usize, const OUT: u8, const ADDED: u8>(
    call: &Call,
    at: usize,
    sums: [[__m512i; V]; R],
) {
    let (inverse, lower, upper, zero) = match call.out {
        Out::Real { .. } => (0.0, call.activation.least(), call.activation.most(), 0),
        Out::Steps { rule, .. } => (rule.inverse, rule.lower, rule.upper, rule.zero),
    };
    let (added_zero, added_scale) = match call.residual {
        Residual::Steps(_, grid) => (grid.zero, grid.scale),
        _ => (0, 0.0),
    };
    let finish = Finish {
        call,
        inverse: _mm512_set1_ps(inverse),
        lower: _mm512_set1_ps(lower),
        upper: _mm512_set1_ps(upper),
        zero: _mm512_set1_epi32(i32::from(zero)),
        added_zero: _mm512_set1_epi32(i32::from(added_zero)),
        added_scale: _mm512_set1_ps(added_scale),
    };
    // SAFETY: passed on.
    unsafe {
        finish_rows!(finish, at, sums, R: 0 1 2 3 4 5 6 7 8 9 10 11);
    }
}

/// Finishes the sums of one row and writes them from `start` on.
///
/// # Safety
/// As [`finish`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
#[inline]
unsafe fn finish_row<const V: usize, const OUT: u8, const ADDED: u8>(
    finish: &Finish,
    start: usize,
    sums: [__m512i; V],
) {
    let call = finish.call;
    // SAFETY: the caller checked every access.
    unsafe {
        for v in 0..V {
            let at = start + 16 * v;
            let mask = ((1u32 << call.columns.saturating_sub(16 * v).min(16)) - 1) as __mmask16;
            let scale = _mm512_loadu_ps(call.scale.add(16 * v));
            let shift = _mm512_loadu_ps(call.shift.add(16 * v));
            let mut number = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[v]), scale, shift);
            match call.residual {
                Residual::Real(numbers) if ADDED == NUMBERS => {
                    let numbers = _mm512_maskz_loadu_ps(mask, numbers.as_ptr().wrapping_add(at));
                    number = _mm512_add_ps(number, numbers);
                }
                Residual::Steps(steps, _) if ADDED == STEPS => {
                    let steps = _mm_maskz_loadu_epi8(mask, steps.as_ptr().wrapping_add(at).cast());
                    let steps = _mm512_sub_epi32(_mm512_cvtepu8_epi32(steps), finish.added_zero);
                    let numbers = _mm512_mul_ps(_mm512_cvtepi32_ps(steps), finish.added_scale);
                    number = _mm512_add_ps(number, numbers);
                }
                _ => {}
            }
            match call.out {
                Out::Real { out, stream } if OUT == REAL => {
                    // The second operand of a minimum or maximum wins where it is NaN.
                    number = _mm512_min_ps(finish.upper, _mm512_max_ps(finish.lower, number));
                    match stream {
                        true => _mm512_stream_ps(out.wrapping_add(at), number),
                        false => _mm512_mask_storeu_ps(out.wrapping_add(at), mask, number),
                    }
                }
                Out::Steps { out, .. } if OUT == STEPS => {
                    let steps = _mm512_mul_ps(number, finish.inverse);
                    // The bound where it is NaN.
                    let steps = _mm512_min_ps(_mm512_max_ps(steps, finish.lower), finish.upper);
                    let steps =
                        _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(steps), finish.zero));
                    _mm_mask_storeu_epi8(out.wrapping_add(at).cast(), mask, steps);
                }
                _ => {}
            }
        }
    }
}
