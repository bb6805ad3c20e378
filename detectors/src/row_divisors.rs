//! Divisors of the rows of a loss: a row of weight w counts as its loss times w.

use ckd_kernels::losses::Divisor;

/// Runs of rows with one divisor each.
#[derive(Debug, Default)]
pub(crate) struct RowDivisors(Vec<(usize, f64)>);

impl RowDivisors {
    /// Adds `rows` rows that are divided by `divisor`; those that `weighted` names, ascending, count by their weight, and the
    /// others by `rest`.
    pub(crate) fn extend(
        &mut self,
        rows: usize,
        divisor: f64,
        weighted: impl IntoIterator<Item = (usize, f64)>,
        rest: f64,
    ) {
        let mut next = 0;
        for (row, weight) in weighted {
            self.push(row - next, divisor / rest);
            self.push(1, divisor / weight);
            next = row + 1;
        }
        self.push(rows - next, divisor / rest);
    }

    /// Adds rows that are divided by `divisor` and count by these weights.
    pub(crate) fn extend_weighted(&mut self, divisor: f64, weights: impl IntoIterator<Item = f64>) {
        weights.into_iter().for_each(|weight| self.push(1, divisor / weight));
    }

    fn push(&mut self, rows: usize, divisor: f64) {
        match self.0.last_mut() {
            _ if rows == 0 => {}
            Some(last) if last.1 == divisor => last.0 += rows,
            _ => self.0.push((rows, divisor)),
        }
    }

    /// The divisor of a sum over all rows.
    pub(crate) fn divisor(&self) -> Divisor<'_> {
        Divisor::Parts(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_divisor_are_one_run_and_weighted_ones_are_divided_by_less() {
        let mut rows = RowDivisors::default();
        rows.extend(5, 4.0, [(1, 0.5), (2, 1.0)], 1.0);
        rows.extend(3, 4.0, [], 1.0);
        rows.extend(0, 9.0, [], 1.0);
        rows.extend_weighted(4.0, [0.25; 2]);
        rows.extend(3, 4.0, [(1, 1.0)], 0.0);
        let none = f64::INFINITY;
        let expected = [(1, 4.0), (1, 8.0), (6, 4.0), (2, 16.0), (1, none), (1, 4.0), (1, none)];
        assert_eq!(rows.divisor(), Divisor::Parts(&expected));
    }
}
