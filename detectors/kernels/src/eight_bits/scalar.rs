//! Tiles in plain Rust: the reference.

use super::call::{Call, Out, Residual};
use crate::microkernel::COLUMNS;

/// # Safety
/// Every access of `call` is in bounds.
pub(super) unsafe fn dot(call: &Call) {
    // SAFETY: the caller checked every access.
    unsafe {
        for (row, start) in call.left_starts.iter().enumerate() {
            let mut sums = [0i32; COLUMNS];
            sums.copy_from_slice(std::slice::from_raw_parts(call.first, COLUMNS));
            let mut panel = call.panel;
            for segment in call.segments {
                let left = call.left.add(start + segment.offset);
                for inner in 0..segment.len {
                    let factors = (*left.add(inner)).to_le_bytes();
                    for (sum, right) in sums.iter_mut().zip(std::slice::from_raw_parts(panel, COLUMNS)) {
                        for (factor, right) in factors.iter().zip(right.to_le_bytes()) {
                            *sum += i32::from(*factor) * i32::from(right as i8);
                        }
                    }
                    panel = panel.add(COLUMNS);
                }
            }
            finish_row(call, row, 0, &sums);
        }
    }
}

/// Finishes and writes the sums of `row` from column `first` on.
///
/// # Safety
/// Every access of `call` is in bounds, and so are the columns of `sums` in its panel.
#[inline(always)]
pub(super) unsafe fn finish_row(call: &Call, row: usize, first: usize, sums: &[i32]) {
    let columns = sums.len().min(call.columns.saturating_sub(first));
    let at = call.out_starts[row] + first;
    // SAFETY: the caller checked every access.
    unsafe {
        for (j, &sum) in sums.iter().enumerate().take(columns) {
            let mut number = (sum as f32).mul_add(*call.scale.add(first + j), *call.shift.add(first + j));
            match call.residual {
                Residual::None => {}
                Residual::Real(numbers) => number += *numbers.get_unchecked(at + j),
                Residual::Steps(steps, grid) => number += grid.number(*steps.get_unchecked(at + j)),
            }
            match call.out {
                Out::Real { out, .. } => {
                    call.activation.apply(std::slice::from_mut(&mut number));
                    *out.add(at + j) = number;
                }
                Out::Steps { out, rule } => *out.add(at + j) = rule.step(number),
            }
        }
    }
}
