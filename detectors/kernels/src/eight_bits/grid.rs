//! Steps of 8 bits.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::Result;
use crate::activation::Activation;
use crate::memory::{CHUNK, elements, on_host};
use crate::simd::for_each_level;

/// 256 equal steps: number = (step − zero) · scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Size of a step.
    pub scale: f32,
    /// Step of the number 0.
    pub zero: u8,
}

/// Last step.
const LAST: f32 = 255.0;

/// Largest magnitude of a weight.
const LARGEST: f32 = 127.0;

/// 1.5 · 2²³: a sum with it has the rounded number (nearest, ties to even) in its low bits.
const ROUNDING: f32 = 12_582_912.0;

impl Grid {
    /// Grid of the range from `low` to `high`, widened to hold 0, which has a step of its own.
    pub fn of_range(low: f32, high: f32) -> Self {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let width = high - low;
        let scale = if width > 0.0 && width.is_finite() { width / LAST } else { 1.0 };
        Self { scale, zero: (-low / scale).round_ties_even().clamp(0.0, LAST) as u8 }
    }

    /// Number of `step`.
    #[inline(always)]
    pub(super) fn number(self, step: u8) -> f32 {
        (i32::from(step) - i32::from(self.zero)) as f32 * self.scale
    }
}

/// The step of a number, behind an activation: nearest, ties to even, the first or the last one beyond the range.
///
/// The quotient by the scale is a product with 1 / scale: ties are those of the product.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rounding {
    pub(super) inverse: f32,
    /// Bounds of the quotient.
    pub(super) lower: f32,
    pub(super) upper: f32,
    pub(super) zero: u8,
}

impl Rounding {
    pub(super) fn new(grid: Grid, activation: Activation) -> Self {
        let (inverse, zero) = (1.0 / grid.scale, f32::from(grid.zero));
        let upper = (LAST - zero).min(activation.most() * inverse);
        Self { inverse, lower: (-zero).max(activation.least() * inverse), upper, zero: grid.zero }
    }

    /// The step of `number`; the lowest where it is NaN.
    #[inline(always)]
    pub(super) fn step(self, number: f32) -> u8 {
        let steps = number * self.inverse;
        let steps = if steps > self.lower { steps } else { self.lower };
        let steps = if steps < self.upper { steps } else { self.upper };
        ((steps + ROUNDING).to_bits() as u8).wrapping_add(self.zero)
    }
}

for_each_level! {
    /// `numbers` as steps of `grid`.
    pub(super) fn to_steps(grid: Grid, numbers: &[f32], steps: &mut [u8]) {
        let rule = Rounding::new(grid, Activation::Identity);
        for (step, &number) in steps.iter_mut().zip(numbers) {
            *step = rule.step(number);
        }
    }
}

/// Rows of `width` weights as signed steps, with the scale of each row: its largest weight is ±127.
///
/// # Panics
/// If `width` is 0.
pub fn rounded_rows(weights: &[f32], width: usize) -> (Vec<i8>, Vec<f32>) {
    let scale_of = |row: &[f32]| {
        let largest = row.iter().fold(0f32, |largest, weight| largest.max(weight.abs()));
        if largest > 0.0 { largest / LARGEST } else { 1.0 }
    };
    let scales: Vec<f32> = weights.chunks(width).map(scale_of).collect();
    let rounded = |(row, scale): (&[f32], &f32)| {
        let scale = *scale;
        row.iter().map(move |weight| (weight / scale).round_ties_even() as i8).collect::<Vec<_>>()
    };
    (weights.chunks(width).zip(&scales).flat_map(rounded).collect(), scales)
}

/// The least and the largest finite number of a tensor; 0 and 0 if there is none.
///
/// # Errors
/// If the tensor is not f32.
pub fn range_of(tensor: &Tensor) -> Result<(f32, f32)> {
    let host = on_host(tensor)?;
    let values = elements(&host)?;
    let of_chunk = |chunk: &[f32]| {
        let finite = chunk.iter().filter(|value| value.is_finite());
        finite
            .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &value| (low.min(value), high.max(value)))
    };
    let widest = |a: (f32, f32), b: (f32, f32)| (a.0.min(b.0), a.1.max(b.1));
    let range = values.par_chunks(CHUNK).map(of_chunk).reduce(|| (f32::INFINITY, f32::NEG_INFINITY), widest);
    Ok(if range.0 <= range.1 { range } else { (0.0, 0.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_has_a_step_of_its_own() {
        for (low, high) in [(-1.0, 3.0), (0.0, 6.0), (-2.0, 0.0), (0.0, 0.0), (-1e-3, 1e4), (2.0, 3.0)] {
            let grid = Grid::of_range(low, high);
            assert_eq!(grid.number(grid.zero), 0.0);
            assert!(grid.number(0) <= low.min(0.0) + grid.scale / 2.0, "{low} {high}");
            assert!(grid.number(255) >= high - grid.scale / 2.0, "{low} {high}");
        }
    }

    #[test]
    fn numbers_go_to_the_nearest_step_and_ties_to_the_even_distance_from_zero() {
        let grid = Grid { scale: 0.5, zero: 3 };
        let numbers = [0.0, 0.25, 0.75, -0.25, -0.75, 1.0, -9.0, 500.0, f32::INFINITY, f32::NAN];
        let mut steps = [0; 10];
        to_steps(grid, &numbers, &mut steps);
        assert_eq!(steps, [3, 3, 5, 3, 1, 5, 0, 255, 255, 0]);
    }

    #[test]
    fn a_row_of_weights_uses_all_steps_and_a_row_of_zeros_stays_zeros() {
        let (steps, scales) = rounded_rows(&[0.5, -1.0, 0.0, 0.0], 2);
        assert_eq!(steps, [64, -127, 0, 0]);
        assert_eq!(scales, [1.0 / 127.0, 1.0]);
    }
}
