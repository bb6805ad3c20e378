//! Maps of bf16 on a GPU: what each operation makes of them is what it makes of the same numbers in f32, rounded. In a build
//! with the feature `cuda`, and with `CKD_DET_TEST_DEVICE=cuda`.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use ckd_kernels::activation::Activation::{Identity, Relu, Relu6};
use ckd_kernels::alignment::{Kernel, PatchRows, RowNorm, patch_misalignment};
use ckd_kernels::channels::{halve_and_pad, pick_channels, scale_channels};
use ckd_kernels::elementwise::{
    add, concatenate, hard_sigmoid, hard_swish, in_f32, permute, relu, relu6, reshape, rows, scale,
};
use ckd_kernels::norm::{NormEpilogue, batch_norm_train, frozen_batch_norm, group_norm};
use ckd_kernels::pool::{adaptive_avg_pool2d, max_pool2d};
use ckd_kernels::resize::resize_bilinear;
use ckd_kernels::roi_align::{Alignment, Sampling, multi_level_roi_align};
use ckd_kernels::upsample::{upsample_nearest, upsample_nearest_add};
use ckd_kernels::windows::{Pixel, windows};
use ckd_kernels::{Conv2dConfig, Epilogue, Precision, Result, Value, conv2d, linear};

use crate::support::{device, gradients_of, nhwc, noise, values};

/// The GPU. Without one these tests fail: they say nothing of a CPU.
fn gpu() -> &'static Device {
    assert!(!device().is_cpu(), "these tests are of a GPU, or its stand-in: set CKD_DET_TEST_DEVICE=cuda");
    device()
}

/// The numbers of a tensor as bf16 on the GPU, in the same order in memory.
fn bf16(tensor: &Tensor) -> Tensor {
    let last = tensor.rank() == 4 && !tensor.is_contiguous();
    let host = tensor.to_device(&Device::Cpu).unwrap();
    let host = if last { host.permute((0, 2, 3, 1)).unwrap() } else { host };
    let rounded = host.contiguous().unwrap().to_dtype(DType::BF16).unwrap().to_device(gpu()).unwrap();
    if last { rounded.permute((0, 3, 1, 2)).unwrap() } else { rounded }
}

/// Rounds the numbers of a tensor to bf16 and makes them f32 again.
fn rounded(tensor: &Tensor) -> Tensor {
    let value = in_f32(&Value::constant(bf16(tensor))).unwrap();
    value.tensor().clone()
}

/// A map of noise (2, `channels`, 9, 12), channels last in memory.
fn map(stream: u64, channels: usize) -> Tensor {
    nhwc(&(noise(stream, &[2, channels, 9, 12]) * 4.0).unwrap())
}

fn table(stream: u64) -> Value {
    Value::leaf(format!("table {stream}"), noise(stream, &[8]))
}

/// Numbers of `got` that are more than `steps` steps of bf16 away from those of `want`.
#[track_caller]
fn assert_rounded(about: &str, got: &Tensor, want: &Tensor, steps: f32) {
    assert_eq!(got.dims(), want.dims(), "{about}");
    for (at, (got, want)) in values(got).into_iter().zip(values(want)).enumerate() {
        let step = (want.abs() / 128.0).max(1e-30);
        assert!((got - want).abs() <= steps * step, "{about}, number {at}: {got}, {want} rounded");
    }
}

/// Compares `f` of maps of bf16 with `f` of the same numbers in f32: its result and the gradients of all leaves.
#[track_caller]
fn assert_rounds(about: &str, inputs: &[Tensor], steps: f32, f: impl Fn(&[Value]) -> Result<Value>) {
    let leaves = |of: fn(&Tensor) -> Tensor| -> Vec<Value> {
        inputs.iter().enumerate().map(|(i, input)| Value::leaf(format!("input {i}"), of(input))).collect()
    };
    let narrow = f(&leaves(bf16)).unwrap_or_else(|error| panic!("{about}: {error}"));
    let wide = f(&leaves(rounded)).unwrap();
    assert_eq!(wide.tensor().dtype(), DType::F32, "{about}");
    assert_rounded(about, narrow.tensor(), wide.tensor(), steps);
    let g = noise(99, wide.dims());
    let g = if wide.dims().len() == 4 { nhwc(&g) } else { g };
    let (narrow, wide) = (gradients_of(&narrow, &bf16(&g)), gradients_of(&wide, &rounded(&g)));
    assert_eq!(narrow.keys().collect::<Vec<_>>(), wide.keys().collect::<Vec<_>>(), "{about}");
    for (name, gradient) in &narrow {
        let is_map = name.starts_with("input");
        assert_eq!(gradient.dtype(), if is_map { DType::BF16 } else { DType::F32 }, "{about}, {name}");
        assert_rounded(&format!("{about}, gradient of {name}"), gradient, &wide[name], steps);
    }
}

/// One rounding: half a step, and where f32 differs in its last bits to the other side of a tie.
const ONE: f32 = 0.51;

#[test]
fn what_lies_between_convolutions_rounds_its_result_once() {
    let x = || vec![map(1, 8)];
    let two = || vec![map(1, 8), map(2, 8)];
    type Operation = Box<dyn Fn(&[Value]) -> Result<Value>>;
    let order: Arc<[usize]> = vec![3, 0, 3, 7].into();
    let pixel = |image, y, x| Pixel { image, y, x };
    let seen = [pixel(0, 0, 0), pixel(0, 1, 1), pixel(1, 8, 11)];
    let epilogue = |x: &Value, residual: &Value| {
        let epilogue = NormEpilogue { residual: Some(residual), activation: Relu };
        Ok(batch_norm_train(x, &table(3), &table(4), 1e-5, epilogue)?.0)
    };
    let frozen = |x: &Value| {
        let [mean, var] = [Value::constant(noise(5, &[8])), Value::constant(noise(6, &[8]).sqr().unwrap())];
        frozen_batch_norm(x, &table(3), &table(4), &mean, &var, 1e-3)
    };
    let regions = |x: &[Value]| {
        let rois = [[0.0, 3.0, 2.0, 40.0, 30.0], [1.0, 0.0, 0.0, 24.0, 36.0], [1.0, 8.0, 8.0, 20.0, 12.0]];
        let (levels, scales, of) = ([&x[0], &x[1]], [0.25, 0.125], [0, 1, 0]);
        multi_level_roi_align(&levels, &scales, &rois, &of, (3, 2), Sampling::Fixed(2), Alignment::HalfPixel)
    };
    let all: Vec<(&str, Vec<Tensor>, Operation)> = vec![
        ("relu", x(), Box::new(|x| relu(&x[0]))),
        ("relu6", x(), Box::new(|x| relu6(&x[0]))),
        ("hard sigmoid", x(), Box::new(|x| hard_sigmoid(&x[0]))),
        ("hard swish", x(), Box::new(|x| hard_swish(&x[0]))),
        ("scale", x(), Box::new(|x| scale(&x[0], 0.3))),
        ("sum", two(), Box::new(|x| add(&x[0], &x[1]))),
        ("concatenation", two(), Box::new(|x| concatenate(x, 1))),
        ("max pooling", x(), Box::new(|x| max_pool2d(&x[0], 3, 2, 1))),
        ("large bins", x(), Box::new(|x| adaptive_avg_pool2d(&x[0], (1, 1)))),
        ("small bins", x(), Box::new(|x| adaptive_avg_pool2d(&x[0], (4, 5)))),
        ("upsampling", x(), Box::new(|x| upsample_nearest(&x[0], (18, 23)))),
        (
            "top-down sum",
            vec![map(1, 8), nhwc(&noise(2, &[2, 8, 18, 23]))],
            Box::new(|x| upsample_nearest_add(&x[0], &x[1])),
        ),
        ("bilinear", x(), Box::new(|x| resize_bilinear(&x[0], (7, 17)))),
        ("windows", x(), Box::new(move |x| windows(&x[0], &seen, 3))),
        ("picked channels", x(), Box::new(move |x| pick_channels(&x[0], &order))),
        (
            "scaled channels",
            vec![map(1, 8), nhwc(&noise(2, &[2, 8, 1, 1]))],
            Box::new(|x| scale_channels(&x[0], &x[1])),
        ),
        ("half map", x(), Box::new(|x| halve_and_pad(&x[0], 12))),
        ("batch norm", two(), Box::new(move |x| epilogue(&x[0], &x[1]))),
        ("frozen norm", x(), Box::new(move |x| frozen(&x[0]))),
        ("group norm", x(), Box::new(|x| group_norm(&x[0], &table(3), &table(4), 2, 1e-5, Relu6))),
        ("regions", two(), Box::new(regions)),
        (
            "rows",
            x(),
            Box::new(|x| rows(&reshape(&permute(&x[0], &[0, 2, 3, 1])?, &[216, 8])?, &[5, 0, 5, 215])),
        ),
    ];
    for (name, inputs, operation) in all {
        assert_rounds(name, &inputs, ONE, operation);
    }
}

/// A gradient that comes to a map from two places is the sum of two rounded ones, rounded.
#[test]
fn gradients_of_several_uses_are_added_in_the_type_of_the_map() {
    let twice = |x: &[Value]| add(&relu(&x[0])?, &scale(&hard_swish(&x[0])?, 0.5)?);
    assert_rounds("two uses", &[map(1, 8)], 3.0, twice);
}

#[test]
fn a_comparison_in_f32_gives_a_map_its_gradient_in_bf16() {
    let x = Value::leaf("x", bf16(&map(1, 8)));
    let y = in_f32(&x).unwrap();
    assert_eq!(values(y.tensor()), values(x.tensor()));
    let g = noise(3, y.dims());
    let gradient = &gradients_of(&y, &g)["x"];
    assert_eq!(gradient.dtype(), DType::BF16);
    assert_eq!(values(gradient), values(&rounded(&g)));
}

/// Relaxed kernel alignment reads both forms: its value is the same to the bit.
#[test]
fn patches_are_cut_from_maps_as_they_lie() {
    let (teacher, student) = (map(1, 8), map(2, 8));
    let kernel = Kernel { center: false, row_norm: RowNorm::Off };
    let compare = |of: fn(&Tensor) -> Tensor| {
        let student = Value::leaf("s", of(&student));
        let value = patch_misalignment(&of(&teacher), &student, PatchRows::Patches, 4, kernel).unwrap();
        (value.item().unwrap(), value.backward().unwrap()["s"].clone())
    };
    let ((narrow, narrow_gradient), (wide, wide_gradient)) = (compare(bf16), compare(rounded));
    assert_eq!(narrow, wide);
    assert_eq!(narrow_gradient.dtype(), DType::BF16);
    assert_rounded("gradient", &narrow_gradient, &wide_gradient, ONE);
}

/// Products of bf16 factors are added in f32, and the map that they make is rounded; rows stay f32. A depthwise convolution,
/// which the stand-in's cuDNN refuses, is made in f32 of the same factors.
#[test]
fn layers_in_bf16_multiply_rounded_factors_and_give_maps_of_bf16() {
    let plain = Conv2dConfig::new(1, 1);
    let wide = |precision: Precision, config: Conv2dConfig, weight: &Tensor, residual: bool, activation| {
        precision.scope(|| {
            let (x, w) = (Value::leaf("x", rounded(&map(1, 8))), Value::leaf("w", rounded(weight)));
            let shift = Value::leaf("shift", rounded(&noise(4, &[8])));
            let added = Value::leaf("added", rounded(&map(2, 8)));
            let epilogue = Epilogue {
                shift: Some(&shift),
                residual: residual.then_some(&added),
                activation,
                ..Epilogue::default()
            };
            let y = conv2d(&x, &w, config, epilogue).unwrap();
            let g = nhwc(&noise(5, y.dims()));
            let gradients = gradients_of(&y, &rounded(&g));
            (y.tensor().clone(), gradients)
        })
    };
    let dense = nhwc(&noise(3, &[8, 8, 3, 3]));
    let depthwise = nhwc(&noise(3, &[8, 1, 3, 3]));
    for (config, weight) in [(plain, &dense), (Conv2dConfig { groups: 8, ..plain }, &depthwise)] {
        for (residual, activation) in [(false, Identity), (true, Identity), (true, Relu), (false, Relu6)] {
            let (y, gradients) = wide(Precision::Bf16, config, weight, residual, activation);
            let (want, wanted) = wide(Precision::F32, config, weight, residual, activation);
            assert_eq!(y.dtype(), DType::BF16);
            let largest = values(&want).into_iter().fold(0f32, |largest, x| largest.max(x.abs()));
            for (got, want) in values(&y).into_iter().zip(values(&want)) {
                // The sums are rounded before shift and residual join them.
                assert!((got - want).abs() <= largest / 128.0, "{config:?} {activation:?}: {got}, {want}");
            }
            for (name, want) in &wanted {
                let got = &gradients[name];
                assert_eq!(got.dtype(), DType::F32, "{name}: as its leaf");
                let largest = values(want).into_iter().fold(0f32, |largest, x| largest.max(x.abs()));
                for (got, want) in values(got).into_iter().zip(values(want)) {
                    // Where a rounded result lies on the other side of a kink a whole gradient differs.
                    let same = (got - want).abs() <= largest / 100.0 || activation != Identity;
                    assert!(same, "{config:?} {name}: {got}, {want}");
                }
            }
        }
    }
    let rows = |precision: Precision| {
        precision.scope(|| {
            let (x, w) =
                (Value::leaf("x", bf16(&noise(6, &[5, 12]))), Value::leaf("w", rounded(&noise(7, &[4, 12]))));
            let y = linear(&x, &w, None, Identity).unwrap();
            let gradients = gradients_of(&y, &rounded(&noise(8, &[5, 4])));
            (y.tensor().clone(), gradients)
        })
    };
    let ((y, gradients), (want, wanted)) = (rows(Precision::Bf16), rows(Precision::F32));
    assert_eq!(
        (y.dtype(), gradients["x"].dtype(), gradients["w"].dtype()),
        (DType::F32, DType::BF16, DType::F32)
    );
    for (got, want) in [(&y, &want), (&gradients["w"], &wanted["w"])] {
        for (got, want) in values(got).into_iter().zip(values(want)) {
            assert!((got - want).abs() <= 2e-6, "{got}, {want}: rows keep all bits");
        }
    }
    assert_rounded("gradient of the rows", &gradients["x"], &wanted["x"], ONE);
}

/// NaN and infinities come through, and a tie goes to the even number.
#[test]
fn rounding_keeps_what_is_no_number() {
    let at = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        1.0 + 2f32.powi(-8),
        1.0 + 3.0 * 2f32.powi(-8),
        -0.0,
        1e-40,
    ];
    let x = Tensor::new(&at, gpu()).unwrap();
    let narrow = Value::leaf("x", bf16(&Tensor::zeros(7, DType::F32, gpu()).unwrap()));
    // A gradient of f32 is brought to the type of its value by the kernel under test.
    let gradient = values(&in_f32(&narrow).unwrap().backward_from(&x).unwrap()["x"]);
    assert!(gradient[0].is_nan());
    assert_eq!(gradient[1..6], [f32::INFINITY, f32::NEG_INFINITY, 1.0, 1.0 + 2f32.powi(-6), 0.0]);
    assert!(gradient[5].is_sign_negative() && gradient[6] > 0.0);
}
