//! Tiles of 8 sums a vector, in blocks of up to 6 x 16: by AVX-VNNI, or by products of 16 bits.

#![allow(clippy::needless_range_loop, reason = "indexed loops of fixed length stay in registers")]

use std::arch::x86_64::*;

use super::call::Call;
use super::scalar::finish_row;
use crate::microkernel::{COLUMNS, ROWS, tile_starts};

/// Whether this processor multiplies quads in vectors of 8.
pub(super) fn has_products() -> bool {
    std::arch::is_x86_feature_detected!("avxvnni")
}

/// Kernel of one way to multiply: what it makes of 8 right quads, and what it adds to the sums for a broadcast left
/// quad.
macro_rules! kernel {
    (
        $dot:ident, $block:ident, $features:literal, $prepared:ty, |$raw:ident| $prepare:expr,
        |$sum:ident, $factor:ident, $right:ident| $multiply:expr
    ) => {
        /// # Safety
        /// Every access of `call` is in bounds, and the processor has the instructions.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $dot(call: &Call) {
            // SAFETY: passed on; rows beyond the last repeat it.
            unsafe {
                for first in (0..call.left_starts.len()).step_by(ROWS) {
                    let end = call.left_starts.len().min(first + ROWS);
                    for first_column in (0..call.columns).step_by(16) {
                        let mut row = first;
                        while row < end {
                            row += match end - row {
                                5.. => $block::<6>(call, row, first_column),
                                3.. => $block::<4>(call, row, first_column),
                                _ => $block::<2>(call, row, first_column),
                            };
                        }
                    }
                }
            }
        }

        /// R rows from `first` on by 16 columns; returns R.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn $block<const R: usize>(call: &Call, first: usize, first_column: usize) -> usize {
            // SAFETY: the caller checked every access.
            unsafe {
                let begin: [__m256i; 2] =
                    std::array::from_fn(|v| _mm256_loadu_si256(call.first.add(first_column + 8 * v).cast()));
                let mut sums = [begin; R];
                let starts: [usize; R] = tile_starts(call.left_starts, first);
                let mut panel = call.panel.add(first_column);
                for segment in call.segments {
                    let left = call.left.add(segment.offset);
                    let rows: [*const u32; R] = std::array::from_fn(|i| left.add(starts[i]));
                    for inner in 0..segment.len {
                        let right: [$prepared; 2] = std::array::from_fn(|v| {
                            let $raw = _mm256_loadu_si256(panel.add(8 * v).cast());
                            $prepare
                        });
                        for i in 0..R {
                            let $factor = _mm256_set1_epi32(*rows[i].add(inner) as i32);
                            for v in 0..2 {
                                let ($sum, $right) = (sums[i][v], right[v]);
                                sums[i][v] = $multiply;
                            }
                        }
                        panel = panel.add(COLUMNS);
                    }
                }
                for (i, sums) in sums.iter().enumerate().take(call.left_starts.len() - first) {
                    let mut row = [0i32; 16];
                    _mm256_storeu_si256(row.as_mut_ptr().cast(), sums[0]);
                    _mm256_storeu_si256(row.as_mut_ptr().add(8).cast(), sums[1]);
                    finish_row(call, first + i, first_column, &row);
                }
            }
            R
        }
    };
}

kernel!(dot_of_quads, block_of_quads, "avx2,fma,avxvnni", __m256i, |right| right, |sum, factor, right| {
    _mm256_dpbusd_avx_epi32(sum, factor, right)
});

// Sums of two products of bytes do not fit in 16 bits: even and odd bytes are multiplied as numbers of 16 bits.
kernel!(
    dot,
    block,
    "avx2,fma",
    [__m256i; 2],
    |right| [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(right)), _mm256_srai_epi16::<8>(right)],
    |sum, factor, right| {
        let even = _mm256_madd_epi16(_mm256_and_si256(factor, _mm256_set1_epi16(0xFF)), right[0]);
        let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(factor), right[1]);
        _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
    }
);
