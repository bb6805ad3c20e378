//! Channels in another order, channels times a factor and halved maps, against their definitions and against
//! differences.

use std::sync::Arc;

use candle_core::Tensor;
use ckd_kernels::Value;
use ckd_kernels::channels::{halve_and_pad, pick_channels, scale_channels};
use proptest::prelude::*;

use crate::support::*;

#[test]
fn gradients_go_back_to_the_channels_they_came_from() {
    let x = tensor((0..8).map(|i| i as f32).collect(), &[1, 4, 1, 2]);
    let x = Value::leaf("x", x);
    let picked = pick_channels(&x, &[3, 1].into()).unwrap();
    assert_eq!(values(picked.tensor()), [6.0, 7.0, 2.0, 3.0]);
    let gradients = picked.backward_from(&tensor(vec![1.0, 2.0, 3.0, 4.0], &[1, 2, 1, 2])).unwrap();
    assert_eq!(values(&gradients["x"]), [0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 1.0, 2.0]);
    assert!(pick_channels(&x, &[4].into()).unwrap_err().to_string().contains("channel 4 of 4"));
}

#[test]
fn a_halved_map_has_every_second_pixel_between_zeros() {
    let x = tensor((0..15).map(|i| i as f32).collect(), &[1, 1, 3, 5]);
    let out = halve_and_pad(&Value::constant(x), 4).unwrap();
    assert_eq!(out.dims(), [1, 4, 2, 3]);
    let zeros = [0.0; 6];
    let expected = [&zeros[..], &[0.0, 2.0, 4.0, 10.0, 12.0, 14.0], &zeros, &zeros].concat();
    assert_eq!(values(out.tensor()), expected);
    let narrow = halve_and_pad(&Value::constant(noise(1, &[1, 3, 2, 2])), 2).unwrap_err().to_string();
    assert!(narrow.contains("3 channels do not fit into 2"), "{narrow}");
}

#[test]
fn both_agree_with_differences_and_take_maps_of_nothing() {
    check_gradients(&[noise(1, &[2, 3, 2, 3])], 0.1, 1e-4, |t| {
        pick_channels(&t[0], &[2, 0, 2, 1].into()).unwrap()
    });
    check_gradients(&[noise(2, &[2, 3, 5, 4])], 0.1, 1e-4, |t| halve_and_pad(&t[0], 6).unwrap());
    for shape in [[0, 3, 2, 2], [2, 3, 0, 2], [1, 3, 1, 0]] {
        let x = Value::leaf("x", noise(3, &shape));
        for out in [pick_channels(&x, &[1].into()).unwrap(), halve_and_pad(&x, 5).unwrap()] {
            let gradient = Tensor::zeros(out.dims(), candle_core::DType::F32, out.tensor().device()).unwrap();
            assert_eq!(out.backward_from(&gradient).unwrap()["x"].dims(), shape);
        }
    }
}

#[test]
fn each_channel_of_each_image_has_a_factor_of_its_own() {
    let (x, factors) = (noise(4, &[2, 3, 5, 4]), noise(5, &[2, 3, 1, 1]));
    let expected = x.broadcast_mul(&factors).unwrap();
    for x in [x.clone(), nhwc(&x)] {
        let out = scale_channels(&Value::constant(x), &Value::constant(factors.clone())).unwrap();
        assert_eq!(values(out.tensor()), values(&expected));
    }
    check_gradients(&[x, factors], 0.1, 1e-4, |t| scale_channels(&t[0], &t[1]).unwrap());
    for shape in [[0, 3, 2, 2], [2, 3, 0, 2], [2, 3, 2, 0], [2, 0, 2, 2]] {
        let leaf = |name: &str, shape: &[usize]| Value::leaf(name, noise(6, shape));
        let (x, factors) = (leaf("x", &shape), leaf("f", &[shape[0], shape[1], 1, 1]));
        let out = scale_channels(&x, &factors).unwrap();
        let gradients = out.backward_from(out.tensor()).unwrap();
        assert_eq!(gradients["x"].dims(), shape);
        assert!(values(&gradients["f"]).iter().all(|sum| *sum == 0.0));
    }
    let map = Value::constant(noise(7, &[2, 3, 4, 4]));
    for wrong in [&[2, 3][..], &[1, 3, 1, 1], &[2, 4, 1, 1], &[2, 3, 4, 4]] {
        let error = scale_channels(&map, &Value::constant(noise(8, wrong))).unwrap_err().to_string();
        assert!(error.contains("[2, 3, 4, 4]"), "{error}");
    }
}

/// Sums of gradients over pixels do not depend on the threads that take the rows.
#[test]
fn gradients_of_factors_are_the_same_on_any_number_of_threads() {
    let run = || {
        let x = Value::leaf("x", noise(9, &[2, 5, 37, 11]));
        let factors = Value::leaf("f", noise(10, &[2, 5, 1, 1]));
        let out = scale_channels(&x, &factors).unwrap();
        values(&out.backward_from(&noise(11, out.dims())).unwrap()["f"])
    };
    assert_eq!(on_threads(1, run), on_threads(3, run));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn picking_a_permutation_and_its_inverse_changes_nothing(
        seed in 0u64..1000, c in 1usize..9, h in 1usize..4, w in 1usize..4,
    ) {
        let mut order: Vec<usize> = (0..c).collect();
        order.sort_by(|&a, &b| golden::value(seed, a as u64).total_cmp(&golden::value(seed, b as u64)));
        let mut inverse = vec![0; c];
        order.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
        let x = noise(seed, &[2, c, h, w]);
        let picked = pick_channels(&Value::constant(nhwc(&x)), &Arc::from(order)).unwrap();
        let back = pick_channels(&picked, &Arc::from(inverse)).unwrap();
        prop_assert_eq!(values(back.tensor()), values(&x));
    }
}
