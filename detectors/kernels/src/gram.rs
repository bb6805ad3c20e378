//! The products of a matrix's rows with each other, on one thread: for many small matrices at a time.
//!
//! The matrix is given by columns, so that a tile of products is a sum of outer products which stay in
//! registers. Its panels are 32 columns wide, as the microkernel multiplies them further. The matrix is
//! symmetric: a panel is computed from its diagonal on, and what is above is mirrored where it is needed.

#![allow(clippy::needless_range_loop, reason = "indexed loops of fixed length stay in registers")]

use crate::microkernel::{COLUMNS, Finish, Left, Memory, ROWS, Segment, Starts, Target, Terms, dot, outer};
use crate::panels::Aligned;
use crate::precision::Precision;
use crate::reduce;
use crate::simd::{Simd, for_each_level};

/// Gram matrix (products of all pairs of rows), in memory that is used again.
pub struct Gram {
    rows: usize,
    /// Panels of (padded rows, 32), row-major.
    panels: Aligned,
}

impl Gram {
    /// A matrix of zeros for `rows` rows.
    pub fn new(rows: usize) -> Self {
        Self { rows, panels: Aligned::zeros(Self::padded(rows) * Self::padded(rows)) }
    }

    /// Length of a column of `rows` numbers with its padding of zeros.
    pub fn padded(rows: usize) -> usize {
        rows.next_multiple_of(COLUMNS)
    }

    /// Sets the matrix to Σ x xᵀ over the columns x.
    ///
    /// # Panics
    /// If `columns` are not whole ones of the [`padded`](Self::padded) length.
    pub fn set_to_products(&mut self, columns: &[f32]) {
        let (rows, padded) = (self.rows, Self::padded(self.rows));
        assert!(columns.len().is_multiple_of(padded.max(1)), "gram: {} numbers by {padded}", columns.len());
        let (level, terms) = (Simd::level(), columns.len().checked_div(padded).unwrap_or(0));
        let from = |first: usize| Terms { values: columns.get(first..).unwrap_or_default(), stride: padded };
        for (panel, first) in self.panels().zip((0..).step_by(COLUMNS)) {
            panel[first * COLUMNS..].fill(0.0);
            for i in (first..rows).step_by(ROWS) {
                let count = ROWS.min(rows - i);
                let out = &mut panel[i * COLUMNS..];
                outer(level, terms, (count, COLUMNS), from(i), from(first), Memory::Written(out), COLUMNS);
            }
        }
    }

    /// Inner product of two Gram matrices, both results of [`set_to_products`](Self::set_to_products).
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn inner_product(&self, other: &Self) -> f64 {
        assert_eq!(self.rows, other.rows, "gram: sizes");
        let size = (Self::padded(self.rows) * COLUMNS).max(1);
        let panels =
            self.panels.as_slice().chunks_exact(size).zip(other.panels.as_slice().chunks_exact(size));
        let products = panels.zip((0..).step_by(COLUMNS * COLUMNS)).map(|((a, b), first)| {
            // The block on the diagonal is whole; what is below stands for what is above too.
            let below = first + COLUMNS * COLUMNS;
            reduce::dot(&a[first..below], &b[first..below]) + 2.0 * reduce::dot(&a[below..], &b[below..])
        });
        products.sum()
    }

    /// Sets the matrix to the whole of `a` self + `b` other, two results of
    /// [`set_to_products`](Self::set_to_products).
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn combine(&mut self, a: f32, other: &Self, b: f32) {
        assert_eq!(self.rows, other.rows, "gram: sizes");
        let padded = Self::padded(self.rows);
        let size = (padded * COLUMNS).max(1);
        let others = other.panels.as_slice().chunks_exact(size);
        for ((panel, other), first) in self.panels().zip(others).zip((0..).step_by(COLUMNS * COLUMNS)) {
            add_scaled(&mut panel[first..], a, &other[first..], b);
        }
        let values = self.panels.as_mut_slice();
        for panel in 0..padded / COLUMNS {
            for above in 0..panel {
                // Block (above, panel) is the transpose of block (panel, above).
                let from = above * size + panel * COLUMNS * COLUMNS;
                let to = panel * size + above * COLUMNS * COLUMNS;
                let (lower, upper) = values.split_at_mut(to);
                let block = &lower[from..from + COLUMNS * COLUMNS];
                transpose_block(block, &mut upper[..COLUMNS * COLUMNS]);
            }
        }
    }

    /// Multiplies the matrix, which [`combine`](Self::combine) made whole, with each column; results go to
    /// `out`.
    ///
    /// # Panics
    /// If `columns` and `out` are not as many whole columns of the [`padded`](Self::padded) length.
    pub fn multiply(&self, columns: &[f32], out: &mut [f32]) {
        let padded = Self::padded(self.rows);
        assert!(columns.len() == out.len() && columns.len().is_multiple_of(padded.max(1)), "gram: sizes");
        if columns.is_empty() {
            return;
        }
        let level = Simd::level();
        let segments = [Segment { offset: 0, len: self.rows }];
        let size = (padded * COLUMNS).max(1);
        let starts: Vec<usize> = (0..columns.len()).step_by(padded.max(1)).collect();
        let starts = Starts::new(&starts);
        for (panel, first) in self.panels.as_slice().chunks_exact(size).zip((0..).step_by(COLUMNS)) {
            let left = Left {
                precision: Precision::F32,
                values: columns,
                starts,
                segments: &segments,
                ahead: false,
            };
            let target =
                Target { memory: Memory::Written(&mut out[first..]), starts, columns: COLUMNS, ahead: false };
            dot(level, left, panel, target, Finish::default());
        }
    }

    fn panels(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let size = (Self::padded(self.rows) * COLUMNS).max(1);
        self.panels.as_mut_slice().chunks_exact_mut(size)
    }
}

fn transpose_block(from: &[f32], to: &mut [f32]) {
    for (i, to) in to.chunks_exact_mut(COLUMNS).enumerate() {
        to.iter_mut().zip(from[i..].iter().step_by(COLUMNS)).for_each(|(to, from)| *to = *from);
    }
}

for_each_level! {
    fn add_scaled(to: &mut [f32], a: f32, from: &[f32], b: f32) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = a * *to + b * from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(rows: usize, terms: usize, seed: usize) -> Vec<f32> {
        let padded = Gram::padded(rows);
        let value = |i: usize| ((i * 31 + seed * 17) % 23) as f32 / 11.5 - 1.0;
        (0..terms * padded).map(|i| if i % padded < rows { value(i) } else { 0.0 }).collect()
    }

    fn product(columns: &[f32], rows: usize, i: usize, j: usize) -> f64 {
        columns.chunks_exact(Gram::padded(rows)).map(|x| f64::from(x[i]) * f64::from(x[j])).sum()
    }

    #[test]
    fn products_sums_and_multiples_are_those_of_the_whole_matrix() {
        for (rows, terms) in [(1, 1), (1, 5), (11, 3), (31, 1), (32, 12), (33, 13), (77, 20), (100, 2)] {
            let (x, y) = (columns(rows, terms, 1), columns(rows, terms, 2));
            let (mut k, mut l) = (Gram::new(rows), Gram::new(rows));
            // Memory is used again: what it held before must not matter.
            k.set_to_products(&y);
            k.combine(1.0, &l, 0.0);
            k.set_to_products(&x);
            l.set_to_products(&y);
            let pairs = || (0..rows).flat_map(|i| (0..rows).map(move |j| (i, j)));
            let want: f64 = pairs().map(|(i, j)| product(&x, rows, i, j) * product(&y, rows, i, j)).sum();
            assert!((k.inner_product(&l) - want).abs() <= 1e-5 * (1.0 + want.abs()), "{rows} {terms}");
            k.combine(2.0, &l, -0.5);
            let mut out = vec![f32::NAN; y.len()];
            k.multiply(&y, &mut out);
            let padded = Gram::padded(rows);
            for (out, y_column) in out.chunks_exact(padded).zip(y.chunks_exact(padded)) {
                for i in 0..rows {
                    let element = |j: usize| 2.0 * product(&x, rows, i, j) - 0.5 * product(&y, rows, i, j);
                    let want: f64 = (0..rows).map(|j| element(j) * f64::from(y_column[j])).sum();
                    assert!((f64::from(out[i]) - want).abs() < 1e-3, "{rows} {terms}: {} {want}", out[i]);
                }
                assert!(out[rows..].iter().all(|&padding| padding == 0.0));
            }
        }
    }

    #[test]
    fn nothing_has_no_products() {
        let mut none = Gram::new(0);
        none.set_to_products(&[]);
        none.combine(1.0, &Gram::new(0), 1.0);
        none.multiply(&[], &mut []);
        assert_eq!(none.inner_product(&Gram::new(0)), 0.0);
        let mut zeros = Gram::new(40);
        zeros.set_to_products(&[]);
        assert_eq!(zeros.inner_product(&zeros), 0.0);
    }
}
