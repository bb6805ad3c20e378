//! Selection of the highest values: indices by descending value, equal values by lower index, never NaN.

#[cfg(feature = "cuda")]
pub(crate) mod gpu;
mod joint;

use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::dispatch::{self, Host};
use crate::memory::{elements, from_elements, on_host};
use crate::reduce::largest;
use crate::{Error, Result};

pub use joint::{joint_score, joint_scores};

/// The highest values of a segment of rows, by descending value, equal ones by lower place.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Best {
    /// Place of each in the segment, row-major.
    pub places: Vec<u32>,
    /// The values.
    pub values: Vec<f32>,
    /// For each, the row of the companion at its own row.
    pub rows: Vec<f32>,
}

impl Best {
    /// The `most` highest of `values` that are at least `floor`, `columns` to a row; NaN is never chosen.
    ///
    /// # Shapes
    /// `values` (R, `columns`), `companion` (R, W), row-major.
    pub fn of(values: &[f32], columns: usize, companion: &[f32], most: usize, floor: f32) -> Self {
        let rows = values.len().checked_div(columns).unwrap_or(0);
        let width = companion.len().checked_div(rows).unwrap_or(0);
        let places = top_k(values, most, floor);
        Self {
            values: places.iter().map(|&place| values[place]).collect(),
            rows: places
                .iter()
                .flat_map(|place| &companion[place / columns * width..][..width])
                .copied()
                .collect(),
            places: places.into_iter().map(|place| place as u32).collect(),
        }
    }
}

/// The `most` highest values of each segment that are at least `floor`, with the companion's rows.
///
/// A segment is a range of rows: an image's level, say. On a GPU only what was chosen is copied to the host, up to 2,048
/// values a segment.
///
/// # Shapes
/// `values` (M, K), `companion` (M, W): row i of the companion belongs to the K values of row i.
///
/// # Errors
/// If shapes do not fit, a segment ends behind the rows, or its values are more than 2³² - 1.
pub fn best(
    values: &Tensor,
    companion: &Tensor,
    segments: &[Range<usize>],
    most: usize,
    floor: f32,
) -> Result<Vec<Best>> {
    let (&[rows, columns], &[companion_rows, width]) = (values.dims(), companion.dims()) else {
        let reason =
            format!("(M, K) and (M, W) expected, got {:?} and {:?}", values.dims(), companion.dims());
        return Err(Error::invalid("best", reason));
    };
    if companion_rows != rows {
        return Err(Error::invalid(
            "best",
            format!("{rows} rows of values, {companion_rows} of the companion"),
        ));
    }
    let most_values = u32::MAX as usize;
    if let Some(bad) =
        segments.iter().find(|s| s.end > rows || s.len().saturating_mul(columns) >= most_values)
    {
        return Err(Error::invalid("best", format!("segment {bad:?} of {rows} rows of {columns} values")));
    }
    dispatch::run(values, Selection { values, companion, columns, width, segments, most, floor })
}

struct Selection<'a> {
    values: &'a Tensor,
    companion: &'a Tensor,
    columns: usize,
    width: usize,
    segments: &'a [Range<usize>],
    most: usize,
    floor: f32,
}

impl Host for Selection<'_> {
    type Output = Vec<Best>;

    fn on_host(self) -> Result<Vec<Best>> {
        let Self { columns, width, most, floor, .. } = self;
        let (values, companion) = (on_host(self.values)?, on_host(self.companion)?);
        let (values, companion) = (elements(&values)?, elements(&companion)?);
        let best = |rows: &Range<usize>| {
            let values = &values[rows.start * columns..rows.end * columns];
            Best::of(values, columns, &companion[rows.start * width..rows.end * width], most, floor)
        };
        Ok(self.segments.iter().map(best).collect())
    }
}

/// The largest value of each row; minus infinity of NaN alone, and of no values.
///
/// # Shapes
/// (R, K) to (R, 1).
///
/// # Errors
/// If `x` is no matrix.
pub fn row_maxima(x: &Tensor) -> Result<Tensor> {
    let (rows, columns) = x.dims2()?;
    dispatch::run(x, RowMaxima { x, rows, columns })
}

struct RowMaxima<'a> {
    x: &'a Tensor,
    rows: usize,
    columns: usize,
}

impl Host for RowMaxima<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { x, rows, columns } = self;
        let host = on_host(x)?;
        let values = elements(&host)?;
        let maxima = match columns {
            0 => vec![f32::NEG_INFINITY; rows],
            _ => values.par_chunks_exact(columns).map(largest).collect(),
        };
        from_elements(maxima, (rows, 1), x)
    }
}

/// The indices of the `k` highest values that are at least `floor`, by descending value, equal ones by lower index; NaN
/// is never chosen.
///
/// A selection, and a sort of what it leaves: linear in the number of values.
pub fn top_k(values: &[f32], k: usize, floor: f32) -> Vec<usize> {
    if k == 0 {
        return Vec::new();
    }
    let mut keys = keys(values, |i| values[i] >= floor);
    if k < keys.len() {
        keys.select_nth_unstable(k - 1);
        keys.truncate(k);
    }
    in_order(keys)
}

/// The indices for which `usable` holds, by descending value, equal ones by lower index; without those of NaN.
pub fn by_descending(values: &[f32], usable: impl Fn(usize) -> bool) -> Vec<usize> {
    in_order(keys(values, usable))
}

/// Sort keys, one for each index: ascending in the wanted order, ties by index.
fn keys(values: &[f32], usable: impl Fn(usize) -> bool) -> Vec<u64> {
    let usable = |&(i, value): &(usize, &f32)| !value.is_nan() && usable(i);
    let key = |(i, value): (usize, &f32)| u64::from(descending(*value)) << 32 | u64::from(i as u32);
    values.iter().enumerate().filter(usable).map(key).collect()
}

fn in_order(mut keys: Vec<u64>) -> Vec<usize> {
    keys.sort_unstable();
    keys.into_iter().map(|key| key as u32 as usize).collect()
}

/// A number that ascends as `value`, which is not NaN, descends; 0 and -0 give the same.
#[inline]
fn descending(value: f32) -> u32 {
    // Adding 0 makes 0 of -0.
    let bits = (value + 0.0).to_bits();
    if bits >> 31 == 0 { !(bits | 1 << 31) } else { bits }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn top_k_breaks_ties_by_lower_index_and_skips_nan() {
        let values = [1.0, f32::NAN, 3.0, 1.0, 3.0, -0.0, 0.0, f32::INFINITY];
        assert_eq!(top_k(&values, 3, f32::NEG_INFINITY), [7, 2, 4]);
        assert_eq!(top_k(&values, 4, f32::NEG_INFINITY), [7, 2, 4, 0]);
        assert_eq!(top_k(&values, 99, f32::NEG_INFINITY), [7, 2, 4, 0, 3, 5, 6]);
        assert_eq!(top_k(&values, 99, 0.0), [7, 2, 4, 0, 3, 5, 6]);
        assert_eq!(top_k(&values, 99, 1.5), [7, 2, 4]);
        for (values, k) in [(&values[..], 0), (&[], 5), (&[f32::NAN], 5)] {
            assert!(top_k(values, k, f32::NEG_INFINITY).is_empty());
        }
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_a_stable_sort(
            values in proptest::collection::vec(prop_oneof![any::<f32>(), (-3..3_i8).prop_map(f32::from)], 0..200),
            k in 0_usize..250,
        ) {
            let mut sorted: Vec<usize> = (0..values.len()).filter(|&i| !values[i].is_nan()).collect();
            sorted.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).expect("NaN was left out"));
            prop_assert_eq!(&by_descending(&values, |_| true), &sorted);
            let odd: Vec<usize> = sorted.iter().copied().filter(|i| i % 2 == 1).collect();
            prop_assert_eq!(by_descending(&values, |i| i % 2 == 1), odd);
            sorted.truncate(k);
            prop_assert_eq!(top_k(&values, k, f32::NEG_INFINITY), sorted);
        }
    }
}
