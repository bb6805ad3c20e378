//! ReviewKD of classifiers as its authors have it: the pooled features as deepest level, the teacher's maps before the last
//! ReLU, maps of different sizes.

use std::collections::BTreeMap;

use candle_core::Tensor;
use ckd_det::distill::{Distiller, Lesson, Maps, MapsAt, ReviewKd, TeacherMaps, Width, Widths};
use ckd_detectors::taps::{Tap, Taps};
use ckd_golden::Golden;
use ckd_kernels::Value;
use ckd_kernels::elementwise::weighted_sum;

use super::support::*;

fn golden() -> Golden {
    Golden::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/review"))
}

fn entry(levels: &[&str], teacher_maps: TeacherMaps) -> ReviewKd {
    ReviewKd { teacher_maps, ..ReviewKd::new(Maps { at: MapsAt::Stages, ..maps(levels) }) }
}

/// The tap that holds a teacher's map of a level.
fn before_relu(tap: Tap) -> Tap {
    match tap {
        Tap::Backbone(stage) => Tap::PreActivation(stage),
        tap => tap,
    }
}

#[test]
fn a_review_of_a_classifier_with_smaller_maps_equals_pytorchs() {
    let golden = golden();
    let case = golden.case("review");
    let count = |value: &serde_json::Value| value.as_u64().expect("a count") as usize;
    let levels: Vec<&str> =
        case.attrs["levels"].as_array().expect("levels").iter().filter_map(|name| name.as_str()).collect();
    let shape = |side: &str, level: &str| -> Vec<usize> {
        let of = &case.attrs[side][level];
        let (width, cells) = (count(&of[0]), count(&of[1]));
        let images = case.attr_usize("images");
        // Pooled features are rows.
        if level == "embedding" { vec![images, width] } else { vec![images, width, cells, cells] }
    };
    let tap = |level: &str| level.parse::<Tap>().expect("a tap");
    let found = |side: &str, stream: u64, wrap: &dyn Fn(&str, Tensor) -> (Tap, Value)| -> Taps {
        (stream..)
            .zip(&levels)
            .map(|(stream, level)| wrap(level, noise(stream, &shape(side, level))))
            .collect()
    };
    let student = found("student", 10, &|level, map| (tap(level), Value::leaf(level, map)));
    let teacher = found("teacher", 20, &|level, map| (before_relu(tap(level)), Value::constant(map)));
    let widths: Widths = levels
        .iter()
        .flat_map(|level| {
            let width = Width { teacher: shape("teacher", level)[1], student: shape("student", level)[1] };
            [(tap(level), width), (before_relu(tap(level)), width)]
        })
        .collect();
    let review = built(&entry(&levels, TeacherMaps::BeforeRelu), 2, &setting(widths)).expect("it fits");
    fill(&*review);

    let terms = review.terms(&Lesson::new(&teacher, &student)).expect("it fits");
    for term in &terms {
        let level = term.name.strip_prefix("review_kd/").expect("a level");
        let want = case.attrs["losses"][level].as_f64().expect("a loss");
        let got = f64::from(term.value.item().expect("a scalar"));
        assert!((got - want).abs() < 1e-5 * want, "{level}: {got}, want {want}");
    }
    let sum = weighted_sum(&terms.iter().map(|term| (&term.value, 1.0)).collect::<Vec<_>>()).expect("a sum");
    let gradients = sum.backward().expect("gradients");
    assert_eq!(gradients.len(), case.outputs().len());
    for key in case.outputs() {
        let name = if levels.contains(&key) { key.to_owned() } else { format!("distill.2.{key}") };
        case.check_close(key, &flat(&gradients[name.as_str()]));
    }
}

/// Values of the golden generator for the parameters of the method, in order of their names.
fn fill(review: &dyn Distiller) {
    let params = review.params().expect("fusions");
    let named: BTreeMap<String, Vec<usize>> =
        params.trainable().map(|(name, tensor)| (name.to_string(), tensor.dims().to_vec())).collect();
    for (stream, (name, shape)) in (100..).zip(&named) {
        let at = |v: f32| match shape.as_slice() {
            [_, rest @ ..] if !rest.is_empty() => {
                (f64::from(v) / (rest.iter().product::<usize>() as f64).sqrt()) as f32
            }
            _ if name.ends_with("bn.weight") => 1.0 + 0.1 * v,
            _ => 0.1 * v,
        };
        let values: Vec<f32> = flat(&noise(stream, shape)).into_iter().map(at).collect();
        params.set(name, &tensor(&values, shape)).expect("its shape");
    }
}

#[test]
fn a_teacher_without_maps_before_its_relus_is_an_error_that_lists_what_there_is() {
    let stages = [1, 2].map(|stage| (Tap::Backbone(stage), Width { teacher: 4, student: 4 }));
    let review = entry(&["stage1", "stage2"], TeacherMaps::BeforeRelu);
    let error =
        built(&review, 0, &setting(stages.into_iter().collect())).err().expect("an error").to_string();
    let words = ["teacher", "no tap stage1_before_relu", "stage1, stage2"];
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
}
