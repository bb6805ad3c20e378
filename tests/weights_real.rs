//! Networks that others trained, read from their files and measured on real images.

use candle_core::{Device, Tensor};
use ckd_det::weights::recognise::{Kind, Recognised};
use ckd_det::weights::{WeightsFile, load};
use ckd_detectors::backbone::{BackboneConfig, Trunk};
use ckd_detectors::classifier::Network;
use ckd_detectors::nn::Mode;
use ckd_detectors::param::Builder;
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::graph::untracked;

use crate::support::real;

fn expected(name: &str) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(real::file(name)).unwrap()).unwrap()
}

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

const ROW: usize = 1 + 3 * 32 * 32;

/// The logits of these rows.
fn logits(network: &dyn Network, rows: &[u8]) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    for rows in rows.chunks(250 * ROW) {
        let count = rows.len() / ROW;
        let mut pixels = Vec::with_capacity(count * (ROW - 1));
        for row in rows.chunks_exact(ROW) {
            for (channel, values) in row[1..].chunks_exact(32 * 32).enumerate() {
                let scaled = |value: &u8| (f32::from(*value) / 255.0 - MEAN[channel]) / STD[channel];
                pixels.extend(values.iter().map(scaled));
            }
        }
        let images = Tensor::from_vec(pixels, (count, 3, 32, 32), &Device::Cpu).unwrap();
        let taps = untracked(|| network.forward(&Value::constant(images), Mode::Inference)).unwrap();
        all.extend(taps.get(Tap::Logits).unwrap().tensor().to_vec2::<f32>().unwrap());
    }
    all
}

fn network(name: &str, file: &str) -> Box<dyn Network> {
    let file = WeightsFile::read(&real::file(&format!("weights/{file}"))).unwrap();
    let recognised = Recognised::of(&file).unwrap();
    let Kind::Classifier { architecture, classes } = recognised.kind else { panic!("{recognised:?}") };
    assert_eq!(architecture.name(), format!("{name}_a"));
    assert!(recognised.is_called(&format!("cifar_{name}")));
    let network = architecture.build(Builder::new(0, &Device::Cpu).frozen(), classes).unwrap();
    load::strict(network.params(), &file).unwrap();
    network
}

/// Counts what each of `names` gets right among the first `count` rows, and compares with `key` of the published numbers.
fn count_right(names: &[&str], count: usize, key: &str, tolerance: u64) {
    let (rows, expected) = (real::cifar10_test_rows(), expected("weights/cifar10_expected.json"));
    for name in names {
        let of_network = &expected["models"][name];
        let network = network(name, of_network["file"].as_str().unwrap());
        let logits = logits(&*network, &rows[..count * ROW]);
        for (row, expected) in logits.iter().zip(of_network["logits_first8"].as_array().unwrap()) {
            for (logit, expected) in row.iter().zip(expected.as_array().unwrap()) {
                let apart = (f64::from(*logit) - expected.as_f64().unwrap()).abs();
                assert!(apart <= 2e-3, "{name}: {logit} and {expected}");
            }
        }
        let is_right = |(row, logits): &(&[u8], &Vec<f32>)| {
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            best == Some(usize::from(row[0]))
        };
        let right = rows.chunks_exact(ROW).zip(&logits).filter(is_right).count() as u64;
        let wanted = of_network[key].as_u64().unwrap();
        assert!(right.abs_diff(wanted) <= tolerance, "{name}: {right} right, {wanted} published");
    }
}

#[test]
#[ignore = "needs CKD_DET_DATA"]
fn published_cifar_networks_name_the_first_thousand_test_images_as_published() {
    count_right(&["resnet20", "resnet56"], 1000, "top1_correct_first1000", 0);
}

/// All 10,000 images through four networks: 43 s on two cores.
#[test]
#[ignore = "needs CKD_DET_DATA"]
fn published_cifar_networks_name_all_test_images_as_published() {
    count_right(&["resnet20", "resnet32", "resnet44", "resnet56"], 10_000, "top1_correct", 2);
}

#[test]
#[ignore = "needs CKD_DET_DATA"]
fn a_published_mobilenet_gives_its_published_features() {
    let expected = expected("weights/mobilenetv2_expected.json");
    let file = WeightsFile::read(&real::file("weights/mobilenetv2_imagenet_features.pt")).unwrap();
    assert_eq!(Recognised::of(&file).unwrap().name, "mobilenet_v2");
    // Every name is the one that the key map of the published numbers gives it.
    for (theirs, ours) in expected["source_to_torchvision"].as_object().unwrap() {
        let ours = ours.as_str().unwrap();
        let counts = ours.ends_with("num_batches_tracked");
        assert_eq!(file.tensors.contains_key(ours), !counts, "{theirs}");
    }
    let builder = Builder::new(0, &Device::Cpu).frozen();
    let config = BackboneConfig::new("mobilenet_v2".parse().unwrap());
    let trunk = Trunk::new(&builder.within("backbone").within("body"), &config).unwrap();
    let random = load::init(&builder.finish(), &file).unwrap();
    assert!(random.is_empty());

    let side = 224;
    let mut pixels = Vec::with_capacity(3 * side * side);
    for c in 0..3 {
        for h in 0..side {
            for w in 0..side {
                let value = ((7 * c + 3 * h + 5 * w) % 256) as f32 / 255.0;
                pixels.push((value - MEAN[c]) / STD[c]);
            }
        }
    }
    let image = Tensor::from_vec(pixels, (1, 3, side, side), &Device::Cpu).unwrap();
    let mut seen = 0;
    let mut pooled = Vec::new();
    untracked(|| {
        trunk.each_step(&Value::constant(image), Mode::Inference, |step, map| {
            // A layer's last convolution: of `features.1` to `features.17` the projection.
            let parts: Vec<&str> = step.name().unwrap_or_default().split('.').collect();
            let index: usize = parts[0].parse().unwrap();
            if parts.len() == 4 {
                return;
            }
            let tap = &expected["taps"][index.to_string()];
            if tap.is_null() {
                return;
            }
            seen += 1;
            let tensor = map.tensor().force_contiguous().unwrap();
            assert_eq!(serde_json::json!(tensor.dims()), tap["shape"]);
            let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
            let number = |key: &str| tap[key].as_f64().unwrap();
            let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64;
            assert!((mean - number("mean")).abs() <= 1e-5, "features.{index}: mean {mean}");
            for (value, expected) in values.iter().zip(tap["first"].as_array().unwrap()) {
                let apart = (f64::from(*value) - expected.as_f64().unwrap()).abs();
                assert!(apart <= 1e-4, "features.{index}: {value} and {expected}");
            }
            let per_channel = values.chunks_exact(values.len() / tensor.dims()[1]);
            pooled = per_channel.map(|map| map.iter().sum::<f32>() / map.len() as f32).collect();
        })
    })
    .unwrap();
    assert_eq!(seen, 4);
    for (value, expected) in pooled.iter().zip(expected["pooled_first16"].as_array().unwrap()) {
        assert!((f64::from(*value) - expected.as_f64().unwrap()).abs() <= 1e-4, "{value} and {expected}");
    }
}
