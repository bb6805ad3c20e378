//! MGD: a student's map, of which a part is dropped, generates the teacher's.

use candle_core::Tensor;
use ckd_det::distill::{Distiller, Dropped, Generation, Lesson, Mgd, Width, Widths, kept, mgd};
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::taps::{Level, Tap, Taps};
use ckd_kernels::maps::masked_cells;
use ckd_kernels::pattern::ActivationPattern;
use ckd_kernels::{Conv2dConfig, Epilogue, Value, conv2d};

use super::support::*;
use ckd_golden as golden;

const P3: Tap = Tap::Fpn(Level(3));

fn generation(width: usize) -> (Generation, ParamStore) {
    let builder = Builder::new(7, device());
    let generation = Generation::new(&builder, width).unwrap();
    (generation, builder.finish())
}

/// Convolutions that do not learn: nothing but the student is tracked.
fn frozen(width: usize) -> (Generation, ParamStore) {
    let builder = Builder::new(7, device()).frozen();
    let generation = Generation::new(&builder, width).unwrap();
    (generation, builder.finish())
}

const LAYERS: [(&str, &str); 4] = [
    ("gen1_w", "generation.0.weight"),
    ("gen1_b", "generation.0.bias"),
    ("gen2_w", "generation.1.weight"),
    ("gen2_b", "generation.1.bias"),
];

#[test]
fn mgd_equals_pytorch() {
    each_next_case("mgd/", |case| {
        if !case.outputs().contains(&"loss") {
            return;
        }
        let (teacher, mask) = (input(case, "teacher"), input(case, "mask"));
        let (generation, store) = generation(teacher.dims()[1]);
        for (key, name) in LAYERS {
            store.set(name, &input(case, key)).unwrap();
        }
        let leaf = |key: &str| Value::leaf(key, input(case, key));
        let student = leaf("student");
        let aligned = match case.inputs().contains(&"align_w") {
            false => student,
            true => {
                let bias = leaf("align_b");
                let epilogue = Epilogue { shift: Some(&bias), ..Epilogue::default() };
                conv2d(&student, &leaf("align_w"), Conv2dConfig::new(1, 0), epilogue).unwrap()
            }
        };
        let loss = mgd(&teacher, &aligned, &mask, &generation).unwrap();
        case.check_close("loss", &[loss.item().unwrap()]);
        let gradients = loss.backward().unwrap();
        for key in case.outputs().into_iter().filter_map(|key| key.strip_prefix("grad_")) {
            let name = LAYERS.iter().find(|(own, _)| *own == key).map_or(key, |(_, name)| name);
            case.check_close(&format!("grad_{key}"), &flat(&gradients[name]));
        }
    });
}

#[test]
fn a_mask_keeps_what_pytorchs_keeps() {
    each_next_case("mgd/mask_from_uniform", |case: &golden::Case<'_>| {
        let mask = kept(&case.f32("u").0, case.attr_f64("lambda") as f32);
        case.check_exact("mask_detection", &mask.iter().map(|kept| *kept as i64).collect::<Vec<_>>());
    });
}

fn entry(keys: Mgd, teacher: usize, student: usize) -> Box<dyn Distiller> {
    let widths: Widths = [(P3, Width { teacher, student })].into_iter().collect();
    built(&keys, 0, &setting(widths)).unwrap()
}

fn value(method: &dyn Distiller, teacher: &Taps, student: &Value, seed: u64) -> f32 {
    let student = taps(P3, student.clone());
    let terms = method.terms(&Lesson { seed, ..Lesson::new(teacher, &student) }).unwrap();
    terms[0].value.item().unwrap()
}

#[test]
fn a_mask_is_of_its_step_and_drops_as_much_as_it_should() {
    let teacher = taps(P3, Value::constant(noise(1, &[2, 4, 9, 7])));
    let student = Value::constant(noise(2, &[2, 4, 9, 7]));
    for mask in [Dropped::Cells, Dropped::Channels] {
        let with = |dropped: f32| entry(Mgd { dropped, mask, ..Mgd::new(maps(&["p3"])) }, 4, 4);
        let at = |dropped: f32, seed: u64| value(&*with(dropped), &teacher, &student, seed);
        assert_eq!(at(0.5, 1), at(0.5, 1), "the same step has the same mask");
        assert_ne!(at(0.5, 1), at(0.5, 2), "another step has another");
        // Nothing dropped, and everything: no mask is left to chance.
        assert_eq!(at(0.0, 1), at(0.0, 2));
        assert_eq!(at(1.0, 1), at(1.0, 2));
    }
    let uniform = golden::tensor(3, 10_000, 0.5, 0.5);
    let share = kept(&uniform, 0.65).iter().sum::<f32>() / 1e4;
    assert!((share - 0.35).abs() < 0.02, "{share} were kept");
}

#[test]
fn with_everything_dropped_and_no_biases_the_loss_is_the_teachers_square_and_nobody_learns_from_it() {
    let teacher = noise(1, &[2, 3, 4, 5]);
    let (generation, store) = frozen(3);
    for (_, name) in LAYERS.into_iter().filter(|(_, name)| name.ends_with("bias")) {
        store.set(name, &zeros(&[3])).unwrap();
    }
    let (loss, gradient) =
        evaluate(&noise(2, &[2, 3, 4, 5]), |s| mgd(&teacher, s, &zeros(&[2, 1, 4, 5]), &generation));
    let square: f32 = flat(&teacher).iter().map(|t| t * t).sum::<f32>() / 2.0;
    assert_close(loss, square, 1e-4);
    assert_eq!(largest(&gradient), 0.0);
}

#[test]
fn with_convolutions_that_change_nothing_the_loss_is_the_squared_difference_of_the_maps() {
    let positive = |stream| computed([&noise(stream, &[2, 3, 4, 5])], |[x]| x + 1.5);
    let (teacher, student) = (positive(1), positive(2));
    let (generation, store) = frozen(3);
    let mut identity = vec![0f32; 3 * 3 * 9];
    (0..3).for_each(|channel| identity[(channel * 3 + channel) * 9 + 4] = 1.0);
    for (_, name) in LAYERS {
        let weight = if name.ends_with("bias") { zeros(&[3]) } else { tensor(&identity, &[3, 3, 3, 3]) };
        store.set(name, &weight).unwrap();
    }
    let ones = tensor(&[1.0; 2 * 4 * 5], &[2, 1, 4, 5]);
    let square = flat(&computed([&teacher, &student], |[t, s]| (t - s)?.sqr())).iter().sum::<f32>() / 2.0;
    assert_close(value_of(&student, |s| mgd(&teacher, s, &ones, &generation)), square, 1e-4);
    let alike = value_of(&teacher, |s| mgd(&teacher, s, &ones, &generation));
    assert!(alike.abs() < 1e-6, "{alike}");
}

#[test]
fn gradients_of_mgd_agree_with_central_differences() {
    let (teacher, student) = (noise(1, &[2, 3, 4, 5]), noise(2, &[2, 3, 4, 5]));
    let (generation, _) = frozen(3);
    let mask = tensor(&kept(&golden::tensor(3, 40, 0.5, 0.5), 0.4), &[2, 1, 4, 5]);
    // With its ReLU held the loss is a square, whose differences are exact.
    let run = |s: &Value| mgd(&teacher, s, &mask, &generation);
    let (_, pattern) = ActivationPattern::recorded(|| run(&Value::constant(student.clone())).unwrap());
    check_gradient(&student, 1, 2e-3, |s| pattern.held(|| run(s)));
}

#[test]
fn a_mask_of_another_shape_and_maps_that_differ_are_errors() {
    let x = Value::constant(noise(1, &[2, 3, 4, 5]));
    for shape in [&[2, 1, 5, 4], &[1, 1, 4, 5], &[2, 3, 4, 5]] {
        let wrong = masked_cells(&x, &zeros(shape)).unwrap_err().to_string();
        assert!(wrong.contains("masked_cells: mask") && wrong.contains("[2, 3, 4, 5]"), "{wrong}");
    }
    let mask = zeros(&[2, 1, 4, 5]);
    let wrong = mgd(&noise(1, &[2, 3, 4, 4]), &x, &mask, &frozen(3).0).unwrap_err().to_string();
    assert!(wrong.contains("mgd: maps"), "{wrong}");
    let none: Tensor = zeros(&[0, 3, 4, 5]);
    let empty = mgd(&none, &Value::constant(none.clone()), &zeros(&[0, 1, 4, 5]), &frozen(3).0).unwrap();
    assert_eq!(empty.item().unwrap(), 0.0);
}
