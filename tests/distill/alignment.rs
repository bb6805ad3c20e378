//! CKD and kernel alignment: golden values, identities, central differences, hostile input.

use candle_core::Tensor;
use ckd_det::distill::{
    AlignmentOf, Ckd, Distiller, Fcka, Kernel, Lcka, Negatives, PatchRows, Rcka, RowNorm, RowsAt, ckd, ka,
    patch_cka,
};
use ckd_detectors::taps::{Level, Tap, Taps};
use ckd_kernels::Value;
use ckd_kernels::resize::resize_bilinear;

use super::support::*;
use ckd_golden as golden;

const INTRA: PatchRows = PatchRows::Patches;
const INTER: PatchRows = PatchRows::Pixels;

fn kernel(center: bool, row_norm: RowNorm) -> Kernel {
    Kernel { center, row_norm }
}

// ---- golden values

#[test]
fn ckd_equals_pytorch() {
    golden::each_case("ckd/", |case| {
        let negatives = match case.attrs["negatives"].as_str() {
            Some("cross") => Negatives::Cross,
            Some("student") => Negatives::Student,
            other => panic!("{}: negatives {other:?}", case.name),
        };
        let teacher = input(case, "teacher");
        let tau = case.attr_f64("tau");
        let (loss, gradient) = evaluate(&input(case, "student"), |s| ckd(&teacher, s, tau, negatives));
        case.check_close("loss", &[loss]);
        case.check_close("grad_student", &gradient);
    });
}

#[test]
fn kernel_alignment_equals_pytorch() {
    golden::each_case("ka/", |case| {
        let flag = |key: &str| case.attrs[key].as_bool().unwrap();
        let row_norm = match (flag("row_norm"), flag("cosine")) {
            (true, _) => RowNorm::Rows,
            (_, true) => RowNorm::Cosine,
            _ => RowNorm::Off,
        };
        let x = input(case, "X");
        let (value, gradient) = evaluate(&input(case, "Y"), |y| ka(&x, y, kernel(flag("center"), row_norm)));
        case.check_close("ka", &[value]);
        case.check_close("grad_Y", &gradient);
    });
}

#[test]
fn lcka_equals_pytorch() {
    golden::each_case("lcka", |case| {
        let at = Tap::RoiLogits;
        let (weight, weight_inter) = (case.attr_f64("w_intra") as f32, case.attr_f64("w_inter") as f32);
        let lcka = plain(&Lcka {
            weight: Some(weight),
            weight_inter: Some(weight_inter),
            ..Lcka::new(rows(RowsAt::RoiLogits))
        });
        let teacher = taps(at, Value::constant(input(case, "teacher")));
        let (loss, gradient) = evaluate(&input(case, "student"), |student| {
            let terms = terms_of(&*lcka, &teacher, &taps(at, student.clone()))?;
            let names: Vec<&str> = terms.iter().map(|term| term.name.as_str()).collect();
            assert_eq!(names, ["lcka/roi_logits/intra", "lcka/roi_logits/inter"]);
            total(&terms)
        });
        // The golden loss is -w ka, ours w (1 - ka).
        case.check_close("loss", &[loss - (weight + weight_inter)]);
        case.check_close("grad_student", &gradient);
    });
}

fn fcka(of: AlignmentOf) -> Box<dyn Distiller> {
    plain(&Fcka { of, ..Fcka::new(maps(&[&Tap::Backbone(2).to_string()])) })
}

fn fcka_of(teacher: &Tensor, student: &Value, of: AlignmentOf) -> Outcome {
    let at = Tap::Backbone(2);
    let teacher = taps(at, Value::constant(teacher.clone()));
    total(&terms_of(&*fcka(of), &teacher, &taps(at, student.clone()))?)
}

#[test]
fn fcka_equals_pytorch() {
    golden::each_case("fcka", |case| {
        let teacher = input(case, "teacher");
        let (loss, gradient) =
            evaluate(&input(case, "student"), |s| fcka_of(&teacher, s, AlignmentOf::Similarities));
        case.check_close("loss", &[loss - 1.0]);
        case.check_close("grad_student", &gradient);
    });
}

#[test]
fn fcka_vanishes_for_an_equal_map_and_sees_neither_its_scale_nor_its_layout() {
    let t = noise(1, &[6, 4, 3, 5]);
    let channels_last =
        |x: &Tensor| x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().permute((0, 3, 1, 2)).unwrap();
    for of in [AlignmentOf::Similarities, AlignmentOf::Features] {
        let same = times(&t, 3.0);
        assert_close(value_of(&same, |s| fcka_of(&t, s, of)), 0.0, 1e-6);
        let s = noise(2, &[6, 3, 2, 2]);
        let value = value_of(&s, |s| fcka_of(&t, s, of));
        assert!(value > 1e-3 && value < 1.0, "{value}");
        assert_close(value_of(&channels_last(&s), |s| fcka_of(&channels_last(&t), s, of)), value, 1e-6);
        check_gradient(&s, 5, 2e-4, |s| fcka_of(&t, s, of));
        let single = noise(2, &[1, 3, 2, 2]);
        assert_close(value_of(&single, |s| fcka_of(&noise(1, &[1, 4, 3, 5]), s, of)), 0.0, 1e-6);
        let none = noise(2, &[0, 3, 2, 2]);
        assert_eq!(value_of(&none, |s| fcka_of(&noise(1, &[0, 4, 3, 5]), s, of)), 0.0);
    }
}

#[test]
fn rcka_of_a_level_equals_pytorch() {
    golden::each_case("patch_cka/", |case| {
        let level = Tap::Fpn(Level(3));
        let (teacher, student) = (input(case, "teacher"), input(case, "student"));
        let weight = case.attr_f64("w_intra") as f32;
        let weight_inter = case.attrs["w_inter"].as_f64().unwrap_or(0.0) as f32;
        let rcka = plain(&Rcka {
            weight,
            weight_inter,
            patch: case.attr_usize("patch"),
            ..Rcka::new(maps(&["p3"]))
        });
        let (loss, gradient) = evaluate(&student, |student| {
            let terms = terms_of(
                &*rcka,
                &taps(level, Value::constant(teacher.clone())),
                &taps(level, student.clone()),
            )?;
            let names: Vec<&str> = terms.iter().map(|term| term.name.as_str()).collect();
            let expected: &[&str] =
                if weight_inter == 0.0 { &["rcka/p3/intra"] } else { &["rcka/p3/intra", "rcka/p3/inter"] };
            assert_eq!(names, expected);
            total(&terms)
        });
        if case.attrs["accept_skip"].is_string() {
            assert_eq!(loss, 0.0);
            assert!(gradient.iter().all(|&g| g == 0.0));
            return;
        }
        // The golden loss is -w ka, ours w (1 - ka).
        case.check_close("loss", &[loss - (weight + weight_inter)]);
        case.check_close("grad_student", &gradient);
    });
}

// ---- identities of CKD

#[test]
fn ckd_of_random_logits_is_log_b_and_never_leaves_the_bounds_of_cosines() {
    let b = 64;
    let log_b = (b as f32).ln();
    // In many dimensions random rows are nearly orthogonal.
    let (t, s) = (noise(1, &[b, 4000]), noise(2, &[b, 4000]));
    for negatives in [Negatives::Cross, Negatives::Student] {
        assert_close(value_of(&s, |s| ckd(&t, s, 1.0, negatives)), log_b, 0.03);
    }
    let opposite = times(&t, -1.0);
    for tau in [0.5f64, 1.0, 2.0] {
        let bound = |sign: f64| (1.0 + (b as f64 - 1.0) * (sign * 2.0 / tau).exp()).ln() as f32;
        for student in [&t, &s, &opposite] {
            let loss = value_of(student, |s| ckd(&t, s, tau, Negatives::Cross));
            assert!(loss >= bound(-1.0) && loss <= bound(1.0), "{loss} at {tau}");
        }
    }
    // Two opposite rows reach the lower bound.
    let two = tensor(&[1.0, 0.0, -1.0, 0.0], &[2, 2]);
    assert_close(value_of(&two, |s| ckd(&two, s, 1.0, Negatives::Cross)), (1.0 + (-2f32).exp()).ln(), 1e-6);
}

#[test]
fn a_simplex_is_the_best_that_teacher_and_student_can_do_together() {
    // Rows e_i - 1/B: unit vectors (after scaling) that are as far apart as B vectors can be.
    let b = 64;
    let values: Vec<f32> = (0..b * b).map(|i| f32::from(u8::from(i / b == i % b)) - 1.0 / b as f32).collect();
    let simplex = tensor(&values, &[b, b]);
    let (loss, gradient) = evaluate(&simplex, |s| ckd(&simplex, s, 1.0, Negatives::Cross));
    assert_close(loss, 3.1702, 1e-4);
    assert!(gradient.iter().all(|g| g.abs() < 1e-6));
}

#[test]
fn ckd_does_not_see_the_length_of_a_row_but_sees_a_shift() {
    let (t, s) = (noise(1, &[8, 10]), noise(2, &[8, 10]));
    let lengths = tensor(&[0.1, 2.0, 30.0, 1.0, 0.5, 7.0, 1e-3, 1e3], &[8, 1]);
    let scaled = computed([&s, &lengths], |[s, lengths]| s.broadcast_mul(&lengths));
    let shifted = computed([&s], |[s]| s + 1.0);
    for negatives in [Negatives::Cross, Negatives::Student] {
        let loss = |s: &Tensor| value_of(s, |s| ckd(&t, s, 1.0, negatives));
        assert_close(loss(&scaled), loss(&s), 2e-6);
        assert!((loss(&shifted) - loss(&s)).abs() > 1e-2);
    }
}

#[test]
fn the_gradient_of_ckd_is_orthogonal_to_each_row_and_shrinks_with_its_length() {
    let (t, s) = (noise(1, &[8, 10]), noise(2, &[8, 10]));
    let double = times(&s, 2.0);
    for negatives in [Negatives::Cross, Negatives::Student] {
        let (_, gradient) = evaluate(&s, |s| ckd(&t, s, 1.0, negatives));
        for (g, s) in gradient.chunks(10).zip(flat(&s).chunks(10)) {
            let along: f32 = g.iter().zip(s).map(|(g, s)| g * s).sum();
            assert!(along.abs() < 1e-7, "{along}");
        }
        let (_, half) = evaluate(&double, |s| ckd(&t, s, 1.0, negatives));
        for (half, g) in half.iter().zip(&gradient) {
            assert_close(half * 2.0, *g, 1e-8);
        }
    }
}

#[test]
fn an_equal_student_is_not_the_minimum_of_ckd() {
    let t = noise(5, &[16, 30]);
    let at_teacher = value_of(&t, |s| ckd(&t, s, 1.0, Negatives::Cross));
    assert_close(at_teacher, value_of(&t, |s| ckd(&t, s, 1.0, Negatives::Student)), 2e-6);
    let mut s = t.clone();
    for _ in 0..100 {
        let (_, gradient) = evaluate(&s, |s| ckd(&t, s, 1.0, Negatives::Cross));
        s = computed([&s, &tensor(&gradient, &[16, 30])], |[s, g]| s - (g * 30.0)?);
    }
    let after = value_of(&s, |s| ckd(&t, s, 1.0, Negatives::Cross));
    assert!(after < at_teacher - 0.01, "{at_teacher} to {after}");
}

#[test]
fn ckd_pairs_rows() {
    let t = noise(1, &[6, 10]);
    let s = noise(2, &[6, 10]);
    let order = [3, 1, 5, 0, 2, 4];
    for negatives in [Negatives::Cross, Negatives::Student] {
        let loss = |t: &Tensor, s: &Tensor| value_of(s, |s| ckd(t, s, 0.5, negatives));
        assert_close(loss(&permuted(&t, &order), &permuted(&s, &order)), loss(&t, &s), 1e-6);
        assert!(loss(&t, &permuted(&t, &order)) > loss(&t, &t) + 0.1);
    }
}

#[test]
fn ckd_of_one_row_or_none_is_zero() {
    for b in [0, 1] {
        for negatives in [Negatives::Cross, Negatives::Student] {
            let (loss, gradient) =
                evaluate(&noise(2, &[b, 5]), |s| ckd(&noise(1, &[b, 5]), s, 0.07, negatives));
            assert_eq!(loss, 0.0);
            assert!(gradient.len() == b * 5 && gradient.iter().all(|&g| g == 0.0));
        }
    }
}

#[test]
fn a_row_of_zeros_is_similar_to_nothing_and_gets_no_gradient() {
    let mut values = flat(&noise(2, &[4, 5]));
    values[5..10].fill(0.0);
    let zero_row = tensor(&values, &[4, 5]);
    let zeros = zeros(&[4, 5]);
    for negatives in [Negatives::Cross, Negatives::Student] {
        let (loss, gradient) = evaluate(&zero_row, |s| ckd(&noise(1, &[4, 5]), s, 0.5, negatives));
        assert!(loss.is_finite() && gradient.iter().all(|g| g.is_finite()));
        assert_eq!(gradient[5..10], [0.0; 5]);
        let (loss, gradient) = evaluate(&zeros, |s| ckd(&zeros, s, 0.5, negatives));
        assert_close(loss, 4f32.ln(), 1e-6);
        assert!(gradient.iter().all(|&g| g == 0.0));
    }
}

#[test]
fn the_gradient_of_ckd_agrees_with_central_differences() {
    let (t, s) = (noise(1, &[7, 9]), noise(2, &[7, 9]));
    for negatives in [Negatives::Cross, Negatives::Student] {
        for tau in [0.2, 1.0] {
            check_gradient(&s, 1, 5e-4, |s| ckd(&t, s, tau, negatives));
        }
    }
}

#[test]
fn a_logit_that_is_not_finite_makes_ckd_not_finite() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut values = flat(&noise(2, &[4, 5]));
        values[7] = bad;
        for negatives in [Negatives::Cross, Negatives::Student] {
            let student = Value::leaf("s", tensor(&values, &[4, 5]));
            let loss = ckd(&noise(1, &[4, 5]), &student, 1.0, negatives).unwrap();
            assert!(!loss.item().unwrap().is_finite());
        }
    }
}

// ---- identities of kernel alignment

const KERNELS: [Kernel; 6] = [
    Kernel { center: false, row_norm: RowNorm::Off },
    Kernel { center: true, row_norm: RowNorm::Off },
    Kernel { center: false, row_norm: RowNorm::Rows },
    Kernel { center: true, row_norm: RowNorm::Rows },
    Kernel { center: false, row_norm: RowNorm::Cosine },
    Kernel { center: true, row_norm: RowNorm::Cosine },
];

/// Rotation of pairs of columns by different angles, then a swap of two columns.
fn rotated(x: &Tensor) -> Tensor {
    let (_, p) = x.dims2().unwrap();
    let mut values = flat(x);
    for row in values.chunks_mut(p) {
        for pair in 0..p / 2 {
            let (sin, cos) = (0.7 + pair as f32).sin_cos();
            let (a, b) = (row[2 * pair], row[2 * pair + 1]);
            (row[2 * pair], row[2 * pair + 1]) = (cos * a - sin * b, sin * a + cos * b);
        }
        row.swap(0, p - 1);
    }
    tensor(&values, x.dims())
}

#[test]
fn alignment_does_not_see_scale_or_rotation() {
    // Wide and tall: both forms.
    for shape in [[8, 20], [30, 6]] {
        let (x, y) = (noise(1, &shape), noise(2, &[shape[0], 7]));
        for kernel in KERNELS {
            let of = |x: &Tensor, y: &Tensor| value_of(y, |y| ka(x, y, kernel));
            for same in [x.clone(), times(&x, -3.0), rotated(&x)] {
                assert_close(of(&x, &same), 1.0, 1e-5);
            }
            let value = of(&x, &y);
            assert!((0.0..1.0).contains(&value), "{value}");
            assert_close(of(&x, &times(&y, 0.1)), value, 1e-5);
            assert_close(of(&x, &rotated(&y)), value, 1e-5);
            let order: Vec<u32> = (0..shape[0] as u32).rev().collect();
            assert_close(of(&permuted(&x, &order), &permuted(&y, &order)), value, 1e-5);
        }
        // A general linear map does not keep it.
        let mixed = computed([&x, &noise(3, &[shape[1], shape[1]])], |[x, mix]| x.matmul(&mix));
        assert!(value_of(&mixed, |y| ka(&x, y, Kernel::default())) < 0.98);
    }
}

#[test]
fn only_the_centred_alignment_does_not_see_a_constant_row() {
    let (x, y) = (noise(1, &[20, 9]), noise(2, &[20, 9]));
    let shifted = computed([&y, &noise(3, &[1, 9])], |[y, shift]| y.broadcast_add(&shift));
    let change =
        |kernel| (value_of(&shifted, |y| ka(&x, y, kernel)) - value_of(&y, |y| ka(&x, y, kernel))).abs();
    assert!(change(kernel(true, RowNorm::Off)) < 1e-6);
    assert!(change(kernel(false, RowNorm::Off)) > 1e-2);
}

#[test]
fn the_gradient_of_alignment_is_orthogonal_to_the_student() {
    let (x, y) = (noise(1, &[8, 6]), noise(2, &[8, 9]));
    for kernel in KERNELS {
        let (_, gradient) = evaluate(&y, |y| ka(&x, y, kernel));
        let along: f32 = gradient.iter().zip(flat(&y)).map(|(g, y)| g * y).sum();
        assert!(along.abs() < 1e-6, "{along}");
        check_gradient(&y, 1, 2e-4, |y| ka(&x, y, kernel));
    }
    let tall = noise(3, &[40, 4]);
    for kernel in KERNELS {
        check_gradient(&tall, 5, 2e-4, |y| ka(&noise(1, &[40, 3]), y, kernel));
    }
}

#[test]
fn alignment_of_independent_rows_is_far_from_zero() {
    // P / (N + P): .61 for 64 rows of 100.
    let value = value_of(&noise(2, &[64, 100]), |y| ka(&noise(1, &[64, 100]), y, Kernel::default()));
    assert_close(value, 100.0 / 164.0, 0.02);
}

#[test]
fn alignment_with_zeros_is_zero_and_has_no_gradient() {
    let zeros = zeros(&[5, 4]);
    for kernel in KERNELS {
        for x in [&noise(1, &[5, 4]), &zeros] {
            let (value, gradient) = evaluate(&zeros, |y| ka(x, y, kernel));
            assert_eq!(value, 0.0);
            assert!(gradient.iter().all(|&g| g == 0.0));
        }
        assert_eq!(value_of(&zeros.narrow(0, 0, 0).unwrap(), |y| ka(&noise(1, &[0, 3]), y, kernel)), 0.0);
    }
}

// ---- identities of RCKA

#[test]
fn rcka_vanishes_for_an_equal_map_of_any_scale() {
    let t = noise(1, &[2, 5, 20, 33]);
    let s = times(&t, 0.3);
    for rows in [INTRA, INTER] {
        for kernel in KERNELS {
            let (loss, gradient) = evaluate(&s, |s| patch_cka(&t, s, rows, 16, kernel));
            assert_close(loss, 0.0, 1e-5);
            assert!(gradient.iter().all(|g| g.abs() < 1e-6));
        }
    }
}

#[test]
fn rcka_does_not_see_the_order_of_the_batch_or_the_memory_layout() {
    let (t, s) = (noise(1, &[3, 6, 9, 14]), noise(2, &[3, 6, 9, 14]));
    let channels_last =
        |x: &Tensor| x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().permute((0, 3, 1, 2)).unwrap();
    for rows in [INTRA, INTER] {
        let loss = |t: &Tensor, s: &Tensor| evaluate(s, |s| patch_cka(t, s, rows, 4, Kernel::default()));
        let (value, gradient) = loss(&t, &s);
        let order = [2, 0, 1];
        assert_close(loss(&permuted(&t, &order), &permuted(&s, &order)).0, value, 1e-6);
        assert_eq!(loss(&channels_last(&t), &channels_last(&s)), (value, gradient));
    }
}

#[test]
fn the_gradient_of_rcka_agrees_with_central_differences() {
    let (t, s) = (noise(1, &[2, 5, 7, 9]), noise(2, &[2, 5, 7, 9]));
    for rows in [INTRA, INTER] {
        for kernel in KERNELS {
            check_gradient(&s, 11, 2e-4, |s| patch_cka(&t, s, rows, 4, kernel));
        }
    }
}

#[test]
fn rcka_of_a_channel_is_the_alignment_of_its_patches() {
    // Sides that are whole patches or not, channels that fill a cache line or not, many and few rows.
    for (shape, patch) in [([1, 3, 8, 12], 4), ([2, 17, 7, 9], 4), ([1, 16, 20, 20], 2), ([2, 33, 5, 3], 3)] {
        let [n, c, h, w]: [usize; 4] = shape;
        let size = (h.next_multiple_of(patch), w.next_multiple_of(patch));
        let (t, s) = (noise(1, &shape), noise(2, &shape));
        let (down, across) = (size.0 / patch, size.1 / patch);
        let matrix = |map: &Value, channel: usize, rows: PatchRows| {
            let channel = map.tensor().narrow(1, channel, 1).unwrap().contiguous().unwrap();
            let cut = channel.reshape((n, down, patch, across, patch)).unwrap();
            let cut = cut.permute((1, 3, 0, 2, 4)).unwrap().contiguous().unwrap();
            let cut = cut.reshape((down * across, n * patch * patch)).unwrap();
            if rows == INTRA { cut } else { cut.t().unwrap().contiguous().unwrap() }
        };
        let resized = |map: &Tensor| resize_bilinear(&Value::constant(map.clone()), size).unwrap();
        let (big_t, big_s) = (resized(&t), resized(&s));
        for rows in [INTRA, INTER] {
            for kernel in KERNELS {
                let alignment = |channel: usize| {
                    let (x, y) = (matrix(&big_t, channel, rows), matrix(&big_s, channel, rows));
                    f64::from(value_of(&y, |y| ka(&x, y, kernel)))
                };
                let want = 1.0 - (0..c).map(alignment).sum::<f64>() / c as f64;
                let got = value_of(&s, |s| patch_cka(&t, s, rows, patch, kernel));
                assert_close(got, want as f32, 2e-6);
            }
        }
    }
}

#[test]
fn rcka_has_the_same_bits_on_any_number_of_threads() {
    let (t, s) = (noise(1, &[1, 70, 18, 21]), noise(2, &[1, 70, 18, 21]));
    for rows in [INTRA, INTER] {
        let run = || evaluate(&s, |s| patch_cka(&t, s, rows, 4, Kernel::default()));
        let on_threads = |threads: usize| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run)
        };
        let one = on_threads(1);
        assert_eq!((on_threads(2), on_threads(3)), (one.clone(), one));
    }
}

#[test]
fn a_dead_channel_and_a_single_patch_have_no_gradient() {
    let t = noise(1, &[1, 2, 8, 8]);
    let dead = t.narrow(1, 0, 1).unwrap();
    let dead = computed([&dead], |[dead]| Tensor::cat(&[&dead, &dead.zeros_like()?], 1));
    for rows in [INTRA, INTER] {
        let (loss, gradient) = evaluate(&dead, |s| patch_cka(&t, s, rows, 4, Kernel::default()));
        assert_close(loss, 0.5, 1e-6);
        assert!(gradient[64..].iter().all(|&g| g == 0.0));
        for single in [noise(2, &[1, 2, 8, 8]), noise(2, &[0, 2, 8, 8])] {
            let teacher = noise(1, single.dims());
            let (loss, gradient) = evaluate(&single, |s| patch_cka(&teacher, s, rows, 8, Kernel::default()));
            assert_eq!(loss, 0.0);
            assert!(gradient.iter().all(|&g| g == 0.0));
        }
    }
}

// ---- distillers

fn rcka(levels: &[&str], patch: usize) -> Box<dyn Distiller> {
    plain(&Rcka { weight_inter: 10.0, patch, ..Rcka::new(maps(levels)) })
}

fn ckd_at(temperature: f32) -> Box<dyn Distiller> {
    plain(&Ckd { temperature, ..Ckd::new(rows(RowsAt::RoiLogits)) })
}

#[test]
fn distillers_name_their_terms_and_only_the_student_gets_a_gradient() {
    let level = |n| Tap::Fpn(Level(n));
    let teacher: Taps = [
        (level(2), Value::constant(noise(1, &[1, 3, 32, 40]))),
        (level(3), Value::constant(noise(2, &[1, 3, 16, 20]))),
        (Tap::RoiLogits, Value::constant(noise(3, &[12, 6]))),
    ]
    .into_iter()
    .collect();
    let student: Taps = [
        (level(2), Value::leaf("p2", noise(4, &[1, 3, 32, 40]))),
        (level(3), Value::leaf("p3", noise(5, &[1, 3, 16, 20]))),
        (Tap::RoiLogits, Value::leaf("logits", noise(6, &[12, 6]))),
    ]
    .into_iter()
    .collect();
    let methods: [&dyn Distiller; 2] = [&*rcka(&["p2", "p3"], 16), &*ckd_at(1.0)];
    let mut terms = Vec::new();
    for method in methods {
        for tap in method.taps() {
            assert!(student.get(tap).is_some());
        }
        terms.extend(terms_of(method, &teacher, &student).unwrap());
    }
    let names: Vec<&str> = terms.iter().map(|term| term.name.as_str()).collect();
    assert_eq!(names, ["rcka/p2/intra", "rcka/p2/inter", "rcka/p3/intra", "rcka/p3/inter", "ckd/roi_logits"]);
    let gradients = total(&terms).unwrap().backward().unwrap();
    let leaves: Vec<&str> = gradients.keys().map(|name| &**name).collect();
    assert_eq!(leaves, ["logits", "p2", "p3"]);
    for (name, gradient) in &gradients {
        assert!(flat(gradient).iter().any(|&g| g != 0.0), "{name}");
    }
}

#[test]
fn what_does_not_fit_is_an_error_that_names_the_tap_and_both_shapes() {
    let p3 = Tap::Fpn(Level(3));
    let constant = |shape: &[usize]| Value::constant(noise(1, shape));
    let message = |method: &dyn Distiller, teacher: &Taps, student: &Taps| {
        terms_of(method, teacher, student).unwrap_err().to_string()
    };
    let maps = |shape: &[usize]| taps(p3, constant(shape));

    let missing = message(&*rcka(&["p6"], 16), &maps(&[1, 3, 32, 32]), &maps(&[1, 3, 32, 32]));
    assert!(missing.contains("teacher") && missing.contains("no tap p6"), "{missing}");
    let tracked = taps(p3, Value::leaf("t", noise(1, &[1, 3, 32, 32])));
    let tracked = message(&*rcka(&["p3"], 16), &tracked, &maps(&[1, 3, 32, 32]));
    assert!(tracked.contains("graph at p3"), "{tracked}");
    let channels = message(&*rcka(&["p3"], 16), &maps(&[1, 4, 32, 32]), &maps(&[1, 3, 32, 32]));
    assert!(channels.starts_with("at p3: ") && channels.contains("same channels"), "{channels}");
    assert!(channels.contains("[1, 4, 32, 32]") && channels.contains("[1, 3, 32, 32]"), "{channels}");
    let sizes = message(&*rcka(&["p3"], 16), &maps(&[1, 3, 32, 31]), &maps(&[1, 3, 32, 32]));
    assert!(sizes.contains("sizes"), "{sizes}");
    let rank = message(&*rcka(&["p3"], 16), &maps(&[3, 32]), &maps(&[3, 32]));
    assert!(rank.contains("(N, C, H, W)"), "{rank}");
    let no_cells = message(&*rcka(&["p3"], 0), &maps(&[1, 3, 4, 4]), &maps(&[1, 3, 4, 4]));
    assert!(no_cells.contains("at least one cell"), "{no_cells}");

    let logits = |shape: &[usize]| taps(Tap::RoiLogits, constant(shape));
    let classes = message(&*ckd_at(1.0), &logits(&[4, 6]), &logits(&[4, 7]));
    assert!(classes.starts_with("at roi_logits: ") && classes.contains("[4, 7]"), "{classes}");
    for temperature in [0.0, -1.0, f32::NAN] {
        assert!(message(&*ckd_at(temperature), &logits(&[4, 6]), &logits(&[4, 6])).contains("temperature"));
    }
    let rows = ka(&noise(1, &[3, 4]), &constant(&[4, 4]), Kernel::default()).unwrap_err().to_string();
    assert!(rows.contains("same rows"), "{rows}");
}

#[test]
fn fcka_of_features_equals_pytorch() {
    own_case("fcka/features", |case| {
        let teacher = input(case, "teacher");
        check_case(case, "loss", &["student"], |leaves| fcka_of(&teacher, &leaves[0], AlignmentOf::Features));
    });
}
