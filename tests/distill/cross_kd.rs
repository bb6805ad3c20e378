//! CrossKD: the teacher's head goes on from the student's features.

use candle_core::Tensor;
use ckd_det::distill::{
    CrossKd, Crossing, DistillError, Heads, Lesson, Predictions, RowsAt, aligned, box_difference,
    class_difference,
};
use ckd_detectors::box_coder::{BoxCoder, RegionCoder};
use ckd_detectors::taps::Taps;
use ckd_kernels::elementwise::{add, permute, relu, reshape};
use ckd_kernels::losses::quality_focal_loss;
use ckd_kernels::{Conv2dConfig, Epilogue, Value, conv2d};

use super::support::*;
use ckd_golden as golden;

#[test]
fn aligned_maps_equal_pytorchs() {
    each_next_case("crosskd_align/", |case| {
        let (student, teacher) = (Value::leaf("student", input(case, "student")), input(case, "teacher"));
        let out = aligned(&teacher, &student).unwrap();
        case.check_close("out", &flat(out.tensor()));
        if case.outputs().contains(&"grad_student") {
            let gradients = out.backward_from(&input(case, "g")).unwrap();
            case.check_close("grad_student", &flat(&gradients["student"]));
        }
    });
}

fn counts(case: &golden::Case<'_>) -> Vec<bool> {
    case.f32("valid").0.iter().map(|valid| *valid != 0.0).collect()
}

#[test]
fn the_quality_focal_loss_equals_pytorchs() {
    each_next_case("crosskd_qfl/", |case| {
        let (teacher, counts) = (input(case, "teacher"), counts(case));
        check_case(case, "loss", &["student"], |leaves| {
            let (beta, divisor) = (case.attr_f64("beta"), case.attr_f64("avg_factor"));
            Ok(quality_focal_loss(&leaves[0], &teacher, &counts, beta, divisor)?)
        });
    });
}

/// The rest of a golden teacher's head behind convolution `idx`, as rows of `width` numbers.
fn behind(case: &golden::Case<'_>, head: &str, map: &Value, width: usize) -> Value {
    let conv = |x: &Value, name: String| {
        let constant = |key: String| Value::constant(input(case, &key));
        let bias = constant(format!("{name}_b"));
        let epilogue = Epilogue { shift: Some(&bias), ..Epilogue::default() };
        conv2d(x, &constant(format!("{name}_w")), Conv2dConfig::new(1, 1), epilogue).unwrap()
    };
    let idx = case.attr_usize("idx");
    let mut x = if idx > 0 { relu(map).unwrap() } else { map.clone() };
    for layer in idx..case.attr_usize("convs") {
        x = relu(&conv(&x, format!("{head}_conv{layer}"))).unwrap();
    }
    let out = permute(&conv(&x, format!("{head}_pred")), &[0, 2, 3, 1]).unwrap();
    reshape(&out, &[out.tensor().elem_count() / width, width]).unwrap()
}

#[test]
fn cross_predictions_and_their_losses_equal_pytorchs() {
    each_next_case("crosskd_head/", |case| {
        let classes = case.attr_usize("classes");
        let crossing = |leaves: &[Value]| {
            let teacher = |key: &str| Value::constant(input(case, key));
            let (of_class, of_box) = (teacher("teacher_cls"), teacher("teacher_reg"));
            let of = |teacher: &Value, student: &Value| aligned(teacher.tensor(), student).unwrap();
            let images = of_class.dims()[0];
            Crossing {
                crossed: Predictions {
                    logits: behind(case, "cls", &of(&of_class, &leaves[0]), classes),
                    deltas: behind(case, "reg", &of(&of_box, &leaves[1]), 4),
                },
                teacher: Predictions {
                    logits: behind(case, "cls", &of_class, classes),
                    deltas: behind(case, "reg", &of_box, 4),
                },
                anchors: case.boxes("anchors").repeat(images),
                coder: RegionCoder::Deltas(BoxCoder::ANCHORS),
                counts: counts(case),
                divisor: case.attr_f64("avg_factor"),
            }
        };
        let inputs = ["student_cls", "student_reg"];
        let constants = inputs.map(|key| Value::constant(input(case, key)));
        let found = crossing(&constants);
        case.check_close("reused_cls", &flat(found.crossed.logits.tensor()));
        case.check_close("reused_reg", &flat(found.crossed.deltas.tensor()));
        case.check_close("loss_cls", &[class_difference(&found, 1.0).unwrap().item().unwrap()]);
        case.check_close("loss_reg", &[box_difference(&found).unwrap().item().unwrap()]);
        check_case(case, "loss", &inputs, |leaves| {
            let crossing = crossing(leaves);
            Ok(add(&class_difference(&crossing, case.attr_f64("beta"))?, &box_difference(&crossing)?)?)
        });
    });
}

/// Predictions for points of strides 4, 8 and 16.
fn crossed_points(crossed: Predictions, teacher: Predictions, counts: Vec<bool>, divisor: f64) -> Crossing {
    let square = |at: usize| {
        let (corner, side) = (20.0 * at as f32, [4.0, 8.0, 16.0][at % 3]);
        [corner, 300.0 - corner, corner + side, 300.0 - corner + side]
    };
    let anchors = (0..counts.len()).map(square).collect();
    Crossing { crossed, teacher, anchors, coder: RegionCoder::Distances, counts, divisor }
}

#[test]
fn losses_of_points_equal_pytorchs() {
    own_case("cross_kd/points", |case| {
        let of = |logits: &Value, distances: &Value| {
            let teacher = |key: &str| Value::constant(input(case, key));
            let theirs =
                Predictions { logits: teacher("teacher_logits"), deltas: teacher("teacher_distances") };
            let counts = case.f32("counts").0.iter().map(|counts| *counts != 0.0).collect();
            let crossed = Predictions { logits: logits.clone(), deltas: distances.clone() };
            crossed_points(crossed, theirs, counts, case.attr_f64("divisor"))
        };
        let constant = |key: &str| Value::constant(input(case, key));
        let found = of(&constant("logits"), &constant("distances"));
        case.check_close("loss_cls", &[class_difference(&found, 1.0).unwrap().item().unwrap()]);
        case.check_close("loss_reg", &[box_difference(&found).unwrap().item().unwrap()]);
        check_case(case, "loss", &["logits", "distances"], |leaves| {
            let found = of(&leaves[0], &leaves[1]);
            Ok(add(&class_difference(&found, 1.0)?, &box_difference(&found)?)?)
        });
    });
}

#[test]
fn boxes_of_points_have_no_loss_at_the_teachers_and_a_network_that_diverged_shows() {
    let logits = Value::constant(noise(1, &[5, 3]));
    let distances = computed([&noise(2, &[5, 4])], |[d]| d + 2.0);
    let of = |ours: &Value| {
        let theirs = Value::constant(distances.clone());
        let crossed = Predictions { logits: logits.clone(), deltas: ours.clone() };
        let teacher = Predictions { logits: logits.clone(), deltas: theirs };
        box_difference(&crossed_points(crossed, teacher, vec![true; 5], 2.0))
    };
    assert!(value_of(&distances, of).abs() < 1e-5);
    // All sides move away from the teacher's by more than a step.
    let farther =
        computed([&distances, &tensor(&[0.5, -0.4, 0.3, -0.6], &[1, 4])], |[d, by]| d.broadcast_add(&by));
    assert!(value_of(&farther, of) > 0.1);
    check_gradient(&farther, 1, 1e-3, of);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut values = flat(&farther);
        values[5] = bad;
        let value = of(&Value::constant(tensor(&values, &[5, 4]))).unwrap().item().unwrap();
        assert!(!value.is_finite(), "{bad} is hidden");
    }
}

#[test]
fn an_aligned_map_has_the_teachers_channels_whatever_the_students_scale() {
    let (teacher, student) = (noise(1, &[2, 3, 4, 5]), noise(2, &[2, 3, 4, 5]));
    let of = |s: &Tensor| flat(aligned(&teacher, &Value::constant(s.clone())).unwrap().tensor());
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).for_each(|(a, b)| assert_close(*a, *b, 2e-5));
    close(&of(&teacher), &flat(&teacher));
    close(&of(&computed([&student], |[s]| (s * 3.0)? + 2.0)), &of(&student));
    let dead = aligned(&teacher, &Value::leaf("s", zeros(&[2, 3, 4, 5]))).unwrap();
    let gradient = flat(&dead.backward_from(&noise(3, &[2, 3, 4, 5])).unwrap()["s"]);
    assert!(largest(&gradient) < 1e4, "a dead channel's gradient is bounded: {}", largest(&gradient));
    let wrong = aligned(&noise(1, &[2, 3, 4, 4]), &Value::constant(student)).unwrap_err().to_string();
    assert!(wrong.contains("cross_kd: maps"), "{wrong}");
}

#[test]
fn the_quality_focal_loss_is_0_at_the_teacher_and_its_gradients_agree_with_central_differences() {
    let (teacher, student) = (times(&noise(1, &[5, 4]), 3.0), times(&noise(2, &[5, 4]), 3.0));
    let counts = [true, true, false, true, true];
    for beta in [0.5, 1.0, 2.0] {
        let of = |s: &Value| Ok(quality_focal_loss(s, &teacher, &counts, beta, 2.0)?);
        assert!(value_of(&teacher, of).abs() < 1e-6);
        let (_, gradient) = evaluate(&student, of);
        assert_eq!(&gradient[8..12], [0.0; 4], "a row that does not count");
        check_gradient(&student, 1, 5e-3, of);
    }
    for bad in [f32::NAN, f32::INFINITY] {
        let mut values = flat(&student);
        values[1] = bad;
        let student = Value::constant(tensor(&values, &[5, 4]));
        let value = quality_focal_loss(&student, &teacher, &counts, 1.0, 2.0).unwrap();
        assert!(!value.item().unwrap().is_finite(), "{bad} is hidden");
    }
}

#[derive(Debug)]
struct Same(Predictions);

impl Heads for Same {
    fn crossed(&self, convs: usize, entry: &str) -> Result<Crossing, DistillError> {
        assert_eq!((convs, entry), (3, "it"));
        Ok(Crossing {
            crossed: self.0.clone(),
            teacher: self.0.clone(),
            anchors: vec![[0.0, 0.0, 20.0, 30.0]; 5],
            coder: RegionCoder::Deltas(BoxCoder::ANCHORS),
            counts: vec![true; 5],
            divisor: 1.0,
        })
    }
}

#[test]
fn equal_heads_on_equal_features_have_no_loss_and_networks_without_heads_are_an_error() {
    let of = |width: usize| Value::constant(noise(width as u64, &[5, width]));
    let heads = Same(Predictions { logits: of(3), deltas: of(4) });
    let none = Taps::default();
    let method = plain(&CrossKd::new(rows(RowsAt::AnchorBoxes)));
    let lesson = Lesson { heads: Some(&heads), entry: "it", ..Lesson::new(&none, &none) };
    let terms = method.terms(&lesson).unwrap();
    assert_eq!(
        terms.iter().map(|term| &*term.name).collect::<Vec<_>>(),
        ["cross_kd/anchor_logits", "cross_kd/anchor_boxes"]
    );
    assert!(terms.iter().all(|term| term.value.item().unwrap().abs() < 1e-6));
    let wrong = terms_of(&*method, &none, &none).unwrap_err().to_string();
    assert!(wrong.contains("dense heads of anchors"), "{wrong}");
}
