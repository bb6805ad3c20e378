//! Methods over box deltas: teacher-bounded regression, imitation weighted by the teacher's confidence.

use candle_core::Tensor;
use ckd_det::distill::{
    BoxImitation, BoxMeasure, BoxRows, Distiller, Imitated, Lesson, Normalizer, RowsAt, Tbr, bounded,
    imitated, open_gates, sum_of_weights,
};
use ckd_detectors::box_coder::{BoxCoder, RegionCoder};
use ckd_detectors::boxes::Xyxy;
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::elementwise::{add, reshape, rows as taken, scale};
use ckd_kernels::losses::smooth_l1;

use super::support::*;
use ckd_golden as golden;

fn targets(case: &golden::Case<'_>) -> Vec<Option<[f32; 4]>> {
    let positive = case.f32("positive").0;
    case.boxes("target").into_iter().zip(positive).map(|(deltas, on)| (on != 0.0).then_some(deltas)).collect()
}

#[test]
fn teacher_bounded_regression_equals_pytorch() {
    each_next_case("tbr/", |case| {
        let (teacher, targets) = (input(case, "teacher"), targets(case));
        let (margin, divisor) = (case.attr_f64("margin") as f32, case.attr_f64("avg_factor"));
        let student = Value::constant(input(case, "student"));
        let own = bounded(&teacher, &student, &targets, margin, divisor).unwrap();
        case.check_close("bounded", &[own.item().unwrap()]);
        let mut gates = vec![0i64; targets.len()];
        let open = open_gates(&teacher, &student, &targets, margin).unwrap();
        open.iter().for_each(|&row| gates[row as usize] = 1);
        case.check_exact("gate", &gates);
        check_case(case, "loss", &["student"], |leaves| {
            let bounded = bounded(&teacher, &leaves[0], &targets, margin, divisor)?;
            let (on, wanted): (Vec<u32>, Vec<[f32; 4]>) =
                (0..).zip(&targets).filter_map(|(row, target)| Some((row, (*target)?))).unzip();
            let task = smooth_l1(&taken(&leaves[0], &on)?, &wanted, 1.0, divisor)?;
            Ok(add(&task, &scale(&bounded, case.attr_f64("nu"))?)?)
        });
    });
}

#[test]
fn box_imitation_equals_pytorch() {
    each_next_case("box_imitation/", |case| {
        let kind = case.attrs["kind"].as_str().expect("a kind");
        let measure = match kind {
            "giou" => BoxMeasure::Giou,
            "l1" => BoxMeasure::SmoothL1(0.0),
            _ => BoxMeasure::SmoothL1(case.attr_f64("beta")),
        };
        let (mask, confidence) = (case.f32("mask").0, case.f32("confidence").0);
        let weights: Vec<f32> = mask.iter().zip(&confidence).map(|(mask, conf)| mask * conf).collect();
        let divisor = match case.attrs["reduction"].as_str() {
            Some("positives") => f64::from(mask.iter().sum::<f32>()).max(1.0),
            _ => sum_of_weights(&weights),
        };
        let coder = match case.attrs["wts"].as_array() {
            Some(weights) => {
                let weights: Vec<f32> =
                    weights.iter().map(|w| w.as_f64().expect("a weight") as f32).collect();
                BoxCoder::new(weights.try_into().expect("4 weights"))
            }
            None => BoxCoder::ANCHORS,
        };
        let coder = RegionCoder::Deltas(coder);
        let references = match kind {
            "giou" => case.boxes("anchors"),
            _ => vec![[0.0, 0.0, 1.0, 1.0]; weights.len()],
        };
        // Of deltas by class, those of each row's label.
        let own = |deltas: &Value| match case.inputs().contains(&"labels") {
            false => deltas.clone(),
            true => {
                let classes = deltas.dims()[1] / 4;
                let columns: Vec<u32> = (0..)
                    .zip(labels(case, "labels"))
                    .map(|(row, label)| row * classes as u32 + label)
                    .collect();
                let by_class = reshape(deltas, &[weights.len() * classes, 4]).unwrap();
                taken(&by_class, &columns).unwrap()
            }
        };
        let teacher = own(&Value::constant(input(case, "teacher")));
        let of = |student: &Value, weights: &[f32], divisor: f64| {
            imitated(teacher.tensor(), &own(student), (&references, coder), weights, measure, divisor)
        };
        check_case(case, "loss", &["student"], |leaves| of(&leaves[0], &weights, divisor));
        let student = Value::constant(input(case, "student"));
        let each = (0..weights.len()).map(|row| {
            let mut one = vec![0.0; weights.len()];
            one[row] = 1.0;
            of(&student, &one, 1.0).unwrap().item().unwrap()
        });
        case.check_close("rows", &each.collect::<Vec<f32>>());
    });
}

/// Regions of 20 to 60 pixels.
fn references(count: usize) -> Vec<Xyxy> {
    let values = golden::tensor(9, 4 * count, 1.0, 0.0);
    values
        .chunks(4)
        .map(|v| {
            [50.0 * v[0], 50.0 * v[1], 50.0 * v[0] + 40.0 + 20.0 * v[2], 50.0 * v[1] + 40.0 + 20.0 * v[3]]
        })
        .collect()
}

const MEASURES: [BoxMeasure; 3] = [BoxMeasure::Giou, BoxMeasure::SmoothL1(0.0), BoxMeasure::SmoothL1(0.5)];

#[test]
fn imitation_is_0_at_the_teacher_and_its_gradients_agree_with_central_differences() {
    let teacher = times(&noise(1, &[6, 4]), 0.1);
    // Every delta and every side lies farther from the teacher's than a step: no difference crosses a corner.
    let student =
        computed([&teacher, &tensor(&[0.35, -0.3, 0.25, -0.2], &[1, 4])], |[t, by]| t.broadcast_add(&by));
    let (places, weights) = (references(6), [0.9, 0.0, 0.3, 1.0, 0.5, 0.7]);
    for measure in MEASURES {
        let of = |s: &Value| {
            imitated(&teacher, s, (&places, RegionCoder::Deltas(BoxCoder::ANCHORS)), &weights, measure, 2.0)
        };
        assert!(value_of(&teacher, of).abs() < 1e-6, "{measure:?}");
        assert!(value_of(&student, of) > 0.05, "{measure:?}");
        let (_, gradient) = evaluate(&student, of);
        assert_eq!(&gradient[4..8], [0.0; 4], "a row of weight 0 is not imitated");
        check_gradient(&student, 1, 2e-3, of);
    }
}

#[test]
fn a_common_factor_of_the_confidence_counts_unless_it_is_the_divisor() {
    let (teacher, student) = (noise(1, &[3, 4]), noise(2, &[3, 4]));
    let places = references(3);
    let of = |weights: [f32; 3], divisor: f64| {
        let place = (places.as_slice(), RegionCoder::Deltas(BoxCoder::ANCHORS));
        value_of(&student, |s| imitated(&teacher, s, place, &weights, BoxMeasure::Giou, divisor))
    };
    let (weights, half) = ([0.8, 0.2, 0.6], [0.4, 0.1, 0.3]);
    assert_close(of(weights, sum_of_weights(&weights)), of(half, sum_of_weights(&half)), 1e-6);
    assert_close(of(half, 3.0), 0.5 * of(weights, 3.0), 1e-6);
    assert_eq!(of([0.0; 3], sum_of_weights(&[0.0; 3])), 0.0);
}

/// The loss and its gradient of an entry whose regions have these targets.
fn entry(method: &dyn Distiller, teacher: &Tensor, student: &Tensor, truth: &BoxRows) -> (f32, Vec<f32>) {
    let teacher = taps(Tap::RoiBoxes, Value::constant(teacher.clone()));
    evaluate(student, |s| {
        let student = taps(Tap::RoiBoxes, s.clone());
        total(&method.terms(&Lesson { regression: Some(truth), ..Lesson::new(&teacher, &student) })?)
    })
}

fn truth(targets: Vec<Option<[f32; 4]>>) -> BoxRows {
    let count = targets.len();
    BoxRows {
        references: references(count),
        targets,
        confidence: (1..=count).map(|row| row as f32 / count as f32).collect(),
        divisor: count as f64,
        coder: RegionCoder::Deltas(BoxCoder::PROPOSALS),
    }
}

#[test]
fn a_student_that_beats_its_teacher_by_the_margin_is_left_alone_and_one_that_does_not_is_pulled_to_the_truth()
{
    let at = |x: f32| tensor(&[x; 8], &[2, 4]);
    let truth = truth(vec![Some([0.0; 4]), None]);
    let tbr = |margin: f32| plain(&Tbr { weight: 1.0, margin, ..Tbr::new(rows(RowsAt::RoiBoxes)) });
    let (value, gradient) = entry(&*tbr(0.0), &at(0.5), &at(0.4), &truth);
    assert_eq!((value, largest(&gradient)), (0.0, 0.0), "it is nearer");
    let (value, gradient) = entry(&*tbr(0.0), &at(0.5), &at(-0.6), &truth);
    // 4 · 0.36, of two regions; the background's has no truth.
    assert_close(value, 0.72, 1e-6);
    assert_eq!(gradient[4..], [0.0; 4]);
    gradient[..4].iter().for_each(|g| assert_close(*g, -0.6, 1e-6));
    let (value, _) = entry(&*tbr(1.0), &at(0.5), &at(0.4), &truth);
    assert_close(value, 0.32, 1e-6);
    // At equality the gate is closed.
    assert_eq!(entry(&*tbr(0.0), &at(0.5), &at(0.5), &truth).0, 0.0);
    let (value, _) = entry(&*tbr(0.0), &at(0.5), &at(f32::NAN), &truth);
    assert!(value.is_nan(), "a network that diverged shows");
}

#[test]
fn imitation_looks_at_the_regions_that_its_entry_names() {
    let (teacher, student) = (noise(1, &[3, 4]), noise(2, &[3, 4]));
    let truth = truth(vec![None, Some([0.1; 4]), None]);
    let of = |regions, normalizer| {
        let keys = BoxImitation { regions, normalizer, ..BoxImitation::new(rows(RowsAt::RoiBoxes)) };
        entry(&*plain(&keys), &teacher, &student, &truth)
    };
    let (positives, gradient) = of(Imitated::Positives, Normalizer::Positives);
    assert!(positives > 0.0 && largest(&gradient[..4]) == 0.0 && largest(&gradient[8..]) == 0.0);
    let (all, gradient) = of(Imitated::All, Normalizer::Positives);
    assert!(all > positives && largest(&gradient[..4]) > 0.0);
    // The sum of all weights, 1/3 + 2/3 + 1, instead of one positive.
    assert_close(of(Imitated::All, Normalizer::Confidence).0, all / 2.0, 1e-6);
}

#[test]
fn deltas_without_their_regions_are_an_error_that_names_what_is_missing() {
    let teacher = taps(Tap::RoiBoxes, Value::constant(noise(1, &[2, 4])));
    for method in
        [plain(&Tbr::new(rows(RowsAt::RoiBoxes))), plain(&BoxImitation::new(rows(RowsAt::RoiBoxes)))]
    {
        let wrong = terms_of(&*method, &teacher, &teacher).unwrap_err().to_string();
        assert!(wrong.contains("the regions that box deltas start from"), "{wrong}");
        let fewer = truth(vec![None]);
        let lesson = Lesson { regression: Some(&fewer), ..Lesson::new(&teacher, &teacher) };
        let wrong = method.terms(&lesson).unwrap_err().to_string();
        assert!(wrong.contains("[2, 4]") && wrong.contains("1 regions"), "{wrong}");
    }
}
