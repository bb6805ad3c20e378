//! RoIAlign against torchvision's values, a scalar reference, differences and hostile RoIs.

use crate::support::*;
use candle_core::Tensor;
use ckd_kernels::Value;
use ckd_kernels::elementwise::{concatenate, reshape, rows};
use ckd_kernels::roi_align::{Alignment, MAX_SAMPLES, Sampling, multi_level_roi_align, roi_align};

#[test]
fn roi_align_equals_torchvision() {
    golden::each_case("roi_align/", |case| {
        let size = case.attr_usize("output");
        let sampling = match case.attr_usize("sampling_ratio") {
            0 => Sampling::Adaptive,
            samples => Sampling::Fixed(samples),
        };
        let aligned = case.attrs["aligned"].as_bool().expect("aligned");
        let alignment = if aligned { Alignment::HalfPixel } else { Alignment::Legacy };
        let scale = case.attr_f64("spatial_scale") as f32;
        let (rois, _) = case.f32("rois");
        let rois: Vec<[f32; 5]> = rois.chunks_exact(5).map(|roi| roi.try_into().unwrap()).collect();
        let x = leaf(case, "x");
        let out = roi_align(&x, &rois, (size, size), scale, sampling, alignment).unwrap();
        assert!(out.tensor().is_contiguous());
        check_case(case, &out);
    });
}

const WAYS: [(Sampling, Alignment); 6] = [
    (Sampling::Adaptive, Alignment::Legacy),
    (Sampling::Adaptive, Alignment::HalfPixel),
    (Sampling::Fixed(1), Alignment::Legacy),
    (Sampling::Fixed(2), Alignment::Legacy),
    (Sampling::Fixed(2), Alignment::HalfPixel),
    (Sampling::Fixed(5), Alignment::HalfPixel),
];

/// Boxes on a map of 9 x 11 pixels at scale 1/2 over two images: inside, over each border, large, thin,
/// turned round.
fn boxes() -> Vec<[f32; 5]> {
    vec![
        [0.0, 2.3, 3.1, 15.2, 12.9],
        [1.0, -6.0, -5.0, 7.7, 6.6],
        [1.0, 9.5, 8.25, 30.0, 28.0],
        [0.0, -40.0, -40.0, 60.0, 60.0],
        [1.0, 4.0, 4.0, 4.0, 4.0],
        [0.0, 3.0, 5.0, 3.2, 5.1],
        [0.0, 1.0, 7.0, 20.0, 7.5],
        [1.0, 12.0, 9.0, 5.0, 2.0],
        [0.0, 100.0, 100.0, 120.0, 120.0],
        [1.0, 0.0, 0.0, 22.0, 18.0],
    ]
}

/// The formula, sample by sample, in f64: (R, C, OH, OW).
fn reference(
    x: &Tensor,
    rois: &[[f32; 5]],
    (oh, ow): (usize, usize),
    scale: f64,
    sampling: Sampling,
    alignment: Alignment,
) -> Tensor {
    let (_, c, h, w) = x.dims4().unwrap();
    let shape = [rois.len(), c, oh, ow];
    let x = values(x);
    let mut out = Vec::new();
    for roi in rois {
        let [x1, y1, x2, y2] = [1, 2, 3, 4].map(|i| f64::from(roi[i]) * scale);
        let half = if alignment == Alignment::HalfPixel { 0.5 } else { 0.0 };
        let least = if alignment == Alignment::HalfPixel { f64::NEG_INFINITY } else { 1.0 };
        let bin = [(y2 - y1).max(least) / oh as f64, (x2 - x1).max(least) / ow as f64];
        let samples = bin.map(|bin| match sampling {
            Sampling::Adaptive => bin.ceil().max(0.0) as usize,
            Sampling::Fixed(samples) => samples,
        });
        for at in 0..c * oh * ow {
            let (channel, oy, ox) = (at / (oh * ow), at / ow % oh, at % ow);
            let map = &x[(roi[0] as usize * c + channel) * h * w..][..h * w];
            let mut sum = 0.0;
            for sample in 0..samples[0] * samples[1] {
                let along = |start: f64, axis: usize, bin_index: usize, sample: usize| {
                    start - half
                        + bin[axis] * (bin_index as f64 + (sample as f64 + 0.5) / samples[axis] as f64)
                };
                let y = along(y1, 0, oy, sample / samples[1]);
                let column = along(x1, 1, ox, sample % samples[1]);
                if y < -1.0 || y > h as f64 || column < -1.0 || column > w as f64 {
                    continue;
                }
                let split = |at: f64, size: usize| {
                    let at = at.clamp(0.0, (size - 1) as f64);
                    (at as usize, (at as usize + 1).min(size - 1), at.fract())
                };
                let ((top, bottom, down), (left, right, across)) = (split(y, h), split(column, w));
                let value = |y: usize, x: usize| f64::from(map[y * w + x]);
                sum += (1.0 - down) * ((1.0 - across) * value(top, left) + across * value(top, right))
                    + down * ((1.0 - across) * value(bottom, left) + across * value(bottom, right));
            }
            out.push((sum / (samples[0] * samples[1]).max(1) as f64) as f32);
        }
    }
    tensor(out, &shape)
}

#[test]
fn merged_shares_equal_the_formula_sample_by_sample() {
    // Channels below, at and above a register block, also with a rest.
    for c in [1, 5, 32, 71] {
        let x = noise(1, &[2, c, 9, 11]);
        for (sampling, alignment) in WAYS {
            for output in [(7, 7), (1, 1), (2, 5)] {
                let got = roi_align(&Value::constant(nhwc(&x)), &boxes(), output, 0.5, sampling, alignment)
                    .unwrap();
                let expected = reference(&x, &boxes(), output, 0.5, sampling, alignment);
                assert_close(got.tensor(), &expected, 3e-6);
            }
        }
    }
}

#[test]
fn gradients_agree_with_differences() {
    for (sampling, alignment) in WAYS {
        for shape in [[2, 2, 9, 11], [3, 1, 1, 1], [2, 33, 2, 1]] {
            check_gradients(&[noise(2, &shape)], 0.2, 1e-4, |t| {
                roi_align(&t[0], &boxes(), (3, 2), 0.5, sampling, alignment).unwrap()
            });
        }
    }
}

/// Three levels of two images and the RoIs' levels: the second level has none.
fn pyramid() -> (Vec<Value>, [f32; 3], Vec<usize>) {
    let level = |i: u64, h, w| Value::leaf(format!("level {i}"), nhwc(&noise(10 + i, &[2, 3, h, w])));
    let levels = vec![level(0, 17, 21), level(1, 9, 11), level(2, 5, 6)];
    let level_of = (0..boxes().len()).map(|i| if i % 3 == 0 { 2 } else { 0 }).collect();
    (levels, [1.0, 0.5, 0.25], level_of)
}

#[test]
fn a_pyramid_equals_its_levels_one_by_one() {
    let (sampling, alignment) = (Sampling::Fixed(2), Alignment::Legacy);
    let (levels, scales, level_of) = pyramid();
    let inputs: Vec<&Value> = levels.iter().collect();
    let got =
        multi_level_roi_align(&inputs, &scales, &boxes(), &level_of, (2, 3), sampling, alignment).unwrap();
    let g = noise(3, got.dims());

    // Gathered by level, then put back in the order of the RoIs.
    let mut parts = Vec::new();
    let mut place = vec![0u32; boxes().len()];
    let mut placed = 0;
    for (level, map) in levels.iter().enumerate() {
        let members: Vec<usize> = (0..boxes().len()).filter(|&i| level_of[i] == level).collect();
        let rois: Vec<[f32; 5]> = members.iter().map(|&i| boxes()[i]).collect();
        let part = roi_align(map, &rois, (2, 3), scales[level], sampling, alignment).unwrap();
        parts.push(reshape(&part, &[rois.len(), 18]).unwrap());
        for i in members {
            place[i] = placed;
            placed += 1;
        }
    }
    let plain = rows(&concatenate(&parts, 0).unwrap(), &place).unwrap();
    assert_eq!(values(got.tensor()), values(plain.tensor()));
    let got = gradients_of(&got, &g);
    let plain = gradients_of(&plain, &g.reshape((boxes().len(), 18)).unwrap());
    assert_eq!(got.len(), 3);
    for (name, gradient) in &got {
        assert_eq!(values(gradient), values(&plain[name]), "{name}");
    }
    assert!(values(&got["level 1"]).iter().all(|g| *g == 0.0));
}

/// Hundreds of RoIs over each other, more bins than pixels; a linear map and its gradient are each other's
/// transpose.
#[test]
fn many_rois_and_many_bins_have_the_gradient_of_a_linear_map() {
    for (count, output) in [(600, (3, 4)), (40, (35, 3)), (40, (2, 41))] {
        let x = noise(16, &[2, 5, 19, 23]);
        let corner = |i: u64| (golden::value(17, i) as f32 + 1.0) * 20.0;
        let roi = |i: u64| {
            let (x, y) = (corner(4 * i), corner(4 * i + 1));
            [(i % 2) as f32, x, y, x + corner(4 * i + 2), y + corner(4 * i + 3)]
        };
        let rois: Vec<[f32; 5]> = (0..count).map(roi).collect();
        let leaf = Value::leaf("x", x.clone());
        let out = roi_align(&leaf, &rois, output, 0.5, Sampling::Fixed(2), Alignment::HalfPixel).unwrap();
        let expected = reference(&x, &rois, output, 0.5, Sampling::Fixed(2), Alignment::HalfPixel);
        assert_close(out.tensor(), &expected, 3e-6);
        let g = noise(18, out.dims());
        let dot = |a: &Tensor, b: &Tensor| -> f64 {
            values(a).iter().zip(values(b)).map(|(a, b)| f64::from(*a) * f64::from(b)).sum()
        };
        let (forward, back) = (dot(out.tensor(), &g), dot(&x, &gradients_of(&out, &g)["x"]));
        let size = dot(&g, &g).sqrt() * dot(out.tensor(), out.tensor()).sqrt();
        assert!((forward - back).abs() < 1e-6 * size, "{forward} and {back} of {size}");
    }
}

#[test]
fn only_tracked_levels_get_a_gradient() {
    let (levels, scales, level_of) = pyramid();
    let frozen = levels[0].detach();
    let inputs = [&frozen, &levels[1], &levels[2]];
    let (sampling, alignment) = (Sampling::Adaptive, Alignment::HalfPixel);
    let out =
        multi_level_roi_align(&inputs, &scales, &boxes(), &level_of, (2, 2), sampling, alignment).unwrap();
    let gradients = gradients_of(&out, &noise(4, out.dims()));
    assert_eq!(gradients.keys().map(|name| &**name).collect::<Vec<_>>(), ["level 1", "level 2"]);
}

#[test]
fn no_rois_give_no_rows_and_a_zero_gradient() {
    let x = Value::leaf("x", noise(5, &[2, 3, 4, 5]));
    let out = roi_align(&x, &[], (7, 7), 0.5, Sampling::Adaptive, Alignment::Legacy).unwrap();
    assert_eq!(out.dims(), [0, 3, 7, 7]);
    assert_eq!(values(&gradients_of(&out, out.tensor())["x"]), [0.0; 120]);
    let none = Value::leaf("x", noise(5, &[0, 3, 4, 5]));
    let out = roi_align(&none, &[], (7, 7), 0.5, Sampling::Adaptive, Alignment::Legacy).unwrap();
    assert_eq!(gradients_of(&out, out.tensor())["x"].dims(), [0, 3, 4, 5]);
}

#[test]
fn hostile_rois_give_zeros_or_finite_numbers_and_cost_little() {
    let wild = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e30, -1e30, 1e9, 0.0, 5.0];
    let mut rois = Vec::new();
    for x1 in wild {
        for y2 in wild {
            rois.push([1.0, x1, 0.0, 5.0, y2]);
            rois.push([0.0, 2.0, x1, y2, 6.0]);
            rois.push([0.0, x1, x1, y2, y2]);
        }
    }
    let x = Value::leaf("x", noise(6, &[2, 3, 8, 9]));
    for (sampling, alignment) in
        WAYS.into_iter().chain([(Sampling::Fixed(MAX_SAMPLES), Alignment::HalfPixel)])
    {
        let out = roi_align(&x, &rois, (2, 2), 0.5, sampling, alignment).unwrap();
        let numbers = values(out.tensor());
        assert!(numbers.iter().all(|y| y.is_finite() && y.abs() <= 1.0 + 1e-5));
        for (roi, features) in rois.iter().zip(numbers.chunks_exact(12)) {
            if roi.iter().any(|at| !at.is_finite()) {
                assert_eq!(features, [0.0; 12], "{roi:?}");
            }
        }
        let gradients = gradients_of(&out, &noise(7, out.dims()));
        assert!(values(&gradients["x"]).iter().all(|g| g.is_finite()));
    }
}

#[test]
fn a_map_without_pixels_gives_zeros() {
    let x = Value::leaf("x", noise(8, &[2, 3, 0, 5]));
    let out = roi_align(&x, &boxes(), (2, 2), 0.5, Sampling::Fixed(2), Alignment::Legacy).unwrap();
    assert!(values(out.tensor()).iter().all(|y| *y == 0.0));
    assert_eq!(gradients_of(&out, &noise(9, out.dims()))["x"].dims(), [2, 3, 0, 5]);
    let x = Value::constant(noise(8, &[2, 3, 4, 5]));
    let out = roi_align(&x, &boxes(), (0, 2), 0.5, Sampling::Adaptive, Alignment::Legacy).unwrap();
    assert_eq!(out.dims(), [boxes().len(), 3, 0, 2]);
}

#[test]
fn rois_have_the_same_bits_on_any_number_of_threads() {
    let step = || -> Vec<Vec<u32>> {
        let x = Value::leaf("x", nhwc(&noise(11, &[2, 40, 27, 31])));
        let rois: Vec<[f32; 5]> = (0..40)
            .map(|i| {
                let at = |k: u64| golden::value(12, 4 * i + k) as f32 * 24.0 + 24.0;
                [(i % 2) as f32, at(0), at(1), at(0) + at(2), at(1) + at(3)]
            })
            .collect();
        let out = roi_align(&x, &rois, (7, 7), 0.5, Sampling::Fixed(2), Alignment::Legacy).unwrap();
        let gradients = gradients_of(&out, &noise(13, out.dims()));
        [out.tensor(), &gradients["x"]].map(|t| values(t).iter().map(|v| v.to_bits()).collect()).to_vec()
    };
    let one = on_threads(1, step);
    assert_eq!(on_threads(2, step), one);
    assert_eq!(on_threads(3, step), one);
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    let x = Value::constant(noise(14, &[2, 3, 4, 5]));
    let run = |image: f32, scale: f32, sampling| {
        let rois = [[0.0, 0.0, 0.0, 4.0, 4.0], [image, 0.0, 0.0, 4.0, 4.0]];
        roi_align(&x, &rois, (2, 2), scale, sampling, Alignment::Legacy)
    };
    for image in [-1.0, 2.0, 0.5, f32::NAN, f32::INFINITY, 1e30] {
        let error = run(image, 0.5, Sampling::Adaptive).unwrap_err().to_string();
        assert!(error.contains("RoI 1 is of image"), "{error}");
    }
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(run(0.0, scale, Sampling::Adaptive).unwrap_err().to_string().contains("scale"));
    }
    for samples in [0, MAX_SAMPLES + 1, usize::MAX] {
        assert!(run(0.0, 0.5, Sampling::Fixed(samples)).unwrap_err().to_string().contains("samples"));
    }
    let levels = |levels: &[&Value], scales: &[f32], level_of: &[usize]| {
        let rois = [[0.0, 0.0, 0.0, 4.0, 4.0]];
        let (sampling, alignment) = (Sampling::Adaptive, Alignment::Legacy);
        multi_level_roi_align(levels, scales, &rois, level_of, (2, 2), sampling, alignment)
            .unwrap_err()
            .to_string()
    };
    assert!(levels(&[], &[], &[0]).contains("0 levels"));
    assert!(levels(&[&x], &[0.5, 0.25], &[0]).contains("2 scales"));
    assert!(levels(&[&x], &[0.5], &[]).contains("0 level numbers"));
    assert!(levels(&[&x], &[0.5], &[1]).contains("level 1"));
    let other = Value::constant(noise(15, &[2, 4, 2, 2]));
    assert!(levels(&[&x, &other], &[0.5, 0.25], &[0]).contains("channels differ"));
}
