//! Matrices turned over, 16 x 16 numbers at a time: in registers with AVX-512.

use crate::simd::Simd;

/// Rows and columns of a tile.
pub(crate) const TILE: usize = 16;

/// `to` (columns, rows) becomes the transpose of `from` (rows, columns), both row-major.
///
/// # Panics
/// If a matrix is too short.
pub(crate) fn transpose(from: &[f32], rows: usize, columns: usize, to: &mut [f32]) {
    for row in (0..rows).step_by(TILE) {
        for column in (0..columns).step_by(TILE) {
            let size = (TILE.min(rows - row), TILE.min(columns - column));
            let (from, to) = (&from[row * columns + column..], &mut to[column * rows + row..]);
            transpose_tile(from, columns, size, to, rows);
        }
    }
}

/// to[j · to_stride + i] = from[i · from_stride + j], for i below rows and j below columns, at most [`TILE`]
/// of each.
///
/// # Panics
/// If a matrix is too short or the tile too large.
#[inline]
pub(crate) fn transpose_tile(
    from: &[f32],
    from_stride: usize,
    (rows, columns): (usize, usize),
    to: &mut [f32],
    to_stride: usize,
) {
    assert!((1..=TILE).contains(&rows) && (1..=TILE).contains(&columns), "transpose: {rows} x {columns}");
    assert!((rows - 1) * from_stride + columns <= from.len(), "transpose: source too short");
    assert!((columns - 1) * to_stride + rows <= to.len(), "transpose: target too short");
    #[cfg(target_arch = "x86_64")]
    if Simd::level() == Simd::Avx512 {
        // SAFETY: the level is only in use if the processor has it; every access was checked above.
        unsafe { avx512((from.as_ptr(), from_stride), (rows, columns), (to.as_mut_ptr(), to_stride)) };
        return;
    }
    for j in 0..columns {
        for i in 0..rows {
            to[j * to_stride + i] = from[i * from_stride + j];
        }
    }
}

/// # Safety
/// The tile lies within both matrices.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(
    (from, from_stride): (*const f32, usize),
    (rows, columns): (usize, usize),
    (to, to_stride): (*mut f32, usize),
) {
    use std::arch::x86_64::*;

    let mask = |count: usize| ((1u32 << count) - 1) as __mmask16;
    let (row_mask, column_mask) = (mask(columns), mask(rows));
    let mut lines = [_mm512_setzero_ps(); TILE];
    for (i, line) in lines.iter_mut().enumerate() {
        if i < rows {
            // SAFETY: row i is there, and the mask ends with it.
            *line = unsafe { _mm512_maskz_loadu_ps(row_mask, from.add(i * from_stride)) };
        }
    }
    // Blocks of 2 x 2 numbers, then of 4 x 4, within each quarter of a line.
    let mut twos = lines;
    for i in (0..TILE).step_by(2) {
        twos[i] = _mm512_unpacklo_ps(lines[i], lines[i + 1]);
        twos[i + 1] = _mm512_unpackhi_ps(lines[i], lines[i + 1]);
    }
    let mut fours = twos;
    for i in (0..TILE).step_by(4) {
        for half in 0..2 {
            let [a, b] = [twos[i + half], twos[i + half + 2]].map(|line| _mm512_castps_pd(line));
            fours[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            fours[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    // The quarters themselves: 0 and 2 of two lines, 1 and 3 of two lines, twice.
    let mut eights = fours;
    for i in 0..4 {
        for pair in [0, 8] {
            let (a, b) = (fours[pair + i], fours[pair + i + 4]);
            eights[pair + i] = _mm512_shuffle_f32x4::<0x88>(a, b);
            eights[pair + i + 4] = _mm512_shuffle_f32x4::<0xdd>(a, b);
        }
    }
    for i in 0..8 {
        let (a, b) = (eights[i], eights[i + 8]);
        lines[i] = _mm512_shuffle_f32x4::<0x88>(a, b);
        lines[i + 8] = _mm512_shuffle_f32x4::<0xdd>(a, b);
    }
    for (j, line) in lines.into_iter().enumerate() {
        if j < columns {
            // SAFETY: column j is there, and the mask ends with it.
            unsafe { _mm512_mask_storeu_ps(to.add(j * to_stride), column_mask, line) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_finds_its_place_and_none_beyond_is_touched() {
        for (rows, columns) in [(1, 1), (16, 16), (49, 256), (17, 33), (3, 40), (31, 1), (5, 16)] {
            let from: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            let mut to = vec![-1.0; rows * columns + 1];
            transpose(&from, rows, columns, &mut to);
            for i in 0..rows {
                for j in 0..columns {
                    assert_eq!(to[j * rows + i], from[i * columns + j], "{rows} x {columns}: {i}, {j}");
                }
            }
            assert_eq!(to[rows * columns], -1.0);
        }
        let from: Vec<f32> = (0..100).map(|i| i as f32).collect();
        let mut to = vec![-1.0; 60];
        transpose_tile(&from, 20, (5, 3), &mut to, 20);
        for (at, got) in to.iter().enumerate() {
            let inside = at % 20 < 5 && at / 20 < 3;
            assert_eq!(*got, if inside { (at % 20 * 20 + at / 20) as f32 } else { -1.0 });
        }
    }

    #[test]
    #[should_panic(expected = "too short")]
    fn a_matrix_that_is_too_short_is_refused() {
        transpose_tile(&[0.0; 31], 16, (2, 16), &mut [0.0; 256], 16);
    }
}
