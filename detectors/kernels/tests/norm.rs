//! Batch and group norms against PyTorch's values and against differences.

use crate::support::*;
use std::sync::{Barrier, Mutex};

use candle_core::Tensor;
use ckd_kernels::deferred::collected;
use ckd_kernels::elementwise::{add, relu, relu6};
use ckd_kernels::linear::Activation;
use ckd_kernels::norm::{
    NormEpilogue, Parts, are_over_parts, batch_norm_train, frozen_batch_norm, group_norm, over_parts,
    update_running,
};
use ckd_kernels::{Error, Value};

#[test]
fn a_frozen_norm_equals_pytorch() {
    golden::each_case("frozen_bn", |case| {
        let (x, w, b) = (leaf(case, "x"), leaf(case, "w"), leaf(case, "b"));
        let constant = |key| Value::constant(input(case, key));
        let eps = case.attr_f64("eps");
        let out = frozen_batch_norm(&x, &w, &b, &constant("mean"), &constant("var"), eps).unwrap();
        check_case(case, &out);
    });
}

#[test]
fn a_training_norm_equals_pytorch() {
    golden::each_case("batch_norm/", |case| {
        let (x, w, b) = (leaf(case, "x"), leaf(case, "w"), leaf(case, "b"));
        let eps = case.attr_f64("eps");
        let (out, statistics) = batch_norm_train(&x, &w, &b, eps, NormEpilogue::default()).unwrap();
        check_case(case, &out);
        let (mean, var) = (input(case, "running_mean"), input(case, "running_var"));
        let (shared_mean, shared_var) = (mean.clone(), var.clone());
        statistics.fold_into(&mean, &var, case.attr_f64("momentum")).unwrap();
        case.check_close("new_running_mean", &values(&shared_mean));
        case.check_close("new_running_var", &values(&shared_var));
    });
}

/// A part of an update on a thread of its own.
struct Part<'r> {
    place: usize,
    brought: &'r [Mutex<Vec<f64>>],
    together: &'r Barrier,
}

impl Parts for Part<'_> {
    fn is_first(&self) -> bool {
        self.place == 0
    }

    fn gather(&self, own: &[f64]) -> Result<Vec<Vec<f64>>, Error> {
        *self.brought[self.place].lock().unwrap() = own.to_vec();
        self.together.wait();
        let all = self.brought.iter().map(|numbers| numbers.lock().unwrap().clone()).collect();
        self.together.wait();
        Ok(all)
    }
}

/// The parts are images of one batch, whose norm, gradients and running statistics they have together.
#[test]
fn a_norm_over_several_parts_is_the_norm_of_all_their_images() {
    let close = |got: &[f32], want: &[f32], tolerance: f32| {
        assert_eq!(got.len(), want.len());
        let largest = want.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= tolerance * largest, "{got} {want}");
        }
    };
    for (shape, parts) in [([4, 3, 3, 5], 2), ([4, 67, 1, 3], 4), ([3, 16, 2, 3], 3), ([2, 5, 1, 1], 2)] {
        let [x, w, b] = inputs(shape);
        let g = noise(5, &shape);
        let norm = |x: &Tensor, g: &Tensor| {
            let leaf = |name: &str, tensor: &Tensor| Value::leaf(name, tensor.clone());
            let fused = NormEpilogue { residual: None, activation: Activation::Relu };
            let (y, statistics) =
                batch_norm_train(&leaf("x", x), &leaf("w", &w), &leaf("b", &b), 1e-3, fused).unwrap();
            let gradients = y.backward_from(g).unwrap();
            let (_, effects) = collected(|| {
                let running = Tensor::zeros(shape[1], candle_core::DType::F32, x.device()).unwrap();
                statistics.fold_into(&running, &running, 0.1).unwrap();
            });
            let moved: Vec<f32> = effects[0].tensors.iter().flat_map(values).collect();
            (values(y.tensor()), ["x", "w", "b"].map(|name| values(&gradients[name])), moved)
        };
        let (whole, [whole_x, whole_w, whole_b], whole_moved) = norm(&x, &g);
        let brought: Vec<Mutex<Vec<f64>>> = (0..parts).map(|_| Mutex::default()).collect();
        let together = Barrier::new(parts);
        let images = shape[0] / parts;
        let found: Vec<_> = std::thread::scope(|scope| {
            let part = |place: usize| {
                let (brought, together, norm) = (&brought[..], &together, &norm);
                let [x, g] = [&x, &g].map(|all| all.narrow(0, place * images, images).unwrap());
                scope.spawn(move || {
                    over_parts(&Part { place, brought, together }, || {
                        assert!(are_over_parts());
                        norm(&x, &g)
                    })
                })
            };
            let threads: Vec<_> = (0..parts).map(part).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(!are_over_parts());
        let joined = |of: &dyn Fn(usize) -> Vec<f32>| (0..parts).flat_map(of).collect::<Vec<f32>>();
        close(&joined(&|part| found[part].0.clone()), &whole, 1e-5);
        close(&joined(&|part| found[part].1[0].clone()), &whole_x, 1e-5);
        for (index, whole) in [(1, &whole_w), (2, &whole_b)] {
            let mut sum = vec![0.0; whole.len()];
            for part in &found {
                sum.iter_mut().zip(&part.1[index]).for_each(|(sum, value)| *sum += value);
            }
            close(&sum, whole, 1e-5);
        }
        close(&found[0].2, &whole_moved, 1e-6);
        assert!(found[1..].iter().all(|part| part.2.is_empty()), "running statistics move once");
    }
}

#[test]
fn a_group_norm_equals_pytorch() {
    golden::each_case("group_norm", |case| {
        let (x, w, b) = (leaf(case, "x"), leaf(case, "w"), leaf(case, "b"));
        let (groups, eps) = (case.attr_usize("groups"), case.attr_f64("eps"));
        check_case(case, &group_norm(&x, &w, &b, groups, eps, Activation::Identity).unwrap());
    });
}

/// x, weight and bias for maps of `shape`; values away from 0, so that means matter.
fn inputs(shape: [usize; 4]) -> [Tensor; 3] {
    let c = shape[1];
    let x = noise(1, &shape).affine(1.5, 0.7).unwrap();
    [x, noise(2, &[c]).affine(0.5, 1.0).unwrap(), noise(3, &[c])]
}

/// Odd sizes, one pixel, few and many channels, one to three images.
const SHAPES: [[usize; 4]; 6] =
    [[1, 1, 2, 2], [2, 3, 3, 5], [3, 5, 1, 1], [1, 67, 1, 3], [2, 6, 5, 1], [3, 16, 2, 3]];

#[test]
fn gradients_of_a_training_norm_agree_with_differences() {
    for shape in SHAPES {
        let [x, w, b] = inputs(shape);
        let residual = noise(4, &shape);
        check_gradients(&[x.clone(), w.clone(), b.clone()], 0.02, 1e-3, |t| {
            batch_norm_train(&t[0], &t[1], &t[2], 0.1, NormEpilogue::default()).unwrap().0
        });
        check_gradients(&[x, w, b, residual], 0.02, 1e-3, |t| {
            let fused = NormEpilogue { residual: Some(&t[3]), activation: Activation::Identity };
            batch_norm_train(&t[0], &t[1], &t[2], 0.1, fused).unwrap().0
        });
    }
}

#[test]
fn gradients_of_a_group_norm_agree_with_differences() {
    for (shape, groups) in
        [([2, 6, 3, 1], 1), ([2, 6, 3, 1], 2), ([1, 6, 2, 3], 6), ([3, 4, 1, 1], 2), ([1, 66, 1, 2], 3)]
    {
        check_gradients(&inputs(shape), 0.02, 1e-3, |t| {
            group_norm(&t[0], &t[1], &t[2], groups, 0.1, Activation::Identity).unwrap()
        });
    }
}

#[test]
fn gradients_of_a_frozen_norm_agree_with_differences() {
    for shape in SHAPES {
        let (mean, var) = (noise(5, &[shape[1]]), noise(6, &[shape[1]]).affine(0.4, 1.0).unwrap());
        check_gradients(&inputs(shape), 0.05, 1e-3, |t| {
            let (mean, var) = (Value::constant(mean.clone()), Value::constant(var.clone()));
            frozen_batch_norm(&t[0], &t[1], &t[2], &mean, &var, 1e-5).unwrap()
        });
    }
}

/// The leaves x, w, b, residual on maps of `shape`.
fn leaves(shape: [usize; 4]) -> [Value; 4] {
    let [x, w, b] = inputs(shape);
    [("x", nhwc(&x)), ("w", w), ("b", b), ("residual", noise(4, &shape))]
        .map(|(name, t)| Value::leaf(name, t))
}

#[test]
fn the_fused_norm_equals_its_plain_operations() {
    for shape in SHAPES.into_iter().chain([[2, 24, 21, 17]]) {
        let activations = [Activation::Identity, Activation::Relu, Activation::Relu6];
        for (added, activation) in activations.into_iter().flat_map(|a| [(false, a), (true, a)]) {
            let [x, w, b, residual] = leaves(shape);
            // Loud enough that a ReLU6 has something to clip.
            let w = Value::leaf("w", (w.tensor() * 8.0).unwrap());
            let fused = NormEpilogue { residual: added.then_some(&residual), activation };
            let (fused, _) = batch_norm_train(&x, &w, &b, 1e-5, fused).unwrap();
            let (mut plain, _) = batch_norm_train(&x, &w, &b, 1e-5, NormEpilogue::default()).unwrap();
            if added {
                plain = add(&plain, &residual).unwrap();
            }
            plain = match activation {
                Activation::Identity => plain,
                Activation::Relu => relu(&plain).unwrap(),
                Activation::Relu6 => relu6(&plain).unwrap(),
            };
            assert_eq!(values(fused.tensor()), values(plain.tensor()));
            let g = noise(7, &shape);
            let (fused, plain) = (gradients_of(&fused, &g), gradients_of(&plain, &g));
            assert_eq!(fused.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>());
            for (name, gradient) in &fused {
                assert_eq!(values(gradient), values(&plain[name]), "{name}");
            }
        }
    }
}

#[test]
fn a_residual_gets_its_gradient_whatever_else_is_tracked() {
    let shape = [2, 3, 4, 5];
    let full = {
        let [x, w, b, residual] = leaves(shape);
        let fused = NormEpilogue { residual: Some(&residual), activation: Activation::Relu };
        let (out, _) = batch_norm_train(&x, &w, &b, 1e-5, fused).unwrap();
        gradients_of(&out, &noise(7, &shape))
    };
    for kept in ["x", "w", "b", "residual"] {
        let [x, w, b, residual] = ["x", "w", "b", "residual"].map(|name| {
            let position = ["x", "w", "b", "residual"].iter().position(|n| *n == name).unwrap();
            let leaf = leaves(shape)[position].clone();
            if name == kept { leaf } else { leaf.detach() }
        });
        let fused = NormEpilogue { residual: Some(&residual), activation: Activation::Relu };
        let (out, _) = batch_norm_train(&x, &w, &b, 1e-5, fused).unwrap();
        let gradients = gradients_of(&out, &noise(7, &shape));
        assert_eq!(gradients.len(), 1);
        assert_eq!(values(&gradients[kept]), values(&full[kept]), "{kept}");
    }
}

#[test]
fn one_value_per_channel_stays_finite() {
    let shape = [1, 5, 1, 1];
    let [x, w, b, _] = leaves(shape);
    let (out, statistics) = batch_norm_train(&x, &w, &b, 1e-5, NormEpilogue::default()).unwrap();
    assert_eq!(values(out.tensor()), values(b.tensor()));
    assert_eq!(values(&statistics.mean), values(x.tensor()));
    assert_eq!(values(&statistics.unbiased_var), [0.0; 5]);
    let gradients = gradients_of(&out, &noise(7, &shape));
    assert_eq!(values(&gradients["x"]), [0.0; 5]);
    assert_eq!(values(&gradients["w"]), [0.0; 5]);
    assert_eq!(values(&gradients["b"]), values(&noise(7, &shape)));
}

#[test]
fn constant_channels_stay_finite() {
    let x = Value::leaf("x", tensor([0.0, 0.0, 0.0, 0.1, 0.1, 0.1].repeat(2), &[2, 2, 1, 3]));
    let (w, b) = (Value::leaf("w", tensor(vec![1.0; 2], &[2])), Value::leaf("b", tensor(vec![0.0; 2], &[2])));
    let (out, statistics) = batch_norm_train(&x, &w, &b, 1e-5, NormEpilogue::default()).unwrap();
    assert!(values(out.tensor()).iter().all(|y| y.abs() < 1e-5));
    assert!(values(&statistics.unbiased_var).iter().all(|var| (0.0..1e-12).contains(var)));
    let gradients = gradients_of(&out, &noise(7, out.dims()));
    assert!(gradients.values().all(|g| values(g).iter().all(|g| g.is_finite())));
}

#[test]
fn a_mean_far_from_zero_costs_no_precision() {
    // Mean 1000 standard deviations from 0: f32 sums of squares would leave three digits or none.
    let shape = [2, 3, 16, 16];
    let near = noise(8, &shape);
    // Multiples of 2^-10, so that the shift is exact.
    let near = tensor(values(&near).iter().map(|v| (v * 1024.0).round() / 1024.0).collect(), &shape);
    let far = near.affine(1.0, 512.0).unwrap();
    let run = |x: Tensor| {
        let x = Value::leaf("x", x);
        let (w, b) = (Value::constant(noise(2, &[3])), Value::constant(noise(3, &[3])));
        let (out, statistics) = batch_norm_train(&x, &w, &b, 1e-5, NormEpilogue::default()).unwrap();
        let gradient = gradients_of(&out, &noise(7, &shape))["x"].clone();
        (out.tensor().clone(), gradient, statistics.unbiased_var)
    };
    let (near, far) = (run(near), run(far));
    // The f32 mean of 512 is good to 3e-5.
    assert_close(&far.0, &near.0, 1e-4);
    assert_close(&far.1, &near.1, 1e-4);
    assert_close(&far.2, &near.2, 1e-6);
}

#[test]
fn an_empty_batch_gives_an_empty_result_and_moves_no_average() {
    let shape = [0, 3, 4, 4];
    let [x, w, b, residual] = leaves(shape);
    let fused = NormEpilogue { residual: Some(&residual), activation: Activation::Relu };
    let (out, statistics) = batch_norm_train(&x, &w, &b, 1e-5, fused).unwrap();
    assert_eq!(out.dims(), shape);
    let gradients = gradients_of(&out, out.tensor());
    assert_eq!(values(&gradients["w"]), [0.0; 3]);
    assert_eq!(values(&gradients["b"]), [0.0; 3]);
    assert_eq!(gradients["residual"].dims(), shape);
    let (mean, var) = (tensor(vec![1.0; 3], &[3]), tensor(vec![2.0; 3], &[3]));
    statistics.fold_into(&mean, &var, 0.1).unwrap();
    assert_eq!((values(&mean), values(&var)), (vec![1.0; 3], vec![2.0; 3]));

    let [x, w, b, _] = leaves(shape);
    let out = group_norm(&x, &w, &b, 3, 1e-5, Activation::Relu).unwrap();
    assert_eq!(values(&gradients_of(&out, out.tensor())["w"]), [0.0; 3]);
    let table = || Value::constant(tensor(vec![1.0; 3], &[3]));
    let [x, w, b, _] = leaves(shape);
    let out = frozen_batch_norm(&x, &w, &b, &table(), &table(), 1e-5).unwrap();
    assert_eq!(values(&gradients_of(&out, out.tensor())["b"]), [0.0; 3]);
}

#[test]
fn a_nan_is_not_normalised_away() {
    let shape = [1, 2, 2, 2];
    let [_, w, b, _] = leaves(shape);
    let mut numbers = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    numbers[0] = f32::NAN;
    let x = Value::leaf("x", tensor(numbers, &shape));
    let fused = NormEpilogue { residual: None, activation: Activation::Relu };
    let (out, statistics) = batch_norm_train(&x, &w, &b, 1e-5, fused).unwrap();
    let out = values(out.tensor());
    assert!(out[..4].iter().all(|y| y.is_nan()) && out[4..].iter().all(|y| y.is_finite()));
    assert!(values(&statistics.unbiased_var)[0].is_nan());
}

#[test]
fn a_running_average_moves_in_its_own_storage() {
    let running = tensor(vec![1.0, -2.0], &[2]);
    let shared = running.detach();
    update_running(&running, &tensor(vec![3.0, 2.0], &[2]), 0.25).unwrap();
    assert_eq!(values(&shared), [1.5, -1.0]);
    // With itself as the batch nothing moves.
    update_running(&running, &shared, 0.5).unwrap();
    assert_eq!(values(&shared), [1.5, -1.0]);
    assert!(update_running(&running, &tensor(vec![0.0; 3], &[3]), 0.1).is_err());
    update_running(&tensor(vec![], &[0]), &tensor(vec![], &[0]), 0.1).unwrap();
}

#[test]
fn norms_have_the_same_bits_on_any_number_of_threads() {
    let step = || -> Vec<Vec<u32>> {
        let shape = [2, 24, 57, 61];
        let [x, w, b, residual] = leaves(shape);
        let fused = NormEpilogue { residual: Some(&residual), activation: Activation::Relu };
        let (batch, statistics) = batch_norm_train(&x, &w, &b, 1e-5, fused).unwrap();
        let group = group_norm(&batch, &w, &b, 4, 1e-5, Activation::Relu).unwrap();
        let gradients = gradients_of(&group, &noise(7, &shape));
        let tensors = [batch.tensor(), group.tensor(), &statistics.mean, &statistics.unbiased_var];
        let all = tensors.into_iter().chain(gradients.values());
        all.map(|t| values(t).iter().map(|v| v.to_bits()).collect()).collect()
    };
    let one = on_threads(1, step);
    assert_eq!(on_threads(2, step), one);
    assert_eq!(on_threads(3, step), one);
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    let [x, w, b, residual] = leaves([2, 6, 3, 3]);
    let short = Value::constant(noise(9, &[5]));
    let message = |result: ckd_kernels::Result<Value>| result.unwrap_err().to_string();
    let plain = NormEpilogue::default();
    assert!(message(batch_norm_train(&x, &short, &b, 1e-5, plain).map(|r| r.0)).contains("weight"));
    assert!(message(batch_norm_train(&x, &w, &short, 1e-5, plain).map(|r| r.0)).contains("bias"));
    assert!(message(batch_norm_train(&w, &w, &b, 1e-5, plain).map(|r| r.0)).contains("NCHW"));
    let fused = NormEpilogue { residual: Some(&w), ..plain };
    assert!(message(batch_norm_train(&x, &w, &b, 1e-5, fused).map(|r| r.0)).contains("residual"));
    for groups in [0, 4, 12] {
        assert!(message(group_norm(&x, &w, &b, groups, 1e-5, Activation::Identity)).contains("groups"));
    }
    let none = Value::constant(noise(9, &[0]));
    let empty = Value::constant(noise(9, &[2, 0, 3, 3]));
    assert!(group_norm(&empty, &none, &none, 1, 1e-5, Activation::Identity).is_err());
    assert!(message(frozen_batch_norm(&x, &w, &b, &residual, &w, 1e-5)).contains("mean"));
    let constant = Value::constant(noise(9, &[6]));
    assert!(message(frozen_batch_norm(&x, &w, &b, &w, &constant, 1e-5)).contains("constants"));
}
