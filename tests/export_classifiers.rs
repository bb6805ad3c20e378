//! Every classifier is its ONNX graph.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use ckd_det::export::onnx::evaluate::Evaluator;
use ckd_det::export::onnx::{Precision, classifier};
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

#[test]
fn every_classifier_is_its_graph() {
    let normalization = Normalization { mean: [0.4, 0.5, 0.6], std: [0.2, 0.3, 0.25] };
    for architecture in Architecture::ALL {
        let (n, h, w) = (2, 32, 48);
        let mut random = ChaCha8Rng::seed_from_u64(9);
        let pixels: Vec<f32> = (0..n * 3 * h * w).map(|_| random.random()).collect();
        let pixels = Tensor::from_vec(pixels, (n, 3, h, w), &Device::Cpu).unwrap();
        let (mean, std) = (&normalization.mean, &normalization.std);
        let input = ckd_kernels::input::normalize(&pixels, &[(h, w); 2], mean, std).unwrap();
        let input = Value::constant(input.tensor().clone());
        let network = architecture.build(Builder::new(1, &Device::Cpu), 5).unwrap();
        shake(network.params());
        let taps = network.forward(&input, Mode::Inference).unwrap();
        let model = classifier(network.params(), normalization, &BTreeMap::new(), Precision::Full)
            .unwrap_or_else(|error| panic!("{architecture}: {error}"));
        let outputs = Evaluator::new(&model)
            .and_then(|evaluator| evaluator.run(&[("images", pixels)]))
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
}
