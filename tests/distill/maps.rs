//! Methods over feature maps: FitNet, AT, ReviewKD, PKD, CWD, FGFI, FGD.

use candle_core::Tensor;
use ckd_det::distill::{
    Abf, Cwd, Distill, Distiller, Fgd, Fgfi, FitNet, Lesson, Method, MethodSetting, Mgd, Mimic, Pkd,
    ReviewKd, Std, Width, Widths, attention_difference, attention_transfer, box_masks, cwd, focal_difference,
    hcl, imitation_mask, masked_imitation, mean_squared_difference, pkd,
};
use ckd_detectors::anchors::AnchorGenerator;
use ckd_detectors::boxes::Xyxy;
use ckd_detectors::taps::{Level, Tap, Taps};
use ckd_kernels::elementwise::concatenate;
use ckd_kernels::upsample::upsample_nearest;
use ckd_kernels::{Conv2dConfig, Epilogue, Value, conv2d};

use super::support::*;
use ckd_golden as golden;

type Loss = Box<dyn Fn(&Tensor, &Value) -> Outcome>;

// ---- golden values

fn check_maps(prefix: &str, loss: impl Fn(&golden::Case<'_>, &Tensor, &Value) -> Outcome) {
    golden::each_case(prefix, |case| {
        let teacher = input(case, "teacher");
        check_case(case, "loss", &["student"], |leaves| loss(case, &teacher, &leaves[0]));
    });
}

#[test]
fn losses_of_maps_equal_pytorchs() {
    check_maps("fitnet_identity", |_, t, s| mean_squared_difference(t, s));
    check_maps("at/", |_, t, s| attention_transfer(t, s));
    check_maps("review_hcl/", |_, t, s| hcl(t, s));
    check_maps("cwd/", |case, t, s| cwd(t, s, case.attr_f64("tau")));
    check_maps("pkd/", |case, t, s| {
        let std = if case.attrs["unbiased"].as_bool().unwrap() { Std::Sample } else { Std::Population };
        pkd(t, s, std)
    });
}

#[test]
fn a_fusion_of_reviewkd_equals_pytorchs() {
    golden::each_case("review_abf_no_bn", |case| {
        let inputs = ["x_in", "y_prev", "w1", "wa", "ba", "w3"];
        let leaves: Vec<Value> = inputs.iter().map(|key| Value::leaf(*key, input(case, key))).collect();
        let [x_in, y_prev, w1, wa, ba, w3] = leaves.as_slice() else { unreachable!("six inputs") };
        let conv = |x: &Value, w: &Value, shift: Option<&Value>, padding: usize| {
            conv2d(x, w, Conv2dConfig::new(1, padding), Epilogue { shift, ..Epilogue::default() }).unwrap()
        };
        let x = conv(x_in, w1, None, 0);
        let y = upsample_nearest(y_prev, (8, 8)).unwrap();
        let logits = conv(&concatenate(&[x.clone(), y.clone()], 1).unwrap(), wa, Some(ba), 0);
        let fused = Abf::fuse(&x, &y, &logits).unwrap();
        let out = conv(&fused, w3, None, 1);
        case.check_close("x_passed", &flat(fused.tensor()));
        case.check_close("out", &flat(out.tensor()));
        let gradients = out.backward_from(&input(case, "g")).unwrap();
        for key in inputs {
            case.check_close(&format!("grad_{key}"), &flat(&gradients[key]));
        }
    });
}

fn boxes(case: &golden::Case<'_>, key: &str) -> Vec<Xyxy> {
    case.boxes(key)
}

#[test]
fn the_masks_of_fgd_equal_pytorchs() {
    golden::each_case("fgd_masks", |case| {
        let pair = |value: &serde_json::Value| {
            let numbers: Vec<usize> =
                value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
            (numbers[0], numbers[1])
        };
        let sizes: Vec<(usize, usize)> =
            case.attrs["image_sizes"].as_array().unwrap().iter().map(pair).collect();
        let objects = [boxes(case, "gt0"), boxes(case, "gt1")];
        let (foreground, background) =
            box_masks(&objects, &sizes, pair(&case.attrs["feature_size"])).unwrap();
        case.check_close("mask_fg", &foreground);
        case.check_close("mask_bg", &background);
    });
}

#[test]
fn the_terms_of_fgd_equal_pytorchs() {
    golden::each_case("fgd/", |case| {
        let (teacher, temperature) = (input(case, "ft"), case.attr_f64("temp"));
        let mask = |key: &str| case.f32(key).0;
        check_case(case, "loss", &["fs"], |leaves| match case.name {
            "fgd/fg" => focal_difference(&teacher, &leaves[0], &mask("mask_fg"), temperature),
            "fgd/bg" => focal_difference(&teacher, &leaves[0], &mask("mask_bg"), temperature),
            "fgd/att" => attention_difference(&teacher, &leaves[0], temperature),
            other => panic!("{other}"),
        });
    });
}

#[test]
fn the_mask_and_the_loss_of_fgfi_equal_pytorchs() {
    golden::each_case("fgfi_mask", |case| {
        let (anchors, shape) = case.f32("anchors");
        let anchors: Vec<Xyxy> = anchors.chunks(4).map(|b| b.try_into().unwrap()).collect();
        let mask =
            imitation_mask(&[(&anchors, shape[2])], &boxes(case, "gt"), case.attr_f64("factor") as f32);
        let mask: Vec<i64> = mask[0].iter().map(|&on| i64::from(on)).collect();
        assert_eq!(mask.iter().sum::<i64>(), case.attr_usize("on") as i64);
        case.check_exact("mask", &mask);
    });
    golden::each_case("fgfi_loss", |case| {
        let mask: Vec<bool> = case.f32("mask").0.iter().map(|&on| on != 0.0).collect();
        let (teacher, count) = (input(case, "teacher"), mask.iter().filter(|&&on| on).count());
        check_case(case, "loss", &["student"], |leaves| masked_imitation(&teacher, &leaves[0], &mask, count));
    });
}

// ---- identities

fn losses() -> Vec<(&'static str, Loss)> {
    let mask = |map: &Tensor| {
        let [n, _, h, w] = map.dims() else { unreachable!("a map") };
        (0..n * h * w).map(|i| (i % 3) as f32 / 5.0).collect::<Vec<f32>>()
    };
    vec![
        ("mse", Box::new(mean_squared_difference)),
        ("at", Box::new(attention_transfer)),
        ("hcl", Box::new(hcl)),
        ("pkd", Box::new(|t, s| pkd(t, s, Std::Population))),
        ("pkd sample", Box::new(|t, s| pkd(t, s, Std::Sample))),
        ("cwd", Box::new(|t, s| cwd(t, s, 2.0))),
        ("fgd focal", Box::new(move |t, s| focal_difference(t, s, &mask(t), 0.5))),
        ("fgd attention", Box::new(|t, s| attention_difference(t, s, 0.5))),
        (
            "fgfi",
            Box::new(move |t, s| {
                let mask: Vec<bool> = mask(t).iter().map(|&x| x > 0.0).collect();
                masked_imitation(t, s, &mask, 7)
            }),
        ),
    ]
}

#[test]
fn losses_of_maps_vanish_at_the_teacher_and_their_gradients_agree_with_central_differences() {
    let (t, s) = (noise(1, &[2, 5, 6, 4]), noise(2, &[2, 5, 6, 4]));
    for (name, loss) in losses() {
        let (at_teacher, gradient) = evaluate(&t, |s| loss(&t, s));
        assert!(at_teacher.abs() < 1e-6, "{name}: {at_teacher}");
        // Absolute differences have no derivative at 0: theirs is 0.
        assert!(largest(&gradient) < 1e-6, "{name}: {}", largest(&gradient));
        let (value, gradient) = evaluate(&s, |s| loss(&t, s));
        assert!(value > 1e-5, "{name} sees no difference");
        assert_eq!(evaluate(&channels_last(&s), |s| loss(&channels_last(&t), s)).1, gradient, "{name}");
        if name != "fgd attention" {
            check_gradient(&s, 7, 1e-3, |s| loss(&t, s));
        }
    }
}

#[test]
fn losses_of_maps_survive_zeros_single_cells_and_nothing() {
    for (name, loss) in losses() {
        let (t, s) = (noise(1, &[2, 5, 6, 4]), noise(2, &[2, 5, 6, 4]));
        let zero = zeros(&[2, 5, 6, 4]);
        let mut cases = vec![(t.clone(), zero.clone()), (zero.clone(), s.clone()), (zero.clone(), zero)];
        cases.push((noise(1, &[1, 3, 1, 1]), noise(2, &[1, 3, 1, 1])));
        cases.push((noise(1, &[0, 3, 2, 2]), noise(2, &[0, 3, 2, 2])));
        cases.push((times(&t, 1e6), s.clone()));
        for (t, s) in cases {
            let (value, gradient) = evaluate(&s, |s| loss(&t, s));
            assert!(value.is_finite() && gradient.iter().all(|g| g.is_finite()), "{name} of {:?}", s.dims());
        }
        let order = [1, 0];
        if !name.starts_with("fg") {
            let moved = value_of(&permuted(&s, &order), |s| loss(&permuted(&t, &order), s));
            assert_close(moved, value_of(&s, |s| loss(&t, s)), 1e-6);
        }
        let mut values = flat(&s);
        values[9] = f32::NAN;
        let broken = Value::leaf("s", tensor(&values, &[2, 5, 6, 4]));
        if name != "fgfi" && name != "fgd focal" {
            assert!(!loss(&t, &broken).unwrap().item().unwrap().is_finite(), "{name} hides a NaN");
        }
        let wrong = loss(&t, &Value::constant(noise(2, &[3, 5, 6, 4]))).unwrap_err().to_string();
        assert!(wrong.contains("[3, 5, 6, 4]"), "{name}: {wrong}");
    }
}

#[test]
fn pkd_is_one_minus_pearsons_r_and_sees_no_affine_map_of_a_channel() {
    let t = noise(1, &[2, 1, 5, 4]);
    let s = noise(2, &[2, 1, 5, 4]);
    let centred = |x: &Tensor| {
        let x: Vec<f64> = flat(x).into_iter().map(f64::from).collect();
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        x.into_iter().map(|x| x - mean).collect::<Vec<f64>>()
    };
    let (x, y) = (centred(&t), centred(&s));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let r = dot(&x, &y) / (dot(&x, &x) * dot(&y, &y)).sqrt();
    assert_close(value_of(&s, |s| pkd(&t, s, Std::Population)), (1.0 - r) as f32, 1e-5);
    let mapped = computed([&s], |[s]| (s * 3.0)? + 7.0);
    let value = value_of(&s, |s| pkd(&t, s, Std::Population));
    assert_close(value_of(&mapped, |s| pkd(&t, s, Std::Population)), value, 1e-5);
}

#[test]
fn attention_transfer_sees_neither_scale_nor_the_number_of_channels() {
    let (t, s) = (noise(1, &[2, 6, 8, 8]), noise(2, &[2, 3, 4, 4]));
    let value = value_of(&s, |s| attention_transfer(&t, s));
    assert_close(value_of(&times(&s, 4.0), |s| attention_transfer(&t, s)), value, 1e-7);
    check_gradient(&s, 5, 1e-3, |s| attention_transfer(&t, s));
    let twice = computed([&s], |[s]| Tensor::cat(&[&s, &s], 1));
    assert_close(value_of(&twice, |s| attention_transfer(&t, s)), value, 1e-7);
}

#[test]
fn boxes_outside_or_of_nothing_leave_an_image_of_background() {
    for objects in [vec![], vec![[900.0, 900.0, 950.0, 950.0]], vec![[f32::NAN; 4]]] {
        let (foreground, background) = box_masks(&[objects], &[(64, 80)], (8, 10)).unwrap();
        assert!(foreground.iter().all(|&x| x == 0.0));
        assert!(background.iter().all(|&x| x == 1.0 / 80.0));
    }
    let whole = vec![[0.0, 0.0, 80.0, 64.0]];
    let (foreground, background) = box_masks(&[whole], &[(64, 80)], (8, 10)).unwrap();
    assert!(foreground.iter().all(|&x| x > 0.0) && background.iter().all(|&x| x == 0.0));
    assert!(box_masks(&[vec![]], &[], (8, 10)).is_err());
}

#[test]
fn without_objects_nothing_is_imitated() {
    let anchors = [[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 16.0, 8.0]];
    assert_eq!(imitation_mask(&[(&anchors, 1)], &[], 0.5), [[false, false]]);
    let far = [[100.0, 100.0, 120.0, 120.0]];
    assert_eq!(imitation_mask(&[(&anchors, 1)], &far, 0.5), [[false, false]], "no anchor overlaps it");
    let (value, gradient) = evaluate(&noise(2, &[1, 3, 1, 2]), |s| {
        masked_imitation(&noise(1, &[1, 3, 1, 2]), s, &[false, false], 0)
    });
    assert!(value == 0.0 && gradient.iter().all(|&g| g == 0.0));
}

// ---- distillers

const P3: Tap = Tap::Fpn(Level(3));
const P4: Tap = Tap::Fpn(Level(4));

fn widths(teacher: usize, student: usize) -> Widths {
    [P3, P4].map(|tap| (tap, Width { teacher, student })).into_iter().collect()
}

/// The entry at index 2, of networks of these widths.
fn at_2(method: &impl Method, teacher: usize, student: usize) -> Box<dyn Distiller> {
    built(method, 2, &setting(widths(teacher, student))).unwrap()
}

/// FGD's global part alone.
fn context_of_fgd() -> Box<dyn Distiller> {
    let weights =
        Fgd { weight: 0.0, weight_background: 0.0, weight_attention: 0.0, ..Fgd::new(maps(&["p3"])) };
    at_2(&Fgd { weight_context: 1.0, ..weights }, 6, 6)
}

fn pyramid(stream: u64, width: usize, wrap: impl Fn(&str, Tensor) -> Value) -> Taps {
    [
        (P3, wrap("p3", noise(stream, &[2, width, 8, 12]))),
        (P4, wrap("p4", noise(stream + 1, &[2, width, 4, 6]))),
    ]
    .into_iter()
    .collect()
}

fn all_methods(teacher: usize, student: usize) -> Vec<Box<dyn Distiller>> {
    let anchors = AnchorGenerator::new(&[vec![16.0], vec![32.0]], &[1.0]).unwrap();
    let setting = MethodSetting { anchors: Some(anchors), ..setting(widths(teacher, student)) };
    let at = || maps(&["p3", "p4"]);
    let entries: [Distill; 8] = [
        FitNet { weight: 1.0, ..FitNet::new(at()) }.into(),
        Mimic::new(at()).into(),
        ReviewKd::new(at()).into(),
        Fgfi { weight: 1.0, ..Fgfi::new(at()) }.into(),
        Fgd {
            weight: 1.0,
            weight_background: 0.5,
            weight_attention: 0.2,
            weight_context: 0.1,
            ..Fgd::new(at())
        }
        .into(),
        Pkd { weight: 1.0, std: Std::Sample, ..Pkd::new(at()) }.into(),
        Cwd { weight: 1.0, ..Cwd::new(at()) }.into(),
        Mgd { weight: 1.0, ..Mgd::new(at()) }.into(),
    ];
    entries.iter().map(|entry| entry.distiller(2, &setting).unwrap()).collect()
}

#[test]
fn methods_over_maps_adapt_widths_train_their_layers_and_leave_the_teacher_alone() {
    // One that fits an anchor of p3, one that fits those of p4.
    let objects = [vec![[2.0, 2.0, 20.0, 18.0]], vec![[50.0, 10.0, 86.0, 44.0]]];
    for (teacher_width, student_width) in [(6, 6), (6, 4)] {
        let teacher = pyramid(1, teacher_width, |_, map| Value::constant(map));
        let student = pyramid(5, student_width, |name, map| Value::leaf(name, map));
        for method in all_methods(teacher_width, student_width) {
            let lesson = Lesson { boxes: &objects, image_size: (64, 96), ..Lesson::new(&teacher, &student) };
            let name = method.name().to_owned();
            let terms = method.terms(&lesson).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(terms.iter().all(|term| term.name.starts_with(&format!("{name}/p"))), "{terms:?}");
            assert!(terms.iter().all(|term| term.value.item().unwrap().is_finite()));
            let gradients = total(&terms).unwrap().backward().unwrap();
            for level in ["p3", "p4"] {
                assert!(largest(&flat(&gradients[level])) > 0.0, "{name}: {level}");
            }
            let own: Vec<String> = method
                .params()
                .into_iter()
                .flat_map(|params| params.trainable().map(|(name, _)| name.to_string()).collect::<Vec<_>>())
                .collect();
            let adapts = matches!(name.as_str(), "pkd" | "cwd");
            assert_eq!(own.is_empty(), adapts && teacher_width == student_width, "{name}: {own:?}");
            for parameter in &own {
                assert!(parameter.starts_with("distill.2."), "{parameter}");
                assert!(gradients.contains_key(parameter.as_str()), "{parameter} is not trained");
            }
        }
    }
}

#[test]
#[cfg(feature = "cuda")]
fn methods_over_maps_copy_no_map_to_the_host() {
    if device().is_cpu() {
        return;
    }
    let pyramid = |stream: u64, wrap: fn(&str, Tensor) -> Value| -> Taps {
        let (p3, p4) = (noise(stream, &[1, 16, 160, 160]), noise(stream + 1, &[1, 16, 80, 80]));
        [(P3, wrap("p3", channels_last(&p3))), (P4, wrap("p4", channels_last(&p4)))].into_iter().collect()
    };
    let teacher = pyramid(1, |_, map| Value::constant(map));
    let student = pyramid(5, |name, map| Value::leaf(name, map));
    let objects = [vec![[2.0, 2.0, 20.0, 18.0], [50.0, 10.0, 86.0, 44.0]]];
    let mut methods = all_methods(16, 16);
    methods.push(at_2(&ckd_det::distill::At::new(maps(&["p3", "p4"])), 16, 16));
    for method in methods {
        let lesson = Lesson { boxes: &objects, image_size: (1280, 1280), ..Lesson::new(&teacher, &student) };
        let (gradients, counts) = ckd_kernels::transfers::counted(|| {
            total(&method.terms(&lesson).unwrap()).unwrap().backward().unwrap()
        });
        assert!(gradients.contains_key("p3"), "{}", method.name());
        assert!(counts.launches > 0, "{}", method.name());
        let largest = counts.largest;
        assert!(largest <= 1 << 20, "{}: {largest} bytes were copied to the host", method.name());
    }
}

#[test]
fn the_context_of_fgd_starts_as_plain_squared_differences() {
    let fgd = context_of_fgd();
    let teacher = pyramid(1, 6, |_, map| Value::constant(map));
    let student = pyramid(5, 6, |name, map| Value::leaf(name, map));
    let lesson = Lesson { boxes: &[vec![], vec![]], image_size: (64, 96), ..Lesson::new(&teacher, &student) };
    let terms = fgd.terms(&lesson).unwrap();
    assert_eq!(terms.len(), 1);
    let (t, s) = (flat(&noise(1, &[2, 6, 8, 12])), flat(&noise(5, &[2, 6, 8, 12])));
    let want: f64 = t.iter().zip(&s).map(|(t, s)| (f64::from(*s) - f64::from(*t)).powi(2)).sum::<f64>() / 2.0;
    let got = f64::from(terms[0].value.item().unwrap());
    assert!((got / want - 1.0).abs() < 1e-5, "{got} {want}");
}

#[test]
fn a_method_that_trains_something_must_know_the_widths() {
    let unknown = ReviewKd::new(maps(&["p6"]));
    let error = built(&unknown, 2, &setting(widths(6, 6))).err().unwrap().to_string();
    assert!(error.contains("no tap p6") && error.contains("p3, p4"), "{error}");
}

// ---- golden values of our own

/// Puts the golden `key` of each of `names` into the method's parameter `distill.2.p3.NAME`.
fn put(method: &dyn Distiller, case: &golden::Case<'_>, names: &[(String, String)]) {
    for (key, name) in names {
        let params = method.params().expect("parameters");
        params.set(&format!("distill.2.p3.{name}"), &input(case, key)).unwrap();
    }
}

/// Compares the only term, the gradient of the student's p3, and those of the parameters.
fn check_trained(method: &dyn Distiller, case: &golden::Case<'_>, names: &[(String, String)]) {
    put(method, case, names);
    let teacher = taps(P3, Value::constant(input(case, "teacher")));
    let student = taps(P3, Value::leaf("student", input(case, "student")));
    let boxes = [vec![], vec![]];
    let lesson = Lesson { boxes: &boxes, image_size: (32, 40), ..Lesson::new(&teacher, &student) };
    let terms = method.terms(&lesson).unwrap();
    assert_eq!(terms.len(), 1, "{terms:?}");
    case.check_close("loss", &[terms[0].value.item().unwrap()]);
    let gradients = terms[0].value.backward().unwrap();
    case.check_close("grad_student", &flat(&gradients["student"]));
    for (key, name) in names {
        let gradient = &gradients[format!("distill.2.p3.{name}").as_str()];
        case.check_close(&format!("grad_{key}"), &flat(gradient));
    }
}

#[test]
fn the_context_of_fgd_and_its_trained_blocks_equal_pytorchs() {
    own_case("fgd/context", |case| {
        let fgd = context_of_fgd();
        let inputs = case.inputs();
        let params = inputs.iter().filter(|key| key.contains("__"));
        let names: Vec<(String, String)> =
            params.map(|key| (key.to_string(), key.replacen('_', ".", 1).replace("__", "."))).collect();
        assert_eq!(names.len(), 16);
        check_trained(&*fgd, case, &names);
    });
}

#[test]
fn fitnet_and_its_regressor_equal_pytorchs() {
    own_case("fitnet/conv_bn_relu", |case| {
        let fitnet = at_2(&FitNet { weight: 1.0, ..FitNet::new(maps(&["p3"])) }, 6, 3);
        let names = [("weight", "weight"), ("scale", "bn.weight"), ("shift", "bn.bias")];
        check_trained(&*fitnet, case, &names.map(|(key, name)| (key.to_owned(), name.to_owned())));
    });
}
