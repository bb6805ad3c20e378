//! Pooling against PyTorch's values, a scalar reference and differences.

use crate::support::*;
use candle_core::Tensor;
use ckd_kernels::Value;
use ckd_kernels::pool::{adaptive_avg_pool2d, global_avg_pool, max_pool2d};

#[test]
fn max_pooling_equals_pytorch() {
    golden::each_case("max_pool2d/", |case| {
        let [kernel, stride, padding] = ["kernel", "stride", "padding"].map(|key| case.attr_usize(key));
        check_case(case, &max_pool2d(&leaf(case, "x"), kernel, stride, padding).unwrap());
    });
}

#[test]
fn average_pooling_equals_pytorch() {
    golden::each_case("avg_pool/", |case| {
        let size = case.attr_usize("out_size");
        check_case(case, &adaptive_avg_pool2d(&leaf(case, "x"), (size, size)).unwrap());
    });
}

/// Kernel, stride and padding: overlapping, with gaps, the stem's, the FPN's extra level.
const WINDOWS: [[usize; 3]; 7] =
    [[3, 2, 1], [2, 2, 0], [3, 1, 1], [1, 2, 0], [2, 3, 1], [5, 1, 2], [4, 3, 2]];

/// Odd and even sizes, one pixel, one to three images, no image.
const SHAPES: [[usize; 4]; 6] =
    [[1, 1, 5, 5], [2, 3, 7, 4], [3, 9, 6, 5], [1, 2, 1, 1], [2, 2, 1, 9], [0, 3, 8, 8]];

/// Result and the gradient of x for the gradient `g` of the result, or `None` if no window fits.
fn reference(x: &Tensor, g: &[f32], [kernel, stride, padding]: [usize; 3]) -> Option<(Vec<f32>, Vec<f32>)> {
    let (n, c, h, w) = x.dims4().unwrap();
    let size = |input: usize| Some((input + 2 * padding).checked_sub(kernel)? / stride + 1);
    let (oh, ow) = (size(h)?, size(w)?);
    let x = values(x);
    let (mut out, mut spread) = (vec![0f32; n * c * oh * ow], vec![0f32; x.len()]);
    for (at, out) in out.iter_mut().enumerate() {
        let (map, oy, ox) = (at / (oh * ow), at / ow % oh, at % ow);
        let mut best: Option<usize> = None;
        for tap in 0..kernel * kernel {
            let y = (oy * stride + tap / kernel).checked_sub(padding).filter(|y| *y < h);
            let column = (ox * stride + tap % kernel).checked_sub(padding).filter(|x| *x < w);
            let (Some(y), Some(column)) = (y, column) else { continue };
            let from = (map * h + y) * w + column;
            if best.is_none_or(|best| x[from] > x[best]) {
                best = Some(from);
            }
        }
        let best = best.expect("padding is at most half a kernel");
        *out = x[best];
        if let Some(g) = g.get(at) {
            spread[best] += g;
        }
    }
    Some((out, spread))
}

#[test]
fn any_window_equals_the_scalar_reference() {
    for window in WINDOWS {
        for shape in SHAPES {
            // A few values only: almost every window has ties.
            let coarse = values(&noise(1, &shape)).into_iter().map(|v| (2.0 * v).round()).collect();
            let x = tensor(coarse, &shape);
            let [kernel, stride, padding] = window;
            let got = max_pool2d(&Value::leaf("x", nhwc(&x)), kernel, stride, padding);
            let Some((expected, _)) = reference(&x, &[], window) else {
                assert!(got.is_err());
                continue;
            };
            let got = got.unwrap();
            assert_eq!(values(got.tensor()), expected, "{window:?} {shape:?}");
            let g = noise(2, got.dims());
            let (_, spread) = reference(&x, &values(&g), window).unwrap();
            // Sums of up to 25 terms, in another order.
            assert_close(&gradients_of(&got, &g)["x"], &tensor(spread, &shape), 1e-6);
            let untracked = max_pool2d(&Value::constant(x), kernel, stride, padding).unwrap();
            assert_eq!(values(untracked.tensor()), expected);
        }
    }
}

#[test]
fn gradients_agree_with_differences() {
    for shape in SHAPES {
        for [kernel, stride, padding] in [[3, 2, 1], [2, 2, 1], [3, 1, 1]] {
            if shape[2] + 2 * padding < kernel || shape[3] + 2 * padding < kernel {
                continue;
            }
            check_gradients(&[distinct(3, &shape, 0.1)], 0.02, 1e-3, |t| {
                max_pool2d(&t[0], kernel, stride, padding).unwrap()
            });
        }
        for size in [(1, 1), (2, 3), (4, 4), (7, 1), (11, 12)] {
            check_gradients(&[noise(4, &shape)], 0.2, 1e-4, |t| adaptive_avg_pool2d(&t[0], size).unwrap());
        }
    }
}

#[test]
fn padding_never_wins() {
    let x = Value::leaf("x", tensor(vec![-5.0; 4], &[1, 1, 2, 2]));
    let out = max_pool2d(&x, 3, 2, 1).unwrap();
    assert_eq!(values(out.tensor()), [-5.0]);
    let low = Value::constant(tensor(vec![f32::NEG_INFINITY; 4], &[1, 1, 2, 2]));
    assert_eq!(values(max_pool2d(&low, 3, 1, 1).unwrap().tensor()), [f32::NEG_INFINITY; 4]);
}

#[test]
fn the_first_of_equal_values_gets_the_gradient() {
    let x = Value::leaf("x", tensor(vec![0.0; 16], &[1, 1, 4, 4]));
    let out = max_pool2d(&x, 2, 2, 0).unwrap();
    let gradient = &gradients_of(&out, &tensor(vec![1.0, 2.0, 3.0, 4.0], &[1, 1, 2, 2]))["x"];
    let mut expected = [0.0; 16];
    [expected[0], expected[2], expected[8], expected[10]] = [1.0, 2.0, 3.0, 4.0];
    assert_eq!(values(gradient), expected);
}

#[test]
fn a_nan_wins_over_every_number() {
    let mut numbers = vec![f32::INFINITY; 9];
    numbers[4] = f32::NAN;
    for x in [
        Value::leaf("x", tensor(numbers.clone(), &[1, 1, 3, 3])),
        Value::constant(tensor(numbers, &[1, 1, 3, 3])),
    ] {
        let out = max_pool2d(&x, 3, 1, 1).unwrap();
        assert!(values(out.tensor()).iter().all(|y| y.is_nan()));
        if x.is_tracked() {
            let mut expected = [0.0; 9];
            expected[4] = 9.0;
            let nine_ones = tensor(vec![1.0; 9], &[1, 1, 3, 3]);
            // Through a constant gradient: a product with the NaN result would be NaN itself.
            let total = Value::operation(&[&out], tensor(vec![0.0], &[]), move |_| Ok(vec![Some(nine_ones)]));
            assert_eq!(values(&total.backward().unwrap()["x"]), expected);
        }
    }
}

#[test]
fn the_largest_kernel_counts_its_positions_right() {
    let x = distinct(5, &[1, 2, 17, 18], 0.5);
    let got = max_pool2d(&Value::leaf("x", x.clone()), 16, 1, 8).unwrap();
    let g = noise(6, got.dims());
    let (out, spread) = reference(&x, &values(&g), [16, 1, 8]).unwrap();
    assert_eq!(values(got.tensor()), out);
    assert_close(&gradients_of(&got, &g)["x"], &tensor(spread, &[1, 2, 17, 18]), 2e-6);
}

#[test]
fn a_global_average_is_a_matrix() {
    let x = Value::leaf("x", nhwc(&noise(7, &[3, 5, 2, 7])));
    let out = global_avg_pool(&x).unwrap();
    assert_eq!(out.dims(), [3, 5]);
    assert_eq!(values(out.tensor()), values(adaptive_avg_pool2d(&x, (1, 1)).unwrap().tensor()));
    let gradient = &gradients_of(&out, &tensor(vec![14.0; 15], &[3, 5]))["x"];
    assert!(values(gradient).iter().all(|g| (g - 1.0).abs() < 1e-6));
    assert_eq!(global_avg_pool(&Value::constant(noise(8, &[0, 5, 2, 2]))).unwrap().dims(), [0, 5]);
}

#[test]
fn pools_that_do_not_fit_are_an_error() {
    let x = Value::constant(noise(9, &[1, 2, 4, 4]));
    for [kernel, stride, padding] in [[0, 1, 0], [3, 0, 1], [3, 1, 2], [17, 1, 0], [5, 1, 0], [1, 1, 1]] {
        assert!(max_pool2d(&x, kernel, stride, padding).unwrap_err().to_string().contains("max_pool2d"));
    }
    assert!(max_pool2d(&Value::constant(noise(9, &[4, 4])), 2, 2, 0).is_err());
    assert!(adaptive_avg_pool2d(&x, (0, 1)).is_err());
    assert!(adaptive_avg_pool2d(&Value::constant(noise(9, &[1, 2, 0, 4])), (1, 1)).is_err());
}
