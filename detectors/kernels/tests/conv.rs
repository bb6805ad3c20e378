//! Convolution against PyTorch's values, a scalar reference in f64, and the composition of plain operations.

use std::alloc::System;

use crate::support::*;
use candle_core::Tensor;
use ckd_kernels::allocator::KeepLarge;
use ckd_kernels::conv::without_winograd;
use ckd_kernels::elementwise::{add, relu, relu6};
use ckd_kernels::linear::Activation;
use ckd_kernels::{Algorithms, Conv2dConfig, Epilogue, Precision, Value, conv2d};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

// The program's: it aligns large results to cache lines, which writing around the caches needs.
#[global_allocator]
static ALLOCATOR: KeepLarge<System> = KeepLarge::new(System);

#[test]
fn convolution_equals_pytorch() {
    golden::each_case("conv2d/", |case| {
        let both = |key| match case.attr_usizes(key)[..] {
            [both] => [both; 2],
            [vertical, horizontal] => [vertical, horizontal],
            _ => panic!("{}: {key}", case.name),
        };
        let config = Conv2dConfig {
            stride: both("stride"),
            padding: both("padding"),
            dilation: both("dilation"),
            groups: case.attr_usize("groups"),
        };
        let bias = case.has("b").then(|| leaf(case, "b"));
        let epilogue = Epilogue { shift: bias.as_ref(), ..Epilogue::default() };
        check_case(case, &conv2d(&leaf(case, "x"), &leaf(case, "w"), config, epilogue).unwrap());
        // The same from channels-last memory.
        let x = Value::leaf("x", nhwc(&input(case, "x")));
        check_case(case, &conv2d(&x, &leaf(case, "w"), config, epilogue).unwrap());
    });
}

/// A GPU tries its algorithms, of which some compute no shape; a CPU has one.
#[test]
fn the_fastest_algorithms_compute_the_same_convolution() {
    let step = |algorithms: Algorithms| {
        algorithms.scope(|| {
            let (x, w) =
                (Value::leaf("x", noise(1, &[2, 6, 9, 7])), Value::leaf("w", noise(2, &[4, 3, 3, 3])));
            let config = Conv2dConfig { padding: [1, 1], groups: 2, ..Conv2dConfig::default() };
            let y = conv2d(&x, &w, config, Epilogue::default()).unwrap();
            let gradients = gradients_of(&y, &noise(3, y.dims()));
            [y.tensor().clone(), gradients["x"].clone(), gradients["w"].clone()]
        })
    };
    let want = step(Algorithms::Repeatable);
    // Once they are tried, and once they are known.
    for _ in 0..2 {
        for (got, want) in step(Algorithms::Fastest).iter().zip(&want) {
            assert_close(got, want, 1e-4);
        }
    }
}

/// A convolution of the property tests: sizes and configuration.
#[derive(Debug, Clone)]
struct Sizes {
    n: usize,
    h: usize,
    w: usize,
    group_c: usize,
    group_k: usize,
    kernel: [usize; 2],
    config: Conv2dConfig,
}

impl Sizes {
    fn x(&self) -> Tensor {
        noise(1, &[self.n, self.group_c * self.config.groups, self.h, self.w])
    }

    fn weight(&self) -> Tensor {
        let k = self.group_k * self.config.groups;
        noise(2, &[k, self.group_c, self.kernel[0], self.kernel[1]])
    }

    fn fits(&self) -> bool {
        let [r, s] = self.kernel;
        self.config.output_size(0, self.h, r).is_some() && self.config.output_size(1, self.w, s).is_some()
    }
}

fn sizes() -> impl Strategy<Value = Sizes> {
    let pair = |range: std::ops::RangeInclusive<usize>| [range.clone(), range];
    let channels = (1usize..=11, 1usize..=11, prop_oneof![3 => Just(1usize), 1 => 2usize..=5]);
    let config = (pair(1..=3), pair(0..=3), pair(1..=2));
    (0usize..=9, pair(1..=13), channels, pair(1..=4), config)
        .prop_map(|(n, [h, w], (group_c, group_k, groups), kernel, (stride, padding, dilation))| Sizes {
            n,
            h,
            w,
            group_c,
            group_k,
            kernel,
            config: Conv2dConfig { stride, padding, dilation, groups },
        })
        .prop_filter("the kernel fits", Sizes::fits)
}

/// Result, gradient of x and gradient of w for the gradient `noise(3)` of the result, all in f64.
fn reference(sizes: &Sizes, x: &[f32], weight: &[f32]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let &Sizes { n, h, w, group_c, group_k, kernel: [r, s], config } = sizes;
    let (oh, ow) = (config.output_size(0, h, r).unwrap(), config.output_size(1, w, s).unwrap());
    let (c, k) = (group_c * config.groups, group_k * config.groups);
    let g = golden::tensor(3, n * k * oh * ow, 1.0, 0.0);
    let (mut out, mut gx, mut gw) = (vec![0f64; g.len()], vec![0f64; x.len()], vec![0f64; weight.len()]);
    for at in 0..g.len() {
        let (image, to, oy, ox) = (at / (k * oh * ow), at / (oh * ow) % k, at / ow % oh, at % ow);
        for tap in 0..group_c * r * s {
            let (channel, ry, sx) = (tap / (r * s), tap / s % r, tap % s);
            let y = (oy * config.stride[0] + ry * config.dilation[0]).checked_sub(config.padding[0]);
            let column = (ox * config.stride[1] + sx * config.dilation[1]).checked_sub(config.padding[1]);
            let (Some(y), Some(column)) = (y.filter(|y| *y < h), column.filter(|x| *x < w)) else { continue };
            let from = ((image * c + to / group_k * group_c + channel) * h + y) * w + column;
            let by = to * group_c * r * s + tap;
            out[at] += f64::from(x[from]) * f64::from(weight[by]);
            gx[from] += f64::from(g[at]) * f64::from(weight[by]);
            gw[by] += f64::from(g[at]) * f64::from(x[from]);
        }
    }
    (out, gx, gw)
}

fn as_tensor(values: &[f64], shape: &[usize]) -> Tensor {
    tensor(values.iter().map(|value| *value as f32).collect(), shape)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Odd sizes, strides 1 to 3, dilation 1 and 2, padding 0 to 3, groups, no images: result and both
    /// gradients. Sums of at most 13·13·9 products of numbers below 1, in f32: 1e-5 of the largest value.
    #[test]
    fn any_shape_equals_the_scalar_reference(sizes in sizes()) {
        let (x, weight) = (sizes.x(), sizes.weight());
        let (out, gx, gw) = reference(&sizes, &values(&x), &values(&weight));
        let got = conv2d(
            &Value::leaf("x", nhwc(&x)),
            &Value::leaf("w", weight.clone()),
            sizes.config,
            Epilogue::default(),
        )
        .unwrap();
        assert_close(got.tensor(), &as_tensor(&out, got.dims()), 1e-5);
        let gradients = gradients_of(&got, &noise(3, got.dims()));
        assert_close(&gradients["x"], &as_tensor(&gx, x.dims()), 1e-5);
        assert_close(&gradients["w"], &as_tensor(&gw, weight.dims()), 1e-5);
    }
}

/// 3x3 convolutions of stride 1 with channels in whole vectors, or many of them: Winograd's form.
fn winograd_sizes() -> impl Strategy<Value = Sizes> {
    let channels = prop_oneof![Just(16usize), Just(32), Just(48), 64usize..=100];
    (0usize..=3, 4usize..=23, 4usize..=23, channels.clone(), channels, 0usize..=2)
        .prop_map(|(n, h, w, group_c, group_k, padding)| Sizes {
            n,
            h,
            w,
            group_c,
            group_k,
            kernel: [3, 3],
            config: Conv2dConfig::new(1, padding),
        })
        .prop_filter("the kernel fits", Sizes::fits)
}

/// One channel a group.
fn depthwise_sizes() -> impl Strategy<Value = Sizes> {
    let channels = prop_oneof![2usize..=40, Just(64usize), Just(96)];
    (0usize..=3, 1usize..=12, 1usize..=12, channels, 1usize..=5, 1usize..=3, 0usize..=2)
        .prop_map(|(n, h, w, groups, kernel, stride, padding)| Sizes {
            n,
            h,
            w,
            group_c: 1,
            group_k: 1,
            kernel: [kernel; 2],
            config: Conv2dConfig { groups, ..Conv2dConfig::new(stride, padding) },
        })
        .prop_filter("the kernel fits", Sizes::fits)
}

/// Result and gradients against f64, the largest error relative to the root mean square of each.
fn relative_errors(sizes: &Sizes) -> [f64; 3] {
    let (x, weight) = (sizes.x(), sizes.weight());
    let (out, gx, gw) = reference(sizes, &values(&x), &values(&weight));
    let (leaf_x, leaf_w) = (Value::leaf("x", nhwc(&x)), Value::leaf("w", weight));
    let got = conv2d(&leaf_x, &leaf_w, sizes.config, Epilogue::default()).unwrap();
    let gradients = gradients_of(&got, &noise(3, got.dims()));
    [(got.tensor(), &out), (&gradients["x"], &gx), (&gradients["w"], &gw)].map(|(got, expected)| {
        let mean = expected.iter().map(|value| value * value).sum::<f64>() / expected.len().max(1) as f64;
        let error = |(got, expected): (&f32, &f64)| (f64::from(*got) - expected).abs();
        values(got).iter().zip(expected).map(error).fold(0.0, f64::max) / mean.sqrt().max(1e-12)
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        rng_seed: RngSeed::Fixed(2),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// The bound that the module states: 3e-5 of the result's root mean square, for sums of up to 64·9
    /// products.
    #[test]
    fn winograds_form_stays_within_its_stated_error(sizes in winograd_sizes()) {
        for (error, of) in relative_errors(&sizes).into_iter().zip(["y", "x", "w"]) {
            prop_assert!(error < 3e-5, "{of}: {error:.1e}");
        }
    }

    #[test]
    fn plain_sums_of_products_instead_of_winograds_form_are_three_times_nearer(sizes in winograd_sizes()) {
        for (error, of) in without_winograd(|| relative_errors(&sizes)).into_iter().zip(["y", "x", "w"]) {
            prop_assert!(error < 1e-5, "{of}: {error:.1e}");
        }
    }

    #[test]
    fn depthwise_convolution_equals_the_scalar_reference(sizes in depthwise_sizes()) {
        for (error, of) in relative_errors(&sizes).into_iter().zip(["y", "x", "w"]) {
            prop_assert!(error < 1e-5, "{of}: {error:.1e}");
        }
    }
}

/// Maps as large as a detector's take other ways than small ones: Winograd's form by tiles and for gradients
/// of weights, results that are written around the caches, windows that are copied lest they collide. Too
/// large for the whole reference: single numbers of the result and of both gradients against their sums in
/// f64, relative to the root mean square.
#[test]
fn large_maps_agree_with_sums_of_single_numbers() {
    let of = |n, (h, w), (c, k), kernel: usize, stride, padding| Sizes {
        n,
        h,
        w,
        group_c: c,
        group_k: k,
        kernel: [kernel; 2],
        config: Conv2dConfig::new(stride, padding),
    };
    for sizes in [
        of(1, (151, 141), (64, 48), 3, 1, 1),
        of(1, (61, 83), (64, 90), 3, 1, 1),
        of(1, (25, 42), (67, 150), 3, 1, 1),
        of(3, (62, 75), (16, 32), 3, 1, 1),
        of(2, (97, 102), (64, 64), 3, 1, 0),
        of(1, (17, 23), (256, 256), 3, 1, 1),
        of(1, (322, 321), (8, 64), 1, 1, 0),
        of(1, (201, 335), (16, 96), 3, 1, 2),
        of(2, (61, 50), (1024, 40), 1, 1, 0),
        of(1, (100, 90), (512, 33), 3, 2, 1),
        of(1, (203, 301), (3, 64), 7, 2, 3),
    ] {
        for (error, of) in sampled_errors(&sizes).into_iter().zip(["y", "x", "w"]) {
            assert!(error < 3e-5, "{sizes:?} {of}: {error:.1e}");
        }
    }
}

/// The largest errors of some numbers of result and gradients, relative to the root mean square of each.
fn sampled_errors(sizes: &Sizes) -> [f64; 3] {
    let &Sizes { n, h, w, group_c: c, group_k: k, kernel: [r, s], config } = sizes;
    let (oh, ow) = (config.output_size(0, h, r).unwrap(), config.output_size(1, w, s).unwrap());
    let (x, weight, g) = (sizes.x(), sizes.weight(), noise(3, &[n, k, oh, ow]));
    let (leaf_x, leaf_w) = (Value::leaf("x", nhwc(&x)), Value::leaf("w", weight.clone()));
    let got = conv2d(&leaf_x, &leaf_w, config, Epilogue::default()).unwrap();
    let gradients = gradients_of(&got, &g);
    let [x, weight, g] = [&x, &weight, &g].map(values);
    // The output pixel that sees row or column `at` through tap `tap`.
    let output = |axis: usize, at: usize, tap: usize, size: usize| {
        let from = (at + config.padding[axis]).checked_sub(tap)?;
        let stride = config.stride[axis];
        (from % stride == 0 && from / stride < size).then_some(from / stride)
    };
    let term = |a: f32, b: f32| f64::from(a) * f64::from(b);
    let y_at = |at: usize| {
        let (image, to, oy, ox) = (at / (k * oh * ow), at / (oh * ow) % k, at / ow % oh, at % ow);
        let mut sum = 0.0;
        for (channel, ry, sx) in taps(c, r, s) {
            let y = (oy * config.stride[0] + ry).checked_sub(config.padding[0]).filter(|y| *y < h);
            let column = (ox * config.stride[1] + sx).checked_sub(config.padding[1]).filter(|x| *x < w);
            if let (Some(y), Some(column)) = (y, column) {
                let from = ((image * c + channel) * h + y) * w + column;
                sum += term(x[from], weight[((to * c + channel) * r + ry) * s + sx]);
            }
        }
        sum
    };
    let gx_at = |at: usize| {
        let (image, channel, y, column) = (at / (c * h * w), at / (h * w) % c, at / w % h, at % w);
        let mut sum = 0.0;
        for (to, ry, sx) in taps(k, r, s) {
            if let (Some(oy), Some(ox)) = (output(0, y, ry, oh), output(1, column, sx, ow)) {
                let by = weight[((to * c + channel) * r + ry) * s + sx];
                sum += term(g[((image * k + to) * oh + oy) * ow + ox], by);
            }
        }
        sum
    };
    let gw_at = |at: usize| {
        let (to, channel, ry, sx) = (at / (c * r * s), at / (r * s) % c, at / s % r, at % s);
        let mut sum = 0.0;
        for (image, y, column) in taps(n, h, w) {
            if let (Some(oy), Some(ox)) = (output(0, y, ry, oh), output(1, column, sx, ow)) {
                let from = x[((image * c + channel) * h + y) * w + column];
                sum += term(g[((image * k + to) * oh + oy) * ow + ox], from);
            }
        }
        sum
    };
    [
        largest_error(&values(got.tensor()), 4000, y_at),
        largest_error(&values(&gradients["x"]), 4000, gx_at),
        largest_error(&values(&gradients["w"]), 100, gw_at),
    ]
}

/// All triples of indices below three sizes.
fn taps(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a * b * c).map(move |at| (at / (b * c), at / c % b, at % c))
}

/// Over about `count` numbers from one end to the other.
fn largest_error(got: &[f32], count: usize, expected: impl Fn(usize) -> f64) -> f64 {
    let mean = got.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / got.len() as f64;
    // Both ends, and steps that are prime to the sizes.
    let step = (got.len() / count).max(1) | 1;
    let at = (0..got.len()).step_by(step).chain([got.len() - 1]);
    at.map(|at| (f64::from(got[at]) - expected(at)).abs()).fold(0.0, f64::max) / mean.sqrt()
}

/// bfloat16 has 8 bits: each product is off by at most 2^-8 of itself, their sum by far less than the bound.
/// On the CPU gradients of weights are f32 in either case; on a GPU they are products of the same kind, rounded.
#[test]
fn bf16_products_are_off_by_the_rounding_of_their_factors() {
    let of = |kernel, config, c, k| Sizes { n: 2, h: 9, w: 11, group_c: c, group_k: k, kernel, config };
    let grouped = Conv2dConfig { groups: 2, ..Conv2dConfig::new(1, 1) };
    for sizes in [
        of([1, 1], Conv2dConfig::default(), 64, 40),
        of([3, 3], Conv2dConfig::new(2, 1), 16, 33),
        of([3, 3], grouped, 6, 10),
        of([3, 3], Conv2dConfig::new(1, 1), 3, 8),
    ] {
        let [y, x, w] = Precision::Bf16.scope(|| relative_errors(&sizes));
        for (error, of) in [(y, "y"), (x, "x")] {
            assert!(error < 0.02, "{sizes:?} {of}: {error:.1e}");
        }
        let bound = if device().is_cpu() { 1e-5 } else { 0.02 };
        assert!(w < bound, "{sizes:?} w: {w:.1e}");
        let exact = device().is_cpu() && (!Precision::Bf16.is_native() || sizes.group_c % 2 == 1);
        assert_eq!(y < 1e-5, exact, "{sizes:?}: {y:.1e}");
    }
}

/// The epilogue's parts, each present or not.
fn epilogues() -> impl Iterator<Item = (bool, bool, bool, Activation)> {
    let activations = [Activation::Identity, Activation::Relu, Activation::Relu6];
    (0..8).flat_map(move |bits| activations.map(|a| (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0, a)))
}

#[test]
fn the_fused_epilogue_equals_its_plain_operations() {
    let config = Conv2dConfig::new(2, 1);
    // Loud enough that a ReLU6 has something to clip.
    let (x, w) = ((noise(11, &[3, 5, 9, 8]) * 4.0).unwrap(), noise(12, &[7, 5, 3, 3]));
    let (scale, shift, residual) = (noise(13, &[7]), noise(14, &[7]), noise(15, &[3, 7, 5, 4]));
    let leaves = || {
        [("x", &x), ("w", &w), ("shift", &shift), ("residual", &residual)]
            .map(|(name, tensor)| Value::leaf(name, tensor.clone()))
    };
    for (scaled, shifted, added, activation) in epilogues() {
        let [x, w, shift, residual] = leaves();
        let epilogue = Epilogue {
            scale: scaled.then_some(&scale),
            shift: shifted.then_some(&shift),
            residual: added.then_some(&residual),
            activation,
        };
        let fused = conv2d(&x, &w, config, epilogue).unwrap();

        let mut plain = conv2d(&x, &w, config, Epilogue::default()).unwrap();
        let column = |t: &Tensor| t.reshape((1, 7, 1, 1));
        if scaled {
            plain = Value::from_candle(&[&plain], |t| t[0].broadcast_mul(&column(&scale)?)).unwrap();
        }
        if shifted {
            plain = Value::from_candle(&[&plain, &shift], |t| t[0].broadcast_add(&column(&t[1])?)).unwrap();
        }
        if added {
            plain = add(&plain, &residual).unwrap();
        }
        plain = match activation {
            Activation::Identity => plain,
            Activation::Relu => relu(&plain).unwrap(),
            Activation::Relu6 => relu6(&plain).unwrap(),
        };
        assert_close(fused.tensor(), plain.tensor(), 1e-6);
        let g = noise(16, fused.dims());
        let (fused, plain) = (gradients_of(&fused, &g), gradients_of(&plain, &g));
        assert_eq!(fused.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>());
        for (name, gradient) in &fused {
            assert_close(gradient, &plain[name], 2e-6);
        }
    }
}

#[test]
fn gradients_of_a_fused_convolution_agree_with_differences() {
    let config = Conv2dConfig { stride: [2, 1], padding: [1, 2], dilation: [1, 2], groups: 2 };
    let inputs =
        [noise(21, &[2, 4, 5, 6]), noise(22, &[6, 2, 3, 2]), noise(23, &[6]), noise(24, &[2, 6, 3, 8])];
    let scale = noise(25, &[6]);
    check_gradients(&inputs, 0.1, 1e-4, |inputs| {
        let [x, w, shift, residual] = inputs else { panic!("four inputs") };
        let epilogue = Epilogue {
            scale: Some(&scale),
            shift: Some(shift),
            residual: Some(residual),
            activation: Activation::Identity,
        };
        conv2d(x, w, config, epilogue).unwrap()
    });
}

#[test]
fn nothing_is_computed_for_what_is_not_tracked() {
    let (x, w) = (noise(31, &[1, 3, 5, 5]), noise(32, &[4, 3, 3, 3]));
    let config = Conv2dConfig::new(1, 1);
    let frozen = Value::constant(w.clone());
    let out = conv2d(&Value::leaf("x", x.clone()), &frozen, config, Epilogue::default()).unwrap();
    let gradients = gradients_of(&out, &noise(33, out.dims()));
    assert_eq!(gradients.keys().map(|name| &**name).collect::<Vec<_>>(), ["x"]);
    let out = conv2d(&Value::constant(x), &frozen, config, Epilogue::default()).unwrap();
    assert!(!out.is_tracked());
}

#[test]
fn an_empty_batch_gives_an_empty_result_and_zero_gradients() {
    for (kernel, config) in [(3, Conv2dConfig::new(2, 1)), (1, Conv2dConfig::default())] {
        let x = Value::leaf("x", noise(41, &[0, 3, 6, 7]));
        let w = Value::leaf("w", noise(42, &[4, 3, kernel, kernel]));
        let shift = Value::leaf("shift", noise(43, &[4]));
        let epilogue = Epilogue { shift: Some(&shift), activation: Activation::Relu, ..Epilogue::default() };
        let out = conv2d(&x, &w, config, epilogue).unwrap();
        assert_eq!(out.dims()[..2], [0, 4]);
        let gradients = gradients_of(&out, out.tensor());
        assert_eq!(gradients["x"].dims(), [0, 3, 6, 7]);
        assert!(values(&gradients["w"]).iter().all(|g| *g == 0.0));
        assert_eq!(values(&gradients["shift"]), [0.0; 4]);
    }
}

/// Result and gradients of a 3x3 convolution with a bias.
fn step() -> Vec<Tensor> {
    let (x, w) = (nhwc(&noise(51, &[3, 24, 19, 23])), noise(52, &[40, 24, 3, 3]));
    let shift = Value::leaf("shift", noise(53, &[40]));
    let epilogue = Epilogue { shift: Some(&shift), ..Epilogue::default() };
    let out = conv2d(&Value::leaf("x", x), &Value::leaf("w", w), Conv2dConfig::new(2, 1), epilogue).unwrap();
    let gradients = gradients_of(&out, &noise(54, out.dims()));
    std::iter::once(out.tensor().clone()).chain(gradients.into_values()).collect()
}

#[test]
fn the_number_of_threads_changes_no_more_than_the_rounding() {
    let one = on_threads(1, step);
    for threads in [2, 3] {
        for (got, want) in on_threads(threads, step).iter().zip(&one) {
            assert_close(got, want, 2e-6);
        }
    }
}

#[test]
fn a_repeated_step_has_the_same_bits() {
    for threads in [1, 2, 3] {
        let bits = || -> Vec<Vec<u32>> {
            let tensors = on_threads(threads, step);
            tensors.iter().map(|t| values(t).iter().map(|v| v.to_bits()).collect()).collect()
        };
        assert_eq!(bits(), bits());
    }
}

/// Weights and configurations that each form of the convolution takes, for 64 input channels.
fn forms() -> [(&'static str, Tensor, Conv2dConfig); 4] {
    let depthwise = Conv2dConfig { groups: 64, ..Conv2dConfig::new(1, 1) };
    [
        ("pointwise", noise(71, &[48, 64, 1, 1]), Conv2dConfig::default()),
        ("Winograd's", noise(72, &[48, 64, 3, 3]), Conv2dConfig::new(1, 1)),
        ("direct", noise(73, &[48, 64, 3, 3]), Conv2dConfig::new(2, 1)),
        ("depthwise", noise(74, &[64, 1, 3, 3]), depthwise),
    ]
}

#[test]
fn every_form_clips_at_zero_and_at_six() {
    for (form, w, config) in forms() {
        let loud = if form == "depthwise" { 16.0 } else { 4.0 };
        let leaves = || {
            let x = (noise(75, &[2, 64, 9, 10]) * loud).unwrap();
            [Value::leaf("x", x), Value::leaf("w", w.clone())]
        };
        let epilogue = Epilogue { activation: Activation::Relu6, ..Epilogue::default() };
        let [x, weight] = leaves();
        let fused = conv2d(&x, &weight, config, epilogue).unwrap();
        let [x, weight] = leaves();
        let plain = relu6(&conv2d(&x, &weight, config, Epilogue::default()).unwrap()).unwrap();
        let numbers = values(fused.tensor());
        for corner in [0.0, 6.0] {
            let count = numbers.iter().filter(|y| **y == corner).count();
            assert!(count > numbers.len() / 20, "{form}: {count} of {} are {corner}", numbers.len());
        }
        assert_close(fused.tensor(), plain.tensor(), 1e-6);
        let g = noise(76, fused.dims());
        let (fused, plain) = (gradients_of(&fused, &g), gradients_of(&plain, &g));
        for name in ["x", "w"] {
            assert_close(&fused[name], &plain[name], 2e-6);
        }
    }
}

#[test]
fn the_gradient_of_a_clipped_convolution_is_zero_at_both_corners() {
    let x = Value::leaf("x", tensor(vec![-1.0, 0.0, 0.5, 6.0, 7.0, 3.0], &[1, 1, 1, 6]));
    let w = Value::leaf("w", tensor(vec![1.0], &[1, 1, 1, 1]));
    let epilogue = Epilogue { activation: Activation::Relu6, ..Epilogue::default() };
    let y = conv2d(&x, &w, Conv2dConfig::default(), epilogue).unwrap();
    assert_eq!(values(y.tensor()), [0.0, 0.0, 0.5, 6.0, 6.0, 3.0]);
    let gradients = gradients_of(&y, &tensor(vec![1.0; 6], &[1, 1, 1, 6]));
    assert_eq!(values(&gradients["x"]), [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
    assert_eq!(values(&gradients["w"]), [3.5]);
}

#[test]
fn a_nan_survives_the_activation() {
    for activation in [Activation::Relu, Activation::Relu6] {
        for (form, w, config) in forms() {
            let mut numbers = values(&noise(77, &[1, 64, 7, 8]));
            numbers[3 * 56 + 20] = f32::NAN;
            let x = Value::constant(tensor(numbers, &[1, 64, 7, 8]));
            let nans = |activation| {
                let epilogue = Epilogue { activation, ..Epilogue::default() };
                let out = conv2d(&x, &Value::constant(w.clone()), config, epilogue).unwrap();
                values(out.tensor()).iter().map(|y| y.is_nan()).collect::<Vec<_>>()
            };
            let expected = nans(Activation::Identity);
            assert!(expected.contains(&true), "{form}");
            assert_eq!(nans(activation), expected, "{form}, {activation:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    let run = |x: &[usize], w: &[usize], config: Conv2dConfig| {
        let (x, w) = (Value::constant(noise(61, x)), Value::constant(noise(62, w)));
        conv2d(&x, &w, config, Epilogue::default()).map(|out| out.dims().to_vec())
    };
    let fail = |x: &[usize], w: &[usize], config| run(x, w, config).unwrap_err().to_string();
    let plain = Conv2dConfig::default();
    assert!(fail(&[1, 3, 4, 4], &[2, 4, 3, 3], plain).contains("channels and groups"));
    assert!(fail(&[1, 3, 4, 4], &[2, 3, 5, 5], plain).contains("larger than the padded input"));
    assert!(fail(&[3, 4, 4], &[2, 3, 3, 3], plain).contains("four dimensions"));
    assert!(fail(&[1, 3, 4, 4], &[2, 3, 3, 3], Conv2dConfig::new(0, 0)).contains("stride"));
    let grouped = Conv2dConfig { groups: 0, ..plain };
    assert!(fail(&[1, 3, 4, 4], &[2, 3, 3, 3], grouped).contains("groups"));
    assert!(fail(&[1, 3, 4, 4], &[2, 3, 0, 1], plain).contains("larger than the padded input"));

    let (x, w) = (Value::constant(noise(63, &[1, 3, 4, 4])), Value::constant(noise(64, &[2, 3, 3, 3])));
    let (table, map) = (Value::constant(noise(65, &[3])), Value::constant(noise(66, &[1, 2, 4, 4])));
    let scale = noise(67, &[3]);
    let shifted = Epilogue { shift: Some(&table), ..Epilogue::default() };
    assert!(conv2d(&x, &w, plain, shifted).unwrap_err().to_string().contains("shift"));
    let added = Epilogue { residual: Some(&map), ..Epilogue::default() };
    assert!(conv2d(&x, &w, plain, added).unwrap_err().to_string().contains("residual"));
    let scaled = Epilogue { scale: Some(&scale), ..Epilogue::default() };
    assert!(conv2d(&x, &w, plain, scaled).unwrap_err().to_string().contains("scale"));
}
