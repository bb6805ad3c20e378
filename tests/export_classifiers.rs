//! Every classifier is its ONNX graph.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use ckd_det::export::onnx::evaluate::Evaluator;
use ckd_det::export::onnx::{ClassifierGraph, Precision, Preprocessing, classifier};
use ckd_detectors::classifier::Architecture;
use ckd_detectors::images::Normalization;
use ckd_detectors::nn::Mode;
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Statistics and norms moved away from what networks begin with.
fn shake(params: &ParamStore) {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for (name, param) in params.iter() {
        let tensor = param.value.tensor();
        let (factor, low, high) = match &**name {
            name if name.ends_with("running_var") => (0.0, 0.5, 1.5),
            name if name.ends_with("running_mean") => (0.0, -0.2, 0.2),
            _ if tensor.rank() == 1 => (1.0, -0.1, 0.1),
            _ => (1.0, -1e-3, 1e-3),
        };
        let noise: Vec<f32> = (0..tensor.elem_count()).map(|_| random.random_range(low..high)).collect();
        let noise = Tensor::from_vec(noise, tensor.shape(), &Device::Cpu).expect("as many");
        let moved = ((tensor.contiguous().unwrap() * factor).unwrap() + noise).unwrap();
        params.set(name, &moved).expect("the same shape");
    }
}

const NORMALIZATION: Normalization = Normalization { mean: [0.4, 0.5, 0.6], std: [0.2, 0.3, 0.25] };

/// Random bytes (N, H, W, 3), as f32.
fn bytes((n, h, w): (usize, usize, usize)) -> Tensor {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let values: Vec<f32> = (0..n * h * w * 3).map(|_| f32::from(random.random::<u8>())).collect();
    Tensor::from_vec(values, (n, h, w, 3), &Device::Cpu).unwrap()
}

/// Whether network and graph, with its preprocessing `Inside` or not, say the same of images of this size.
fn assert_is_its_graph(
    architecture: Architecture,
    size: (usize, usize, usize),
    preprocessing: Preprocessing,
) {
    let bytes = bytes(size);
    let pixels = (bytes.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap() / 255.0).unwrap();
    let (mean, std) = (&NORMALIZATION.mean, &NORMALIZATION.std);
    let (n, h, w) = size;
    let input = ckd_kernels::input::normalize(&pixels, &vec![(h, w); n], mean, std).unwrap();
    let input = Value::constant(input.tensor().clone());
    let network = architecture.build(Builder::new(1, &Device::Cpu), 5).unwrap();
    shake(network.params());
    let taps = network.forward(&input, Mode::Inference).unwrap();
    let about = ClassifierGraph {
        normalization: NORMALIZATION,
        side_px: h,
        metadata: &BTreeMap::new(),
        precision: Precision::Full,
        preprocessing,
    };
    let images = match preprocessing {
        Preprocessing::Outside => pixels,
        Preprocessing::Inside => bytes.to_dtype(DType::U8).unwrap(),
    };
    let outputs = classifier(network.params(), &about)
        .and_then(|model| Evaluator::new(&model)?.run(&[("images", images)]))
        .unwrap_or_else(|error| panic!("{architecture}: {error}"));
    for (tap, name) in [(Tap::Logits, "logits"), (Tap::Embedding, "embedding")] {
        let own = taps.get(tap).unwrap().tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let theirs = outputs[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let largest = own.iter().fold(1e-3f32, |largest, value| largest.max(value.abs()));
        assert_eq!(own.len(), theirs.len(), "{architecture}");
        for (own, theirs) in own.iter().zip(&theirs) {
            assert!((own - theirs).abs() <= 2e-4 * largest, "{architecture} {name}: {own} {theirs}");
        }
    }
}

#[test]
fn every_classifier_is_its_graph() {
    for architecture in Architecture::ALL {
        assert_is_its_graph(*architecture, (2, 32, 48), Preprocessing::Outside);
    }
}

#[test]
fn bytes_as_they_are_decoded_become_pixels_in_the_graph() {
    for name in ["resnet8", "resnet8_a", "wrn_16_1", "shufflenet_v2"] {
        assert_is_its_graph(name.parse().unwrap(), (3, 32, 40), Preprocessing::Inside);
    }
}

#[test]
fn a_vgg_of_64_pixels_pools_once_more_in_its_graph_too() {
    assert_is_its_graph("vgg8".parse().unwrap(), (2, 64, 64), Preprocessing::Outside);
    assert_is_its_graph("vgg13".parse().unwrap(), (1, 64, 64), Preprocessing::Inside);
}
