//! Tiles of 16-float vectors.

use std::arch::x86_64::*;

use super::{COLUMNS, Dot, Outer};
use crate::elementwise::SIX;
use crate::linear::Activation;

/// How many floats of a panel are asked for ahead of their use.
const AHEAD: usize = 24 * COLUMNS;

/// # Safety
/// Every access of `call` is in bounds, and the processor has AVX-512F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn dot(call: &Dot) {
    // SAFETY: passed on.
    unsafe {
        match (call.rows, call.columns > 16) {
            (9.., true) => dot_tile::<12, 2>(call),
            (5..=8, true) => dot_tile::<8, 2>(call),
            (_, true) => dot_tile::<4, 2>(call),
            (9.., false) => dot_tile::<12, 1>(call),
            (5..=8, false) => dot_tile::<8, 1>(call),
            (_, false) => dot_tile::<4, 1>(call),
        }
    }
}

/// R rows (at least as many as there are) by V vectors.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn dot_tile<const R: usize, const V: usize>(call: &Dot) {
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    // SAFETY: the caller checked every access.
    unsafe {
        let mut panel = call.panel;
        for segment in call.segments {
            let left = call.left.add(segment.offset);
            let rows: [*const f32; R] = std::array::from_fn(|i| left.add(call.left_starts[i]));
            for inner in 0..segment.len {
                // The panel comes from the L2 cache or beyond; a prefetch past its end does nothing.
                _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(AHEAD).cast());
                _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(AHEAD + 16).cast());
                let right: [__m512; V] = std::array::from_fn(|v| _mm512_loadu_ps(panel.add(16 * v)));
                for i in 0..R {
                    let factor = _mm512_set1_ps(*rows[i].add(inner));
                    for v in 0..V {
                        sums[i][v] = _mm512_fmadd_ps(factor, right[v], sums[i][v]);
                    }
                }
                panel = panel.add(COLUMNS);
            }
        }
        // Written out: a loop would index the sums, and so keep all of them in memory.
        macro_rules! finish {
            ($($row:literal)*) => {$(
                if $row < R && $row < call.rows {
                    finish_row(call, $row, sums[$row % R]);
                }
            )*};
        }
        finish!(0 1 2 3 4 5 6 7 8 9 10 11);
    }
}

/// Finishes and writes the sums of one row.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn finish_row<const V: usize>(call: &Dot, row: usize, sums: [__m512; V]) {
    for (v, mut sum) in sums.into_iter().enumerate() {
        let columns = call.columns.saturating_sub(16 * v).min(16);
        let mask = ((1u32 << columns) - 1) as __mmask16;
        let at = call.out_starts[row] + 16 * v;
        // SAFETY: the caller checked every access.
        unsafe {
            if call.accumulate {
                sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, call.out.add(at)));
            }
            if let Some(shift) = call.shift {
                sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, shift.add(16 * v)));
            }
            if let Some(residual) = call.residual {
                sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, residual.add(at)));
            }
            // The second operand of a minimum or maximum wins where it is NaN.
            if call.activation != Activation::Identity {
                sum = _mm512_max_ps(_mm512_setzero_ps(), sum);
            }
            if call.activation == Activation::Relu6 {
                sum = _mm512_min_ps(_mm512_set1_ps(SIX), sum);
            }
            _mm512_mask_storeu_ps(call.out.add(at), mask, sum);
        }
    }
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
        for i in 0..R {
            for v in 0..V {
                let columns = call.columns.saturating_sub(16 * v).min(16);
                let mask = ((1u32 << columns) - 1) as __mmask16;
                let out = call.out.add((first + i) * call.out_stride + 16 * v);
                let sum = _mm512_add_ps(sums[i][v], _mm512_maskz_loadu_ps(mask, out));
                _mm512_mask_storeu_ps(out, mask, sum);
            }
        }
    }
    R
}
