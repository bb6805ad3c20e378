//! Updates of parameters in place, against PyTorch's optimisers.

use std::path::Path;

use crate::support::*;
use candle_core::Tensor;
use ckd_golden::{Case, Golden};
use ckd_kernels::Error;
use ckd_kernels::adamw::{self, AdamWStep};
use ckd_kernels::ema::update_averages;
use ckd_kernels::in_place::overwrite;
use ckd_kernels::sgd::{self, SgdStep, squared_norm};
use proptest::prelude::*;

fn each_case(prefix: &str, test: impl FnMut(&Case<'_>)) {
    let golden = Golden::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/optimisers"));
    let cases = golden.cases_with_prefix(prefix);
    assert!(cases.len() >= 2, "{prefix}: {} cases", cases.len());
    cases.iter().for_each(test);
}

/// The parameter that a case starts from, in the memory order of a network's.
fn start(case: &Case<'_>) -> Tensor {
    let shape = case.attr_usizes("shape");
    in_order(&noise(case.attr_usize("param") as u64, &shape))
}

/// Name of the gradient of step `step` in the case's file.
fn gradient(case: &Case<'_>, step: usize) -> Tensor {
    let shape = case.attr_usizes("shape");
    let stream = (case.attr_usize("gradients") + step) as u64;
    let mut values = golden::tensor(stream, shape.iter().product(), case.attr_f64("gradient_scale"), 0.0);
    values[0] = 0.0;
    tensor(values, &shape)
}

fn in_order(tensor: &Tensor) -> Tensor {
    if tensor.rank() == 4 { nhwc(tensor) } else { tensor.clone() }
}

fn zeros_like(tensor: &Tensor) -> Tensor {
    in_order(&Tensor::zeros(tensor.shape(), tensor.dtype(), tensor.device()).unwrap())
}

fn step_of(case: &Case<'_>, step: usize) -> AdamWStep {
    AdamWStep {
        lr: case.attr_f64("lr"),
        beta1: case.attr_f64("beta1"),
        beta2: case.attr_f64("beta2"),
        eps: case.attr_f64("eps"),
        weight_decay: case.attr_f64("weight_decay"),
        gradient_scale: 1.0,
        step: step as u64,
    }
}

fn update(step: AdamWStep, param: &Tensor, moments: [&Tensor; 2], gradient: &Tensor) -> Result<(), Error> {
    adamw::apply(&[step.of(param, moments[0], moments[1], gradient)?])
}

fn update_average(average: &Tensor, weights: &Tensor, decay: f64) -> Result<(), Error> {
    update_averages(&[(average, weights)], decay)
}

#[test]
fn twenty_steps_of_adamw_are_pytorchs() {
    each_case("adamw/", |case| {
        let param = start(case);
        let (first, second) = (zeros_like(&param), zeros_like(&param));
        for step in 1..=case.attr_usize("steps") {
            update(step_of(case, step), &param, [&first, &second], &gradient(case, step)).unwrap();
            if step == 1 {
                case.check_close("param_1", &values(&param));
            }
        }
        case.check_close("param_20", &values(&param));
        case.check_close("first", &values(&first));
        case.check_close("second", &values(&second));
    });
}

#[test]
fn twenty_steps_of_a_moving_average_are_pytorchs() {
    each_case("ema/", |case| {
        let average = start(case);
        for step in 1..=case.attr_usize("steps") {
            update_average(&average, &in_order(&gradient(case, step)), case.attr_f64("decay")).unwrap();
        }
        case.check_close("average", &values(&average));
    });
}

#[test]
fn a_scaled_gradient_is_the_gradient_scaled_before() {
    each_case("adamw/", |case| {
        let scaled = AdamWStep { gradient_scale: 0.25, ..step_of(case, 3) };
        let [a, b] = [scaled, step_of(case, 3)].map(|step| {
            let (param, first, second) = (start(case), start(case), zeros_like(&start(case)));
            let quarter = (gradient(case, 1) * 0.25).unwrap();
            let gradient = if step.gradient_scale == 1.0 { quarter } else { gradient(case, 1) };
            update(step, &param, [&first, &second], &gradient).unwrap();
            (values(&param), values(&first), values(&second))
        });
        assert_eq!(a, b);
    });
}

#[test]
fn many_parameters_in_one_call_are_updated_as_one_by_one() {
    let shapes: [&[usize]; 5] = [&[3, 5000, 3], &[1], &[0], &[2, 3, 4, 5], &[16_385]];
    let noises = |first: u64| -> Vec<Tensor> {
        (first..).zip(shapes).map(|(stream, shape)| in_order(&noise(stream, shape))).collect()
    };
    let step = AdamWStep {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.05,
        gradient_scale: 0.5,
        step: 3,
    };
    let rule = SgdStep { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.01, gradient_scale: 0.5 };
    let run = |together: bool| {
        let (adams, sgds, averages) = (noises(10), noises(20), noises(30));
        let (first, gradients) = (noises(40), noises(60));
        let second: Vec<Tensor> = noises(50).iter().map(|x| x.sqr().unwrap()).map(|x| in_order(&x)).collect();
        let all: Vec<usize> = (0..shapes.len()).collect();
        for group in if together { vec![all.clone()] } else { all.iter().map(|&i| vec![i]).collect() } {
            let moved =
                group.iter().map(|&i| step.of(&adams[i], &first[i], &second[i], &gradients[i]).unwrap());
            adamw::apply(&moved.collect::<Vec<_>>()).unwrap();
        }
        let velocities = noises(70);
        for group in if together { vec![all.clone()] } else { all.iter().map(|&i| vec![i]).collect() } {
            let moved = group.iter().map(|&i| rule.of(&sgds[i], &velocities[i], &gradients[i]).unwrap());
            sgd::apply(&moved.collect::<Vec<_>>()).unwrap();
            let pairs: Vec<_> = group.iter().map(|&i| (&averages[i], &adams[i])).collect();
            update_averages(&pairs, 0.9).unwrap();
        }
        let gradients: Vec<&Tensor> = gradients.iter().collect();
        let norm = match together {
            true => squared_norm(&gradients).unwrap(),
            false => gradients.iter().map(|gradient| squared_norm(&[gradient]).unwrap()).sum(),
        };
        let numbers: Vec<Vec<f32>> =
            [adams, first, second, sgds, velocities, averages].concat().iter().map(values).collect();
        (numbers, norm)
    };
    let (together, alone) = (run(true), run(false));
    assert!(together.0 == alone.0);
    assert!((together.1 - alone.1).abs() <= 1e-12 * alone.1, "{} {}", together.1, alone.1);
}

#[test]
fn updates_do_not_depend_on_threads() {
    let shape = [3, 5000, 3];
    let run = |threads| {
        on_threads(threads, || {
            let (param, average) = (noise(1, &shape), noise(2, &shape));
            let (first, second) = (zeros_like(&param), zeros_like(&param));
            for step in 1..=3 {
                let step = AdamWStep {
                    lr: 0.01,
                    beta1: 0.9,
                    beta2: 0.999,
                    eps: 1e-8,
                    weight_decay: 0.05,
                    gradient_scale: 1.0,
                    step,
                };
                update(step, &param, [&first, &second], &noise(10 + step.step, &shape)).unwrap();
                update_average(&average, &param, 0.99).unwrap();
            }
            (values(&param), values(&average))
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn updates_of_unequal_or_shared_tensors_are_refused() {
    let step = AdamWStep {
        lr: 0.1,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.0,
        gradient_scale: 1.0,
        step: 1,
    };
    let [a, b, c, d] = [1, 2, 3, 4].map(|stream| noise(stream, &[2, 3]));
    let short = noise(5, &[2, 2]);
    let before = [&a, &b, &c].map(values);
    let refused = |result: Result<(), Error>, what: &str| {
        assert!(matches!(result, Err(Error::Invalid { .. } | Error::Candle(_))), "{what}");
    };
    refused(update(step, &a, [&b, &c], &short), "a gradient of another shape");
    refused(update(step, &a, [&b, &b], &d), "one tensor for both moments");
    refused(update(step, &a, [&a, &c], &d), "the parameter as its moment");
    refused(update(step, &a, [&b, &c], &c), "a moment as the gradient");
    refused(update(AdamWStep { step: 0, ..step }, &a, [&b, &c], &d), "no first update");
    refused(update_average(&a, &a, 0.5), "an average of itself");
    refused(update_average(&a, &short, 0.5), "an average of other weights");
    refused(update_average(&a, &b, f64::NAN), "no decay");
    refused(update_average(&a, &b, 1.5), "a decay beyond 1");
    refused(overwrite(&a, &short), "a copy of another shape");
    refused(overwrite(&a, &a), "a copy of itself");
    assert_eq!([&a, &b, &c].map(values), before, "what is refused changes nothing");
}

#[test]
fn an_overwritten_tensor_keeps_its_memory_order() {
    let to = nhwc(&noise(1, &[2, 3, 4, 5]));
    let seen = to.clone();
    let from = noise(2, &[2, 3, 4, 5]);
    overwrite(&to, &from).unwrap();
    assert_eq!(values(&seen), values(&from));
    assert!(seen.permute((0, 2, 3, 1)).unwrap().is_contiguous());
    let part = noise(3, &[4, 3]);
    overwrite(&part.narrow(0, 1, 2).unwrap(), &noise(4, &[2, 3])).unwrap();
    let expected =
        [&values(&noise(3, &[4, 3]))[..3], &values(&noise(4, &[2, 3])), &values(&noise(3, &[4, 3]))[9..]];
    assert_eq!(values(&part), expected.concat());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn an_average_of_equal_weights_stays_what_it_is(stream in 0u64..1000, decay in 0.0..=1.0f64, len in 0usize..40) {
        let (average, weights) = (noise(stream, &[len]), noise(stream, &[len]));
        update_average(&average, &weights, decay).unwrap();
        prop_assert_eq!(values(&average), values(&weights));
    }

    #[test]
    fn an_average_lies_between_what_it_was_and_the_weights(decay in 0.0..=1.0f64, a in -9f32..9.0, b in -9f32..9.0) {
        let (average, weights) = (tensor(vec![a], &[1]), tensor(vec![b], &[1]));
        update_average(&average, &weights, decay).unwrap();
        let got = values(&average)[0];
        prop_assert!(a.min(b) <= got && got <= a.max(b), "{} {} {}", a, got, b);
    }
}
