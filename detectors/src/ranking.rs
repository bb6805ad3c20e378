//! Indices by descending score, equal scores by lower index.

/// The indices of the `k` highest values by descending value, equal ones by lower index; NaN is never chosen.
///
/// A selection, and a sort of what it leaves: linear in the number of values.
pub(crate) fn top_k(values: &[f32], k: usize) -> Vec<usize> {
    if k == 0 {
        return Vec::new();
    }
    let mut keys = keys(values, |_| true);
    if k < keys.len() {
        keys.select_nth_unstable(k - 1);
        keys.truncate(k);
    }
    in_order(keys)
}

/// The indices for which `usable` holds, by descending value, equal ones by lower index; without those of NaN.
pub(crate) fn by_descending(values: &[f32], usable: impl Fn(usize) -> bool) -> Vec<usize> {
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
        assert_eq!(top_k(&values, 3), [7, 2, 4]);
        assert_eq!(top_k(&values, 4), [7, 2, 4, 0]);
        assert_eq!(top_k(&values, 99), [7, 2, 4, 0, 3, 5, 6]);
        assert!(top_k(&values, 0).is_empty() && top_k(&[], 5).is_empty() && top_k(&[f32::NAN], 5).is_empty());
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
            prop_assert_eq!(top_k(&values, k), sorted);
        }
    }
}
