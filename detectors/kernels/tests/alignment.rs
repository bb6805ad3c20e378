//! Kernel alignment of matrices and of maps, against its definition in f64.

use candle_core::Tensor;
use ckd_kernels::Value;
use ckd_kernels::alignment::{Kernel, PatchRows, RowNorm, alignment, misalignment, patch_misalignment};
use ckd_kernels::resize::resize_bilinear;

use crate::support::*;

fn kernels() -> impl Iterator<Item = Kernel> {
    let norms = [RowNorm::Off, RowNorm::Rows, RowNorm::Cosine];
    norms.into_iter().flat_map(|row_norm| [false, true].map(|center| Kernel { center, row_norm }))
}

/// <K, L> / (|K| |L|) of rows (n, p) and (n, q), as it is defined.
fn defined(x: &[f32], y: &[f32], n: usize, kernel: Kernel) -> f64 {
    let similarities = |values: &[f32]| -> Vec<f64> {
        let width = values.len() / n;
        let mut rows: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
        if kernel.center {
            for column in 0..width {
                let mean = (0..n).map(|row| rows[row * width + column]).sum::<f64>() / n as f64;
                (0..n).for_each(|row| rows[row * width + column] -= mean);
            }
        }
        let dot = |i: usize, j: usize| -> f64 {
            (0..width).map(|column| rows[i * width + column] * rows[j * width + column]).sum()
        };
        let pairs = (0..n).flat_map(|i| (0..n).map(move |j| (i, j)));
        let similarity = |(i, j)| match kernel.row_norm {
            RowNorm::Off => dot(i, j),
            RowNorm::Rows => dot(i, j) / dot(i, i).sqrt(),
            RowNorm::Cosine => dot(i, j) / (dot(i, i) * dot(j, j)).sqrt(),
        };
        pairs.map(similarity).collect()
    };
    let (k, l) = (similarities(x), similarities(y));
    let inner = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    inner(&k, &l) / (inner(&k, &k) * inner(&l, &l)).sqrt()
}

fn scalar(value: &Value) -> f64 {
    f64::from(values(value.tensor())[0])
}

#[test]
fn alignment_is_its_definition_with_its_gradient() {
    for (n, p, q) in [(7, 5, 6), (40, 3, 9), (3, 30, 11), (2, 1, 1)] {
        let (x, y) = (noise(1, &[n, p]), noise(2, &[n, q]));
        for kernel in kernels() {
            let of = |y: &Value| alignment(&x, y, kernel).unwrap();
            let want = defined(&values(&x), &values(&y), n, kernel);
            let leaf = Value::leaf("y", y.clone());
            assert!((scalar(&of(&leaf)) - want).abs() < 2e-6, "{n} {p} {q} {kernel:?}");
            let lack = misalignment(&x, &leaf, kernel).unwrap();
            assert!((scalar(&lack) - (1.0 - want)).abs() < 2e-6);
            if n < 10 && p > 1 {
                check_gradients(std::slice::from_ref(&y), 3e-3, 2e-4, |y| of(&y[0]));
                check_gradients(std::slice::from_ref(&y), 3e-3, 2e-4, |y| {
                    misalignment(&x, &y[0], kernel).unwrap()
                });
            }
        }
    }
}

#[test]
fn alignment_of_nothing_and_of_zeros_has_no_gradient() {
    for (n, p, q) in [(0, 3, 4), (3, 2, 0), (4, 2, 3)] {
        let x = noise(1, &[n, p]);
        let y = Value::leaf("y", Tensor::zeros((n, q), candle_core::DType::F32, device()).unwrap());
        for kernel in kernels() {
            let lack = misalignment(&x, &y, kernel).unwrap();
            assert_eq!(scalar(&lack), if n * q == 0 { 0.0 } else { 1.0 });
            let gradients = lack.backward().unwrap();
            assert!(values(&gradients["y"]).iter().all(|&g| g == 0.0), "{kernel:?}");
        }
    }
    assert!(alignment(&noise(1, &[3, 2]), &Value::constant(noise(2, &[4, 2])), default()).is_err());
    assert!(alignment(&noise(1, &[3, 2]), &Value::constant(noise(2, &[3])), default()).is_err());
}

fn default() -> Kernel {
    Kernel { center: false, row_norm: RowNorm::Off }
}

/// The matrices of all channels of a map that is resized to whole patches.
fn matrices(map: &Tensor, patch: usize, rows: PatchRows) -> Vec<(usize, Vec<f32>)> {
    let (n, c, h, w) = map.dims4().unwrap();
    let (down, across) = (h.div_ceil(patch), w.div_ceil(patch));
    let size = (down * patch, across * patch);
    let resized = values(resize_bilinear(&Value::constant(map.clone()), size).unwrap().tensor());
    let cell = |image: usize, channel: usize, y: usize, x: usize| {
        resized[((image * c + channel) * size.0 + y) * size.1 + x]
    };
    let (count, pixels) = (down * across, n * patch * patch);
    let element = |channel: usize, at: usize, pixel: usize| {
        let (image, y, x) = (pixel / patch / patch, pixel / patch % patch, pixel % patch);
        cell(image, channel, at / across * patch + y, at % across * patch + x)
    };
    let matrix = |channel: usize| match rows {
        PatchRows::Patches => {
            let places = (0..count).flat_map(|at| (0..pixels).map(move |pixel| (at, pixel)));
            (count, places.map(|(at, pixel)| element(channel, at, pixel)).collect())
        }
        PatchRows::Pixels => {
            let places = (0..pixels).flat_map(|pixel| (0..count).map(move |at| (at, pixel)));
            (pixels, places.map(|(at, pixel)| element(channel, at, pixel)).collect())
        }
    };
    (0..c).map(matrix).collect()
}

#[test]
fn misalignment_of_maps_is_that_of_their_channels() {
    // Sides that are whole patches or not; channels that fill a tile of 32 or not.
    for (shape, patch) in [([1, 3, 8, 12], 4), ([2, 17, 7, 9], 4), ([1, 16, 20, 20], 2), ([2, 33, 5, 3], 3)] {
        let (t, s) = (noise(1, &shape), noise(2, &shape));
        for rows in [PatchRows::Patches, PatchRows::Pixels] {
            for kernel in kernels() {
                let pairs = matrices(&t, patch, rows).into_iter().zip(matrices(&s, patch, rows));
                let sum: f64 = pairs.map(|((n, x), (_, y))| defined(&x, &y, n, kernel)).sum();
                for (t, s) in [(t.clone(), s.clone()), (nhwc(&t), nhwc(&s))] {
                    let got = patch_misalignment(&t, &Value::constant(s), rows, patch, kernel).unwrap();
                    let off = (scalar(&got) - (1.0 - sum / shape[1] as f64)).abs();
                    assert!(off < 3e-6, "{shape:?} {rows:?} {kernel:?}: {off:.1e}");
                }
            }
        }
    }
}

#[test]
fn misalignment_of_maps_has_the_slopes_of_its_values() {
    for (shape, patch) in [([2, 1, 4, 5], 3), ([1, 2, 4, 4], 2)] {
        let (t, s) = (noise(1, &shape), noise(2, &shape));
        for rows in [PatchRows::Patches, PatchRows::Pixels] {
            for kernel in kernels() {
                check_gradients(std::slice::from_ref(&s), 4e-3, 3e-4, |s| {
                    patch_misalignment(&t, &s[0], rows, patch, kernel).unwrap()
                });
            }
        }
    }
}

#[test]
fn a_single_patch_and_an_empty_map_have_nothing_to_align() {
    for shape in [[1, 2, 3, 3], [0, 2, 8, 8]] {
        let (t, s) = (noise(1, &shape), Value::leaf("s", noise(2, &shape)));
        let loss = patch_misalignment(&t, &s, PatchRows::Patches, 4, default()).unwrap();
        assert_eq!(scalar(&loss), 0.0);
        assert!(values(&loss.backward().unwrap()["s"]).iter().all(|&g| g == 0.0));
    }
    let map = Value::constant(noise(1, &[1, 2, 8, 8]));
    assert!(patch_misalignment(&noise(2, &[1, 2, 8, 7]), &map, PatchRows::Patches, 4, default()).is_err());
    assert!(patch_misalignment(&noise(2, &[1, 2, 8, 8]), &map, PatchRows::Patches, 0, default()).is_err());
}

/// A GPU compares some channels after others where their matrices are large: here 32 and 8 of 40.
#[test]
fn maps_of_many_channels_are_compared_as_parts_of_them_are() {
    let (x, y) = (nhwc(&noise(61, &[1, 40, 48, 48])), nhwc(&noise(62, &[1, 40, 48, 48])));
    let kernel = Kernel { center: true, row_norm: RowNorm::Cosine };
    let compare = |first: usize, channels: usize| {
        let [x, y] = [&x, &y].map(|map| map.narrow(1, first, channels).unwrap());
        let y = Value::leaf("y", nhwc(&y));
        let value = patch_misalignment(&nhwc(&x), &y, PatchRows::Pixels, 24, kernel).unwrap();
        let share = channels as f64 / 40.0;
        let gradient = (value.backward().unwrap()["y"].clone() * share).unwrap();
        (f64::from(value.item().unwrap()) * share, gradient)
    };
    let (whole, gradient) = compare(0, 40);
    let (most, of_most) = compare(0, 32);
    let (rest, of_rest) = compare(32, 8);
    assert!((whole - most - rest).abs() < 1e-6, "{whole}, {most} and {rest}");
    let largest = values(&gradient).into_iter().fold(0f32, |largest, g| largest.max(g.abs()));
    let parts = Tensor::cat(&[&of_most.contiguous().unwrap(), &of_rest.contiguous().unwrap()], 1).unwrap();
    for (got, want) in values(&gradient).into_iter().zip(values(&parts)) {
        assert!((got - want).abs() <= 1e-5 * largest, "{got}, {want}");
    }
}
