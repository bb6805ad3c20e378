//! Networks with maps of bf16, beside those with maps of f32: at inference, since batch norms over the 8 values of two small images
//! multiply rounding. In a build with the feature `cuda`, and with
//! `CKD_DET_TEST_DEVICE=cuda`.

use candle_core::{DType, Tensor};
use ckd_detectors::Result;
use ckd_detectors::backbone::Backbone;
use ckd_detectors::classifier::Architecture;
use ckd_detectors::images::Target;
use ckd_detectors::nn::Mode;
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::taps::{Tap, Taps};
use ckd_kernels::elementwise::{in_f32, weighted_sum};
use ckd_kernels::losses::softmax_cross_entropy;
use ckd_kernels::{Gradients, Precision, Value};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::backbones::narrow;
use crate::golden;
use crate::support::{build, device, each_detector, padded, values};

fn images(side: usize) -> Value {
    assert!(!device().is_cpu(), "these tests are of a GPU, or its stand-in: set CKD_DET_TEST_DEVICE=cuda");
    let pixels = golden::tensor(6, 2 * 3 * side * side, 1.0, 0.0);
    Value::constant(Tensor::from_vec(pixels, (2, 3, side, side), device()).unwrap())
}

/// Root of the mean square of the difference, in units of that of `exact`.
fn apart(got: &Tensor, exact: &Tensor) -> f64 {
    let square = |sum: f64, value: f32| sum + f64::from(value).powi(2);
    let (got, exact) = (values(got), values(exact));
    let error = got.iter().zip(&exact).map(|(got, exact)| got - exact).fold(0.0, square);
    (error / exact.iter().copied().fold(1e-30, square)).sqrt()
}

fn map(value: &Value) -> Tensor {
    in_f32(value).unwrap().tensor().clone()
}

/// Every trainable parameter has a gradient of f32 numbers.
#[track_caller]
fn assert_all_learn(name: &str, params: &ParamStore, gradients: &Gradients) {
    for (parameter, value) in params.trainable() {
        let gradient = gradients.get(parameter).unwrap_or_else(|| panic!("{name}: {parameter}"));
        assert_eq!((gradient.dtype(), gradient.dims()), (DType::F32, value.dims()), "{name}: {parameter}");
        assert!(values(gradient).iter().all(|value| value.is_finite()), "{name}: {parameter}");
    }
}

#[test]
fn every_backbone_has_maps_of_bf16_and_gradients_of_f32() -> Result<()> {
    for backbone in Backbone::all() {
        let (trunk, params) = narrow(backbone)?;
        let run = |precision: Precision, mode| precision.scope(|| trunk.forward(&images(64), mode));
        let inference = |precision| run(precision, Mode::Inference);
        let (narrow, wide) = (inference(Precision::Bf16)?, inference(Precision::F32)?);
        for (narrow, wide) in narrow.iter().zip(&wide) {
            assert_eq!(narrow.tensor().dtype(), DType::BF16, "{backbone}");
            let apart = apart(&map(narrow), wide.tensor());
            eprintln!("{backbone}: {apart:.4}");
            assert!(apart < 0.03, "{backbone}: {apart}");
        }
        let narrow = run(Precision::Bf16, Mode::Train)?;
        let sum = |map: &Value| Value::from_candle(&[map], |map| map[0].sqr()?.mean_all());
        let sums = narrow.iter().map(sum).collect::<ckd_kernels::Result<Vec<_>>>()?;
        let terms: Vec<(&Value, f64)> = sums.iter().map(|sum| (sum, 1.0)).collect();
        assert_all_learn(&backbone.to_string(), &params, &weighted_sum(&terms)?.backward()?);
    }
    Ok(())
}

#[test]
fn every_classifier_has_maps_of_bf16_and_logits_of_f32() -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/classifiers.json");
    let text = std::fs::read_to_string(path).expect("the repository has golden values");
    let cases: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for (name, case) in cases.as_object().expect("a case a network") {
        let network = name.parse::<Architecture>()?.build(Builder::new(1, device()), 10)?;
        let x = images(case["side"].as_u64().expect("a side") as usize);
        let run =
            |precision: Precision, mode| -> Result<Taps> { precision.scope(|| network.forward(&x, mode)) };
        let inference = |precision| run(precision, Mode::Inference);
        let (narrow, wide) = (inference(Precision::Bf16)?, inference(Precision::F32)?);
        for (tap, value) in narrow.iter() {
            let is_map = matches!(tap, Tap::Backbone(_));
            assert_eq!(value.tensor().dtype(), if is_map { DType::BF16 } else { DType::F32 }, "{name} {tap}");
        }
        let logits = |taps: &Taps| taps.get(Tap::Logits).expect("logits").clone();
        let apart = apart(logits(&narrow).tensor(), logits(&wide).tensor());
        eprintln!("{name}: {apart:.4}");
        assert!(apart < 0.03, "{name}: {apart}");
        let narrow = run(Precision::Bf16, Mode::Train)?;
        let gradients = softmax_cross_entropy(&logits(&narrow), &[3, 7], 2.0)?.backward()?;
        assert_all_learn(name, network.params(), &gradients);
    }
    Ok(())
}

#[test]
fn every_detector_learns_and_detects_with_maps_of_bf16() {
    each_detector(|name, config| {
        let images = padded(&[
            (golden::tensor(8, 3 * 64 * 96, 0.5, 0.5), 64, 96),
            (golden::tensor(9, 3 * 60 * 80, 0.5, 0.5), 60, 80),
        ]);
        let target =
            |boxes: Vec<[f32; 4]>| Target { labels: vec![1; boxes.len()], boxes, ..Target::default() };
        let targets = [target(vec![[4.0, 6.0, 50.0, 60.0]]), target(vec![[10.0, 10.0, 40.0, 30.0]])];
        let losses = |precision: Precision| -> Result<Vec<(&str, Value)>> {
            let detector = build(7, config.clone())?;
            precision.scope(|| {
                let pyramid = detector.pyramid(&images, Mode::Train)?;
                let (losses, _) =
                    detector.train(&images, &pyramid, &targets, &mut ChaCha8Rng::seed_from_u64(1))?;
                let terms: Vec<(&Value, f64)> = losses.iter().map(|(_, loss)| (loss, 1.0)).collect();
                assert_all_learn(name, detector.params(), &weighted_sum(&terms)?.backward()?);
                detector.detect(&images)?;
                Ok(losses.into_iter().collect())
            })
        };
        for ((loss, narrow), (_, wide)) in losses(Precision::Bf16)?.iter().zip(losses(Precision::F32)?) {
            let (narrow, wide) = (narrow.item()?, wide.item()?);
            assert!((narrow - wide).abs() <= 0.01 * wide.abs().max(0.1), "{name} {loss}: {narrow}, {wide}");
        }
        Ok(())
    });
}
