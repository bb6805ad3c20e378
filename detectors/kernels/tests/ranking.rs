//! The highest values of segments, against a stable sort.

use crate::support::*;
use ckd_kernels::ranking::{Best, best, joint_scores, row_maxima};

/// Few different numbers: most are equal to others, of both zeros and both infinities, and some are NaN.
fn with_ties(count: usize, seed: usize) -> Vec<f32> {
    let number = |i: usize| match (i * 7919 + seed * 31) % 1013 {
        0 => f32::NAN,
        1 => f32::INFINITY,
        2 => f32::NEG_INFINITY,
        3 => -0.0,
        other => (other % 41) as f32 / 8.0 - 2.0,
    };
    (0..count).map(number).collect()
}

fn by_sorting(values: &[f32], columns: usize, companion: &[f32], most: usize, floor: f32) -> Best {
    let width = companion.len() * columns / values.len().max(1);
    let mut places: Vec<usize> = (0..values.len()).filter(|&i| values[i] >= floor).collect();
    places.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).expect("no NaN is at least the floor"));
    places.truncate(most);
    Best {
        values: places.iter().map(|&i| values[i]).collect(),
        rows: places.iter().flat_map(|i| companion[i / columns * width..][..width].to_vec()).collect(),
        places: places.into_iter().map(|i| i as u32).collect(),
    }
}

#[test]
fn the_best_of_each_segment_are_those_of_a_stable_sort() {
    // Segments of many chunks, of less than is asked for, of nothing; more than a GPU keeps.
    for (columns, width, ends, most, floor) in [
        (1, 4, vec![40_000, 110_000, 110_003, 110_003], 2000, f32::NEG_INFINITY),
        (5, 4, vec![30_000, 30_001, 31_000], 1000, -0.5),
        (3, 1, vec![100, 900], 2048, 0.0),
        (2, 3, vec![4000, 8000], 2049, -1.0),
        (7, 4, vec![50], 3, f32::INFINITY),
        (1, 1, vec![50], 0, 0.0),
    ] {
        let rows = ends[ends.len() - 1] + 2;
        let (values, companion) = (with_ties(rows * columns, ends.len()), with_ties(rows * width, 99));
        let companion: Vec<f32> = companion.into_iter().map(|x| if x.is_nan() { 7.0 } else { x }).collect();
        let starts = std::iter::once(&0).chain(&ends);
        let segments: Vec<_> = starts.zip(&ends).map(|(&start, &end)| start..end).collect();
        let device_values = tensor(values.clone(), &[rows, columns]);
        let device_companion = tensor(companion.clone(), &[rows, width]);
        let found = best(&device_values, &device_companion, &segments, most, floor).unwrap();
        assert_eq!(found.len(), segments.len());
        for (segment, found) in segments.iter().zip(found) {
            let of = |all: &[f32], width| all[segment.start * width..segment.end * width].to_vec();
            let (values, companion) = (of(&values, columns), of(&companion, width));
            let want = by_sorting(&values, columns, &companion, most, floor);
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert!(found.places == want.places, "{segment:?} of {columns} columns, {most}");
            assert!(bits(&found.values) == bits(&want.values) && bits(&found.rows) == bits(&want.rows));
        }
    }
}

#[test]
fn the_largest_of_each_row_passes_nan_over() {
    for (rows, columns) in [(0, 3), (5, 1), (300, 33), (9, 91)] {
        let values = with_ties(rows * columns, 5);
        let want =
            values.chunks_exact(columns).map(|row| row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let got = row_maxima(&tensor(values.clone(), &[rows, columns])).unwrap();
        assert_eq!(got.dims(), [rows, 1]);
        assert_eq!(crate::support::values(&got), want.collect::<Vec<_>>());
    }
    let nan = row_maxima(&tensor(vec![f32::NAN; 2], &[1, 2])).unwrap();
    assert_eq!(crate::support::values(&nan), [f32::NEG_INFINITY]);
}

#[test]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one segment is meant")]
fn segments_behind_the_rows_and_unequal_rows_are_refused() {
    let (values, companion) = (noise(1, &[4, 2]), noise(2, &[4, 3]));
    let refused = |result: ckd_kernels::Result<Vec<Best>>| assert!(result.is_err());
    refused(best(&values, &companion, std::slice::from_ref(&(0..5)), 1, 0.0));
    refused(best(&values, &noise(3, &[5, 3]), std::slice::from_ref(&(0..4)), 1, 0.0));
    refused(best(&values, &noise(3, &[4]), std::slice::from_ref(&(0..4)), 1, 0.0));
}

#[test]
fn joint_scores_are_the_roots_of_products_and_nothing_below_the_floor() {
    let (rows, columns) = (300, 7);
    let classes = with_ties(rows * columns, 3);
    let places: Vec<f32> = with_ties(rows, 4);
    let scores =
        joint_scores(&tensor(classes.clone(), &[rows, columns]), &tensor(places.clone(), &[rows, 1]), 0.25);
    for (at, got) in values(&scores.unwrap()).iter().enumerate() {
        let (class, place) = (f64::from(classes[at]), f64::from(places[at / columns]));
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let want = if class >= 0.25 { (sigmoid(class) * sigmoid(place)).sqrt() } else { 0.0 };
        assert!(
            (f64::from(*got) - want).abs() < 1e-6 || (got.is_nan() && want.is_nan()),
            "{at}: {got} {want}"
        );
    }
    let none = joint_scores(&tensor(vec![], &[0, 3]), &tensor(vec![], &[0, 1]), 0.0).unwrap();
    assert_eq!(none.dims(), [0, 3]);
    assert!(joint_scores(&tensor(vec![0.0; 6], &[2, 3]), &tensor(vec![0.0; 3], &[3, 1]), 0.0).is_err());
}
