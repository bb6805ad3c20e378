//! The reference: what every processor runs.

use super::call::{COLUMNS, Dot, Outer};
use crate::precision::unpaired;

/// # Safety
/// Every access of `call` is in bounds.
pub(super) unsafe fn dot(call: &Dot) {
    // SAFETY: passed on.
    unsafe { sum_rows(call, |left, right| left * right) }
}

/// Computes [`dot`] of pairs of bfloat16.
///
/// # Safety
/// Every access of `call` is in bounds.
pub(super) unsafe fn dot_pairs(call: &Dot) {
    let product = |left, right| {
        let (left, right) = (unpaired(left), unpaired(right));
        left[0] * right[0] + left[1] * right[1]
    };
    // SAFETY: passed on.
    unsafe { sum_rows(call, product) }
}

/// # Safety
/// Every access of `call` is in bounds.
unsafe fn sum_rows(call: &Dot, product: impl Fn(f32, f32) -> f32) {
    for (i, start) in call.left_starts.iter().enumerate() {
        let mut sums = [0f32; COLUMNS];
        // SAFETY: the caller checked every access.
        unsafe {
            let mut panel = call.panel;
            for segment in call.segments {
                let left = call.left.add(start + segment.offset);
                for inner in 0..segment.len {
                    let factor = *left.add(inner);
                    for (j, sum) in sums.iter_mut().enumerate() {
                        *sum += product(factor, *panel.add(j));
                    }
                    panel = panel.add(COLUMNS);
                }
            }
            finish_row(call, i, 0, &sums);
        }
    }
}

/// Finishes the sums of row `i` from column `first` on.
///
/// # Safety
/// Every access of `call` is in bounds.
#[inline]
pub(super) unsafe fn finish_row(call: &Dot, i: usize, first: usize, sums: &[f32]) {
    let columns = call.columns.saturating_sub(first).min(sums.len());
    for (j, &sum) in (first..).zip(&sums[..columns]) {
        let at = call.out_starts[i] + j;
        let mut sum = sum;
        // SAFETY: the caller checked every access.
        unsafe {
            if call.accumulate {
                sum += *call.out.add(at);
            }
            if let Some(shift) = call.shift {
                sum += *shift.add(j);
            }
            if let Some(residual) = call.residual {
                sum += *residual.add(at);
            }
            call.activation.apply(std::slice::from_mut(&mut sum));
            *call.out.add(at) = sum;
        }
    }
}

/// # Safety
/// Every access of `call` is in bounds.
pub(super) unsafe fn outer(call: &Outer) {
    for i in 0..call.rows {
        let mut sums = [0f32; COLUMNS];
        // SAFETY: the caller checked every access.
        unsafe {
            for p in 0..call.terms {
                let factor = *call.left.add(p * call.left_stride + i);
                let right = call.right.add(p * call.right_stride);
                for (j, sum) in sums[..call.columns].iter_mut().enumerate() {
                    *sum += factor * *right.add(j);
                }
            }
            for (j, sum) in sums[..call.columns].iter().enumerate() {
                let out = call.out.add(i * call.out_stride + j);
                *out = if call.accumulate { *out + sum } else { *sum };
            }
        }
    }
}
