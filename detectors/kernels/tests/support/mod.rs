//! What the kernel tests share: golden cases as values, reproducible inputs, and the gradient check.

pub(crate) use ckd_golden as golden;

use std::sync::LazyLock;

use candle_core::{DType, Device, Tensor};
use ckd_golden::Case;
use ckd_kernels::{Gradients, Value};

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

/// A row-major tensor on the device of the tests.
pub(crate) fn tensor(values: Vec<f32>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(values, shape, device()).expect("as many values as the shape has")
}

/// Numbers in [-1, 1) from stream `stream` of the golden generator.
pub(crate) fn noise(stream: u64, shape: &[usize]) -> Tensor {
    tensor(golden::tensor(stream, shape.iter().product(), 1.0, 0.0), shape)
}

/// Numbers that all differ, by at least `gap`, in a shuffled order: no comparison hangs on rounding.
pub(crate) fn distinct(stream: u64, shape: &[usize], gap: f32) -> Tensor {
    let count: usize = shape.iter().product();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&a, &b| golden::value(stream, a as u64).total_cmp(&golden::value(stream, b as u64)));
    tensor(order.into_iter().map(|rank| (rank as f32 - count as f32 / 2.0 + 0.25) * gap).collect(), shape)
}

/// `tensor` with the same elements, channels last in memory.
pub(crate) fn nhwc(tensor: &Tensor) -> Tensor {
    let last = tensor.permute((0, 2, 3, 1)).and_then(|t| t.contiguous()).expect("four dimensions");
    last.permute((0, 3, 1, 2)).expect("four dimensions")
}

/// The elements, row-major in the tensor's shape.
pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    let host = tensor.to_device(&Device::Cpu).and_then(|t| t.to_dtype(DType::F32));
    host.and_then(|t| t.flatten_all()?.to_vec1()).expect("numbers")
}

/// Input `key` of a golden case.
pub(crate) fn input(case: &Case<'_>, key: &str) -> Tensor {
    let (values, shape) = case.f32(key);
    tensor(values, &shape)
}

/// Input `key` of a golden case as a leaf of that name.
pub(crate) fn leaf(case: &Case<'_>, key: &str) -> Value {
    Value::leaf(key, input(case, key))
}

/// The gradients of Σ out · g.
pub(crate) fn gradients_of(out: &Value, g: &Tensor) -> Gradients {
    out.backward_from(g).expect("a fresh graph, and g of the shape of the result")
}

/// Compares a result with `out` and the gradients of Σ out · g with `grad_*`, for all of those that the case
/// has.
pub(crate) fn check_case(case: &Case<'_>, out: &Value) {
    case.check_close("out", &values(out.tensor()));
    let gradients = gradients_of(out, &input(case, "g"));
    for key in case.outputs() {
        let Some(name) = key.strip_prefix("grad_") else { continue };
        let gradient = gradients.get(name).unwrap_or_else(|| panic!("{}: no gradient of {name}", case.name));
        case.check_close(key, &values(gradient));
    }
}

/// Compares the gradients of `f` with differences of its results, four points an element (error of order h⁴).
///
/// The scalar is Σ f(inputs) · p with fixed pseudo-random p, summed in f64. Passes if every difference is at
/// most `tolerance` · max(1, largest gradient of that input).
#[track_caller]
pub(crate) fn check_gradients(inputs: &[Tensor], step: f32, tolerance: f64, f: impl Fn(&[Value]) -> Value) {
    let leaves: Vec<Value> =
        inputs.iter().enumerate().map(|(i, t)| Value::leaf(format!("input {i}"), t.clone())).collect();
    let out = f(&leaves);
    let weights = noise(7_000_001, out.dims());
    let gradients = gradients_of(&out, &weights);
    let weights = values(&weights);
    let scalar = |inputs: &[Value]| -> f64 {
        let out = values(f(inputs).tensor());
        out.iter().zip(&weights).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    for (i, input) in inputs.iter().enumerate() {
        let gradient = gradients.get(format!("input {i}").as_str());
        let gradient = values(gradient.unwrap_or_else(|| panic!("no gradient of input {i}")));
        let largest = gradient.iter().fold(1f64, |largest, g| largest.max(f64::from(g.abs())));
        let original = values(input);
        for (at, gradient) in gradient.iter().enumerate() {
            let moved = |by: f32| {
                let mut changed = original.clone();
                changed[at] += by;
                let actual = f64::from(changed[at]) - f64::from(original[at]);
                let inputs: Vec<Value> = (0..inputs.len())
                    .map(|k| match k == i {
                        true => Value::constant(tensor(changed.clone(), input.dims())),
                        false => Value::constant(inputs[k].clone()),
                    })
                    .collect();
                (scalar(&inputs), actual)
            };
            let slope = |by: f32| {
                let ((up, plus), (down, minus)) = (moved(by), moved(-by));
                (up - down) / (plus - minus)
            };
            let expected = (4.0 * slope(step) - slope(2.0 * step)) / 3.0;
            let off = (f64::from(*gradient) - expected).abs();
            assert!(
                off <= tolerance * largest,
                "input {i} {:?}, element {at}: gradient {gradient}, differences give {expected} (off by {off:.2e})",
                input.dims()
            );
        }
    }
}

/// Panics unless both have the same shape and values within `tolerance` · max(1, largest value).
#[track_caller]
pub(crate) fn assert_close(got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), want.dims());
    let (got, want) = (values(got), values(want));
    let largest = want.iter().fold(1f64, |largest, v| largest.max(f64::from(v.abs())));
    for (at, (got, want)) in got.iter().zip(&want).enumerate() {
        let off = (f64::from(*got) - f64::from(*want)).abs();
        assert!(off <= tolerance * largest, "element {at}: {got}, expected {want} (off by {off:.2e})");
    }
}

/// Runs `f` on a pool of `threads` threads.
pub(crate) fn on_threads<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a small pool").install(f)
}
