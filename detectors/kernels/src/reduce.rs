//! Reductions of rows: sums in f64, in an order that depends on their length alone, and the parts of a
//! softmax.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::Result;
use crate::dispatch::{self, Host};
use crate::memory::{CHUNK, elements, from_elements, on_host};
use crate::simd::for_each_level;

const LANES: usize = 16;

for_each_level! {
    /// Dot product Σ a_i b_i.
    pub fn dot(a: &[f32], b: &[f32]) -> f64 {
        let (a_lanes, a_rest) = a.as_chunks::<LANES>();
        let (b_lanes, b_rest) = b.as_chunks::<LANES>();
        let mut sums = [0f64; LANES];
        for (a, b) in a_lanes.iter().zip(b_lanes) {
            for lane in 0..LANES {
                sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
            }
        }
        let rest = a_rest.iter().zip(b_rest).map(|(a, b)| f64::from(*a) * f64::from(*b));
        sums.iter().sum::<f64>() + rest.sum::<f64>()
    }

    /// Sum Σ a_i.
    pub fn sum(a: &[f32]) -> f64 {
        let (lanes, rest) = a.as_chunks::<LANES>();
        let mut sums = [0f64; LANES];
        for a in lanes {
            for lane in 0..LANES {
                sums[lane] += f64::from(a[lane]);
            }
        }
        sums.iter().sum::<f64>() + rest.iter().map(|&a| f64::from(a)).sum::<f64>()
    }

    /// Maximum; minus infinity of no numbers, and of NaN alone.
    pub fn largest(a: &[f32]) -> f32 {
        let (lanes, rest) = a.as_chunks::<LANES>();
        let mut highest = [f32::NEG_INFINITY; LANES];
        let larger = |a: f32, b: f32| if a > b { a } else { b };
        for a in lanes {
            for lane in 0..LANES {
                highest[lane] = larger(a[lane], highest[lane]);
            }
        }
        highest.iter().chain(rest).fold(f32::NEG_INFINITY, |highest, &a| larger(a, highest))
    }

    /// Multiplies every x_i by `factor`.
    pub fn multiply(x: &mut [f32], factor: f32) {
        x.iter_mut().for_each(|x| *x *= factor);
    }

    /// Replaces x_i by exp(`scale` (x_i - `largest`)), where nothing is above `largest`; returns their sum.
    ///
    /// To 2 ulp; below e^-87 it is e^-87. NaN stays NaN, and becomes the sum.
    pub fn exponentials(x: &mut [f32], largest: f32, scale: f32) -> f64 {
        let exponential = |x: f32| exp_of_negative((largest - x) * scale);
        let (lanes, rest) = x.as_chunks_mut::<LANES>();
        let mut sums = [0f64; LANES];
        for x in lanes {
            for lane in 0..LANES {
                x[lane] = exponential(x[lane]);
                sums[lane] += f64::from(x[lane]);
            }
        }
        let mut sum = sums.iter().sum::<f64>();
        for x in rest {
            *x = exponential(*x);
            sum += f64::from(*x);
        }
        sum
    }
}

/// exp(-y) for y >= 0, to 2 ulp; y beyond 87 counts as 87, NaN gives NaN.
#[inline(always)]
pub(crate) fn exp_of_negative(y: f32) -> f32 {
    // Adding this number rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = -(if y > 87.0 { 87.0 } else { y });
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    // exp(r) for |r| <= ln(2) / 2 by its Taylor series: the first term left out is below 6e-9.
    let mut series = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + coefficient;
    }
    let power_of_two = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    series * power_of_two
}

/// log(1 + e) for e in [0, 1], relatively exact to 2 ulp: 2 artanh(s) with s = e / (2 + e) <= 1/3.
#[inline(always)]
pub(crate) fn log_of_one_plus(e: f32) -> f32 {
    let s = e / (2.0 + e);
    let square = s * s;
    let mut series = 1.0 / 15.0;
    for odd in [13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        series = series * square + 1.0 / odd;
    }
    2.0 * s * series
}

/// softmax(`x` / `temperature`) in f64, and its logarithms.
///
/// # Shapes
/// C numbers each.
pub fn softmax(x: &[f32], temperature: f64) -> (Vec<f64>, Vec<f64>) {
    let top = f64::from(largest(x));
    let scaled: Vec<f64> = x.iter().map(|&x| (f64::from(x) - top) / temperature).collect();
    let log_total = scaled.iter().map(|x| x.exp()).sum::<f64>().ln();
    let logs: Vec<f64> = scaled.iter().map(|x| x - log_total).collect();
    (logs.iter().map(|log| log.exp()).collect(), logs)
}

/// Softened Kullback-Leibler divergence T² KL(softmax(`target` / T) || softmax(`x` / T)); `gradient` becomes the derivatives
/// by `x`.
///
/// # Shapes
/// `target`, `x` and `gradient` C numbers each.
pub fn softened_kl(target: &[f32], x: &[f32], temperature: f64, gradient: &mut [f32]) -> f64 {
    let inverse = temperature.recip();
    let (top_t, top_x) = (largest(target), largest(x));
    let mut p = target.to_vec();
    let total_t = exponentials(&mut p, top_t, inverse as f32);
    gradient.copy_from_slice(x);
    let total_x = exponentials(gradient, top_x, inverse as f32);
    let from_top = |x: f32, top: f32| f64::from(x) - f64::from(top);
    let logits = target.iter().zip(x).map(|(&t, &x)| from_top(t, top_t) - from_top(x, top_x));
    let cross: f64 = p.iter().zip(logits).map(|(&p, difference)| f64::from(p) * difference).sum();
    let kl = cross * inverse / total_t - total_t.ln() + total_x.ln();
    for (q, p) in gradient.iter_mut().zip(p) {
        *q = (temperature * (f64::from(*q) / total_x - f64::from(p) / total_t)) as f32;
    }
    temperature * temperature * kl
}

/// Sums over the rows of `a`, one for each index of its last dimension.
pub(crate) fn column_sums(a: &Tensor) -> Result<Tensor> {
    dispatch::run(a, ColumnSums(a))
}

struct ColumnSums<'a>(&'a Tensor);

impl Host for ColumnSums<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let columns = self.0.dims().last().copied().unwrap_or(1);
        let host = on_host(self.0)?;
        let sums = sums_of_columns(&elements(&host)?, columns);
        from_elements(sums, columns, self.0)
    }
}

/// Sums of the columns of a row-major matrix with `columns` columns, over fixed chunks of rows added in
/// order.
fn sums_of_columns(rows: &[f32], columns: usize) -> Vec<f32> {
    let columns = columns.max(1);
    let chunk = (CHUNK / columns).max(1) * columns;
    let sum_rows = |rows: &[f32]| {
        let mut sums = vec![0f64; columns];
        for row in rows.chunks_exact(columns) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        sums
    };
    let partial: Vec<Vec<f64>> = rows.par_chunks(chunk).map(sum_rows).collect();
    let mut sums = vec![0f64; columns];
    for partial in partial {
        sums.iter_mut().zip(partial).for_each(|(sum, partial)| *sum += partial);
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_branch_free_functions_agree_with_the_library() {
        for i in 0..=400_000 {
            let y = i as f32 * 2e-4;
            let (got, want) = (f64::from(exp_of_negative(y)), (-f64::from(y)).exp());
            assert!((got / want - 1.0).abs() < 3e-7, "exp(-{y}): {got} {want}");
            let e = want as f32;
            let (got, want) = (f64::from(log_of_one_plus(e)), f64::from(e).ln_1p());
            assert!((got / want - 1.0).abs() < 3e-7, "log(1 + {e}): {got} {want}");
        }
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert!(exp_of_negative(1e30) < 2e-38 && exp_of_negative(f32::INFINITY) < 2e-38);
        assert!(exp_of_negative(f32::NAN).is_nan());
    }

    #[test]
    fn slices_of_any_length_give_what_a_plain_loop_gives() {
        for len in [0, 1, 15, 16, 17, 31, 80, 1000] {
            let a: Vec<f32> = (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) / 8.0).collect();
            let b: Vec<f32> = a.iter().rev().map(|a| a + 1.0).collect();
            let plain: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((dot(&a, &b) - plain).abs() <= 1e-12 * plain.abs());
            assert_eq!(sum(&a), a.iter().map(|&a| f64::from(a)).sum::<f64>());
            let highest = a.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(largest(&a), highest);
            let mut e = a.clone();
            let total = exponentials(&mut e, highest, 0.5);
            let plain: f64 = a.iter().map(|&a| (0.5 * f64::from(a - highest)).exp()).sum();
            assert!((total - plain).abs() <= 3e-7 * plain, "{len}: {total} {plain}");
            assert!((sum(&e) - total).abs() <= 1e-12 * total);
        }
        assert_eq!(largest(&[f32::NAN, 1.0, f32::NAN]), 1.0);
        assert!(exponentials(&mut [0.0, f32::NAN], 0.0, 1.0).is_nan());
    }
}
