//! Passes that choose as another pass did: equal at the same numbers, smooth beside them.

use crate::support::*;
use candle_core::Tensor;
use ckd_kernels::conv::{Conv2dConfig, Epilogue, conv2d};
use ckd_kernels::elementwise::{add, hard_sigmoid, hard_swish, relu, relu6, scale};
use ckd_kernels::graph::{recomputed, untracked};
use ckd_kernels::linear::{Activation, linear};
use ckd_kernels::norm::{NormEpilogue, batch_norm_train, group_norm};
use ckd_kernels::pattern::ActivationPattern;
use ckd_kernels::pool::{global_avg_pool, max_pool2d};
use ckd_kernels::{Result, Value};

/// Every operation that chooses: fused and alone, with a residual, on maps and on rows.
fn network(x: &Value) -> Result<Value> {
    let weight = |stream, shape: &[usize]| Value::leaf(format!("w{stream}"), noise(stream, shape));
    let ones = |name: &str| Value::leaf(name, tensor(vec![1.5; 4], &[4]));
    let zeros = || Value::leaf("bias", tensor(vec![0.2, -0.1, 0.3, 0.0], &[4]));
    let shift = zeros();
    let conv = |activation| Epilogue { shift: Some(&shift), activation, ..Epilogue::default() };
    let x = conv2d(x, &weight(21, &[4, 3, 3, 3]), Conv2dConfig::new(1, 1), conv(Activation::Relu6))?;
    let x = scale(&x, 3.0)?;
    let fused = NormEpilogue { residual: Some(&x), activation: Activation::Relu };
    let y = batch_norm_train(&x, &ones("gain"), &zeros(), 1e-5, fused)?.0;
    let x = max_pool2d(&y, 3, 2, 1)?;
    let x = group_norm(&x, &ones("group"), &zeros(), 2, 1e-5, Activation::Relu)?;
    let x = add(&hard_swish(&scale(&x, 3.0)?)?, &hard_sigmoid(&relu6(&scale(&x, 5.0)?)?)?)?;
    let rows = global_avg_pool(&relu(&add(&x, &scale(&relu(&x)?, -0.5)?)?)?)?;
    linear(&rows, &weight(22, &[5, 4]), Some(&Value::leaf("b", noise(23, &[5]))), Activation::Relu)
}

fn images() -> Tensor {
    nhwc(&noise(20, &[2, 3, 7, 6]))
}

#[test]
fn recording_changes_no_bit_and_a_pass_with_its_own_pattern_is_that_pass_but_for_rounding() {
    let run = || network(&Value::leaf("x", images())).unwrap();
    let free = run();
    let (recorded, pattern) = ActivationPattern::recorded(run);
    let held = pattern.held(|| Ok::<_, ckd_kernels::Error>(run())).unwrap();
    let g = noise(24, free.dims());
    let [free, recorded, held] = [free, recorded, held].map(|out| {
        let gradients = gradients_of(&out, &g);
        (values(out.tensor()), gradients.iter().map(|(n, g)| (n.to_string(), values(g))).collect::<Vec<_>>())
    });
    assert_eq!(free, recorded);
    let all = |(result, gradients): (Vec<f32>, Vec<(String, Vec<f32>)>)| {
        std::iter::once(("the result".to_owned(), result)).chain(gradients)
    };
    for ((name, free), (_, held)) in all(free).zip(all(held)) {
        let largest = free.iter().fold(0f32, |largest, g| largest.max(g.abs()));
        let off = free.iter().zip(&held).fold(0f32, |off, (a, b)| off.max((a - b).abs()));
        // Fused, a norm's sums and an activation's input round differently.
        assert!(off <= 2e-6 * largest, "{name}: {off} of {largest}");
    }
}

/// Differences of a step so large that a free pass crosses many kinks.
#[test]
fn with_a_held_pattern_gradients_agree_with_large_differences() {
    let x = images();
    let (_, pattern) = ActivationPattern::recorded(|| network(&Value::constant(x.clone())).unwrap());
    let held = |x: &Value| pattern.held(|| network(x)).unwrap();
    check_gradients(std::slice::from_ref(&x), 0.02, 2e-3, |x| held(&x[0]));
    let moved = Value::constant((&x + noise(25, x.dims())).unwrap());
    let (a, b) = (values(held(&moved).tensor()), values(network(&moved).unwrap().tensor()));
    assert!(a.iter().zip(&b).any(|(a, b)| (a - b).abs() > 0.01), "no kink was crossed: {a:?} {b:?}");
}

#[test]
fn each_piece_is_itself_beyond_its_kinks() {
    type Function = fn(&Value) -> Result<Value>;
    type OfEachPiece = [[f32; 3]; 2];
    // At a number of each piece, then at 10 and at -10 with that piece: values and slopes.
    let cases: [(Function, [f32; 3], OfEachPiece, OfEachPiece); 4] = [
        (relu, [-1.0, 1.0, 7.0], [[0.0, 10.0, 10.0], [0.0, -10.0, -10.0]], [[0.0, 1.0, 1.0]; 2]),
        (relu6, [-1.0, 1.0, 7.0], [[0.0, 10.0, 6.0], [0.0, -10.0, 6.0]], [[0.0, 1.0, 0.0]; 2]),
        (
            hard_sigmoid,
            [-4.0, 1.0, 4.0],
            [[0.0, 13.0 / 6.0, 1.0], [0.0, -7.0 / 6.0, 1.0]],
            [[0.0, 1.0 / 6.0, 0.0]; 2],
        ),
        (
            hard_swish,
            [-4.0, 1.0, 4.0],
            [[0.0, 130.0 / 6.0, 10.0], [0.0, 70.0 / 6.0, -10.0]],
            [[0.0, 10.0 / 3.0 + 0.5, 1.0], [0.0, -10.0 / 3.0 + 0.5, 1.0]],
        ),
    ];
    for (function, at, results, slopes) in cases {
        let leaf = |x: [f32; 3]| Value::leaf("x", tensor(x.to_vec(), &[3]));
        let (_, pattern) = ActivationPattern::recorded(|| function(&leaf(at)).unwrap());
        for ((x, results), slopes) in [10.0, -10.0].into_iter().zip(results).zip(slopes) {
            let out = pattern.held(|| function(&leaf([x; 3]))).unwrap();
            assert_close(out.tensor(), &tensor(results.to_vec(), &[3]), 1e-6);
            let gradients = gradients_of(&out, &tensor(vec![1.0; 3], &[3]));
            assert_close(&gradients["x"], &tensor(slopes.to_vec(), &[3]), 1e-6);
        }
    }
}

#[test]
fn a_held_pooling_takes_the_pixel_that_won_before() {
    let map = |values: [f32; 4]| Value::leaf("x", tensor(values.to_vec(), &[1, 1, 2, 2]));
    let (_, pattern) =
        ActivationPattern::recorded(|| max_pool2d(&map([1.0, 4.0, 2.0, 3.0]), 2, 2, 0).unwrap());
    let out = pattern.held(|| max_pool2d(&map([9.0, -8.0, 7.0, 6.0]), 2, 2, 0)).unwrap();
    assert_eq!(values(out.tensor()), [-8.0]);
    let g = gradients_of(&out, &tensor(vec![2.0], &[1, 1, 1, 1]));
    assert_eq!(values(&g["x"]), [0.0, 2.0, 0.0, 0.0]);
}

#[test]
fn a_pass_of_other_operations_is_an_error() {
    let x = |count: usize| Value::constant(noise(26, &[count]));
    let (_, pattern) = ActivationPattern::recorded(|| relu(&relu(&x(4)).unwrap()).unwrap());
    let fewer = pattern.held(|| relu(&x(4))).unwrap_err().to_string();
    assert_eq!(fewer, "activation pattern: 2 operations choose, 1 chose now");
    let more = pattern.held(|| relu(&relu(&relu(&x(4))?)?)).unwrap_err().to_string();
    assert_eq!(more, "activation pattern: 2 operations chose in the recorded pass, and one more now");
    let larger = pattern.held(|| relu(&relu(&x(5))?)).unwrap_err().to_string();
    assert_eq!(larger, "activation pattern: a choice for 4 numbers, not for 5");
    // Whatever happened, passes are free again; other threads always were.
    let negative = || Value::constant(tensor(vec![-1.0], &[1]));
    assert_eq!(values(relu(&negative()).unwrap().tensor()), [0.0]);
    let elsewhere = pattern.held(|| {
        relu(&relu(&x(4))?)?;
        let other = std::thread::scope(|scope| {
            scope.spawn(|| values(relu(&negative()).unwrap().tensor())).join().unwrap()
        });
        Ok::<_, ckd_kernels::Error>(other)
    });
    assert_eq!(elsewhere.unwrap(), [0.0]);
}

#[test]
fn a_recomputed_stage_keeps_the_choices_of_its_one_pass() {
    let stage = |x: &Value| recomputed(x, &[], |x: &Value| relu(&scale(x, 2.0)?));
    let x = |sign: f32| Value::leaf("x", tensor(vec![sign, -sign], &[2]));
    let (_, pattern) = ActivationPattern::recorded(|| untracked(|| stage(&x(1.0))).unwrap());
    let out = pattern.held(|| stage(&x(-1.0))).unwrap();
    assert_eq!(values(out.tensor()), [-2.0, 0.0]);
    assert_eq!(values(&gradients_of(&out, &tensor(vec![1.0; 2], &[2]))["x"]), [2.0, 0.0]);
}
