//! Frozen networks in 8 bits.

use candle_core::Tensor;
use ckd_detectors::backbone::Trunk;
use ckd_detectors::detector::{Detector, DetectorConfig};
use ckd_detectors::eight_bits::InputRanges;
use ckd_detectors::images::Images;
use ckd_detectors::nn::{Mode, NormKind};
use ckd_detectors::param::Builder;
use ckd_detectors::{Error, Result};
use ckd_kernels::Value;

use crate::golden;
use crate::support::{backbone, build, each_detector, tiny, tiny_mobilenet, tiny_mobilenet_v3, values};

fn frozen(config: DetectorConfig) -> Result<Detector> {
    Detector::new(Builder::new(1, &candle_core::Device::Cpu).frozen(), &config)
}

/// Two images on the processor, the second one smaller.
fn scene() -> Images {
    let pixels = golden::tensor(1, 2 * 96 * 128 * 3, 0.5, 0.5);
    let pixels = Tensor::from_vec(pixels, (2, 96, 128, 3), &candle_core::Device::Cpu).unwrap();
    Images { pixels: pixels.permute((0, 3, 1, 2)).unwrap(), sizes: vec![(96, 128), (90, 120)] }
}

fn ranges_on(detector: &Detector, images: &Images) -> Result<InputRanges> {
    detector.params().watch_inputs(true);
    detector.detect(images)?;
    detector.params().watch_inputs(false);
    Ok(detector.params().input_ranges())
}

/// Root of the mean square of the difference, in units of that of `exact`.
fn apart(got: &Tensor, exact: &Tensor) -> f64 {
    let (got, exact) = (values(got), values(exact));
    let square = |sum: f64, value: f32| sum + f64::from(value).powi(2);
    let error = got.iter().zip(&exact).map(|(got, exact)| got - exact).fold(0.0, square);
    (error / exact.iter().copied().fold(0.0, square)).sqrt()
}

#[test]
fn a_detector_in_8_bits_sees_nearly_the_same_pyramid_and_outputs() {
    each_detector(|name, config| {
        let (exact, detector) = (frozen(config.clone())?, frozen(config)?);
        let images = scene();
        let ranges = ranges_on(&detector, &images)?;
        assert!(ranges.keys().any(|layer| layer.starts_with("backbone.body.")), "{name}");
        assert!(ranges.keys().any(|layer| layer.contains("head") || layer.contains("rpn")), "{name}");
        detector.params().compute_in_8_bits(&ranges)?;
        let pyramids = [&detector, &exact].map(|detector| detector.pyramid(&images, Mode::Inference));
        let [got, expected] = pyramids;
        let (got, expected) = (got?, expected?);
        for (got, expected) in got.iter().zip(&expected) {
            let apart = apart(got.tensor(), expected.tensor());
            assert!(apart > 0.0 && apart < 0.05, "{name}: {apart}");
        }
        // The heads on one and the same pyramid.
        let outputs = |detector: &Detector| detector.raw_outputs(&images, &expected);
        for ((output, got), (_, expected)) in outputs(&detector)?.iter().zip(outputs(&exact)?) {
            let apart = apart(got.tensor(), expected.tensor());
            assert!(apart < 0.06, "{name} {output}: {apart}");
        }
        Ok(())
    });
}

#[test]
fn maps_inside_every_trunk_stay_near_those_of_f32() {
    let trunks = [
        ("resnet18", tiny("resnet18", NormKind::FrozenBn, 0)),
        ("resnet50", tiny("resnet50", NormKind::Bn, 0)),
        ("resnext50_32x4d", backbone("resnext50_32x4d")),
        ("group norm", tiny("resnet18", NormKind::Gn, 0)),
        ("mobilenet_v2", tiny_mobilenet(NormKind::Bn, 0)),
        ("mobilenet_v3", tiny_mobilenet_v3(NormKind::Bn, 0)),
    ];
    for (name, config) in trunks {
        let builder = Builder::new(3, &candle_core::Device::Cpu).frozen();
        let trunk = Trunk::new(&builder, &config).unwrap();
        let params = builder.finish();
        let pixels = golden::tensor(5, 2 * 3 * 64 * 96, 1.0, 0.0);
        let x = Value::constant(Tensor::from_vec(pixels, (2, 3, 64, 96), &candle_core::Device::Cpu).unwrap());
        params.watch_inputs(true);
        let exact = trunk.forward(&x, Mode::Inference).unwrap();
        params.watch_inputs(false);
        params.compute_in_8_bits(&params.input_ranges()).unwrap();
        for (level, (got, exact)) in
            trunk.forward(&x, Mode::Inference).unwrap().iter().zip(&exact).enumerate()
        {
            let apart = apart(got.tensor(), exact.tensor());
            assert!(apart < 0.1, "{name}, map {level}: {apart}");
            // The first map of so narrow a MobileNet has short sums only.
            assert!(apart > 0.0 || level == 0, "{name}, map {level}: {apart}");
        }
        // A second pass gives the same bits.
        let passes = [0, 1].map(|_| trunk.forward(&x, Mode::Inference).unwrap());
        let [first, second] =
            passes.map(|maps| maps.iter().map(|map| values(map.tensor())).collect::<Vec<_>>());
        assert_eq!(first, second, "{name}");
    }
}

#[test]
fn the_first_layers_of_a_mobilenet_stay_in_f32() {
    let builder = Builder::new(3, &candle_core::Device::Cpu).frozen();
    let trunk = Trunk::new(&builder, &backbone("mobilenet_v2")).unwrap();
    let params = builder.finish();
    params.watch_inputs(true);
    let x = Tensor::zeros((1, 3, 32, 32), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    trunk.forward(&Value::constant(x), Mode::Inference).unwrap();
    let ranges = params.input_ranges();
    // 3 x 3 x 3, and 16 and 24 channels.
    for short in ["0.0", "2.conv.0.0", "3.conv.0.0", "4.conv.0.0"] {
        assert!(!ranges.contains_key(short), "{short}");
    }
    for long in ["1.conv.1", "2.conv.2", "5.conv.0.0", "18.0"] {
        assert!(ranges.contains_key(long), "{long}");
    }
}

#[test]
fn a_gradient_through_a_frozen_layer_goes_through_f32() {
    each_detector(|name, config| {
        let (exact, detector) = (frozen(config.clone())?, frozen(config)?);
        let images = scene();
        detector.params().compute_in_8_bits(&ranges_on(&detector, &images)?)?;
        let levels = exact.pyramid(&images, Mode::Inference)?;
        let watched: Vec<Value> =
            levels.iter().map(|level| Value::leaf("level", level.tensor().clone())).collect();
        let outputs = |detector: &Detector| detector.raw_outputs(&images, &watched);
        for ((output, got), (_, expected)) in outputs(&detector)?.iter().zip(outputs(&exact)?) {
            assert_eq!(values(got.tensor()), values(expected.tensor()), "{name} {output}");
        }
        Ok(())
    });
}

#[test]
fn what_cannot_compute_in_8_bits_is_refused_by_name() {
    let config = crate::support::tiny_faster_rcnn(3);
    let trainable = build(1, config.clone()).unwrap();
    let one = |layer: &str, range| InputRanges::from([(layer.to_owned(), range)]);
    let fpn = "backbone.fpn.layer_blocks.0.0";
    let reason = |result: Result<()>| match result.unwrap_err() {
        Error::Invalid { part, reason } => format!("{part}: {reason}"),
        other => panic!("{other}"),
    };
    let error = reason(trainable.params().compute_in_8_bits(&one(fpn, (0.0, 1.0))));
    assert!(error.contains("is trainable; only a frozen network"), "{error}");
    let detector = frozen(config).unwrap();
    let error = reason(detector.params().compute_in_8_bits(&one("backbone.fpn.outer", (0.0, 1.0))));
    assert!(error.contains("there is no layer backbone.fpn.outer"), "{error}");
    for range in [(1.0, -1.0), (f32::NAN, 1.0), (0.0, f32::INFINITY)] {
        let error = reason(detector.params().compute_in_8_bits(&one(fpn, range)));
        assert!(error.contains(&format!("what goes into {fpn} is")), "{error}");
    }
}
