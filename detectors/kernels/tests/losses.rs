//! Losses against golden values, central differences, ties, zeros and hostile input.

use crate::support::{device, golden};
use candle_core::Tensor;
use ckd_kernels::losses::{
    Divisor, FocalTargets, RowTarget, bce_with_logits, giou_loss, log_iou_loss, sigmoid_focal_loss,
    smooth_l1, softmax_cross_entropy,
};
use ckd_kernels::normalize::{l2_normalize_rows, log_softmax};
use ckd_kernels::{Result, Value};

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, device()).unwrap()
}

fn leaf(values: &[f32], shape: &[usize]) -> Value {
    Value::leaf("x", tensor(values, shape))
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The loss and its gradient.
fn evaluate(x: &[f32], shape: &[usize], loss: impl Fn(&Value) -> Result<Value>) -> (f32, Vec<f32>) {
    let value = loss(&leaf(x, shape)).unwrap();
    (value.item().unwrap(), flat(&value.backward().unwrap()["x"]))
}

/// Compares the gradient with central differences of width 2^-7 (exact in f32); `tolerance` covers the f32
/// rounding of the losses and the curvature.
fn check_gradient(x: &[f32], shape: &[usize], tolerance: f32, loss: impl Fn(&Value) -> Result<Value>) {
    const STEP: f32 = 1.0 / 128.0;
    let (_, gradient) = evaluate(x, shape, &loss);
    for i in 0..x.len() {
        let at = |step: f32| {
            let mut moved = x.to_vec();
            moved[i] += step;
            loss(&leaf(&moved, shape)).unwrap().item().unwrap()
        };
        let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        assert!((numeric - gradient[i]).abs() < tolerance, "[{i}] = {}, numeric {numeric}", gradient[i]);
    }
}

fn rows4(values: &[f32]) -> Vec<[f32; 4]> {
    values.as_chunks::<4>().0.to_vec()
}

#[test]
fn bce_equals_pytorch_at_logits_of_100() {
    golden::each_case("bce_with_logits", |case| {
        let (logits, shape) = case.f32("logits");
        let (target, _) = case.f32("target");
        let (loss, gradient) =
            evaluate(&logits, &shape, |x| bce_with_logits(x, &target, target.len() as f64));
        case.check_close("loss", &[loss]);
        case.check_close("grad_logits", &gradient);
    });
}

#[test]
fn focal_loss_equals_torchvision() {
    golden::each_case("sigmoid_focal", |case| {
        let (logits, shape) = case.f32("logits");
        let (target, _) = case.f32("target");
        let (alpha, gamma) = (case.attr_f64("alpha"), case.attr_f64("gamma"));
        let (loss, gradient) = evaluate(&logits, &shape, |x| {
            sigmoid_focal_loss(x, FocalTargets::Dense(&target), alpha, gamma, 1.0)
        });
        case.check_close("loss", &[loss]);
        case.check_close("grad_logits", &gradient);
    });
}

#[test]
fn smooth_l1_equals_pytorch_for_every_beta() {
    golden::each_case("smooth_l1/", |case| {
        let (pred, shape) = case.f32("pred");
        let target = case.boxes("target");
        let (loss, gradient) = evaluate(&pred, &shape, |x| smooth_l1(x, &target, case.attr_f64("beta"), 1.0));
        case.check_close("loss", &[loss]);
        case.check_close("grad_pred", &gradient);
        assert_eq!(gradient[..4], [0.0; 4], "{}: prediction == target", case.name);
    });
}

#[test]
fn giou_loss_equals_torchvision() {
    golden::each_case("giou_loss", |case| {
        let (pred, shape) = case.f32("pred");
        let target = case.boxes("target");
        let (loss, gradient) = evaluate(&pred, &shape, |x| giou_loss(x, &target, 1.0));
        case.check_close("loss", &[loss]);
        case.check_close("grad_pred", &gradient);
    });
}

#[test]
fn softmax_cross_entropy_equals_pytorch() {
    golden::each_case("softmax_cross_entropy", |case| {
        let (logits, shape) = case.f32("logits");
        let labels: Vec<u32> = case.i64("labels").0.into_iter().map(|label| label as u32).collect();
        let (loss, gradient) =
            evaluate(&logits, &shape, |x| softmax_cross_entropy(x, &labels, labels.len() as f64));
        case.check_close("loss", &[loss]);
        case.check_close("grad_logits", &gradient);
    });
}

/// sum(f(x) * g) as a loss.
fn projected<'a>(
    g: &'a Tensor,
    f: impl Fn(&Value) -> Result<Value> + 'a,
) -> impl Fn(&Value) -> Result<Value> {
    move |x| {
        let (y, g) = (f(x)?, g.clone());
        let products = flat(y.tensor()).into_iter().zip(flat(&g)).map(|(y, g)| f64::from(y) * f64::from(g));
        let sum = tensor(&[products.sum::<f64>() as f32], &[]);
        // The gradient of the sum is asked for, no multiple of it.
        Ok(Value::operation(&[&y], sum, move |_| Ok(vec![Some(g)])))
    }
}

#[test]
fn log_softmax_equals_pytorch() {
    golden::each_case("log_softmax", |case| {
        let (x, shape) = case.f32("x");
        let g = tensor(&case.f32("g").0, &shape);
        case.check_close("out", &flat(log_softmax(&leaf(&x, &shape)).unwrap().tensor()));
        case.check_close("grad_x", &evaluate(&x, &shape, projected(&g, log_softmax)).1);
    });
}

#[test]
fn unit_rows_equal_pytorch_and_a_zero_row_has_no_gradient() {
    golden::each_case("l2_normalize", |case| {
        let (x, shape) = case.f32("x");
        let g = tensor(&case.f32("g").0, &shape);
        let unit = |x: &Value| l2_normalize_rows(x, case.attr_f64("eps"));
        case.check_close("out", &flat(unit(&leaf(&x, &shape)).unwrap().tensor()));
        // The golden gradient of the zero row is stored as 0, which is what this one is too.
        case.check_close("grad_x", &evaluate(&x, &shape, projected(&g, unit)).1);
    });
}

#[test]
fn gradients_agree_with_central_differences() {
    let x = golden::tensor(7, 12, 2.0, 0.0);
    let t = golden::tensor(8, 12, 0.5, 0.5);
    let g = tensor(&golden::tensor(9, 12, 1.0, 0.0), &[3, 4]);
    check_gradient(&x, &[12], 2e-4, |x| bce_with_logits(x, &t, 3.0));
    check_gradient(&x, &[3, 4], 2e-4, |x| softmax_cross_entropy(x, &[1, 0, 3], 2.0));
    check_gradient(&x, &[3, 4], 2e-4, projected(&g, log_softmax));
    check_gradient(&x, &[3, 4], 2e-4, projected(&g, |x| l2_normalize_rows(x, 1e-12)));
    for (alpha, gamma) in [(0.25, 2.0), (-1.0, 1.5), (0.9, 0.5), (0.5, 0.0)] {
        let rows = [RowTarget::Class(2), RowTarget::Background, RowTarget::Ignored];
        for targets in [FocalTargets::Dense(&t), FocalTargets::Rows(&rows)] {
            check_gradient(&x, &[3, 4], 5e-4, |x| sigmoid_focal_loss(x, targets, alpha, gamma, 2.0));
        }
    }
    let target = rows4(&golden::tensor(10, 12, 2.0, 0.0));
    for beta in [0.0, 1.0 / 9.0, 1.0] {
        check_gradient(&x, &[3, 4], 2e-2, |x| smooth_l1(x, &target, beta, 2.0));
    }
    // Overlapping, nested, disjoint: no edge of one box within a step of the other's.
    let boxes = [0.0, 0.0, 2.0, 3.0, 0.0, 0.0, 4.0, 4.0, 0.0, 0.0, 1.0, 1.0];
    let target = [[1.0, 1.0, 3.0, 5.0], [1.0, 1.0, 2.0, 3.0], [5.0, 2.0, 6.0, 4.0]];
    check_gradient(&boxes, &[3, 4], 2e-4, |x| giou_loss(x, &target, 2.0));
    check_gradient(&boxes, &[3, 4], 1e-3, |x| log_iou_loss(x, &target, 2.0));
}

#[test]
fn the_logarithm_of_the_iou_is_a_loss_of_boxes() {
    // Half of the box; the box itself, whose row counts a half; one that lies elsewhere; one that counts nothing.
    let boxes = [0.0, 0.0, 2.0, 1.0, 0.0, 0.0, 2.0, 1.0, 7.0, 7.0, 8.0, 8.0, 1.0, 1.0, 3.0, 3.0];
    let target = [[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]];
    let parts = [(1, 1.0), (1, 2.0), (1, 2.0), (1, f64::INFINITY)];
    let (loss, gradient) = evaluate(&boxes, &[4, 4], |x| log_iou_loss(x, &target, Divisor::Parts(&parts)));
    let expected = 2f64.ln() - 0.5 * 1e-6f64.ln();
    assert!((f64::from(loss) - expected).abs() < 1e-5, "{loss}, expected {expected}");
    // Nothing pulls a box that does not overlap.
    assert!(gradient[4..].iter().all(|g| g.abs() < 1e-6), "{gradient:?}");
    assert!((gradient[3] + 1.0).abs() < 1e-6, "the lower side of the first goes down: {gradient:?}");
}

#[test]
fn row_targets_are_their_one_hot_rows() {
    let k = 19;
    let logits = golden::tensor(3, 5 * k, 6.0, 0.0);
    let rows = [
        RowTarget::Class(0),
        RowTarget::Background,
        RowTarget::Ignored,
        RowTarget::Class(18),
        RowTarget::Class(7),
    ];
    let mut dense = vec![0f32; 5 * k];
    let mut counted: Vec<f32> = logits.clone();
    for (i, row) in rows.iter().enumerate() {
        match row {
            RowTarget::Class(class) => dense[i * k + *class as usize] = 1.0,
            RowTarget::Background => {}
            RowTarget::Ignored => counted[i * k..][..k].fill(-80.0), // gives 0 as background
        }
    }
    let by_row =
        evaluate(&logits, &[5, k], |x| sigmoid_focal_loss(x, FocalTargets::Rows(&rows), 0.25, 2.0, 3.0));
    let by_element =
        evaluate(&counted, &[5, k], |x| sigmoid_focal_loss(x, FocalTargets::Dense(&dense), 0.25, 2.0, 3.0));
    assert!((by_row.0 - by_element.0).abs() <= 2e-6 * by_row.0);
    assert_eq!(by_row.1, by_element.1);
}

#[test]
fn a_loss_does_not_depend_on_how_many_threads_sum_it() {
    let logits = golden::tensor(4, 40_000, 5.0, 0.0);
    let rows = vec![RowTarget::Background; 5_000];
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            evaluate(&logits, &[5_000, 8], |x| {
                sigmoid_focal_loss(x, FocalTargets::Rows(&rows), 0.25, 2.0, 7.0)
            })
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn the_incoming_gradient_scales_the_stored_one() {
    let x = golden::tensor(5, 6, 3.0, 0.0);
    let loss = |x: &Value| softmax_cross_entropy(x, &[0, 2], 2.0);
    let (_, plain) = evaluate(&x, &[2, 3], loss);
    let (_, scaled) = evaluate(&x, &[2, 3], |x| ckd_kernels::elementwise::scale(&loss(x)?, -0.25));
    assert_eq!(scaled, plain.iter().map(|g| g * -0.25).collect::<Vec<_>>());
}

#[test]
fn no_rows_give_zero_whatever_the_divisor() {
    let check = |shape: &[usize], loss: &dyn Fn(&Value) -> Result<Value>| {
        let (loss, gradient) = evaluate(&[], shape, loss);
        assert_eq!((loss, gradient.len()), (0.0, 0));
    };
    check(&[0], &|x| bce_with_logits(x, &[], 0.0));
    check(&[0, 5], &|x| sigmoid_focal_loss(x, FocalTargets::Rows(&[]), 0.25, 2.0, 0.0));
    check(&[0, 5], &|x| sigmoid_focal_loss(x, FocalTargets::Dense(&[]), 0.25, 2.0, 1.0));
    check(&[0, 4], &|x| smooth_l1(x, &[], 0.0, 0.0));
    check(&[0, 4], &|x| giou_loss(x, &[], 0.0));
    check(&[0, 4], &|x| log_iou_loss(x, &[], 0.0));
    check(&[0, 5], &|x| softmax_cross_entropy(x, &[], 0.0));
    assert_eq!(log_softmax(&leaf(&[], &[0, 5])).unwrap().dims(), [0, 5]);
    assert_eq!(l2_normalize_rows(&leaf(&[], &[0, 5]), 1e-12).unwrap().dims(), [0, 5]);
}

#[test]
fn a_logit_that_is_not_finite_makes_the_loss_not_finite() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for place in 0..4 {
            let mut x = [0.5f32, -0.25, 2.0, 3.0];
            x[place] = bad;
            let not_finite = |shape: &[usize], loss: &dyn Fn(&Value) -> Result<Value>| {
                let loss = evaluate(&x, shape, loss).0;
                assert!(!loss.is_finite(), "{bad} at {place}: {loss}");
            };
            not_finite(&[4], &|x| bce_with_logits(x, &[0.0, 1.0, 0.0, 1.0], 4.0));
            not_finite(&[1, 4], &|x| softmax_cross_entropy(x, &[3], 1.0));
            not_finite(&[1, 4], &|x| smooth_l1(x, &[[0.0; 4]], 1.0, 1.0));
            not_finite(&[1, 4], &|x| giou_loss(x, &[[0.0, 0.0, 1.0, 1.0]], 1.0));
            not_finite(&[1, 4], &|x| log_iou_loss(x, &[[0.0, 0.0, 1.0, 1.0]], 1.0));
            for row in [RowTarget::Background, RowTarget::Class(1)] {
                not_finite(&[1, 4], &|x| sigmoid_focal_loss(x, FocalTargets::Rows(&[row]), 0.25, 2.0, 1.0));
            }
            not_finite(&[1, 4], &|x| {
                sigmoid_focal_loss(x, FocalTargets::Dense(&[0.0, 1.0, 0.5, 0.5]), 0.25, 2.0, 1.0)
            });
        }
    }
}

/// More rows than one block adds up, and more classes than a byte holds.
#[test]
fn many_rows_and_many_classes_add_up() {
    let m = 9001;
    let (x, t) = (golden::tensor(11, m, 4.0, 0.0), golden::tensor(12, m, 0.5, 0.5));
    let (loss, gradient) = evaluate(&x, &[m], |x| bce_with_logits(x, &t, 10.0));
    let entropy = |(x, t): (&f32, &f32)| {
        let (x, t) = (f64::from(*x), f64::from(*t));
        x.max(0.0) - x * t + (-x.abs()).exp().ln_1p()
    };
    let expected = x.iter().zip(&t).map(entropy).sum::<f64>() / 10.0;
    assert!((f64::from(loss) / expected - 1.0).abs() < 1e-6, "{loss}, expected {expected}");
    for ((x, t), gradient) in x.iter().zip(&t).zip(gradient) {
        let expected = ((1.0 / (1.0 + (-f64::from(*x)).exp())) - f64::from(*t)) / 10.0;
        assert!((f64::from(gradient) - expected).abs() < 1e-7);
    }
    let k = 300;
    let logits = golden::tensor(13, 3 * k, 4.0, 0.0);
    let rows = [RowTarget::Class(299), RowTarget::Ignored, RowTarget::Background];
    let mut dense = vec![0f32; 2 * k];
    dense[299] = 1.0;
    let of_rows = |x: &Value| sigmoid_focal_loss(x, FocalTargets::Rows(&rows), 0.25, 2.0, 1.0);
    let (loss, gradient) = evaluate(&logits, &[3, k], of_rows);
    let counted = [&logits[..k], &logits[2 * k..]].concat();
    let of_all = |x: &Value| sigmoid_focal_loss(x, FocalTargets::Dense(&dense), 0.25, 2.0, 1.0);
    let (expected, by_all) = evaluate(&counted, &[2, k], of_all);
    assert!((loss / expected - 1.0).abs() < 1e-6, "{loss}, expected {expected}");
    assert_eq!([&by_all[..k], &vec![0.0; k], &by_all[k..]].concat(), gradient);
}

/// Rows of embeddings, and rows as long as a map.
#[test]
fn rows_of_any_length_are_normalised_with_their_gradients() {
    for (m, d) in [(3, 31), (9, 33), (2, 2047), (2, 2048), (1, 5003)] {
        let (x, g) = (golden::tensor(14, m * d, 3.0, 0.0), golden::tensor(15, m * d, 1.0, 0.0));
        let of = |f: &dyn Fn(&Value) -> Result<Value>| {
            let value = f(&leaf(&x, &[m, d])).unwrap();
            (flat(value.tensor()), flat(&value.backward_from(&tensor(&g, &[m, d])).unwrap()["x"]))
        };
        let (unit, by_unit) = of(&|x| l2_normalize_rows(x, 1e-12));
        let (logs, by_logs) = of(&log_softmax);
        for row in 0..m {
            let row = row * d..(row + 1) * d;
            let wide = |values: &[f32]| values[row.clone()].iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            let (x, g) = (wide(&x), wide(&g));
            let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
            let along = x.iter().zip(&g).map(|(x, g)| x * g).sum::<f64>() / (norm * norm);
            let highest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total = highest + x.iter().map(|x| (x - highest).exp()).sum::<f64>().ln();
            let sum = g.iter().sum::<f64>();
            let close = |got: f64, expected: f64| {
                assert!(
                    (got - expected).abs() <= 2e-6 * expected.abs().max(1.0),
                    "{got}, expected {expected}"
                );
            };
            for (i, at) in row.clone().enumerate() {
                close(f64::from(unit[at]), x[i] / norm);
                close(f64::from(by_unit[at]), (g[i] - along * x[i]) / norm);
                close(f64::from(logs[at]), x[i] - total);
                close(f64::from(by_logs[at]), g[i] - (x[i] - total).exp() * sum);
            }
        }
    }
}

#[test]
fn huge_finite_logits_stay_finite() {
    let x = [1e4f32, -1e4, 1e4, -1e4];
    let finite = |shape: &[usize], loss: &dyn Fn(&Value) -> Result<Value>| {
        let (loss, gradient) = evaluate(&x, shape, loss);
        assert!(loss.is_finite() && gradient.iter().all(|g| g.is_finite()), "{loss} {gradient:?}");
    };
    finite(&[4], &|x| bce_with_logits(x, &[0.0, 1.0, 1.0, 0.0], 1.0));
    finite(&[2, 2], &|x| softmax_cross_entropy(x, &[0, 1], 1.0));
    for (alpha, gamma) in [(0.25, 2.0), (-1.0, 0.0), (0.5, 0.5)] {
        let dense = [0.0, 1.0, 0.3, 0.7];
        finite(&[2, 2], &|x| sigmoid_focal_loss(x, FocalTargets::Dense(&dense), alpha, gamma, 1.0));
        let rows = [RowTarget::Class(1), RowTarget::Background];
        finite(&[2, 2], &|x| sigmoid_focal_loss(x, FocalTargets::Rows(&rows), alpha, gamma, 1.0));
    }
}

#[test]
fn equal_boxes_have_no_giou_loss_and_share_their_edges() {
    let boxes = [1.0f32, 2.0, 5.0, 4.0];
    let (loss, gradient) = evaluate(&boxes, &[1, 4], |x| giou_loss(x, &[boxes], 1.0));
    assert!(loss.abs() < 1e-6, "{loss}");
    // Half of each edge's derivative, as torch.max and torch.min share it: growth and shrinking cancel.
    assert!(gradient.iter().all(|g| g.abs() < 1e-6), "{gradient:?}");
    // A box without an area is finite too.
    let (loss, gradient) = evaluate(&[0.0; 4], &[1, 4], |x| giou_loss(x, &[[0.0; 4]], 1.0));
    assert!(loss.is_finite() && gradient.iter().all(|g| g.is_finite()));
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    let message = |result: Result<Value>| result.map(|_| ()).unwrap_err().to_string();
    let x = leaf(&[0.0; 8], &[2, 4]);
    let label = message(softmax_cross_entropy(&x, &[0, 4], 2.0));
    assert!(label.contains("label 4 in row 1, of 4 classes"), "{label}");
    let class = message(sigmoid_focal_loss(
        &x,
        FocalTargets::Rows(&[RowTarget::Background, RowTarget::Class(9)]),
        0.25,
        2.0,
        1.0,
    ));
    assert!(class.contains("Class(9) in row 1, of 4 classes"), "{class}");
    assert!(message(softmax_cross_entropy(&x, &[0], 2.0)).contains("2 labels expected, got 1"));
    assert!(message(bce_with_logits(&x, &[0.0; 8], 0.0)).contains("divisor"));
    assert!(message(bce_with_logits(&x, &[0.0; 8], f64::NAN)).contains("divisor"));
    assert!(message(smooth_l1(&x, &[[0.0; 4]; 2], f64::NAN, 1.0)).contains("beta"));
    assert!(message(giou_loss(&leaf(&[0.0; 6], &[2, 3]), &[], 1.0)).contains("(M, 4) expected"));
    assert!(
        message(sigmoid_focal_loss(&x, FocalTargets::Dense(&[0.0; 8]), f64::NAN, 2.0, 1.0)).contains("alpha")
    );
    assert!(message(l2_normalize_rows(&x, 0.0)).contains("eps"));
    assert!(message(log_softmax(&leaf(&[0.0], &[]))).contains("scalar"));
}
