//! Methods without labels: dense, between images (a queue), inside an image; mix-up of images.

use candle_core::Tensor;
use ckd_det::data::mix_up::mix_up;
use ckd_det::distill::{
    CellDistance, DenseFeatures, Distiller, FeatureQueue, Lesson, LocalFeatures, Maps, MapsAt, Projector,
    Term, Width, Widths, dense, local, pushed, queue, queue_rows,
};
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::taps::{Tap, Taps};
use ckd_kernels::{Gradients, Value};

use super::support::*;
use ckd_golden as golden;

const LAST: Tap = Tap::Backbone(4);

/// The projector of a case, with its weights.
fn projector(case: &golden::Case<'_>) -> (Projector, ParamStore) {
    let (weight, bias) = (input(case, "proj_w"), input(case, "proj_b"));
    let (teacher, student) = weight.dims2().unwrap();
    let builder = Builder::new(7, device());
    let projector = Projector::new(&builder, Width { teacher, student }).unwrap();
    let store = builder.finish();
    store.set("projector.weight", &weight.reshape((teacher, student, 1, 1)).unwrap()).unwrap();
    store.set("projector.bias", &bias).unwrap();
    (projector, store)
}

/// Compares the value and the gradients of the student's map and the projector.
fn check(case: &golden::Case<'_>, loss: impl Fn(&Projector, &Value) -> Outcome) {
    let (projector, _store) = projector(case);
    let value = loss(&projector, &Value::leaf("student", input(case, "student"))).unwrap();
    case.check_close("loss", &[value.item().unwrap()]);
    let gradients: Gradients = value.backward().unwrap();
    let names = [("student", "student"), ("proj_w", "projector.weight"), ("proj_b", "projector.bias")];
    for (key, name) in names {
        let gradient = gradients.get(name);
        assert!(gradient.is_none_or(|gradient| gradient.device().same_device(device())));
        let zeros = || vec![0.0; case.f32(key).0.len()];
        case.check_close(&format!("grad_{key}"), &gradient.map(flat).unwrap_or_else(zeros));
    }
}

fn size(map: &Tensor) -> (usize, usize) {
    let (_, _, h, w) = map.dims4().unwrap();
    (h, w)
}

#[test]
fn dense_losses_equal_pytorch() {
    each_next_case("labelfree_dense/", |case| {
        let distance = match case.attrs["kind"].as_str().expect("a kind") {
            "cosine" => CellDistance::Cosine,
            "mse" => CellDistance::Mse,
            "normalised_mse" => CellDistance::NormalisedMse,
            other => panic!("unknown kind {other}"),
        };
        let teacher = input(case, "teacher");
        check(case, |projector, student| {
            dense(&teacher, &projector.at_size(student, size(&teacher))?, distance)
        });
    });
}

#[test]
fn the_losses_of_a_queue_equal_pytorch() {
    each_next_case("labelfree_queue/", |case| {
        let (teacher, held) = (unit(&Value::constant(input(case, "teacher"))), input(case, "queue"));
        let held = match case.attrs["filled"].as_u64() {
            Some(filled) => held.narrow(0, 0, filled as usize).unwrap(),
            None => held,
        };
        let tau = case.attr_f64("tau");
        check(case, |projector, student| queue(teacher.tensor(), &projector.pooled(student)?, &held, tau));
    });
}

#[test]
fn local_losses_equal_pytorch() {
    each_next_case("labelfree_local/", |case| {
        let (teacher, tau) = (input(case, "teacher"), case.attr_f64("tau"));
        check(case, |projector, student| local(&teacher, &projector.at_size(student, size(&teacher))?, tau));
    });
}

#[test]
fn a_queue_moves_and_images_mix_as_in_pytorch() {
    each_next_case("labelfree_queue_update/", |case| {
        let after = pushed(&input(case, "queue"), &input(case, "batch")).unwrap();
        case.check_close("new_queue", &flat(&after));
    });
    each_next_case("labelfree_mixup", |case| {
        let order: Vec<usize> = case.i64("perm").0.into_iter().map(|image| image as usize).collect();
        let mut pixels = case.f32("x").0;
        mix_up(&mut pixels, &order, case.f32("lam").0[0]);
        case.check_close("mixed", &pixels);
    });
}

#[test]
fn gradients_of_the_losses_agree_with_central_differences() {
    let (teacher, student) = (noise(1, &[2, 5, 3, 4]), noise(2, &[2, 5, 3, 4]));
    for distance in [CellDistance::Cosine, CellDistance::Mse, CellDistance::NormalisedMse] {
        check_gradient(&student, 1, 1e-3, |s| dense(&teacher, s, distance));
    }
    check_gradient(&student, 1, 2e-3, |s| local(&teacher, s, 0.5));
    let (targets, held) =
        (unit(&Value::constant(noise(3, &[3, 5]))), unit(&Value::constant(noise(4, &[6, 5]))));
    let rows = noise(5, &[3, 5]);
    check_gradient(&rows, 1, 2e-3, |s| queue(targets.tensor(), &unit(s), held.tensor(), 0.5));
}

#[test]
fn the_cosine_ignores_the_teachers_scale_and_normalised_squares_are_it_by_the_channels() {
    let (teacher, student) = (noise(1, &[2, 5, 3, 4]), noise(2, &[2, 5, 3, 4]));
    let of = |teacher: &Tensor, distance| value_of(&student, |s| dense(teacher, s, distance));
    let cosine = of(&teacher, CellDistance::Cosine);
    assert_close(of(&times(&teacher, 40.0), CellDistance::Cosine), cosine, 1e-6);
    assert_close(of(&teacher, CellDistance::NormalisedMse), cosine * 2.0 / 5.0, 1e-6);
    for distance in [CellDistance::Cosine, CellDistance::Mse, CellDistance::NormalisedMse] {
        assert!(value_of(&teacher, |s| dense(&teacher, s, distance)).abs() < 1e-6);
    }
}

#[test]
fn cells_that_are_alike_in_the_same_way_have_no_local_loss_however_the_space_is_turned() {
    let teacher = noise(1, &[2, 2, 3, 3]);
    // (a, b) to (b, -a): a quarter turn of the two channels.
    let turned =
        computed([&teacher], |[t]| Tensor::cat(&[&t.narrow(1, 1, 1)?, &t.narrow(1, 0, 1)?.neg()?], 1));
    assert!(value_of(&turned, |s| local(&teacher, s, 0.07)).abs() < 1e-5);
    assert!(value_of(&turned, |s| dense(&teacher, s, CellDistance::Cosine)) > 0.5);
}

fn stages(levels: &[&str]) -> Maps {
    Maps { at: MapsAt::Stages, ..maps(levels) }
}

fn widths(teacher: usize, student: usize) -> Widths {
    [(LAST, Width { teacher, student })].into_iter().collect()
}

/// The terms of a lesson on maps of these numbers.
fn terms(method: &dyn Distiller, stream: u64) -> Vec<Term> {
    let (teacher, student) = lesson(stream);
    method.terms(&Lesson::new(&teacher, &student)).unwrap()
}

fn lesson(stream: u64) -> (Taps, Taps) {
    let map = |stream, channels| taps(LAST, Value::constant(noise(stream, &[2, channels, 3, 3])));
    (map(stream, 5), map(stream + 100, 4))
}

#[test]
fn a_queue_holds_the_batch_at_hand_and_remembers_after_the_step_alone() {
    let made = |skip_unfilled| {
        let keys = FeatureQueue { rows: Some(5), skip_unfilled, ..FeatureQueue::new(stages(&["stage4"])) };
        built(&keys, 0, &setting(widths(5, 4))).unwrap()
    };
    let (skipping, counting) = (made(true), made(false));
    let value = |method: &dyn Distiller, stream| terms(method, stream)[0].value.item().unwrap();
    let first = value(&*skipping, 1);
    assert_eq!(first, value(&*skipping, 1), "terms change nothing");
    assert_ne!(first, value(&*counting, 1), "three rows of zeros take part");
    let held = |method: &dyn Distiller, name: &str| {
        flat(method.params().unwrap().get(&format!("distill.0.stage4.{name}")).unwrap().value.tensor())
    };
    for (stream, filled) in [(1, 2.0), (2, 4.0), (3, 5.0)] {
        for method in [&skipping, &counting] {
            let (teacher, student) = lesson(stream);
            method.after_step(&Lesson::new(&teacher, &student)).unwrap();
            assert_eq!(held(&**method, "filled"), [filled]);
        }
    }
    // Newest first, of unit length; the first batch's second image is gone.
    let rows = held(&*skipping, "rows");
    let of = |stream| {
        let (teacher, _) = lesson(stream);
        let map = flat(teacher.get(LAST).unwrap().tensor());
        let mean = |cells: &[f32]| cells.iter().sum::<f32>() / 9.0;
        let means: Vec<f32> = map.chunks_exact(9).map(mean).collect();
        flat(unit(&Value::constant(tensor(&means, &[2, 5]))).tensor())
    };
    let want = [of(3), of(2), of(1)].concat();
    rows.iter().zip(&want).for_each(|(row, want)| assert_close(*row, *want, 1e-6));
    assert_eq!(value(&*skipping, 4), value(&*counting, 4), "a full queue has nothing to skip");
}

#[test]
fn a_queue_is_shorter_than_the_data_set() {
    assert_eq!([16, 16, 32, 64, 4096, 8192], [50, 33, 100, 250, 20_000, 20_001].map(queue_rows));
    assert_eq!((queue_rows(0), queue_rows(1), queue_rows(10)), (8192, 1, 5));
    let keys = FeatureQueue { rows: Some(10), ..FeatureQueue::new(stages(&["stage4"])) };
    let setting = ckd_det::distill::MethodSetting { images: 10, ..setting(widths(5, 4)) };
    let refused = built(&keys, 0, &setting).map(drop).unwrap_err().to_string();
    assert!(refused.contains("10 training images"), "{refused}");
}

#[test]
fn what_projects_is_trained_along_and_starts_small() {
    let methods: [Box<dyn Distiller>; 3] = [
        built(&DenseFeatures::new(stages(&["stage4"])), 0, &setting(widths(5, 4))).unwrap(),
        built(&FeatureQueue::new(stages(&["stage4"])), 0, &setting(widths(5, 4))).unwrap(),
        built(&LocalFeatures::new(stages(&["stage4"])), 0, &setting(widths(5, 4))).unwrap(),
    ];
    for method in &methods {
        let found = terms(&**method, 1);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, format!("{}/stage4", method.name()));
        let store = method.params().unwrap();
        let weight = flat(store.get("distill.0.stage4.projector.weight").unwrap().value.tensor());
        assert!(largest(&weight) < 0.1 && largest(&weight) > 0.0);
        let gradients = found[0].value.backward().unwrap();
        assert!(largest(&flat(&gradients["distill.0.stage4.projector.weight"])) > 0.0, "{}", method.name());
    }
}

#[test]
fn maps_that_do_not_fit_are_errors_and_empty_ones_give_0() {
    let x = Value::constant(noise(2, &[2, 5, 3, 4]));
    let other = noise(1, &[2, 5, 4, 3]);
    let wrong = dense(&other, &x, CellDistance::Cosine).unwrap_err().to_string();
    assert!(wrong.contains("dense: maps"), "{wrong}");
    assert!(local(&other, &x, 0.07).unwrap_err().to_string().contains("local: maps"));
    assert!(local(&noise(1, &[2, 5, 3, 4]), &x, 0.0).unwrap_err().to_string().contains("temperature"));
    let rows = Value::constant(noise(1, &[2, 4]));
    assert!(queue(&noise(1, &[2, 5]), &rows, &noise(1, &[3, 4]), 0.07).is_err());
    assert!(queue(&noise(1, &[2, 4]), &rows, &noise(1, &[3, 5]), 0.07).is_err());
    let none: Tensor = zeros(&[0, 5, 3, 4]);
    let nobody = Value::constant(none.clone());
    assert_eq!(dense(&none, &nobody, CellDistance::Cosine).unwrap().item().unwrap(), 0.0);
    assert_eq!(local(&none, &nobody, 0.07).unwrap().item().unwrap(), 0.0);
}
