//! Tiles of 8-float vectors: the 12 x 32 tile in blocks of up to 6 x 16.

#![allow(clippy::needless_range_loop, reason = "indexed loops of fixed length stay in registers")]

use std::arch::x86_64::*;

use super::call::{COLUMNS, Dot, Outer, ROWS, tile_starts};
use super::scalar::finish_row;

/// # Safety
/// Every access of `call` is in bounds, and the processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn dot(call: &Dot) {
    // SAFETY: passed on; rows beyond the last repeat it.
    unsafe {
        for first in (0..call.left_starts.len()).step_by(ROWS) {
            let end = call.left_starts.len().min(first + ROWS);
            for first_column in (0..call.columns).step_by(16) {
                let mut row = first;
                while row < end {
                    row += match end - row {
                        5.. => dot_block::<6>(call, row, first_column),
                        3.. => dot_block::<4>(call, row, first_column),
                        _ => dot_block::<2>(call, row, first_column),
                    };
                }
            }
        }
    }
}

/// R rows from `first` on by 16 columns; returns R.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn dot_block<const R: usize>(call: &Dot, first: usize, first_column: usize) -> usize {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    // SAFETY: the caller checked every access.
    unsafe {
        let starts: [usize; R] = tile_starts(call.left_starts, first);
        let mut panel = call.panel.add(first_column);
        for segment in call.segments {
            let left = call.left.add(segment.offset);
            let rows: [*const f32; R] = std::array::from_fn(|i| left.add(starts[i]));
            for inner in 0..segment.len {
                let right = [_mm256_loadu_ps(panel), _mm256_loadu_ps(panel.add(8))];
                for i in 0..R {
                    let factor = _mm256_broadcast_ss(&*rows[i].add(inner));
                    for v in 0..2 {
                        sums[i][v] = _mm256_fmadd_ps(factor, right[v], sums[i][v]);
                    }
                }
                panel = panel.add(COLUMNS);
            }
        }
        for (i, sums) in sums.iter().enumerate().take(call.left_starts.len() - first) {
            let mut row = [0f32; 16];
            _mm256_storeu_ps(row.as_mut_ptr(), sums[0]);
            _mm256_storeu_ps(row.as_mut_ptr().add(8), sums[1]);
            finish_row(call, first + i, first_column, &row);
        }
    }
    R
}

/// # Safety
/// Every access of `call` is in bounds, and the processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn outer(call: &Outer) {
    // SAFETY: passed on; a block of fewer rows than R never runs.
    unsafe {
        for first_column in (0..call.columns).step_by(16) {
            let mut row = 0;
            while row < call.rows {
                row += match call.rows - row {
                    6.. => outer_block::<6>(call, row, first_column),
                    4.. => outer_block::<4>(call, row, first_column),
                    _ => outer_block::<1>(call, row, first_column),
                };
            }
        }
    }
}

/// Rows `first` to `first + R` by up to 16 columns; returns R.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn outer_block<const R: usize>(call: &Outer, first: usize, first_column: usize) -> usize {
    let columns = (call.columns - first_column).min(16);
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    // SAFETY: the caller checked every access.
    unsafe {
        let mut left = call.left.add(first);
        let mut at = call.right.add(first_column);
        for _ in 0..call.terms {
            let right = [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))];
            for i in 0..R {
                let factor = _mm256_broadcast_ss(&*left.add(i));
                for v in 0..2 {
                    sums[i][v] = _mm256_fmadd_ps(factor, right[v], sums[i][v]);
                }
            }
            left = left.wrapping_add(call.left_stride);
            at = at.wrapping_add(call.right_stride);
        }
        for (i, sums) in sums.iter().enumerate() {
            let mut row = [0f32; 16];
            _mm256_storeu_ps(row.as_mut_ptr(), sums[0]);
            _mm256_storeu_ps(row.as_mut_ptr().add(8), sums[1]);
            for (j, sum) in row[..columns].iter().enumerate() {
                let out = call.out.add((first + i) * call.out_stride + first_column + j);
                *out = if call.accumulate { *out + sum } else { *sum };
            }
        }
    }
    R
}
