//! Support of the tests of all methods.

use std::sync::LazyLock;

use candle_core::{Device, Tensor};
use ckd_det::distill::mcl::{Instance, Pair};
use ckd_det::distill::{
    DistillError, Distiller, Lesson, Maps, Method, MethodSetting, Rows, RowsAt, Term, Widths,
};
use ckd_detectors::param::Builder;
use ckd_detectors::taps::{Tap, Taps};
use ckd_kernels::Value;
use ckd_kernels::elementwise::weighted_sum;
use ckd_kernels::normalize::l2_normalize_rows;

use ckd_golden as golden;

pub(crate) type Outcome = Result<Value, DistillError>;

/// The device that the tests run on: the CPU, or with `CKD_DET_TEST_DEVICE=cuda` the first GPU.
pub(crate) fn device() -> &'static Device {
    static DEVICE: LazyLock<Device> =
        LazyLock::new(|| match std::env::var("CKD_DET_TEST_DEVICE").as_deref() {
            Err(_) | Ok("cpu") => Device::Cpu,
            #[cfg(feature = "cuda")]
            Ok("cuda") => ckd_kernels::cuda::open(0).expect("a GPU, or its stand-in"),
            Ok(other) => panic!("CKD_DET_TEST_DEVICE={other}: cpu, or cuda in a build with the feature cuda"),
        });
    &DEVICE
}

pub(crate) fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, device()).unwrap()
}

/// What candle computes of `inputs`, on the host wherever they lie.
pub(crate) fn computed<const N: usize>(
    inputs: [&Tensor; N],
    f: impl FnOnce([Tensor; N]) -> candle_core::Result<Tensor>,
) -> Tensor {
    f(inputs.map(|x| x.to_device(&Device::Cpu).unwrap())).unwrap().to_device(device()).unwrap()
}

/// `x` times a number.
pub(crate) fn times(x: &Tensor, factor: f64) -> Tensor {
    computed([x], |[x]| x * factor)
}

/// Numbers in [-1, 1) of the golden generator.
pub(crate) fn noise(stream: u64, shape: &[usize]) -> Tensor {
    tensor(&golden::tensor(stream, shape.iter().product(), 1.0, 0.0), shape)
}

pub(crate) fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// What a method knows before the first step, of networks of these widths.
pub(crate) fn setting(widths: Widths) -> MethodSetting<'static> {
    MethodSetting { seed: 7, device: device(), widths, anchors: None, images: 0, classes: Vec::new() }
}

/// The method of an entry at `index` of `[[distill]]`.
pub(crate) fn built(
    method: &impl Method,
    index: usize,
    setting: &MethodSetting<'_>,
) -> Result<Box<dyn Distiller>, DistillError> {
    method.build(setting, Builder::new(7, device()).within("distill").within(index))
}

/// The method of an entry for networks whose widths do not matter.
pub(crate) fn plain(method: &impl Method) -> Box<dyn Distiller> {
    built(method, 0, &setting(Widths::new())).unwrap()
}

pub(crate) fn rows(at: RowsAt) -> Rows {
    Rows::new(at)
}

pub(crate) fn maps(levels: &[&str]) -> Maps {
    Maps::new(levels.iter().map(|level| (*level).to_owned()).collect())
}

/// The loss and its gradient, row-major.
pub(crate) fn evaluate(student: &Tensor, loss: impl Fn(&Value) -> Outcome) -> (f32, Vec<f32>) {
    let value = loss(&Value::leaf("s", student.clone())).unwrap();
    let gradient = &value.backward().unwrap()["s"];
    assert!(gradient.device().same_device(student.device()), "a gradient that went to another device");
    let gradient = flat(gradient);
    // A student that is not tracked gets the same value, and no gradient.
    let constant = loss(&Value::constant(student.clone())).unwrap();
    assert!(!constant.is_tracked());
    assert_eq!(constant.item().unwrap().to_bits(), value.item().unwrap().to_bits());
    (value.item().unwrap(), gradient)
}

pub(crate) fn value_of(student: &Tensor, loss: impl Fn(&Value) -> Outcome) -> f32 {
    evaluate(student, loss).0
}

/// Compares the gradient with central differences of width 2^-6 at every `every`th element.
pub(crate) fn check_gradient(
    student: &Tensor,
    every: usize,
    tolerance: f32,
    loss: impl Fn(&Value) -> Outcome,
) {
    const STEP: f32 = 1.0 / 64.0;
    let (_, gradient) = evaluate(student, &loss);
    let values = flat(student);
    for i in (0..values.len()).step_by(every) {
        let at = |step: f32| {
            let mut moved = values.clone();
            moved[i] += step;
            loss(&Value::constant(tensor(&moved, student.dims()))).unwrap().item().unwrap()
        };
        let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        assert!((numeric - gradient[i]).abs() < tolerance, "[{i}] = {}, numeric {numeric}", gradient[i]);
    }
}

/// Rows (along the first dimension) in another order.
pub(crate) fn permuted(x: &Tensor, order: &[u32]) -> Tensor {
    computed([x], |[x]| x.index_select(&Tensor::new(order, &Device::Cpu)?, 0))
}

pub(crate) fn assert_close(a: f32, b: f32, tolerance: f32) {
    assert!((a - b).abs() <= tolerance, "{a} and {b} differ by more than {tolerance}");
}

pub(crate) fn input(case: &golden::Case<'_>, key: &str) -> Tensor {
    let (values, shape) = case.f32(key);
    tensor(&values, &shape)
}

pub(crate) fn taps(tap: Tap, value: Value) -> Taps {
    [(tap, value)].into_iter().collect()
}

pub(crate) fn terms_of(
    method: &dyn Distiller,
    teacher: &Taps,
    student: &Taps,
) -> Result<Vec<Term>, DistillError> {
    method.terms(&Lesson::new(teacher, student))
}

pub(crate) fn total(terms: &[Term]) -> Outcome {
    let terms: Vec<(&Value, f64)> = terms.iter().map(|term| (&term.value, term.weight)).collect();
    Ok(weighted_sum(&terms)?)
}

/// Compares a scalar and its gradients with the golden ones: `inputs` are leaves, and each whose `grad_KEY` is
/// an output is compared.
pub(crate) fn check_case(
    case: &golden::Case<'_>,
    output: &str,
    inputs: &[&str],
    loss: impl Fn(&[Value]) -> Outcome,
) {
    let leaves: Vec<Value> = inputs.iter().map(|key| Value::leaf(*key, input(case, key))).collect();
    let value = loss(&leaves).unwrap();
    case.check_close(output, &[value.item().unwrap()]);
    let gradients = value.backward().unwrap();
    for key in inputs {
        let wanted = format!("grad_{key}");
        if case.outputs().contains(&wanted.as_str()) {
            let gradient = gradients.get(*key);
            let stayed = gradient.is_none_or(|gradient| gradient.device().same_device(device()));
            assert!(stayed, "{}: the gradient of {key} went to another device", case.name);
            let gradient = gradient.map(flat);
            let zeros = || vec![0.0; case.f32(key).0.len()];
            case.check_close(&wanted, &gradient.unwrap_or_else(zeros));
        }
    }
}

/// The classes of a case.
pub(crate) fn labels(case: &golden::Case<'_>, key: &str) -> Vec<u32> {
    case.i64(key).0.into_iter().map(|label| label as u32).collect()
}

/// A tensor with the channels last in memory.
pub(crate) fn channels_last(x: &Tensor) -> Tensor {
    x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().permute((0, 3, 1, 2)).unwrap()
}

/// The largest size of an element.
pub(crate) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

pub(crate) fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, candle_core::DType::F32, device()).unwrap()
}

/// Runs `test` on the case `name` of the golden values that the repository made itself (`tools/golden/distill_cases.py`).
pub(crate) fn own_case(name: &str, test: impl FnOnce(&golden::Case<'_>)) {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/own");
    test(&golden::Golden::open(root).case(name));
}

/// Runs `test` on the cases of the second golden set whose name starts with `prefix`. No such case is a failure.
pub(crate) fn each_next_case(prefix: &str, test: impl FnMut(&golden::Case<'_>)) {
    static NEXT: LazyLock<golden::Golden> = LazyLock::new(|| {
        golden::Golden::open(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/next"))
    });
    let cases = NEXT.cases_with_prefix(prefix);
    assert!(!cases.is_empty(), "no golden case starts with {prefix:?}");
    cases.iter().for_each(test);
}

/// The weighted sum of scalars.
pub(crate) fn sum(terms: &[(Value, f64)]) -> Value {
    weighted_sum(&terms.iter().map(|(term, weight)| (term, *weight)).collect::<Vec<_>>()).unwrap()
}

/// Weights of 1.
pub(crate) fn ones(count: usize) -> Value {
    Value::constant(tensor(&vec![1.0; count], &[count]))
}

/// Unit rows.
pub(crate) fn unit(x: &Value) -> Value {
    l2_normalize_rows(x, 1e-12).unwrap()
}

/// The settings of a golden case of MCL or L-MCL.
pub(crate) fn settings_of(case: &golden::Case<'_>) -> Pair {
    Pair {
        vcl: case.attr_f64("alpha"),
        icl: case.attr_f64("beta"),
        soft_vcl: case.attr_f64("gamma"),
        soft_icl: case.attr_f64("lam"),
        tau: case.attr_f64("tau"),
        temperature: case.attr_f64("T"),
        instance: Instance::Excluded,
    }
}
