//! Fully connected layers against a scalar reference, differences and hostile shapes.

use crate::support::*;
use ckd_kernels::linear::{Activation, linear};
use ckd_kernels::{Error, Value};

#[test]
fn a_layer_equals_its_sums() {
    for (m, i, o) in [(1, 1, 1), (3, 7, 5), (64, 33, 17), (65, 130, 70)] {
        let (x, w, b) = (noise(1, &[m, i]), noise(2, &[o, i]), noise(3, &[o]));
        let (xs, ws, bs) = (values(&x), values(&w), values(&b));
        for activation in [Activation::Identity, Activation::Relu, Activation::Relu6] {
            let expected = (0..m * o).map(|at| {
                let products = (0..i).map(|k| f64::from(xs[at / o * i + k]) * f64::from(ws[at % o * i + k]));
                let y = products.sum::<f64>() + f64::from(bs[at % o]);
                match activation {
                    Activation::Identity => y as f32,
                    Activation::Relu => y.max(0.0) as f32,
                    Activation::Relu6 => y.clamp(0.0, 6.0) as f32,
                }
            });
            let expected = tensor(expected.collect(), &[m, o]);
            let [x, w, b] = [&x, &w, &b].map(|t| Value::constant(t.clone()));
            assert_close(linear(&x, &w, Some(&b), activation).unwrap().tensor(), &expected, 4e-6);
        }
    }
}

#[test]
fn a_layer_of_more_weights_than_caches_hold_equals_its_sums() {
    let (m, i, o) = (5, 40_000, 70);
    let (x, w, b, g) = (noise(1, &[m, i]), noise(2, &[o, i]), noise(3, &[o]), noise(4, &[m, o]));
    let [xs, ws, bs, gs] = [&x, &w, &b, &g].map(values);
    let product = |a: f32, b: f32| f64::from(a) * f64::from(b);
    let y = (0..m * o).map(|at| {
        let products = (0..i).map(|k| product(xs[at / o * i + k], ws[at % o * i + k]));
        (products.sum::<f64>() + f64::from(bs[at % o])) as f32
    });
    let of_x = (0..m * i).map(|at| {
        let products = (0..o).map(|k| product(gs[at / i * o + k], ws[k * i + at % i]));
        products.sum::<f64>() as f32
    });
    let (y, of_x) = (tensor(y.collect(), &[m, o]), tensor(of_x.collect(), &[m, i]));
    let (x, [w, b]) = (Value::leaf("x", x), [w, b].map(Value::constant));
    let got = linear(&x, &w, Some(&b), Activation::Identity).unwrap();
    assert_close(got.tensor(), &y, 4e-6);
    assert_close(&gradients_of(&got, &g)["x"], &of_x, 4e-6);
}

#[test]
fn gradients_agree_with_differences() {
    let inputs = [noise(11, &[5, 7]), noise(12, &[6, 7]), noise(13, &[6])];
    check_gradients(&inputs, 0.1, 1e-4, |t| linear(&t[0], &t[1], Some(&t[2]), Activation::Identity).unwrap());
    check_gradients(&inputs[..2], 0.1, 1e-4, |t| linear(&t[0], &t[1], None, Activation::Identity).unwrap());
    // No sum lies within the steps' reach of the kink: all are odd multiples of 0.5.
    let halves = |stream, shape: &[usize]| {
        let rounded = values(&noise(stream, shape)).into_iter().map(|v| (3.0 * v).round());
        tensor(rounded.collect(), shape)
    };
    let inputs = [halves(14, &[5, 7]), halves(15, &[6, 7]), tensor(vec![0.5; 6], &[6])];
    check_gradients(&inputs, 0.01, 1e-3, |t| linear(&t[0], &t[1], Some(&t[2]), Activation::Relu).unwrap());
}

#[test]
fn no_rows_give_no_rows_and_zero_gradients() {
    let (x, w, b) = (
        Value::leaf("x", noise(21, &[0, 4])),
        Value::leaf("w", noise(22, &[3, 4])),
        Value::leaf("b", noise(23, &[3])),
    );
    let out = linear(&x, &w, Some(&b), Activation::Relu).unwrap();
    assert_eq!(out.dims(), [0, 3]);
    let gradients = gradients_of(&out, out.tensor());
    assert_eq!(gradients["x"].dims(), [0, 4]);
    assert_eq!(values(&gradients["w"]), [0.0; 12]);
    assert_eq!(values(&gradients["b"]), [0.0; 3]);
}

#[test]
fn no_inputs_leave_the_bias() {
    let (x, w) = (Value::leaf("x", noise(31, &[2, 0])), Value::leaf("w", noise(32, &[3, 0])));
    let b = Value::leaf("b", tensor(vec![1.0, -2.0, 3.0], &[3]));
    let out = linear(&x, &w, Some(&b), Activation::Identity).unwrap();
    assert_eq!(values(out.tensor()), [1.0, -2.0, 3.0, 1.0, -2.0, 3.0]);
    let gradients = gradients_of(&out, &tensor(vec![1.0; 6], &[2, 3]));
    assert_eq!(values(&gradients["b"]), [2.0; 3]);
    let out = linear(&x, &w, None, Activation::Identity).unwrap();
    assert_eq!(values(out.tensor()), [0.0; 6]);
}

#[test]
fn a_transposed_view_is_read_as_it_looks() {
    let (x, w) = (noise(41, &[6, 4]), noise(42, &[6, 5]));
    let plain = linear(
        &Value::constant(x.t().unwrap().contiguous().unwrap()),
        &Value::constant(w.t().unwrap().contiguous().unwrap()),
        None,
        Activation::Identity,
    )
    .unwrap();
    let (x, w) = (Value::constant(x.t().unwrap()), Value::constant(w.t().unwrap()));
    let view = linear(&x, &w, None, Activation::Identity).unwrap();
    assert_eq!(values(view.tensor()), values(plain.tensor()));
}

#[test]
fn a_nan_survives_the_activation() {
    let x = Value::constant(tensor(vec![f32::NAN], &[1, 1]));
    let w = Value::constant(tensor(vec![1.0], &[1, 1]));
    assert!(linear(&x, &w, None, Activation::Relu).unwrap().item().unwrap().is_nan());
}

#[test]
fn shapes_that_do_not_fit_are_an_error() {
    let run = |x: &[usize], w: &[usize], b: &[usize]| {
        let [x, w, b] = [x, w, b].map(|shape| Value::constant(noise(51, shape)));
        linear(&x, &w, Some(&b), Activation::Identity)
    };
    assert!(matches!(run(&[2, 3], &[4, 5], &[4]), Err(Error::Invalid { operation: "linear", .. })));
    assert!(matches!(run(&[2, 3], &[4, 3], &[5]), Err(Error::Invalid { operation: "linear", .. })));
    assert!(run(&[2, 3, 1], &[4, 3], &[4]).is_err());
}
