//! Updates of parameters in place, against PyTorch's optimisers.

use std::path::Path;

use crate::support::*;
use candle_core::Tensor;
use ckd_golden::{Case, Golden};
use ckd_kernels::Error;
use ckd_kernels::adamw::AdamWStep;
use ckd_kernels::ema::update_average;
use ckd_kernels::in_place::overwrite;
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

#[test]
fn twenty_steps_of_adamw_are_pytorchs() {
    each_case("adamw/", |case| {
        let param = start(case);
        let (first, second) = (zeros_like(&param), zeros_like(&param));
        for step in 1..=case.attr_usize("steps") {
            step_of(case, step).apply(&param, &first, &second, &gradient(case, step)).unwrap();
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
            step.apply(&param, &first, &second, &gradient).unwrap();
            (values(&param), values(&first), values(&second))
        });
        assert_eq!(a, b);
    });
}

#[test]
fn updates_do_not_depend_on_threads() {
    let shape = [3, 5000, 3];
    let run = |threads| {
        on_threads(threads, || {
            let (param, average) = (noise(1, &shape), noise(2, &shape));
            let (first, second) = (zeros_like(&param), zeros_like(&param));
            for step in 1..=3 {
                let update = AdamWStep {
                    lr: 0.01,
                    beta1: 0.9,
                    beta2: 0.999,
                    eps: 1e-8,
                    weight_decay: 0.05,
                    gradient_scale: 1.0,
                    step,
                };
                update.apply(&param, &first, &second, &noise(10 + step, &shape)).unwrap();
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
    refused(step.apply(&a, &b, &c, &short), "a gradient of another shape");
    refused(step.apply(&a, &b, &b, &d), "one tensor for both moments");
    refused(step.apply(&a, &a, &c, &d), "the parameter as its moment");
    refused(step.apply(&a, &b, &c, &c), "a moment as the gradient");
    refused(AdamWStep { step: 0, ..step }.apply(&a, &b, &c, &d), "no first update");
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
