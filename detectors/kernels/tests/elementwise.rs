//! Sums, scalings, views and gathers; and the graph that they stand in.

use std::sync::Arc;

use crate::support::*;
use candle_core::Tensor;
use ckd_kernels::elementwise::{
    add, concatenate, hard_sigmoid, hard_swish, permute, relu, relu6, reshape, rows, scale, weighted_sum,
};
use ckd_kernels::losses::{FocalTargets, sigmoid_focal_loss};
use ckd_kernels::{Conv2dConfig, Epilogue, Error, Sink, Value, conv2d};

fn scalar(name: &str, value: f32) -> Value {
    Value::leaf(name, tensor(vec![value], &[]))
}

fn sum(value: &Value) -> Value {
    Value::from_candle(&[value], |t| t[0].sum_all()).unwrap()
}

#[test]
fn activations_equal_pytorch_also_at_their_kinks() {
    golden::each_case("relu_at_zero", |case| check_case(case, &relu(&leaf(case, "x")).unwrap()));
    golden::each_case("relu6", |case| check_case(case, &relu6(&leaf(case, "x")).unwrap()));
}

/// Values and derivatives of PyTorch's `hardswish` and `hardsigmoid`: below and at the kink -3, on a tie
/// (-1.5 is the lowest point of the hard swish), at 0, just below and at the kink 3, and above it.
#[test]
fn hard_activations_equal_pytorch_also_at_their_kinks() {
    let x = [-3.5, -3.0, -2.999_999_8, -1.5, 0.0, 2.999_999_8, 3.0, 4.0];
    let sixth = 1.0 / 6.0;
    type Function = fn(&Value) -> ckd_kernels::Result<Value>;
    let cases: [(Function, [f32; 8], [f32; 8]); 2] = [
        (
            hard_swish,
            [0.0, 0.0, -1.192_092_8e-7, -0.375, 0.0, 2.999_999_8, 3.0, 4.0],
            [0.0, 0.0, -0.499_999_94, 0.0, 0.5, 1.5, 1.0, 1.0],
        ),
        (
            hard_sigmoid,
            [0.0, 0.0, 3.973_643e-8, 0.25, 0.5, 1.0, 1.0, 1.0],
            [0.0, 0.0, sixth, sixth, sixth, sixth, 0.0, 0.0],
        ),
    ];
    for (function, expected, slopes) in cases {
        let leaf = Value::leaf("x", tensor(x.to_vec(), &[8]));
        let out = function(&leaf).unwrap();
        assert_close(out.tensor(), &tensor(expected.to_vec(), &[8]), 1e-7);
        let gradients = gradients_of(&out, &tensor(vec![1.0; 8], &[8]));
        assert_close(&gradients["x"], &tensor(slopes.to_vec(), &[8]), 1e-7);
    }
}

/// The numbers lie 0.03 apart and 0.0075 or more from the kinks at -3 and 3; the step reaches 0.006.
#[test]
fn hard_activations_agree_with_differences() {
    let x = distinct(31, &[2, 3, 8, 8], 0.03);
    let far = values(&x).iter().all(|x| (x.abs() - 3.0).abs() > 0.006);
    assert!(far && values(&x).iter().any(|x| *x > 3.0));
    let x = [x];
    check_gradients(&x, 0.003, 1e-3, |t| hard_swish(&t[0]).unwrap());
    check_gradients(&x, 0.003, 1e-3, |t| hard_sigmoid(&t[0]).unwrap());
}

#[test]
fn activations_hide_no_nan() {
    let x = || Value::leaf("x", tensor(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0], &[4]));
    let hard = [(hard_swish(&x()).unwrap(), f32::INFINITY), (hard_sigmoid(&x()).unwrap(), 1.0)];
    for (out, top) in hard {
        let got = values(out.tensor());
        assert!(got[0].is_nan());
        assert_eq!(got[1..3], [top, 0.0]);
    }
    for (out, top) in [(relu(&x()).unwrap(), f32::INFINITY), (relu6(&x()).unwrap(), 6.0)] {
        let got = values(out.tensor());
        assert!(got[0].is_nan());
        assert_eq!(got[1..], [top, 0.0, 0.0]);
    }
}

#[test]
fn sums_and_scalings_agree_with_differences() {
    let inputs = [noise(1, &[2, 3, 4, 5]), noise(2, &[2, 3, 4, 5])];
    check_gradients(&inputs, 0.1, 1e-4, |t| add(&scale(&t[0], -2.5).unwrap(), &t[1]).unwrap());
}

#[test]
fn memory_order_changes_no_number() {
    let (a, b) = (noise(3, &[2, 5, 3, 4]), noise(4, &[2, 5, 3, 4]));
    let plain = add(&Value::constant(a.clone()), &Value::constant(b.clone())).unwrap();
    for (a, b) in [(nhwc(&a), b.clone()), (a.clone(), nhwc(&b)), (nhwc(&a), nhwc(&b))] {
        let got = add(&Value::constant(a), &Value::constant(b)).unwrap();
        assert_eq!(values(got.tensor()), values(plain.tensor()));
    }
    let x = Value::constant(nhwc(&a));
    assert_eq!(values(relu(&x).unwrap().tensor()), values(relu(&Value::constant(a)).unwrap().tensor()));
}

#[test]
fn large_and_empty_maps_are_covered_whole() {
    for shape in [vec![0, 3, 2, 2], vec![3, 0, 2], vec![], vec![1, 3, 161, 173]] {
        let a = noise(5, &shape);
        let doubled = scale(&Value::constant(a.clone()), 2.0).unwrap();
        assert_eq!(doubled.dims(), shape);
        let expected: Vec<f32> = values(&a).iter().map(|a| a * 2.0).collect();
        assert_eq!(values(doubled.tensor()), expected);
    }
}

#[test]
fn unequal_shapes_do_not_add() {
    let (a, b) = (Value::constant(noise(6, &[2, 3])), Value::constant(noise(7, &[3])));
    assert!(matches!(add(&a, &b), Err(Error::Invalid { .. })));
}

#[test]
fn a_term_of_weight_zero_leaves_no_trace() {
    let (a, b) = (scalar("a", 3.0), scalar("b", f32::NAN));
    let total = weighted_sum(&[(&a, 2.0), (&b, 0.0)]).unwrap();
    assert_eq!(total.item().unwrap(), 6.0);
    let gradients = total.backward().unwrap();
    assert_eq!(gradients.len(), 1);
    assert_eq!(values(&gradients["a"]), [2.0]);
    let nothing = weighted_sum(&[(&b, 0.0)]).unwrap();
    assert_eq!(nothing.item().unwrap(), 0.0);
    assert!(!nothing.is_tracked());
    assert_eq!(weighted_sum(&[]).unwrap().item().unwrap(), 0.0);
}

#[test]
fn a_weighted_sum_adds_its_terms_in_order() {
    let terms = [("a", 1.5f32, 1.0), ("b", -2.0, 0.5), ("c", 4.0, 3.0)];
    let values_of: Vec<Value> = terms.iter().map(|(name, value, _)| scalar(name, *value)).collect();
    let pairs: Vec<(&Value, f64)> =
        values_of.iter().zip(&terms).map(|(value, term)| (value, term.2)).collect();
    let total = weighted_sum(&pairs).unwrap();
    assert_eq!(total.item().unwrap(), 1.5 - 1.0 + 12.0);
    let gradients = total.backward().unwrap();
    for (name, _, weight) in terms {
        assert_eq!(values(&gradients[name]), [weight as f32]);
    }
}

#[test]
fn views_and_gathers_agree_with_differences() {
    let map = [noise(11, &[2, 3, 4, 5])];
    check_gradients(&map, 0.1, 1e-4, |t| reshape(&t[0], &[6, 20]).unwrap());
    for order in [[0, 2, 3, 1], [3, 1, 0, 2], [0, 1, 2, 3]] {
        check_gradients(&map, 0.1, 1e-4, |t| permute(&t[0], &order).unwrap());
    }
    let matrix = [noise(12, &[5, 3])];
    check_gradients(&matrix, 0.1, 1e-4, |t| rows(&t[0], &[4, 0, 4, 4, 2]).unwrap());
    for dim in 0..3 {
        let mut shape = [2, 3, 4];
        let first = noise(13, &shape);
        shape[dim] = 1;
        let second = noise(14, &shape);
        shape[dim] = 5;
        check_gradients(&[first, second, noise(15, &shape)], 0.1, 1e-4, |t| concatenate(t, dim).unwrap());
    }
}

#[test]
fn channels_last_maps_concatenate_by_channel() {
    let (a, b) = (noise(16, &[2, 3, 4, 5]), noise(17, &[2, 2, 4, 5]));
    let plain = Tensor::cat(&[&a, &b], 1).unwrap();
    let got = concatenate(&[Value::constant(nhwc(&a)), Value::constant(nhwc(&b))], 1).unwrap();
    assert_eq!(values(got.tensor()), values(&plain));
}

#[test]
fn rows_may_repeat_or_be_none() {
    let a = Value::leaf("a", tensor((0..6).map(|v| v as f32).collect(), &[3, 2]));
    let out = rows(&a, &[2, 0, 2]).unwrap();
    assert_eq!(values(out.tensor()), [4.0, 5.0, 0.0, 1.0, 4.0, 5.0]);
    let gradients = gradients_of(&out, &tensor(vec![1.0, 2.0, 10.0, 20.0, 100.0, 200.0], &[3, 2]));
    assert_eq!(values(&gradients["a"]), [10.0, 20.0, 0.0, 0.0, 101.0, 202.0]);
    let none = rows(&a, &[]).unwrap();
    assert_eq!(none.dims(), [0, 2]);
    assert_eq!(values(&gradients_of(&none, none.tensor())["a"]), [0.0; 6]);
}

/// Gradients of rows, ones that a loss made, and ones that something else holds too: each is added in another way.
#[test]
fn gradients_of_one_value_add_up_whichever_comes_first() {
    let terms: [fn(&Value) -> Value; 4] = [
        |h| sum(&rows(h, &[3, 0, 3]).unwrap()),
        |h| sum(&scale(&rows(h, &[1, 3]).unwrap(), 2.0).unwrap()),
        |h| sigmoid_focal_loss(h, FocalTargets::Dense(&[0.5; 12]), 0.25, 2.0, 3.0).unwrap(),
        |h| sum(&add(h, h).unwrap()),
    ];
    let gradient = |order: &[usize]| {
        let x = Value::leaf("x", noise(20, &[4, 3]));
        let h = scale(&x, 3.0).unwrap();
        let terms: Vec<Value> = order.iter().map(|&term| terms[term](&h)).collect();
        let all: Vec<(&Value, f64)> = terms.iter().map(|term| (term, 1.0)).collect();
        weighted_sum(&all).unwrap().backward().unwrap()["x"].clone()
    };
    let alone: Vec<Vec<f32>> = (0..terms.len()).map(|term| values(&gradient(&[term]))).collect();
    let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2], [0, 2, 1, 3], [3, 1, 2, 0]];
    for order in orders {
        let all = gradient(&order);
        let want = (0..12).map(|at| alone.iter().map(|term| term[at]).sum()).collect();
        assert_close(&all, &tensor(want, &[4, 3]), 1e-6);
    }
}

#[test]
fn rows_that_are_not_there_are_an_error() {
    let a = Value::constant(noise(18, &[3, 2]));
    assert!(rows(&a, &[3]).unwrap_err().to_string().contains("row 3 of 3"));
    assert!(concatenate(&[a.clone(), a.clone()], 2).is_err());
    assert!(concatenate(&[], 0).is_err());
    assert!(permute(&a, &[0, 0]).is_err());
    assert!(permute(&a, &[0]).is_err());
    assert!(reshape(&a, &[4]).is_err());
}

#[test]
fn a_value_used_twice_gets_both_gradients() {
    // y = (2x + 3x) + x: a diamond, and a leaf with three users.
    let x = Value::leaf("x", noise(21, &[3]));
    let inner = add(&scale(&x, 2.0).unwrap(), &scale(&x, 3.0).unwrap()).unwrap();
    let gradients = sum(&add(&inner, &x).unwrap()).backward().unwrap();
    assert_eq!(values(&gradients["x"]), [6.0; 3]);
    // A value added to itself.
    let x = scalar("x", 1.0);
    let doubled = add(&x, &x).unwrap();
    assert_eq!(values(&add(&doubled, &doubled).unwrap().backward().unwrap()["x"]), [4.0]);
}

#[test]
fn a_long_chain_of_diamonds_is_walked_once() {
    let mut value = scalar("x", 1.0);
    for _ in 0..60 {
        value = add(&value, &value).unwrap();
    }
    assert_eq!(values(&value.backward().unwrap()["x"]), [2f32.powi(60)]);
}

/// Receiver that notes gradients as they come, and the operations between them.
#[derive(Default)]
struct Noted(Vec<String>);

impl Sink<Error> for Noted {
    fn leaf(&mut self, name: &Arc<str>, gradient: Tensor) -> Result<(), Error> {
        self.0.push(format!("{name} {}", values(&gradient)[0]));
        Ok(())
    }

    fn walked(&mut self) -> Result<(), Error> {
        self.0.push("walked".to_owned());
        Ok(())
    }
}

#[test]
fn a_gradient_leaves_the_walk_once_its_last_use_was_walked() {
    // y = 3 (2a + b) + b
    let (a, b) = (scalar("a", 1.0), scalar("b", 1.0));
    let inner = add(&scale(&a, 2.0).unwrap(), &b).unwrap();
    let total = add(&scale(&inner, 3.0).unwrap(), &b).unwrap();
    let mut noted = Noted::default();
    total.backward_into(&mut noted).unwrap();
    assert_eq!(noted.0, ["walked", "walked", "b 4", "walked", "a 6", "walked"]);
}

#[test]
fn a_leaf_with_a_use_that_no_gradient_comes_to_leaves_at_the_end() {
    let a = scalar("a", 1.0);
    let twice = scale(&a, 2.0).unwrap();
    let blocked = Value::operation(&[&twice], twice.tensor().clone(), |_| Ok(vec![None]));
    let total = add(&scale(&blocked, 3.0).unwrap(), &scale(&a, 5.0).unwrap()).unwrap();
    let mut noted = Noted::default();
    total.backward_into(&mut noted).unwrap();
    assert_eq!(noted.0.last().map(String::as_str), Some("a 5"));
    assert_eq!(noted.0.iter().filter(|what| what.starts_with('a')).count(), 1);
}

#[test]
fn a_receiver_of_gradients_can_end_the_walk() {
    struct Full;
    impl Sink<Error> for Full {
        fn leaf(&mut self, _: &Arc<str>, _: Tensor) -> Result<(), Error> {
            Err(Error::Invalid { operation: "test", reason: "it is full".to_owned() })
        }
    }
    let total = scale(&scalar("a", 1.0), 2.0).unwrap();
    assert!(total.backward_into(&mut Full).unwrap_err().to_string().contains("it is full"));
}

#[test]
fn leaves_of_one_name_share_a_gradient() {
    let (first, second) = (scalar("w", 1.0), scalar("w", 1.0));
    let total = add(&scale(&first, 2.0).unwrap(), &scale(&second, 5.0).unwrap()).unwrap();
    assert_eq!(values(&total.backward().unwrap()["w"]), [7.0]);
}

/// The third and later parts of a sum are added in place: neither a gradient that is also somebody else's nor
/// one that lies otherwise in memory may suffer.
#[test]
fn many_uses_of_a_value_add_up_and_leave_each_others_gradients_alone() {
    let x = Value::leaf("x", nhwc(&noise(31, &[2, 3, 4, 5])));
    let y = scale(&x, 2.0).unwrap();
    let other = Value::leaf("other", noise(32, &[2, 3, 4, 5]));
    // The same tensor is the gradient of both terms of each sum.
    let mut sum = add(&y, &other).unwrap();
    for _ in 0..4 {
        sum = add(&sum, &y).unwrap();
    }
    let g = noise(33, &[2, 3, 4, 5]);
    let gradients = gradients_of(&sum, &g);
    let times = |factor: f32| values(&g).iter().map(|g| factor * g).collect::<Vec<_>>();
    assert_eq!(values(&gradients["other"]), times(1.0));
    for (got, expected) in values(&gradients["x"]).iter().zip(times(10.0)) {
        assert!((got - expected).abs() <= 1e-5, "{got} {expected}");
    }
}

#[test]
fn a_map_that_is_made_again_gives_the_same_gradient() {
    let x = Value::leaf("x", noise(34, &[1, 2, 3, 3]));
    let weight = Value::leaf("w", noise(35, &[4, 2, 3, 3]));
    let gradients = |twice: Value| {
        let out = conv2d(&twice, &weight, Conv2dConfig::new(1, 1), Epilogue::default()).unwrap();
        gradients_of(&out, &noise(36, out.dims()))
    };
    let kept = gradients(scale(&x, 2.0).unwrap());
    let source = x.detach();
    let made = gradients(scale(&x, 2.0).unwrap().remade_by(move || scale(&source, 2.0)));
    for name in ["x", "w"] {
        assert_eq!(values(&made[name]), values(&kept[name]));
    }
    let lost = scale(&x, 2.0).unwrap().remade_by(|| Err::<Value, _>("it is lost"));
    let out = conv2d(&lost, &weight, Conv2dConfig::new(1, 1), Epilogue::default()).unwrap();
    assert!(out.backward_from(&noise(36, out.dims())).unwrap_err().to_string().contains("it is lost"));
}

#[test]
fn a_second_walk_is_an_error() {
    let x = scalar("x", 1.0);
    let y = scale(&x, 2.0).unwrap();
    y.backward().unwrap();
    assert!(y.backward().unwrap_err().to_string().contains("walked before"));
    // Also through a new value over the used part.
    assert!(scale(&y, 2.0).unwrap().backward().is_err());
    // A leaf has nothing to use up.
    assert_eq!(values(&x.backward().unwrap()["x"]), [1.0]);
    assert_eq!(values(&x.backward().unwrap()["x"]), [1.0]);
}

#[test]
fn only_scalars_are_walked_from() {
    let error = scale(&Value::leaf("x", noise(22, &[2])), 2.0).unwrap().backward().unwrap_err();
    assert!(error.to_string().contains("scalar"));
    assert!(Value::constant(noise(23, &[1])).backward().unwrap().is_empty());
}

#[test]
fn what_is_detached_gets_no_gradient() {
    let x = scalar("x", 2.0);
    let y = add(&x.detach(), &scale(&x, 3.0).unwrap()).unwrap();
    assert_eq!(values(&y.backward().unwrap()["x"]), [3.0]);
    assert!(!scale(&x.detach(), 3.0).unwrap().is_tracked());
}

#[test]
fn a_formula_in_candles_terms_agrees_with_differences() {
    let inputs = [noise(24, &[3, 4]), noise(25, &[3, 4])];
    check_gradients(&inputs, 0.02, 1e-4, |t| {
        Value::from_candle(&[&t[0], &t[1]], |t| (t[0].exp()? * t[1].sqr()?)?.sum(1)).unwrap()
    });
    // An input that the formula ignores has no gradient; a constant one costs nothing.
    let (x, y) = (Value::leaf("x", noise(26, &[2])), Value::leaf("y", noise(27, &[2])));
    let out = Value::from_candle(&[&x, &y], |t| t[0].sum_all()).unwrap();
    let gradients = out.backward().unwrap();
    assert!(gradients.contains_key("x") && !gradients.contains_key("y"));
}

#[test]
fn looking_at_a_network_in_training_records_nothing_and_leaves_it_trainable() {
    let leaf = Value::leaf("w", Tensor::new(2f32, device()).unwrap());
    assert!(!ckd_kernels::graph::untracked(|| scale(&leaf, 3.0).unwrap()).is_tracked());
    let gradients = scale(&leaf, 3.0).unwrap().backward().unwrap();
    assert_eq!(gradients["w"].to_scalar::<f32>().unwrap(), 3.0);
}
