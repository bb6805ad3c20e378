//! Tiles of 16 sums a vector, by AVX512-VNNI.

#![allow(clippy::needless_range_loop, reason = "indexed loops of fixed length stay in registers")]

use std::arch::x86_64::*;

use super::dot::{Call, Out, Residual};
use crate::activation::{Activation, SIX};
use crate::microkernel::COLUMNS;

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
    // SAFETY: passed on.
    unsafe {
        match (call.rows, call.columns > 16) {
            (9.., true) => tile::<12, 2>(call),
            (5..=8, true) => tile::<8, 2>(call),
            (_, true) => tile::<4, 2>(call),
            (9.., false) => tile::<12, 1>(call),
            (5..=8, false) => tile::<8, 1>(call),
            (_, false) => tile::<4, 1>(call),
        }
    }
}

/// Written out: a loop would index the sums, and so keep all of them in memory.
macro_rules! finish_rows {
    ($call:ident, $sums:ident, $masks:ident, $rows:ident: $($row:literal)*) => {$(
        if $row < $rows && $row < $call.rows {
            finish_row($call, $row, $sums[$row % $rows], &$masks);
        }
    )*};
}

/// R rows (at least as many as there are) by V vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
#[inline]
unsafe fn tile<const R: usize, const V: usize>(call: &Call) {
    // SAFETY: the caller checked every access.
    unsafe {
        let first: [__m512i; V] = std::array::from_fn(|v| _mm512_loadu_si512(call.first.add(16 * v).cast()));
        let mut sums = [first; R];
        let mut panel = call.panel;
        for segment in call.segments {
            let left = call.left.add(segment.offset);
            let rows: [*const u32; R] = std::array::from_fn(|i| left.add(call.left_starts[i]));
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
        let masks: [__mmask16; V] =
            std::array::from_fn(|v| ((1u32 << call.columns.saturating_sub(16 * v).min(16)) - 1) as __mmask16);
        finish_rows!(call, sums, masks, R: 0 1 2 3 4 5 6 7 8 9 10 11);
    }
}

/// Finishes and writes the sums of one row.
///
/// # Safety
/// Every access of `call` is in bounds.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
#[inline]
unsafe fn finish_row<const V: usize>(call: &Call, row: usize, sums: [__m512i; V], masks: &[__mmask16; V]) {
    // SAFETY: the caller checked every access.
    unsafe {
        let start = call.out_starts[row];
        for v in 0..V {
            let at = start + 16 * v;
            let (scale, shift) =
                (_mm512_loadu_ps(call.scale.add(16 * v)), _mm512_loadu_ps(call.shift.add(16 * v)));
            let mut number = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[v]), scale, shift);
            match call.residual {
                Residual::None => {}
                Residual::Real(numbers) => {
                    number = _mm512_add_ps(
                        number,
                        _mm512_maskz_loadu_ps(masks[v], numbers.as_ptr().wrapping_add(at)),
                    );
                }
                Residual::Steps(steps, grid) => {
                    let steps = _mm_maskz_loadu_epi8(masks[v], steps.as_ptr().wrapping_add(at).cast());
                    let zero = _mm512_set1_epi32(i32::from(grid.zero));
                    let steps = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(steps), zero));
                    number = _mm512_add_ps(number, _mm512_mul_ps(steps, _mm512_set1_ps(grid.scale)));
                }
            }
            // The second operand of a minimum or maximum wins where it is NaN.
            if call.activation != Activation::Identity {
                number = _mm512_max_ps(_mm512_setzero_ps(), number);
            }
            if call.activation == Activation::Relu6 {
                number = _mm512_min_ps(_mm512_set1_ps(SIX), number);
            }
            match call.out {
                Out::Real(out) => _mm512_mask_storeu_ps(out.wrapping_add(at), masks[v], number),
                Out::Steps(out, grid, inverse) => {
                    let (low, high) = grid.reach();
                    let steps = _mm512_mul_ps(number, _mm512_set1_ps(inverse));
                    // The first bound where it is NaN.
                    let steps = _mm512_max_ps(steps, _mm512_set1_ps(low));
                    let steps = _mm512_min_ps(steps, _mm512_set1_ps(high));
                    let zero = _mm512_set1_epi32(i32::from(grid.zero));
                    let steps = _mm512_add_epi32(_mm512_cvtps_epi32(steps), zero);
                    _mm_mask_storeu_epi8(out.wrapping_add(at).cast(), masks[v], _mm512_cvtepi32_epi8(steps));
                }
            }
        }
    }
}
