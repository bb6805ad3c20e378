//! Methods over rows: KD, DKD, DIST, LD, RKD, ICD, CRD.

use candle_core::Tensor;
use ckd_det::distill::{
    ByClass, Crd, Direction, Distiller, Dkd, Icd, IcdPart, Lesson, Memory, MethodSetting, Part,
    Probabilities, Relation, RkdRelation, RowsAt, Scale, Width, Widths, crd, dist, dkd, icd, kd, remember,
    rkd,
};
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::elementwise::{add, weighted_sum};

use super::support::*;
use ckd_golden as golden;

const INTER: Relation = Relation::Inter;
const INTRA: Relation = Relation::Intra;
const SOFTMAX: Probabilities = Probabilities::Softmax;

// ---- golden values

#[test]
fn kd_equals_pytorch() {
    golden::each_case("kd/", |case| {
        let (teacher, temperature) = (input(case, "teacher"), case.attr_f64("T"));
        check_case(case, "loss", &["student"], |leaves| kd(&teacher, &leaves[0], temperature));
    });
}

#[test]
fn dkd_equals_pytorch() {
    golden::each_case("dkd/", |case| {
        let (teacher, labels, temperature) =
            (input(case, "teacher"), labels(case, "labels"), case.attr_f64("T"));
        let part = |s: &Value, part| dkd(&teacher, s, &labels, temperature, part);
        let student = input(case, "student");
        case.check_close("tckd", &[value_of(&student, |s| part(s, Part::Target))]);
        case.check_close("nckd", &[value_of(&student, |s| part(s, Part::Others))]);
        let (alpha, beta) = (case.attr_f64("alpha"), case.attr_f64("beta"));
        check_case(case, "loss", &["student"], |leaves| {
            let (target, others) = (part(&leaves[0], Part::Target)?, part(&leaves[0], Part::Others)?);
            Ok(weighted_sum(&[(&target, alpha), (&others, beta)])?)
        });
    });
}

#[test]
fn dist_equals_pytorch() {
    golden::each_case("dist/", |case| {
        let (teacher, temperature) = (input(case, "teacher"), case.attr_f64("tau"));
        let term = |s: &Value, relation| dist(&teacher, s, temperature, SOFTMAX, relation);
        let student = input(case, "student");
        case.check_close("inter", &[value_of(&student, |s| term(s, INTER))]);
        case.check_close("intra", &[value_of(&student, |s| term(s, INTRA))]);
        check_case(case, "loss", &["student"], |leaves| {
            Ok(add(&term(&leaves[0], INTER)?, &term(&leaves[0], INTRA)?)?)
        });
    });
}

#[test]
fn rkd_equals_pytorch() {
    golden::each_case("rkd", |case| {
        let (teacher, student) = (input(case, "teacher"), input(case, "student"));
        let term = |s: &Value, relation| rkd(&teacher, s, relation);
        case.check_close("distance", &[value_of(&student, |s| term(s, RkdRelation::Distance))]);
        case.check_close("angle", &[value_of(&student, |s| term(s, RkdRelation::Angle))]);
        let (distance, angle) = (case.attr_f64("distance"), case.attr_f64("angle"));
        check_case(case, "loss", &["student"], |leaves| {
            let terms = [term(&leaves[0], RkdRelation::Distance)?, term(&leaves[0], RkdRelation::Angle)?];
            Ok(weighted_sum(&[(&terms[0], distance), (&terms[1], angle)])?)
        });
    });
}

/// Unit rows of x Wᵀ + b.
fn head(x: &Value, weight: &Value, bias: &Value) -> Value {
    let y = ckd_kernels::linear(x, weight, Some(bias), ckd_kernels::linear::Activation::Identity).unwrap();
    ckd_kernels::normalize::l2_normalize_rows(&y, 1e-12).unwrap()
}

#[test]
fn icd_equals_pytorch() {
    const INVARIANCE: IcdPart = IcdPart::Invariance(Direction::TeacherAnchors);
    golden::each_case("icd/", |case| {
        let teacher = Value::constant(input(case, "ft"));
        let part = |leaves: &[Value], part: IcdPart| -> Outcome {
            let [fs, es_w, es_b, et_w, et_b, theta, b] = leaves else { unreachable!("seven inputs") };
            icd(&head(fs, es_w, es_b), &head(&teacher, et_w, et_b), theta, b, part)
        };
        let inputs = ["fs", "Es_w", "Es_b", "Et_w", "Et_b", "theta", "b"];
        let constants: Vec<Value> = inputs.iter().map(|key| Value::constant(input(case, key))).collect();
        let value = |wanted: IcdPart| part(&constants, wanted).unwrap().item().unwrap();
        case.check_close("contrastive", &[value(IcdPart::Contrast)]);
        case.check_close("invariance", &[value(INVARIANCE)]);
        let alpha = case.attr_f64("alpha");
        check_case(case, "loss", &inputs, |leaves| {
            let (contrast, invariance) = (part(leaves, IcdPart::Contrast)?, part(leaves, INVARIANCE)?);
            Ok(weighted_sum(&[(&contrast, 1.0), (&invariance, alpha)])?)
        });
    });
}

#[test]
fn crd_equals_pytorch() {
    golden::each_case("crd", |case| {
        if case.name != "crd" {
            return;
        }
        let (idx, shape) = case.i64("idx");
        assert_eq!(shape[1], case.attr_usize("K") + 1);
        let drawn: Vec<u32> = idx.into_iter().map(|at| at as u32).collect();
        // Z belongs to a direction: Z_s to the student's likenesses to the teacher's memory.
        let memory = |bank: &str, z: &str| Memory {
            rows: input(case, bank),
            normalizer: input(case, z).reshape(1).unwrap(),
        };
        let (teachers, students) = (memory("bank_t", "Z_s"), memory("bank_s", "Z_t"));
        let tau = case.attr_f64("tau");
        let constant = |key: &str| Value::constant(input(case, key));
        let value =
            |key: &str, memory: &Memory| crd(&constant(key), memory, &drawn, tau).unwrap().item().unwrap();
        case.check_close("contrast_s", &[value("u", &teachers)]);
        case.check_close("contrast_t", &[value("v", &students)]);
        check_case(case, "loss", &["u", "v"], |leaves| {
            Ok(add(&crd(&leaves[0], &teachers, &drawn, tau)?, &crd(&leaves[1], &students, &drawn, tau)?)?)
        });
    });
}

#[test]
fn the_memory_of_crd_moves_as_pytorchs() {
    golden::each_case("crd_bank_update", |case| {
        // The samples of the batch are the positives of the loss.
        let (idx, shape) = case.beside("crd").i64("idx");
        let samples: Vec<u32> = idx.chunks(shape[1]).map(|row| row[0] as u32).collect();
        assert_eq!(samples.len(), case.attr_usize("rows"));
        for (bank, new, output) in [("bank_s", "u", "new_bank_s_rows"), ("bank_t", "v", "new_bank_t_rows")] {
            let memory = input(case, bank).copy().unwrap();
            remember(&memory, &samples, &input(case, new), case.attr_f64("momentum")).unwrap();
            case.check_close(output, &flat(&permuted(&memory, &samples)));
        }
    });
}

// ---- identities

type Loss = Box<dyn Fn(&Tensor, &Value) -> Outcome>;

fn methods_of_logits() -> Vec<(&'static str, Loss)> {
    let labels = |rows: usize| (0..rows as u32).map(|i| i % 3).collect::<Vec<u32>>();
    vec![
        ("kd 1", Box::new(|t, s| kd(t, s, 1.0))),
        ("kd 4", Box::new(|t, s| kd(t, s, 4.0))),
        ("dkd target", Box::new(move |t, s| dkd(t, s, &labels(t.dims()[0]), 2.0, Part::Target))),
        ("dkd others", Box::new(move |t, s| dkd(t, s, &labels(t.dims()[0]), 2.0, Part::Others))),
        ("dist inter", Box::new(|t, s| dist(t, s, 1.0, SOFTMAX, INTER))),
        ("dist intra", Box::new(|t, s| dist(t, s, 1.0, SOFTMAX, INTRA))),
        ("dist sigmoid inter", Box::new(|t, s| dist(t, s, 1.0, Probabilities::Sigmoid, INTER))),
        ("dist sigmoid intra", Box::new(|t, s| dist(t, s, 1.0, Probabilities::Sigmoid, INTRA))),
        ("rkd distance", Box::new(|t, s| rkd(t, s, RkdRelation::Distance))),
        ("rkd angle", Box::new(|t, s| rkd(t, s, RkdRelation::Angle))),
    ]
}

#[test]
fn losses_of_logits_vanish_at_the_teacher_and_their_gradients_agree_with_central_differences() {
    let (t, s) = (noise(1, &[7, 5]), noise(2, &[7, 5]));
    for (name, loss) in methods_of_logits() {
        let (at_teacher, gradient) = evaluate(&t, |s| loss(&t, s));
        assert!(at_teacher.abs() < 3e-6, "{name}: {at_teacher}");
        assert!(largest(&gradient) < 1e-6, "{name}: {gradient:?}");
        assert!(value_of(&s, |s| loss(&t, s)) > 1e-5, "{name} sees no difference");
        check_gradient(&s, 1, 1e-3, |s| loss(&t, s));
    }
}

#[test]
fn losses_of_logits_pair_rows_and_survive_extremes() {
    let (t, s) = (noise(1, &[6, 5]), noise(2, &[6, 5]));
    // Labels are i mod 3: swapping halves keeps them in place.
    let order = [3, 4, 5, 0, 1, 2];
    for (name, loss) in methods_of_logits() {
        let value = value_of(&s, |s| loss(&t, s));
        let moved = value_of(&permuted(&s, &order), |s| loss(&permuted(&t, &order), s));
        assert!((value - moved).abs() <= 1e-5 * value.abs().max(1.0), "{name}: {value} {moved}");
        for rows in [0, 1] {
            let (t, s) = (noise(1, &[rows, 5]), noise(2, &[rows, 5]));
            let (value, gradient) = evaluate(&s, |s| loss(&t, s));
            assert!(value.is_finite() && gradient.iter().all(|g| g.is_finite()), "{name}, {rows} rows");
        }
        let hard = times(&t, 1e4);
        for (t, s) in [(&hard, &s), (&s, &hard), (&zeros(&[6, 5]), &s), (&s, &zeros(&[6, 5]))] {
            let (value, gradient) = evaluate(s, |s| loss(t, s));
            assert!(value.is_finite() && gradient.iter().all(|g| g.is_finite()), "{name}: {value}");
        }
        for bad in [f32::NAN, f32::INFINITY] {
            let mut values = flat(&s);
            values[7] = bad;
            let student = Value::leaf("s", tensor(&values, &[6, 5]));
            assert!(!loss(&t, &student).unwrap().item().unwrap().is_finite(), "{name} hides {bad}");
        }
        let wrong = loss(&t, &Value::constant(noise(2, &[5, 5]))).unwrap_err().to_string();
        assert!(
            wrong.contains("[6, 5]") && wrong.contains("[5, 5]") || wrong.contains("weights"),
            "{name}: {wrong}"
        );
    }
}

#[test]
fn one_class_leaves_nothing_to_decouple() {
    let (t, s) = (noise(1, &[4, 1]), noise(2, &[4, 1]));
    for part in [Part::Target, Part::Others] {
        let (value, gradient) = evaluate(&s, |s| dkd(&t, s, &[0; 4], 1.0, part));
        assert_eq!((value, gradient), (0.0, vec![0.0; 4]));
    }
    assert!(dkd(&t, &Value::constant(s.clone()), &[0, 1, 0, 0], 1.0, Part::Target).is_err(), "no such class");
    assert!(dkd(&t, &Value::constant(s), &[0; 3], 1.0, Part::Target).is_err(), "a label is missing");
}

#[test]
fn kd_is_tckd_plus_what_the_teacher_leaves_to_the_others_times_nckd() {
    let (t, s) = (noise(1, &[1, 6]), noise(2, &[1, 6]));
    for label in 0..6u32 {
        for temperature in [1.0, 4.0] {
            let part = |part| f64::from(value_of(&s, |s| dkd(&t, s, &[label], temperature, part)));
            let exponentials: Vec<f64> =
                flat(&t).iter().map(|x| (f64::from(*x) / temperature).exp()).collect();
            let p = exponentials[label as usize] / exponentials.iter().sum::<f64>();
            let want = part(Part::Target) + (1.0 - p) * part(Part::Others);
            assert_close(value_of(&s, |s| kd(&t, s, temperature)), want as f32, 1e-6);
        }
    }
}

#[test]
fn kd_at_a_high_temperature_is_half_the_mean_squared_difference_of_centred_logits() {
    let (t, s) = (noise(1, &[3, 8]), noise(2, &[3, 8]));
    let mut want = 0.0;
    for (t, s) in flat(&t).chunks(8).zip(flat(&s).chunks(8)) {
        let mean = |x: &[f32]| x.iter().map(|x| f64::from(*x)).sum::<f64>() / 8.0;
        let square =
            |(t_i, s_i): (&f32, &f32)| (f64::from(*s_i) - mean(s) - f64::from(*t_i) + mean(t)).powi(2);
        want += t.iter().zip(s).map(square).sum::<f64>() / (2.0 * 8.0) / 3.0;
    }
    // At 100 the next order is a hundredth away; more would drown in the rounding of f32.
    assert_close(value_of(&s, |s| kd(&t, s, 100.0)), want as f32, 0.01);
}

#[test]
fn dist_does_not_see_affine_maps_of_probabilities() {
    // Probabilities of two classes are affine in each other: every such student correlates perfectly by rows.
    let (t, s) = (noise(1, &[5, 2]), noise(2, &[5, 2]));
    let signs: Vec<f32> = flat(&t)
        .chunks(2)
        .zip(flat(&s).chunks(2))
        .map(|(t, s)| ((t[0] - t[1]) * (s[0] - s[1])).signum())
        .collect();
    let want = 1.0 - signs.iter().sum::<f32>() / 5.0;
    assert_close(value_of(&s, |s| dist(&t, s, 1.0, SOFTMAX, INTER)), want, 1e-4);
}

#[test]
fn rkd_sees_neither_where_samples_lie_nor_how_they_are_turned() {
    let (t, s) = (noise(1, &[7, 4]), noise(2, &[7, 2]));
    let (sin, cos) = 0.7f32.sin_cos();
    let turn = tensor(&[cos, sin, -sin, cos], &[2, 2]);
    let turned =
        computed([&s, &turn, &noise(3, &[1, 2])], |[s, turn, by]| s.matmul(&turn)?.broadcast_add(&by));
    for relation in [RkdRelation::Distance, RkdRelation::Angle] {
        let value = |s: &Tensor| value_of(s, |s| rkd(&t, s, relation));
        assert_close(value(&turned), value(&s), 1e-5);
        assert_close(value(&times(&s, 5.0)), value(&s), 1e-5);
    }
}

#[test]
fn equal_samples_have_no_relation_that_pulls() {
    let same = tensor(&[0.5, -1.0, 0.5, -1.0, 0.5, -1.0], &[3, 2]);
    for relation in [RkdRelation::Distance, RkdRelation::Angle] {
        let (value, gradient) = evaluate(&same, |s| rkd(&noise(1, &[3, 4]), s, relation));
        assert!(value.is_finite() && gradient.iter().all(|&g| g == 0.0), "{relation:?}: {gradient:?}");
    }
}

fn icd_part(s: &Tensor, t: &Tensor, theta: f32, part: IcdPart) -> f32 {
    let number = |value: f32| Value::constant(tensor(&[value], &[1]));
    let unit =
        |x: &Tensor| ckd_kernels::normalize::l2_normalize_rows(&Value::constant(x.clone()), 1e-12).unwrap();
    icd(&unit(s), &unit(t), &number(theta), &number(0.0), part).unwrap().item().unwrap()
}

#[test]
fn the_invariance_of_icd_is_never_negative_and_0_for_equal_sides() {
    let (t, s) = (noise(1, &[9, 6]), noise(2, &[9, 6]));
    for direction in [Direction::TeacherAnchors, Direction::StudentAnchors] {
        let part = IcdPart::Invariance(direction);
        assert!(icd_part(&t, &t, 1.0, part).abs() < 1e-6);
        assert!(icd_part(&s, &t, 1.0, part) > 1e-4);
    }
    let k = 1f32.exp();
    assert!(icd_part(&s, &t, 1.0, IcdPart::Contrast) <= 9f32.ln() + 2.0 * k);
    for rows in [0, 1] {
        let (t, s) = (noise(1, &[rows, 6]), noise(2, &[rows, 6]));
        assert_eq!(icd_part(&s, &t, 1.0, IcdPart::Contrast), 0.0);
    }
}

#[test]
fn both_directions_of_icd_agree_with_central_differences() {
    let theta = Value::constant(tensor(&[0.8], &[1]));
    let b = Value::constant(tensor(&[0.0], &[1]));
    let t = Value::constant(noise(1, &[5, 4]));
    for direction in [Direction::TeacherAnchors, Direction::StudentAnchors] {
        let s = noise(2, &[5, 4]);
        check_gradient(&s, 1, 1e-3, |s| icd(s, &t, &theta, &b, IcdPart::Invariance(direction)));
        check_gradient(&s, 1, 1e-3, |s| icd(&t, s, &theta, &b, IcdPart::Invariance(direction)));
    }
}

fn widths(at: Tap, teacher: usize, student: usize) -> Widths {
    [(at, Width { teacher, student })].into_iter().collect()
}

#[test]
fn icd_trains_its_heads_and_its_scale_but_not_the_teacher_and_b_never_moves() {
    let at = Tap::Embedding;
    let keys = Icd { width: 8, ..Icd::new(rows(RowsAt::Embedding)) };
    let setting = setting(widths(at, 6, 5));
    let method = built(&keys, 0, &setting).unwrap();
    let names: Vec<String> = method.params().unwrap().trainable().map(|(name, _)| name.to_string()).collect();
    assert_eq!(
        names,
        [
            "distill.0.scale.b",
            "distill.0.scale.theta",
            "distill.0.student.bias",
            "distill.0.student.weight",
            "distill.0.teacher.bias",
            "distill.0.teacher.weight"
        ]
    );
    let teacher = taps(at, Value::constant(noise(1, &[7, 6])));
    let student = taps(at, Value::leaf("s", noise(2, &[7, 5])));
    let terms = terms_of(&*method, &teacher, &student).unwrap();
    let named: Vec<(&str, f64)> = terms.iter().map(|term| (term.name.as_str(), term.weight)).collect();
    assert_eq!(named, [("icd/embedding/contrast", 1.0), ("icd/embedding/invariance", 0.5)]);
    let gradients = total(&terms).unwrap().backward().unwrap();
    for name in names.iter().map(String::as_str).chain(["s"]) {
        let size = largest(&flat(&gradients[name]));
        assert_eq!(size > 1e-6, name != "distill.0.scale.b", "{name}: {size}");
    }
    let fixed = built(&Icd { scale: Scale::Fixed, ..keys }, 0, &setting).unwrap();
    assert_eq!(fixed.params().unwrap().trainable().count(), 4);
}

fn crd_method(classes: Vec<u32>) -> Box<dyn Distiller> {
    let keys = Crd { negatives: 5, width: 4, ..Crd::new(rows(RowsAt::Embedding)) };
    let setting = MethodSetting { classes, ..setting(widths(Tap::Embedding, 6, 5)) };
    built(&keys, 0, &setting).unwrap()
}

#[test]
fn crd_fixes_its_scale_at_the_first_batch_and_remembers_what_it_saw() {
    let method = crd_method((0..12).map(|i| i % 4).collect());
    let teacher = taps(Tap::Embedding, Value::constant(noise(1, &[3, 6])));
    let student = taps(Tap::Embedding, Value::leaf("s", noise(2, &[3, 5])));
    let stored = |name: &str| flat(method.params().unwrap().get(name).unwrap().value.tensor());
    let before = stored("distill.0.students.rows");
    assert_eq!(stored("distill.0.students.normalizer"), [0.0]);
    let lesson = Lesson { samples: &[3, 7, 11], seed: 5, ..Lesson::new(&teacher, &student) };
    let terms = method.terms(&lesson).unwrap();
    let names: Vec<&str> = terms.iter().map(|term| term.name.as_str()).collect();
    assert_eq!(names, ["crd/embedding/student", "crd/embedding/teacher"]);
    let gradients = total(&terms).unwrap().backward().unwrap();
    assert!(largest(&flat(&gradients["s"])) > 0.0);
    assert_eq!(stored("distill.0.students.normalizer"), [0.0], "terms change nothing");
    assert_eq!(stored("distill.0.students.rows"), before, "terms change nothing");
    method.after_step(&lesson).unwrap();
    let z = stored("distill.0.students.normalizer");
    assert!(z[0] > 0.0);
    let after = stored("distill.0.students.rows");
    for (sample, (before, after)) in before.chunks(4).zip(after.chunks(4)).enumerate() {
        assert_eq!(before != after, [3, 7, 11].contains(&sample), "sample {sample}");
        if before != after {
            assert_close(after.iter().map(|x| x * x).sum(), 1.0, 1e-5);
        }
    }
    let again = method.terms(&lesson).unwrap();
    assert_ne!(again[0].value.item().unwrap(), terms[0].value.item().unwrap(), "the memory has moved");
    method.after_step(&lesson).unwrap();
    assert_eq!(stored("distill.0.students.normalizer"), z, "set once");
    let outside = Lesson { samples: &[12, 0, 1], ..lesson };
    assert!(method.terms(&outside).unwrap_err().to_string().contains("sample 12 of 12"));
}

#[test]
fn negatives_are_of_other_classes_and_drawn_alike_for_the_same_seed() {
    let classes: Vec<u32> = (0..30).map(|i| i % 3).collect();
    let samples = ByClass::new(classes.clone()).unwrap();
    let drawn = samples.negatives(&[4, 9], 20, 1).unwrap();
    assert_eq!(drawn, samples.negatives(&[4, 9], 20, 1).unwrap());
    assert_ne!(drawn, samples.negatives(&[4, 9], 20, 2).unwrap());
    for (row, sample) in drawn.chunks(21).zip([4u32, 9]) {
        assert_eq!(row[0], sample);
        assert!(row[1..].iter().all(|&at| classes[at as usize] != classes[sample as usize]));
        let mut distinct = row.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 21, "without replacement while there are enough");
    }
    let two = ByClass::new(vec![0, 1]).unwrap();
    assert_eq!(two.negatives(&[0], 4, 1).unwrap(), [0, 1, 1, 1, 1], "with replacement where there are not");
    let alone = Crd { negatives: 1, width: 2, ..Crd::new(rows(RowsAt::Embedding)) };
    let setting = MethodSetting { classes: vec![3; 5], ..setting(widths(Tap::Embedding, 2, 2)) };
    assert!(built(&alone, 0, &setting).is_err());
}

#[test]
fn dkd_needs_the_classes_of_its_rows() {
    let dkd = plain(&Dkd::new(rows(RowsAt::RoiLogits)));
    let teacher = taps(Tap::RoiLogits, Value::constant(noise(1, &[4, 3])));
    let student = taps(Tap::RoiLogits, Value::leaf("s", noise(2, &[4, 3])));
    let error = terms_of(&*dkd, &teacher, &student).unwrap_err().to_string();
    assert!(
        error.starts_with("at roi_logits: dkd") && error.contains("4 rows need as many labels"),
        "{error}"
    );
    let lesson = Lesson { labels: &[0, 2, 1, 0], ..Lesson::new(&teacher, &student) };
    let terms = dkd.terms(&lesson).unwrap();
    let named: Vec<(&str, f64)> = terms.iter().map(|term| (term.name.as_str(), term.weight)).collect();
    assert_eq!(named, [("dkd/roi_logits/target", 1.0), ("dkd/roi_logits/others", 0.25)]);
}

// ---- golden values of our own

#[test]
fn icds_other_direction_and_dists_sigmoids_equal_pytorch() {
    own_case("icd/student_anchors", |case| {
        let b = Value::constant(zeros(&[1]));
        let unit = |x: &Value| ckd_kernels::normalize::l2_normalize_rows(x, 1e-12).unwrap();
        check_case(case, "loss", &["s", "t", "theta"], |leaves| {
            let part = IcdPart::Invariance(Direction::StudentAnchors);
            icd(&unit(&leaves[0]), &unit(&leaves[1]), &leaves[2], &b, part)
        });
    });
    own_case("dist/sigmoid", |case| {
        let (teacher, tau) = (input(case, "teacher"), case.attr_f64("tau"));
        let term = |s: &Value, relation| dist(&teacher, s, tau, Probabilities::Sigmoid, relation);
        let student = input(case, "student");
        case.check_close("inter", &[value_of(&student, |s| term(s, INTER))]);
        case.check_close("intra", &[value_of(&student, |s| term(s, INTRA))]);
        check_case(case, "loss", &["student"], |leaves| {
            Ok(add(&term(&leaves[0], INTER)?, &term(&leaves[0], INTRA)?)?)
        });
    });
}
