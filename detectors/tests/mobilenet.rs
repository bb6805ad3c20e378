//! MobileNets as trunks: names and numbers of weights, widths, frozen stages, and detectors that train on it.

use crate::golden;
use crate::support;
use std::collections::BTreeMap;

use crate::support::{padded, values};
use candle_core::{DType, Tensor};
use ckd_detectors::backbone::{BackboneConfig, Trunk};
use ckd_detectors::images::{Images, Target};
use ckd_detectors::nn::{Mode, NormKind};
use ckd_detectors::param::{Builder, ParamStore, Role};
use ckd_detectors::{Detector, DetectorConfig, Result};
use ckd_kernels::elementwise::weighted_sum;
use ckd_kernels::{Gradients, Value};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const CLASSES: usize = 3;

/// Width multiplier, channels of C2 to C5 and of the pyramid's inputs, and number of weights.
const MOBILENET_V3: [(f64, [usize; 4], [usize; 2], usize); 4] = [
    (1.0, [24, 40, 112, 960], [160, 960], 2_971_952),
    (0.75, [24, 32, 88, 720], [120, 720], 1_724_416),
    (0.5, [16, 24, 56, 480], [80, 480], 785_736),
    (0.25, [8, 16, 32, 240], [40, 240], 218_880),
];

fn trunk(width_multiplier: f64) -> Result<(Trunk, ParamStore)> {
    let builder = Builder::new(0, crate::support::device());
    let config = BackboneConfig { width_multiplier, ..support::backbone("mobilenet_v2") };
    Ok((Trunk::new(&builder.within("features"), &config)?, builder.finish()))
}

/// Counts of torchvision's `mobilenet_v2(width_mult=...).features`.
#[test]
fn widths_have_torchvisions_channels_and_numbers_of_weights() -> Result<()> {
    for (width_multiplier, channels, count) in [
        (1.0, [24, 32, 96, 1280], 2_223_872),
        (0.35, [8, 16, 32, 1280], 396_128),
        (0.5, [16, 16, 48, 1280], 687_680),
        (0.75, [24, 24, 72, 1280], 1_355_424),
        (1.4, [32, 48, 136, 1792], 4_315_776),
    ] {
        let (trunk, params) = trunk(width_multiplier)?;
        assert_eq!(trunk.channels(), channels, "{width_multiplier}");
        assert_eq!(params.weight_count(), count, "{width_multiplier}");
    }
    Ok(())
}

/// Channels and counts of torchvision's `mobilenet_v3_large(width_mult=...).features`.
#[test]
fn mobilenet_v3_has_torchvisions_channels_and_numbers_of_weights() -> Result<()> {
    for (width_multiplier, channels, pyramid, count) in MOBILENET_V3 {
        let builder = Builder::new(1, crate::support::device());
        let config = BackboneConfig { width_multiplier, ..support::backbone("mobilenet_v3_large") };
        let trunk = Trunk::new(&builder.within("features"), &config)?;
        assert_eq!(trunk.channels(), channels, "{width_multiplier}");
        assert_eq!(trunk.pyramid_channels(), pyramid, "{width_multiplier}");
        assert_eq!(builder.finish().weight_count(), count, "{width_multiplier}");
    }
    Ok(())
}

/// The paper's tables 6 and 7 list 4.2, 2.6, 1.3 and 0.5 million with a classifier of 1000 classes.
#[test]
fn mobilenet_v1_has_the_papers_channels_and_numbers_of_weights() -> Result<()> {
    for (width_multiplier, channels, with_classifier) in [
        (1.0, [128, 256, 512, 1024], 4_231_976),
        (0.75, [96, 192, 384, 768], 2_585_560),
        (0.5, [64, 128, 256, 512], 1_331_592),
        (0.25, [32, 64, 128, 256], 470_072),
    ] {
        let builder = Builder::new(1, crate::support::device());
        let config = BackboneConfig { width_multiplier, ..support::backbone("mobilenet_v1") };
        let trunk = Trunk::new(&builder.within("model"), &config)?;
        assert_eq!(trunk.channels(), channels, "{width_multiplier}");
        let classifier = (channels[3] + 1) * 1000;
        assert_eq!(builder.finish().weight_count() + classifier, with_classifier, "{width_multiplier}");
        for (h, w) in [(64, 96), (33, 47), (1, 5)] {
            let x = Value::constant(Tensor::zeros((2, 3, h, w), DType::F32, crate::support::device())?);
            let maps = trunk.forward(&x, Mode::Inference)?;
            for ((map, channels), stride) in maps.iter().zip(channels).zip([4, 8, 16, 32]) {
                let sides = [h, w].map(|side| usize::div_ceil(side, stride));
                assert_eq!(map.dims(), [2, channels, sides[0], sides[1]]);
            }
        }
    }
    Ok(())
}

#[test]
fn a_width_of_nothing_is_refused() {
    for width_multiplier in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = trunk(width_multiplier).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("width multiplier"), "{width_multiplier}: {error:?}");
    }
    let mut config = support::tiny_retinanet(CLASSES);
    config.backbone = support::tiny_mobilenet(NormKind::Bn, 6);
    let error = build(config).err().map(|error| error.to_string());
    assert!(error.is_some_and(|error| error.contains("freeze_at is 6")));
    for (width_multiplier, freeze_at, said) in [(0.0, 0, "width multiplier"), (1.0, 6, "freeze_at is 6")] {
        let config = BackboneConfig { width_multiplier, freeze_at, ..support::backbone("mobilenet_v1") };
        let error = Trunk::new(&Builder::new(1, crate::support::device()), &config)
            .err()
            .map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains(said)), "{said}");
    }
}

#[test]
fn the_maps_have_strides_4_to_32_at_every_parity() -> Result<()> {
    let (trunk, _) = trunk(0.25)?;
    for (h, w) in [(64, 96), (33, 47), (1, 5)] {
        let x = Value::constant(Tensor::zeros((2, 3, h, w), DType::F32, crate::support::device())?);
        let maps = trunk.forward(&x, Mode::Inference)?;
        assert_eq!(maps.len(), 4);
        for ((map, &channels), stride) in maps.iter().zip(trunk.channels()).zip([4, 8, 16, 32]) {
            assert_eq!(map.dims(), [2, channels, usize::div_ceil(h, stride), usize::div_ceil(w, stride)]);
        }
    }
    Ok(())
}

/// As torchvision draws them: normal, std √(2 / (K·R·S)), whether depthwise or not.
#[test]
fn initial_values_follow_torchvisions_rules() -> Result<()> {
    let (_, params) = trunk(1.0)?;
    for (name, param) in params.iter() {
        let numbers = values(param.value.tensor());
        let &[k, _, r, s] = param.value.dims() else {
            let constant = match name.rsplit('.').next() {
                Some("weight" | "running_var") => 1.0,
                _ => 0.0,
            };
            assert!(numbers.iter().all(|value| *value == constant), "{name}");
            continue;
        };
        let spread = numbers.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / numbers.len() as f64;
        let expected = 2.0 / (k * r * s) as f64;
        // Five standard errors of a normal variance.
        let error = 5.0 * (2.0 / numbers.len() as f64).sqrt();
        assert!((spread / expected - 1.0).abs() < error, "{name}: variance {spread}, expected {expected}");
    }
    Ok(())
}

#[test]
fn frozen_stages_keep_their_weights_and_statistics() -> Result<()> {
    // The layers before which torchvision's `mobilenet_backbone` freezes, for trainable_layers 6 to 1, and 0.
    let second = [0, 2, 4, 7, 14, 19].map(|first| (first, support::tiny_mobilenet as Tiny));
    let first = [0, 2, 4, 6, 12, 14].map(|first| (first, support::tiny_mobilenet_v1 as Tiny));
    let third = [0, 2, 4, 7, 13, 17].map(|first| (first, support::tiny_mobilenet_v3 as Tiny));
    let cases = [first, second, third].into_iter().flat_map(|cases| cases.into_iter().enumerate());
    for (freeze_at, (first, tiny)) in cases {
        let mut config = support::tiny_faster_rcnn(CLASSES);
        config.backbone = tiny(NormKind::Bn, freeze_at);
        let detector = build(config)?;
        let before = detector.params().snapshot()?;
        let gradients = gradients(&detector)?;
        for (name, param) in detector.params().iter() {
            let layer = name.strip_prefix("backbone.body.").and_then(|name| name.split('.').next());
            let frozen = layer.is_some_and(|layer| layer.parse::<usize>().expect("a number") < first);
            let expected = match (name.contains(".running_"), frozen) {
                (true, _) => Role::Buffer,
                (false, true) => Role::Frozen,
                (false, false) => Role::Trainable,
            };
            assert_eq!(param.role, expected, "freeze_at {freeze_at}: {name}");
            let learns = gradients.contains_key(name);
            assert_eq!(learns, expected == Role::Trainable, "freeze_at {freeze_at}: gradient of {name}");
            let moved = values(param.value.tensor()) != values(&before[&**name]);
            assert_eq!(moved, expected == Role::Buffer && !frozen, "freeze_at {freeze_at}: {name} moved");
        }
    }
    Ok(())
}

#[test]
fn both_detectors_train_with_every_norm_and_repeat_bit_for_bit() -> Result<()> {
    let norms = [NormKind::FrozenBn, NormKind::Bn, NormKind::Gn];
    let tiny: [Tiny; 3] = [support::tiny_mobilenet, support::tiny_mobilenet_v1, support::tiny_mobilenet_v3];
    for (norm, tiny) in norms.into_iter().flat_map(|norm| tiny.map(|tiny| (norm, tiny))) {
        let (mut two, mut one) = (support::tiny_faster_rcnn(CLASSES), support::tiny_retinanet(CLASSES));
        two.backbone = tiny(norm, 0);
        one.backbone = tiny(norm, 0);
        for config in [two, one] {
            let detector = build(config.clone())?;
            let first = bits(&gradients(&detector)?);
            for (name, _) in detector.params().trainable() {
                let gradient = first.get(&**name).unwrap_or_else(|| panic!("{norm:?}: {name}"));
                assert!(gradient.iter().all(|bits| f32::from_bits(*bits).is_finite()), "{norm:?}: {name}");
            }
            assert_eq!(first, bits(&gradients(&build(config)?)?), "{norm:?}");
            assert_eq!(detector.detect(&scene())?.len(), 2, "{norm:?}");
        }
    }
    Ok(())
}

#[test]
fn a_frozen_teacher_records_nothing() -> Result<()> {
    let mut config = support::tiny_faster_rcnn(CLASSES);
    config.backbone = support::tiny_mobilenet(NormKind::Bn, 0);
    let builder = Builder::new(1, crate::support::device()).frozen();
    let teacher = Detector::new(builder, &config)?;
    assert_eq!(teacher.params().trainable().count(), 0);
    for mode in [Mode::Inference, Mode::Train] {
        assert!(teacher.pyramid(&scene(), mode)?.iter().all(|level| !level.is_tracked()), "{mode:?}");
    }
    Ok(())
}

/// A small trunk of a norm with frozen stages.
type Tiny = fn(NormKind, usize) -> BackboneConfig;

fn build(config: DetectorConfig) -> Result<Detector> {
    Detector::new(Builder::new(1, crate::support::device()), &config)
}

fn gradients(detector: &Detector) -> Result<Gradients> {
    let target = || Target {
        boxes: vec![[3.0, 2.0, 29.0, 31.0], [12.5, 8.0, 40.0, 27.0]],
        labels: vec![0, 2],
        ..Target::default()
    };
    let (images, targets) = (scene(), [target(), target()]);
    let pyramid = detector.pyramid(&images, Mode::Train)?;
    let (losses, _) = detector.train(&images, &pyramid, &targets, &mut ChaCha8Rng::seed_from_u64(0))?;
    let terms: Vec<(&Value, f64)> = losses.iter().map(|(_, loss)| (loss, 1.0)).collect();
    Ok(weighted_sum(&terms)?.backward()?)
}

fn bits(gradients: &Gradients) -> BTreeMap<String, Vec<u32>> {
    let bits = |gradient: &Tensor| values(gradient).into_iter().map(f32::to_bits).collect();
    gradients.iter().map(|(name, gradient)| (name.to_string(), bits(gradient))).collect()
}

fn scene() -> Images {
    let picture = |stream, h, w| (golden::tensor(stream, 3 * h * w, 0.5, 0.5), h, w);
    padded(&[picture(1, 60, 64), picture(2, 64, 41)])
}
