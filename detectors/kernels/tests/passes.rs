//! Passes over memory: the same numbers whatever the shape, the vector width's remainder or the number of
//! threads.

use crate::support::*;
use candle_core::Tensor;
use ckd_kernels::elementwise::{add, add_in_place, concatenate, relu, relu6, scale};
use ckd_kernels::linear::Activation;
use ckd_kernels::losses::{
    Divisor, FocalTargets, RowTarget, sigmoid_focal_loss, smooth_l1, softmax_cross_entropy,
};
use ckd_kernels::norm::{NormEpilogue, batch_norm_train, group_norm};
use ckd_kernels::normalize::{l2_normalize_rows, log_softmax};
use ckd_kernels::pool::{adaptive_avg_pool2d, max_pool2d};
use ckd_kernels::resize::resize_bilinear;
use ckd_kernels::sgd::{self, SgdStep, squared_norm};
use ckd_kernels::upsample::{upsample_nearest, upsample_nearest_add};
use ckd_kernels::{Result, Value};
use proptest::prelude::*;

fn leaf(name: &str, tensor: &Tensor) -> Value {
    Value::leaf(name, tensor.clone())
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    values(tensor).into_iter().map(f32::to_bits).collect()
}

/// The bits of a result and of its gradients.
fn all_bits(out: &Value) -> Vec<Vec<u32>> {
    let gradients = out.backward_from(out.tensor()).expect("a fresh graph");
    std::iter::once(bits(out.tensor())).chain(gradients.values().map(bits)).collect()
}

type Pass = fn(&[Value]) -> Result<Value>;

/// Every pass of three maps (N, C, H, W), (N, C, H, W) and (N, C, h, w), and of C weights and biases.
const PASSES: [(&str, Pass); 13] = [
    ("add", |v| add(&v[0], &v[1])),
    ("relu", |v| relu(&v[0])),
    ("relu6", |v| relu6(&v[0])),
    ("scale", |v| scale(&v[0], -1.5)),
    ("concatenate", |v| concatenate(&v[..2], 1)),
    ("upsample", |v| upsample_nearest(&v[2], (v[0].dims()[2], v[0].dims()[3]))),
    ("upsample and add", |v| upsample_nearest_add(&v[2], &v[0])),
    ("resize", |v| resize_bilinear(&v[0], (v[0].dims()[2] + 5, v[0].dims()[3] + 3))),
    ("max pool", |v| max_pool2d(&v[0], 3, 2, 1)),
    ("average pool", |v| adaptive_avg_pool2d(&v[0], (2, 3))),
    ("batch norm", |v| Ok(batch_norm_train(&v[0], &v[3], &v[4], 1e-5, NormEpilogue::default())?.0)),
    ("batch norm, sum, ReLU", |v| {
        let fused = NormEpilogue { residual: Some(&v[1]), activation: Activation::Relu };
        Ok(batch_norm_train(&v[0], &v[3], &v[4], 1e-5, fused)?.0)
    }),
    ("group norm", |v| group_norm(&v[0], &v[3], &v[4], 1, 1e-5, Activation::Relu)),
];

fn inputs([n, c, h, w]: [usize; 4]) -> Vec<Value> {
    let small = [n, c, h.div_ceil(2), w.div_ceil(3)];
    let maps = [[n, c, h, w], [n, c, h, w], small];
    let maps = maps.iter().zip(["a", "b", "small"]).zip(1..);
    let mut inputs: Vec<Value> = maps.map(|((s, name), k)| leaf(name, &nhwc(&noise(k, s)))).collect();
    inputs.push(leaf("weight", &noise(4, &[c])));
    inputs.push(leaf("bias", &noise(5, &[c])));
    inputs
}

#[test]
fn passes_have_the_same_bits_on_any_number_of_threads() {
    let shape = [2, 33, 45, 52];
    for (name, pass) in PASSES {
        let run = || all_bits(&pass(&inputs(shape)).expect("a map that fits"));
        let one = on_threads(1, run);
        for threads in [1, 2, 3] {
            assert_eq!(on_threads(threads, run), one, "{name} on {threads} threads");
        }
    }
}

#[test]
fn rows_have_the_same_bits_on_any_number_of_threads() {
    let labels: Vec<u32> = (0..3000).map(|i| i % 19).collect();
    type Pass<'a> = &'a (dyn Fn(&Value) -> Result<Value> + Sync);
    let of_rows: [(&str, Pass); 3] = [
        ("log-softmax", &|x| log_softmax(x)),
        ("unit rows", &|x| l2_normalize_rows(x, 1e-12)),
        ("cross-entropy", &|x| softmax_cross_entropy(x, &labels, 7.0)),
    ];
    for (name, pass) in of_rows {
        let run = || all_bits(&pass(&leaf("x", &noise(6, &[3000, 19]))).expect("rows that fit"));
        let one = on_threads(1, run);
        assert_eq!((on_threads(2, run), on_threads(3, run)), (one.clone(), one), "{name}");
    }
}

#[test]
fn the_smallest_and_the_empty_maps_go_through_every_pass() {
    for shape in [[1, 1, 1, 1], [1, 3, 1, 1], [1, 17, 1, 2], [0, 3, 4, 4], [1, 3, 2, 1]] {
        for (name, pass) in PASSES {
            let out = pass(&inputs(shape)).unwrap_or_else(|error| panic!("{name} of {shape:?}: {error}"));
            let finite = |tensor: &Tensor| values(tensor).iter().all(|v| v.is_finite());
            let gradients = out.backward_from(out.tensor()).expect("a fresh graph");
            assert!(finite(out.tensor()) && gradients.values().all(finite), "{name} of {shape:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Channels in whole vectors and the rest of them are pooled alike.
    #[test]
    fn a_channel_is_pooled_as_if_it_were_alone(c in 1_usize..70, h in 1_usize..7, w in 1_usize..7, kernel in 1_usize..4) {
        let x = noise(8, &[1, c, h, w]);
        let padding = kernel / 2;
        let run = |x: &Tensor| {
            let out = max_pool2d(&leaf("x", &nhwc(x)), kernel, 2, padding)?;
            let gradients = out.backward_from(&out.tensor().ones_like()?)?;
            Ok::<_, ckd_kernels::Error>((values(out.tensor()), values(&gradients["x"])))
        };
        if h + 2 * padding >= kernel && w + 2 * padding >= kernel {
            let (out, gradient) = run(&x).expect("the window fits");
            for channel in 0..c {
                let alone = run(&x.narrow(1, channel, 1).expect("a channel")).expect("the window fits");
                prop_assert_eq!(&out[channel * alone.0.len()..][..alone.0.len()], &alone.0);
                prop_assert_eq!(&gradient[channel * h * w..][..h * w], &alone.1);
            }
        }
    }

    /// Against the textbook, in f64, of every channel by itself.
    #[test]
    fn a_norm_is_the_textbooks(c in 1_usize..70, pixels in 2_usize..40) {
        let (x, weight, bias) = (noise(9, &[1, c, pixels, 1]), noise(10, &[c]), noise(11, &[c]));
        let constant = |t: &Tensor| Value::constant(t.clone());
        let out = batch_norm_train(&constant(&nhwc(&x)), &constant(&weight), &constant(&bias), 1e-5, NormEpilogue::default());
        let out = values(out.expect("shapes fit").0.tensor());
        let (x, weight, bias) = (values(&x), values(&weight), values(&bias));
        for channel in 0..c {
            let x = x[channel * pixels..][..pixels].iter().map(|x| f64::from(*x));
            let mean = x.clone().sum::<f64>() / pixels as f64;
            let var = x.clone().map(|x| (x - mean).powi(2)).sum::<f64>() / pixels as f64;
            for (x, got) in x.zip(&out[channel * pixels..]) {
                let want = (x - mean) / (var + 1e-5).sqrt() * f64::from(weight[channel]) + f64::from(bias[channel]);
                prop_assert!((f64::from(*got) - want).abs() < 2e-6 * (1.0 + want.abs()));
            }
        }
    }

    /// One fused pass, against PyTorch's formula in f64.
    #[test]
    fn an_update_follows_the_formula(len in 0_usize..100, nesterov: bool, momentum in 0.0..1.0, decay in 0.0..0.1) {
        let step = SgdStep { lr: 0.1, momentum, nesterov, weight_decay: decay, gradient_scale: 0.5 };
        let (p, v, g) = (noise(12, &[len]), noise(13, &[len]), noise(14, &[len]));
        let before = [values(&p), values(&v), values(&g)];
        sgd::apply(&[step.of(&p, &v, &g).expect("equal shapes")]).expect("on one device");
        let (p, v) = (values(&p), values(&v));
        for i in 0..len {
            let [p0, v0, g0] = [0, 1, 2].map(|k: usize| f64::from(before[k][i]));
            let gradient = 0.5 * g0 + decay * p0;
            let velocity = momentum * v0 + gradient;
            let direction = if nesterov { gradient + momentum * velocity } else { velocity };
            prop_assert!((f64::from(v[i]) - velocity).abs() < 1e-6);
            prop_assert!((f64::from(p[i]) - (p0 - 0.1 * direction)).abs() < 1e-6);
        }
        let norm: f64 = before[2].iter().map(|&g| f64::from(g).powi(2)).sum();
        prop_assert!((squared_norm(&[&g]).expect("f32") - norm).abs() <= 1e-12 * norm);
    }
}

#[test]
fn a_velocity_in_the_memory_of_its_parameter_is_an_error() {
    let (p, g) = (noise(1, &[8]), noise(2, &[8]));
    let step = SgdStep { lr: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.0, gradient_scale: 1.0 };
    assert!(step.of(&p, &p, &g).is_err());
    assert!(step.of(&p, &g, &g).is_err());
    assert!(step.of(&p, &noise(3, &[8]), &p).is_err());
    assert!(step.of(&p, &noise(3, &[7]), &g).is_err());
}

#[test]
fn adding_in_place_is_adding_in_any_memory_order() {
    let (a, b) = (noise(20, &[2, 5, 4, 3]), noise(21, &[2, 5, 4, 3]));
    let want = values(add(&Value::constant(a.clone()), &Value::constant(b.clone())).unwrap().tensor());
    for to in [a.copy().unwrap(), nhwc(&a)] {
        for from in [b.clone(), nhwc(&b), b.t().unwrap().contiguous().unwrap().t().unwrap()] {
            let to = if to.is_contiguous() { to.copy().unwrap() } else { nhwc(&a) };
            let seen = to.clone();
            add_in_place(&to, &from).unwrap();
            assert_eq!(values(&seen), want);
        }
    }
    assert!(add_in_place(&a, &a).is_err(), "a buffer is not added to itself");
    assert!(add_in_place(&a, &noise(22, &[2, 5, 4, 2])).is_err());
    assert!(add_in_place(&a.t().unwrap(), &b.t().unwrap()).is_err(), "no order that is known");
    let empty = Tensor::zeros((0, 3), candle_core::DType::F32, device()).unwrap();
    add_in_place(&empty, &empty.copy().unwrap()).unwrap();
}

#[test]
fn runs_of_rows_with_their_own_divisors_are_separate_losses() {
    let x = noise(30, &[5000, 7]);
    let targets: Vec<RowTarget> = (0..5000)
        .map(|i| match i % 5 {
            0 => RowTarget::Class(i % 7),
            1 => RowTarget::Ignored,
            _ => RowTarget::Background,
        })
        .collect();
    let parts = [(1234, 3.0), (0, 1.0), (3766, 0.5)];
    let run = |x: &Tensor, targets: &[RowTarget], divisor: Divisor| {
        let x = leaf("x", x);
        let loss = sigmoid_focal_loss(&x, FocalTargets::Rows(targets), 0.25, 2.0, divisor).unwrap();
        (loss.item().unwrap(), values(&loss.backward().unwrap()["x"]))
    };
    let (loss, gradient) = run(&x, &targets, Divisor::Parts(&parts));
    let (mut want, mut want_gradient, mut first) = (0.0, Vec::new(), 0);
    for (rows, divisor) in parts {
        let part = x.narrow(0, first, rows).unwrap();
        let (loss, gradient) = run(&part, &targets[first..first + rows], Divisor::All(divisor));
        want += loss;
        want_gradient.extend(gradient);
        first += rows;
    }
    assert!((loss - want).abs() <= 1e-5 * want.abs(), "{loss} {want}");
    assert_eq!(gradient, want_gradient);

    let boxes = vec![[0.0; 4]; 3];
    let pred = leaf("x", &noise(31, &[3, 4]));
    for wrong in [&[(2, 1.0)][..], &[(2, 1.0), (1, 0.0)], &[(4, 1.0)], &[(3, f64::NAN)]] {
        assert!(smooth_l1(&pred, &boxes, 1.0, Divisor::Parts(wrong)).is_err(), "{wrong:?}");
    }
}
