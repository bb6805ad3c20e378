//! The two products that convolutions and linear layers are made of, on tiles that stay in registers.
//!
//! - [`dot`]: rows, wherever they lie, times a packed panel of 32 columns, 12 rows at a time. Forward passes and
//!   gradients of inputs.
//! - [`outer`]: the sum of outer products of row pairs, up to 12 by 32. Gradients of weights.
//!
//! The tile is 12 x 2 vectors of 16: 24 accumulators hide the latency of the multiply-add, and each number
//! that is read from memory takes part in 12 or 32 of them. Every level of [`Simd`] computes the same sums in
//! the same order; levels differ by the rounding of fused multiply-adds.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod call;
mod pack;
mod scalar;

use std::mem::MaybeUninit;

pub(crate) use call::{COLUMNS, ROWS, Segment, Starts, tile_starts};
use call::{Dot, Outer};
pub(crate) use pack::{Piece, pack_columns, pack_pieces, pack_tiles};

use crate::activation::Activation;
use crate::precision::Precision;
use crate::simd::Simd;

/// The left factor of [`dot`]: the numbers of a row are those of the segments in turn.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    /// Precision of both factors; numbers of [`Precision::Bf16`] are pairs, multiplied one by one.
    pub(crate) precision: Precision,
    pub(crate) values: &'a [f32],
    pub(crate) starts: Starts<'a>,
    pub(crate) segments: &'a [Segment],
    /// Whether rows come from beyond the caches: those of the next tile are asked for while one is computed.
    pub(crate) ahead: bool,
}

/// Fused steps after the sums, in this order.
#[derive(Clone, Copy, Default)]
pub(crate) struct Finish<'a> {
    /// Add a number per column.
    pub(crate) shift: Option<&'a [f32]>,
    /// Add `residual[i]` to `target[i]`: the same offsets as in the destination.
    pub(crate) residual: Option<&'a [f32]>,
    /// Applied last.
    pub(crate) activation: Activation,
    /// Write around the caches: for results that are too large to be found there later.
    pub(crate) stream: bool,
}

/// Memory that sums are written to.
pub(crate) enum Memory<'a> {
    /// Uninitialised target.
    Fresh(&'a mut [MaybeUninit<f32>]),
    /// Target of numbers, which are overwritten.
    Written(&'a mut [f32]),
}

impl<'a> Memory<'a> {
    /// Target of numbers if they `are_written`, else uninitialised.
    ///
    /// # Safety
    /// All `places` are written if the caller says so.
    pub(crate) unsafe fn of(places: &'a mut [MaybeUninit<f32>], are_written: bool) -> Self {
        match are_written {
            // SAFETY: the caller says so.
            true => Self::Written(unsafe { places.assume_init_mut() }),
            false => Self::Fresh(places),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Fresh(values) => values.len(),
            Self::Written(values) => values.len(),
        }
    }

    fn start(&mut self) -> *mut f32 {
        match self {
            Self::Fresh(values) => values.as_mut_ptr().cast(),
            Self::Written(values) => values.as_mut_ptr(),
        }
    }
}

/// Destination of the sums, `columns` of each row. No two rows share a place.
pub(crate) struct Target<'a> {
    pub(crate) memory: Memory<'a>,
    pub(crate) starts: Starts<'a>,
    pub(crate) columns: usize,
    /// Whether it lies beyond the caches: its places are asked for before the sums.
    pub(crate) ahead: bool,
}

/// Writes `left` times `panel` (inner x 32, row-major), finished, to `target`.
///
/// # Panics
/// If a row, the panel, the shift or the residual is too short, there are no rows, other rows of the target, or not 1 to 32 columns.
#[inline]
pub(crate) fn dot(level: Simd, left: Left, panel: &[f32], target: Target, finish: Finish) {
    // SAFETY: what the target holds is not read.
    unsafe { finished(level, left, panel, target, finish, false) }
}

/// Adds `left` times `panel` to what `target` holds, and writes that, finished: for long sums, a part at a
/// time.
///
/// # Safety
/// The places of `target` that are written have been written before.
///
/// # Panics
/// As [`dot`].
#[inline]
pub(crate) unsafe fn dot_onto(level: Simd, left: Left, panel: &[f32], target: Target, finish: Finish) {
    // SAFETY: passed on.
    unsafe { finished(level, left, panel, target, finish, true) }
}

/// # Safety
/// With `accumulate`, the places of `target` that are written have been written before.
#[inline(always)]
unsafe fn finished(
    level: Simd,
    left: Left,
    panel: &[f32],
    mut target: Target,
    finish: Finish,
    accumulate: bool,
) {
    let columns = target.columns;
    let (rows, targets) = (left.starts.each().len(), target.starts.each().len());
    assert!(rows > 0 && targets == rows, "dot: {rows} rows, {targets} of the target");
    assert!((1..=COLUMNS).contains(&columns), "dot: {columns} columns");
    let (mut inner, mut reach) = (0, 0);
    for segment in left.segments {
        inner += segment.len;
        reach = reach.max(segment.offset + segment.len);
    }
    assert!(left.starts.furthest() + reach <= left.values.len(), "dot: left factor too short");
    assert!(inner * COLUMNS <= panel.len(), "dot: panel too short");
    let end = target.starts.furthest() + columns;
    assert!(end <= target.memory.len(), "dot: target too short");
    assert!(finish.shift.is_none_or(|shift| columns <= shift.len()), "dot: shift too short");
    assert!(finish.residual.is_none_or(|residual| end <= residual.len()), "dot: residual too short");
    let out = target.memory.start();
    let call = Dot {
        left: left.values.as_ptr(),
        left_starts: left.starts.each(),
        left_step: left.starts.step(),
        segments: left.segments,
        left_ahead: left.ahead,
        panel: panel.as_ptr(),
        out,
        out_starts: target.starts.each(),
        out_ahead: target.ahead,
        columns,
        accumulate,
        shift: finish.shift.map(<[f32]>::as_ptr),
        residual: finish.residual.map(<[f32]>::as_ptr),
        activation: finish.activation,
        stream: finish.stream
            && columns.is_multiple_of(16)
            && (out as usize).is_multiple_of(64)
            && target.starts.are_multiples_of(16),
    };
    // SAFETY: the largest offset of every access was checked above, and the caller says that what is read of
    // the target was written; `level` is only in use if the processor has it.
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 if left.precision == Precision::F32 => avx512::dot(&call),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 if left.precision.is_native() => avx512::dot_pairs(&call),
            _ if left.precision == Precision::Bf16 => scalar::dot_pairs(&call),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => avx2::dot(&call),
            _ => scalar::dot(&call),
        }
    }
}

/// A factor of [`outer`]: the numbers of term p start at `p · stride`.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
}

/// out[i · stride + j] = Σ over p of left[p][i] · right[p][j], for `rows` i and `columns` j; added to numbers that are written.
///
/// Terms of `right` are 32 numbers, whatever lies beyond the columns.
///
/// # Panics
/// If a factor or `out` is too short, or there are more than 12 x 32 sums.
#[inline]
pub(crate) fn outer(
    level: Simd,
    terms: usize,
    (rows, columns): (usize, usize),
    left: Terms,
    right: Terms,
    mut out: Memory,
    out_stride: usize,
) {
    assert!((1..=ROWS).contains(&rows) && (1..=COLUMNS).contains(&columns), "outer: {rows} x {columns}");
    let end = |stride: usize, last: usize| terms.checked_sub(1).map_or(0, |terms| terms * stride + last);
    assert!(end(left.stride, rows) <= left.values.len(), "outer: left factor too short");
    assert!(end(right.stride, COLUMNS) <= right.values.len(), "outer: right factor too short");
    assert!(columns <= out_stride, "outer: rows of the result overlap");
    assert!((rows - 1) * out_stride + columns <= out.len(), "outer: result too short");
    let call = Outer {
        terms,
        left: left.values.as_ptr(),
        left_stride: left.stride,
        right: right.values.as_ptr(),
        right_stride: right.stride,
        accumulate: matches!(out, Memory::Written(_)),
        out: out.start(),
        out_stride,
        rows,
        columns,
    };
    // SAFETY: as in `dot`; the result is borrowed mutably, so no factor overlaps it.
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => avx512::outer(&call),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => avx2::outer(&call),
            _ => scalar::outer(&call),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(seed: u64, count: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn levels() -> impl Iterator<Item = Simd> {
        Simd::ALL.into_iter().filter(|level| *level <= Simd::highest())
    }

    fn activations() -> impl Strategy<Value = Activation> {
        prop_oneof![Just(Activation::Identity), Just(Activation::Relu), Just(Activation::Relu6)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn every_level_computes_the_finished_product(
            rows in 1..=3 * ROWS, columns in 1..=COLUMNS, lens in prop::collection::vec(0usize..40, 1..4),
            even: bool, ahead: bool, accumulate: bool, shifted: bool, residual: bool, activation in activations(),
        ) {
            let inner: usize = lens.iter().sum();
            let left = noise(1, 4096);
            let mut at = 0;
            let segment = |&len: &usize| {
                at += len + 3;
                Segment { offset: at - len, len }
            };
            let segments: Vec<Segment> = lens.iter().map(segment).collect();
            let starts: Vec<usize> = (0..rows).map(|i| 37 * if even { i } else { rows - i }).collect();
            let targets: Vec<usize> = (0..rows).map(|i| (i * 37 % rows) * 40).collect();
            let (panel, shift, other) = (noise(2, inner * COLUMNS), noise(3, COLUMNS), noise(4, 3 * ROWS * 40));
            let before = noise(5, 3 * ROWS * 40);
            for level in levels() {
                let mut out = before.clone();
                let finish = Finish {
                    stream: false,
                    activation,
                    shift: shifted.then_some(&shift[..]),
                    residual: residual.then_some(&other[..]),
                };
                let precision = Precision::F32;
                let factor = Left { precision, values: &left, starts: Starts::new(&starts), segments: &segments, ahead };
                let target = Target { memory: Memory::Written(&mut out), starts: Starts::new(&targets), columns, ahead };
                match accumulate {
                    // SAFETY: the target is all numbers.
                    true => unsafe { dot_onto(level, factor, &panel, target, finish) },
                    false => dot(level, factor, &panel, target, finish),
                }
                let mut expected: Vec<f64> = before.iter().map(|&value| f64::from(value)).collect();
                for (&start, &target) in starts.iter().zip(&targets) {
                    for j in 0..columns {
                        let mut sum = 0.0;
                        let mut p = 0;
                        for segment in &segments {
                            for l in 0..segment.len {
                                let factor = f64::from(left[start + segment.offset + l]);
                                sum += factor * f64::from(panel[p * COLUMNS + j]);
                                p += 1;
                            }
                        }
                        let at = target + j;
                        sum += if accumulate { expected[at] } else { 0.0 };
                        sum += if shifted { f64::from(shift[j]) } else { 0.0 };
                        sum += if residual { f64::from(other[at]) } else { 0.0 };
                        expected[at] = match activation {
                            Activation::Identity => sum,
                            Activation::Relu => sum.max(0.0),
                            Activation::Relu6 => sum.clamp(0.0, 6.0),
                        };
                    }
                }
                for (value, expected) in out.iter().zip(&expected) {
                    prop_assert!((f64::from(*value) - expected).abs() < 2e-5, "{level}: {value} {expected}");
                }
            }
        }

        #[test]
        fn every_level_computes_sums_that_are_only_written_or_added(
            rows in 1..=3 * ROWS, whole: bool, inner in 0usize..100, accumulate: bool,
        ) {
            let columns = if whole { COLUMNS } else { COLUMNS / 2 };
            let (left, panel) = (noise(1, 3 * ROWS * 101), noise(2, 100 * COLUMNS));
            let starts: Vec<usize> = (0..rows).map(|i| i * 101).collect();
            let targets: Vec<usize> = (0..rows).map(|i| i * 40).collect();
            let before = noise(3, 3 * ROWS * 40);
            for level in levels() {
                let mut out = before.clone();
                let segments = [Segment { offset: 1, len: inner }];
                let (starts, targets) = (Starts::new(&starts), Starts::new(&targets));
                let precision = Precision::F32;
                let factor = Left { precision, values: &left, starts, segments: &segments, ahead: false };
                let target = Target { memory: Memory::Written(&mut out), starts: targets, columns, ahead: false };
                match accumulate {
                    // SAFETY: the target is all numbers.
                    true => unsafe { dot_onto(level, factor, &panel, target, Finish::default()) },
                    false => dot(level, factor, &panel, target, Finish::default()),
                }
                for (at, value) in out.iter().enumerate() {
                    let (i, j) = (at / 40, at % 40);
                    let mut expected = f64::from(before[at]);
                    if i < rows && j < columns {
                        let terms = (0..inner).map(|p| {
                            f64::from(left[i * 101 + 1 + p]) * f64::from(panel[p * COLUMNS + j])
                        });
                        expected = terms.sum::<f64>() + if accumulate { expected } else { 0.0 };
                    }
                    prop_assert!((f64::from(*value) - expected).abs() < 2e-5, "{level}: {value} {expected}");
                }
            }
        }

        #[test]
        fn every_level_computes_the_sum_of_outer_products(
            rows in 1..=ROWS, columns in 1..=COLUMNS, terms in 0usize..70, accumulate: bool,
        ) {
            let (left, right) = (noise(1, 70 * 13), noise(2, 70 * COLUMNS));
            let before = noise(3, ROWS * 40);
            for level in levels() {
                let mut out = before.clone();
                let (l, r) = (Terms { values: &left, stride: 13 }, Terms { values: &right, stride: COLUMNS });
                // SAFETY: the target is all numbers.
                let places = unsafe { &mut *(&raw mut out[..] as *mut [MaybeUninit<f32>]) };
                // SAFETY: as above.
                let memory = unsafe { Memory::of(places, accumulate) };
                outer(level, terms, (rows, columns), l, r, memory, 40);
                for (at, value) in out.iter().enumerate() {
                    let (i, j) = (at / 40, at % 40);
                    let mut expected = f64::from(before[at]);
                    if i < rows && j < columns {
                        expected = if accumulate { expected } else { 0.0 };
                        for p in 0..terms {
                            expected += f64::from(left[p * 13 + i]) * f64::from(right[p * COLUMNS + j]);
                        }
                    }
                    prop_assert!((f64::from(*value) - expected).abs() < 2e-5, "{level}: {value} {expected}");
                }
            }
        }
    }

    #[test]
    fn pairs_are_multiplied_one_by_one() {
        use crate::precision::{pair, unpaired};
        let pairs = |seed, count| -> Vec<f32> {
            noise(seed, 2 * count).chunks_exact(2).map(|pair_| pair(pair_[0], pair_[1])).collect()
        };
        let (left, panel) = (pairs(1, 400), pairs(2, 33 * COLUMNS));
        for level in levels() {
            let mut out = vec![0.0; 5 * 40];
            let (starts, targets) = ([3, 90, 40, 0, 200], [0, 40, 80, 120, 160]);
            let segments = [Segment { offset: 1, len: 20 }, Segment { offset: 50, len: 13 }];
            let factor = Left {
                precision: Precision::Bf16,
                values: &left,
                starts: Starts::new(&starts),
                segments: &segments,
                ahead: false,
            };
            let target = Target {
                memory: Memory::Written(&mut out),
                starts: Starts::new(&targets),
                columns: 27,
                ahead: false,
            };
            dot(level, factor, &panel, target, Finish::default());
            for (start, target) in starts.iter().zip(targets) {
                for j in 0..27 {
                    let at = (1..21).chain(50..63).map(|offset| unpaired(left[start + offset]));
                    let by = (0..33).map(|p| unpaired(panel[p * COLUMNS + j]));
                    let terms =
                        at.zip(by).flat_map(|(a, b)| [0, 1].map(|i| f64::from(a[i]) * f64::from(b[i])));
                    let expected: f64 = terms.sum();
                    let got = f64::from(out[target + j]);
                    assert!((got - expected).abs() < 1e-5, "{level}: {got} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_nan_is_never_rectified_away() {
        let kinds = [Activation::Relu, Activation::Relu6];
        for (level, activation) in levels().flat_map(|level| kinds.map(|kind| (level, kind))) {
            let mut out = [MaybeUninit::uninit()];
            let finish = Finish { activation, ..Finish::default() };
            let left = Left {
                precision: Precision::F32,
                values: &[f32::NAN],
                starts: Starts::new(&[0]),
                segments: &[Segment { offset: 0, len: 1 }],
                ahead: false,
            };
            let target = Target {
                memory: Memory::Fresh(&mut out),
                starts: Starts::new(&[0]),
                columns: 1,
                ahead: false,
            };
            dot(level, left, &[1.0; COLUMNS], target, finish);
            // SAFETY: just written.
            assert!(unsafe { out[0].assume_init() }.is_nan(), "{level}");
        }
    }

    #[test]
    #[should_panic(expected = "left factor too short")]
    fn a_row_beyond_the_end_is_refused() {
        let mut out = [0.0; COLUMNS];
        let left = Left {
            precision: Precision::F32,
            values: &[1.0; 4],
            starts: Starts::new(&[1]),
            segments: &[Segment { offset: 0, len: 4 }],
            ahead: false,
        };
        let target = Target {
            memory: Memory::Written(&mut out),
            starts: Starts::new(&[0]),
            columns: COLUMNS,
            ahead: false,
        };
        dot(Simd::Scalar, left, &[1.0; 4 * COLUMNS], target, Finish::default());
    }
}
