//! Rows that are standardised or centred before a method compares them.

use candle_core::Tensor;
use ckd_det::distill::{
    Ckd, Dist, DistillError, Distiller, Dkd, Kd, Lesson, Method, Prepared, RowsAt, Width, ckd,
};
use ckd_det::distill::{Negatives, kd};
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::standardize::{center_rows, standardize_rows};

use super::support::*;
use ckd_golden as golden;

/// The loss of a method over logits, as its entry has it.
fn loss_of(method: &dyn Distiller, teacher: &Tensor, student: &Value, labels: &[u32]) -> Outcome {
    let (teacher, student) =
        (taps(Tap::Logits, Value::constant(teacher.clone())), taps(Tap::Logits, student.clone()));
    total(&method.terms(&Lesson { labels, ..Lesson::new(&teacher, &student) })?)
}

fn check_entry(case: &golden::Case<'_>, method: &impl Method, labels: &[u32]) {
    let (method, teacher) = (plain(method), input(case, "teacher"));
    check_case(case, "loss", &["student"], |leaves| loss_of(&*method, &teacher, &leaves[0], labels));
}

#[test]
fn z_scores_of_rows_equal_pytorchs() {
    each_next_case("logit_std/zscore_", |case| {
        let x = Value::leaf("x", input(case, "x"));
        // No row of these, but for constant ones, deviates less than by 0.01.
        for floor in [0.0, 0.01] {
            let out = standardize_rows(&x, case.attr_f64("eps"), floor).unwrap();
            case.check_close("out", &flat(out.tensor()));
            if case.outputs().contains(&"grad_x") {
                let gradients = out.backward_from(&input(case, "g")).unwrap();
                case.check_close("grad_x", &flat(&gradients["x"]));
            }
        }
    });
}

#[test]
fn standardised_kd_equals_pytorch() {
    each_next_case("logit_std/kd_", |case| {
        let (weight, temperature) = (case.attr_f64("kd_weight") as f32, case.attr_f64("T") as f32);
        check_entry(
            case,
            &Kd { weight, temperature, standardize: true, ..Kd::new(rows(RowsAt::Logits)) },
            &[],
        );
    });
}

#[test]
fn standardised_dkd_equals_pytorch() {
    each_next_case("logit_std/dkd_", |case| {
        let number = |key| case.attr_f64(key) as f32;
        let keys = Dkd {
            alpha: number("alpha"),
            beta: number("beta"),
            temperature: number("T"),
            standardize: true,
            ..Dkd::new(rows(RowsAt::Logits))
        };
        check_entry(case, &keys, &labels(case, "labels"));
    });
}

#[test]
fn centred_ckd_equals_pytorch() {
    each_next_case("logit_std/ckd_centred", |case| {
        let temperature = case.attr_f64("tau") as f32;
        let keys = Ckd { weight: 1.0, temperature, center: true, ..Ckd::new(rows(RowsAt::Logits)) };
        check_entry(case, &keys, &[]);
    });
}

fn standardised() -> Vec<(&'static str, Box<dyn Distiller>)> {
    let at = || rows(RowsAt::Logits);
    vec![
        ("kd", plain(&Kd { temperature: 2.0, standardize: true, ..Kd::new(at()) })),
        ("dkd", plain(&Dkd { temperature: 2.0, standardize: true, ..Dkd::new(at()) })),
        ("dist", plain(&Dist { standardize: true, ..Dist::new(at()) })),
    ]
}

const LABELS: [u32; 6] = [0, 1, 2, 3, 4, 0];

#[test]
fn standardised_losses_see_neither_scale_nor_shift_of_a_row_on_either_side() {
    let (t, s) = (noise(1, &[6, 5]), noise(2, &[6, 5]));
    let moved = |x: &Tensor| computed([x], |[x]| (x * 3.0)? + 7.0);
    for (name, method) in standardised() {
        let value = |t: &Tensor, s: &Tensor| value_of(s, |s| loss_of(&*method, t, s, &LABELS));
        let own = value(&t, &s);
        assert!(own > 1e-3, "{name}");
        assert_close(value(&t, &moved(&s)), own, 2e-5);
        assert_close(value(&moved(&t), &s), own, 2e-5);
        assert!(value(&t, &moved(&t)).abs() < 2e-5, "{name} is not 0 at a teacher of another scale");
        check_gradient(&s, 1, 2e-3, |s| loss_of(&*method, &t, s, &LABELS));
    }
}

#[test]
fn a_standardised_row_has_mean_0_and_deviation_1_and_its_gradient_moves_neither() {
    let x = Value::leaf("x", noise(3, &[7, 9]));
    let out = standardize_rows(&x, 1e-7, 0.01).unwrap();
    let gradient = out.backward_from(&noise(4, &[7, 9])).unwrap();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    for (z, g) in flat(out.tensor()).chunks(9).zip(flat(&gradient["x"]).chunks(9)) {
        assert!(dot(z, &[1.0; 9]).abs() < 1e-5 && (dot(z, z) - 8.0).abs() < 1e-4);
        assert!(largest(z) <= 8.0 / 3.0);
        assert!(dot(g, &[1.0; 9]).abs() < 1e-5 && dot(g, z).abs() < 1e-5);
    }
}

#[test]
fn at_a_high_temperature_standardised_kd_is_one_minus_the_correlation_of_the_rows() {
    let (t, s) = (noise(1, &[1, 8]), noise(2, &[1, 8]));
    let z = |x: &Tensor| flat(Prepared::Standardized.of("kd", &Value::constant(x.clone())).unwrap().tensor());
    let r = z(&t).iter().zip(z(&s)).map(|(t, s)| t * s).sum::<f32>() / 7.0;
    let method = plain(&Kd { temperature: 100.0, standardize: true, ..Kd::new(rows(RowsAt::Logits)) });
    let got = value_of(&s, |s| loss_of(&*method, &t, s, &[]));
    // The next order is a hundredth away.
    assert_close(got, 7.0 / 8.0 * (1.0 - r), 0.02);
}

#[test]
fn a_classifier_that_starts_from_0_gets_a_gradient_that_training_survives() {
    for (name, method) in standardised() {
        let (value, gradient) =
            evaluate(&zeros(&[6, 5]), |s| loss_of(&*method, &noise(1, &[6, 5]), s, &LABELS));
        // DIST's own correlation has 1e-8 under its quotient, standardised or not.
        let most = if name == "dist" { f32::INFINITY } else { 100.0 };
        assert!(value.is_finite() && largest(&gradient) < most, "{name}: {value}, {gradient:?}");
        let (value, gradient) =
            evaluate(&noise(2, &[6, 5]), |s| loss_of(&*method, &zeros(&[6, 5]), s, &LABELS));
        assert!(value.is_finite() && largest(&gradient) < 10.0, "{name}: {value}, {gradient:?}");
    }
}

#[test]
fn two_classes_cannot_be_standardised() {
    let two = noise(1, &[4, 2]);
    let wrong = |error: DistillError| {
        let error = error.to_string();
        assert!(error.contains("standardize = true over 2 classes"), "{error}");
    };
    for (_, method) in standardised() {
        wrong(loss_of(&*method, &two, &Value::constant(two.clone()), &[0, 1, 0, 1]).unwrap_err());
    }
    // Known before the first step: a detector of one class, and the background.
    let widths = [(Tap::RoiLogits, Width { teacher: 2, student: 2 })].into_iter().collect();
    let keys = Kd { standardize: true, ..Kd::new(rows(RowsAt::RoiLogits)) };
    wrong(built(&keys, 0, &setting(widths)).err().expect("an error"));
    // One class leaves a row of one number, which is its own mean.
    assert_eq!(flat(center_rows(&Value::constant(noise(1, &[3, 1]))).unwrap().tensor()), [0.0; 3]);
}

#[test]
fn ckd_of_centred_rows_is_that_of_standardised_ones_and_does_not_see_a_shift() {
    let (t, s) = (noise(1, &[6, 5]), noise(2, &[6, 5]));
    let keys = |center| plain(&Ckd { weight: 1.0, center, ..Ckd::new(rows(RowsAt::Logits)) });
    let value = |center: bool, s: &Tensor| value_of(s, |s| loss_of(&*keys(center), &t, s, &[]));
    let z = |x: &Tensor| Prepared::Standardized.of("ckd", &Value::constant(x.clone())).unwrap();
    let of_scores = ckd(z(&t).tensor(), &z(&s), 1.0, Negatives::Cross).unwrap().item().unwrap();
    assert_close(value(true, &s), of_scores, 1e-6);
    let shifted = computed([&s], |[s]| s + 2.0);
    assert_close(value(true, &shifted), value(true, &s), 1e-5);
    assert!((value(false, &shifted) - value(false, &s)).abs() > 0.01);
    check_gradient(&s, 1, 1e-3, |s| loss_of(&*keys(true), &t, s, &[]));
    // Off by default.
    assert_eq!(value(false, &s), value_of(&s, |s| ckd(&t, s, 1.0, Negatives::Cross)));
    let plain_kd = plain(&Kd::new(rows(RowsAt::Logits)));
    assert_eq!(value_of(&s, |s| loss_of(&*plain_kd, &t, s, &[])), value_of(&s, |s| kd(&t, s, 1.0)));
}
