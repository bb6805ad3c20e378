//! The product that layers in 8 bits are made of: rows of unsigned steps times a packed panel of 32 columns of
//! signed ones, 12 rows at a time, on a tile that stays in registers.

use std::mem::MaybeUninit;

use super::call::{Call, Out, Residual};
use super::grid::{Grid, Rounding};
use super::scalar;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::activation::Activation;
use crate::microkernel::{COLUMNS, Segment, Starts};
use crate::simd::Simd;

/// Rows of the product: the quads of a row are those of the segments in turn.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) quads: &'a [u32],
    pub(super) starts: Starts<'a>,
    pub(super) segments: &'a [Segment],
}

/// Numbers of the 32 columns of a panel.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    /// Sum to begin with: what the zero step of the rows adds too much.
    pub(super) first: &'a [i32],
    /// Number that a unit of the sum stands for.
    pub(super) scale: &'a [f32],
    /// Number added to it.
    pub(super) shift: &'a [f32],
}

/// Memory that results are written to.
pub(super) enum Memory<'a> {
    /// With whether to write around the caches.
    Real(&'a mut [MaybeUninit<f32>], bool),
    Steps(&'a mut [MaybeUninit<u8>], Grid),
}

impl<'a> Memory<'a> {
    /// The memory from element `start` on.
    pub(super) fn from(self, start: usize) -> Self {
        match self {
            Self::Real(places, stream) => Self::Real(&mut places[start..], stream),
            Self::Steps(places, grid) => Self::Steps(&mut places[start..], grid),
        }
    }
}

/// Destination of the results, `columns` of each row.
pub(super) struct Target<'a> {
    pub(super) memory: Memory<'a>,
    pub(super) starts: Starts<'a>,
    pub(super) columns: usize,
}

/// Writes activation(scale · (left · panel + first) + shift + residual) to `target`.
///
/// # Panics
/// If an operand is too short, there are no rows, other rows of the target, or not 1 to 32 columns.
#[inline]
pub(super) fn dot(
    level: Simd,
    left: Left,
    panel: &[u32],
    of: Columns,
    target: Target,
    residual: Residual,
    activation: Activation,
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
    assert!(left.starts.furthest() + reach <= left.quads.len(), "dot: left factor too short");
    assert!(inner * COLUMNS <= panel.len(), "dot: panel too short");
    let tables = [of.first.len(), of.scale.len(), of.shift.len()];
    assert!(tables.iter().all(|&len| len >= COLUMNS), "dot: columns without numbers");
    let end = target.starts.furthest() + columns;
    let (out, room) = match target.memory {
        Memory::Real(places, stream) => {
            let out = places.as_mut_ptr().cast::<f32>();
            let aligned = (out as usize).is_multiple_of(64) && target.starts.are_multiples_of(16);
            (Out::Real { out, stream: stream && aligned && columns.is_multiple_of(16) }, places.len())
        }
        Memory::Steps(places, grid) => (
            Out::Steps { out: places.as_mut_ptr().cast(), rule: Rounding::new(grid, activation) },
            places.len(),
        ),
    };
    assert!(end <= room, "dot: target too short");
    let added = match residual {
        Residual::None => end,
        Residual::Real(numbers) => numbers.len(),
        Residual::Steps(steps, _) => steps.len(),
    };
    assert!(end <= added, "dot: residual too short");
    let call = Call {
        left: left.quads.as_ptr(),
        left_starts: left.starts.each(),
        segments: left.segments,
        panel: panel.as_ptr(),
        first: of.first.as_ptr(),
        scale: of.scale.as_ptr(),
        shift: of.shift.as_ptr(),
        out,
        out_starts: target.starts.each(),
        columns,
        residual,
        activation,
    };
    // SAFETY: the largest offset of every access was checked above, and the instructions are asked for.
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 if avx512::is_there() => avx512::dot(&call),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 | Simd::Avx2 if avx2::has_products() => avx2::dot_of_quads(&call),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 | Simd::Avx2 => avx2::dot(&call),
            _ => scalar::dot(&call),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::microkernel::ROWS;

    fn noise(seed: u64, count: usize) -> impl Iterator<Item = u32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..count).map(move |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 32) as u32
        })
    }

    fn numbers(seed: u64, count: usize) -> Vec<f32> {
        noise(seed, count).map(|bits| bits as i32 as f32 / 2e9).collect()
    }

    fn levels() -> impl Iterator<Item = Simd> {
        Simd::ALL.into_iter().filter(|level| *level <= Simd::highest())
    }

    /// Content of the target afterwards, as bits.
    #[allow(clippy::too_many_arguments)]
    fn result(
        level: Simd,
        left: Left,
        panel: &[u32],
        of: Columns,
        (starts, columns): (Starts, usize),
        residual: Residual,
        activation: Activation,
        grid: Option<Grid>,
    ) -> Vec<u32> {
        match grid {
            Some(grid) => {
                let mut out = [MaybeUninit::new(7u8); 3 * ROWS * 40];
                let target = Target { memory: Memory::Steps(&mut out, grid), starts, columns };
                dot(level, left, panel, of, target, residual, activation);
                // SAFETY: all of it was written at the start.
                out.iter().map(|step| u32::from(unsafe { step.assume_init() })).collect()
            }
            None => {
                let mut out = [MaybeUninit::new(7f32); 3 * ROWS * 40];
                let target = Target { memory: Memory::Real(&mut out, false), starts, columns };
                dot(level, left, panel, of, target, residual, activation);
                // SAFETY: as above.
                out.iter().map(|number| unsafe { number.assume_init() }.to_bits()).collect()
            }
        }
    }

    proptest! {
        #[test]
        fn every_level_gives_the_bits_of_exact_sums(
            rows in 1..=3 * ROWS, columns in 1..=COLUMNS, lens in prop::collection::vec(1usize..40, 0..4),
            added in 0usize..3, in_steps in any::<bool>(),
            activation in prop::sample::select(vec![Activation::Identity, Activation::Relu, Activation::Relu6]),
        ) {
            let inner: usize = lens.iter().sum();
            let quads: Vec<u32> = noise(1, 4096).collect();
            let mut at = 0;
            let segment = |&len: &usize| {
                at += len + 3;
                Segment { offset: at - len, len }
            };
            let segments: Vec<Segment> = lens.iter().map(segment).collect();
            let starts: Vec<usize> = (0..rows).map(|i| 37 * (rows - i)).collect();
            let targets: Vec<usize> = (0..rows).map(|i| (i * 5 % rows) * 40).collect();
            let panel: Vec<u32> = noise(2, inner * COLUMNS).collect();
            let first: Vec<i32> = noise(3, COLUMNS).map(|bits| bits as i32 >> 12).collect();
            let scale: Vec<f32> = numbers(4, COLUMNS).iter().map(|number| number * 1e-5).collect();
            let shift = numbers(5, COLUMNS);
            let of = Columns { first: &first, scale: &scale, shift: &shift };
            let (real, steps) = (numbers(6, 3 * ROWS * 40), noise(7, 3 * ROWS * 40).map(|bits| bits as u8).collect::<Vec<_>>());
            let other = Grid { scale: 0.01, zero: 100 };
            let residual = [Residual::None, Residual::Real(&real), Residual::Steps(&steps, other)][added];
            let grid = in_steps.then_some(Grid { scale: 0.013, zero: 90 });
            let left = Left { quads: &quads, starts: Starts::new(&starts), segments: &segments };
            for level in levels() {
                let got = result(level, left, &panel, of, (Starts::new(&targets), columns), residual, activation, grid);
                let mut expected = vec![grid.map_or(7f32.to_bits(), |_| 7); 3 * ROWS * 40];
                for (&start, &target) in starts.iter().zip(&targets) {
                    for j in 0..columns {
                        let mut sum = i64::from(first[j]);
                        let mut p = 0;
                        for segment in &segments {
                            for l in 0..segment.len {
                                let (a, b) = (quads[start + segment.offset + l], panel[p * COLUMNS + j]);
                                for (a, b) in a.to_le_bytes().iter().zip(b.to_le_bytes()) {
                                    sum += i64::from(*a) * i64::from(b as i8);
                                }
                                p += 1;
                            }
                        }
                        let mut number = (sum as f32).mul_add(scale[j], shift[j]);
                        match residual {
                            Residual::None => {}
                            Residual::Real(numbers) => number += numbers[target + j],
                            Residual::Steps(steps, grid) => number += grid.number(steps[target + j]),
                        }
                        if activation != Activation::Identity && number < 0.0 {
                            number = 0.0;
                        }
                        if activation == Activation::Relu6 && number > 6.0 {
                            number = 6.0;
                        }
                        expected[target + j] = match grid {
                            Some(grid) => {
                                let step = (number * (1.0 / grid.scale)).round_ties_even() + f32::from(grid.zero);
                                step.clamp(0.0, 255.0) as u32
                            }
                            None => number.to_bits(),
                        };
                    }
                }
                prop_assert_eq!(got, expected, "{}", level);
            }
        }
    }

    #[test]
    #[should_panic(expected = "left factor too short")]
    fn a_row_beyond_the_end_is_refused() {
        let mut out = [MaybeUninit::new(0f32); COLUMNS];
        let left =
            Left { quads: &[1; 4], starts: Starts::new(&[1]), segments: &[Segment { offset: 0, len: 4 }] };
        let of = Columns { first: &[0; COLUMNS], scale: &[0.0; COLUMNS], shift: &[0.0; COLUMNS] };
        let target =
            Target { memory: Memory::Real(&mut out, false), starts: Starts::new(&[0]), columns: COLUMNS };
        dot(Simd::Scalar, left, &[1; 4 * COLUMNS], of, target, Residual::None, Activation::Identity);
    }
}
