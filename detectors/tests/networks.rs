//! What holds for every network, whatever its weights: hostile inputs, frozen parts, names, initial values,
//! norms and widths, determinism, and gradients that agree with the loss's own slope.

#[path = "../../tests/support/golden.rs"]
mod golden;
mod support;

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use ckd_detectors::backbone::{ResNet, ResNetDepth};
use ckd_detectors::detector::{Detector, DetectorConfig};
use ckd_detectors::faster_rcnn::FasterRcnn;
use ckd_detectors::images::{Images, Target};
use ckd_detectors::nn::{Mode, NormKind};
use ckd_detectors::param::{Builder, ParamStore, Role};
use ckd_detectors::postprocess::Detections;
use ckd_detectors::retinanet::RetinaNet;
use ckd_detectors::{Losses, Result};
use ckd_kernels::elementwise::weighted_sum;
use ckd_kernels::{Gradients, Value};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use support::{padded, padded_to, values};

const CLASSES: usize = 3;

// ---- inputs that a data set really holds ----

#[test]
fn images_without_boxes_teach_only_the_background() {
    each_detector(|name, config| {
        let detector = build(1, config)?;
        let losses = train(&detector, &scene(2), &[Target::default(), Target::default()])?;
        for (loss, value) in &losses {
            let is_boxes = loss.contains("box_reg") || loss.contains("bbox");
            let value = value.item()?;
            assert!(
                if is_boxes { value == 0.0 } else { value > 0.0 && value.is_finite() },
                "{name}: {loss} = {value}"
            );
        }
        assert_finite(name, &total(&losses)?.backward()?);
        Ok(())
    });
}

#[test]
fn a_batch_may_hold_an_image_without_boxes() {
    each_detector(|name, config| {
        let detector = build(1, config)?;
        for targets in [[objects(), Target::default()], [Target::default(), objects()]] {
            let losses = train(&detector, &scene(2), &targets)?;
            for (loss, value) in &losses {
                let value = value.item()?;
                assert!(value > 0.0 && value.is_finite(), "{name}: {loss} = {value}");
            }
            assert_finite(name, &total(&losses)?.backward()?);
        }
        Ok(())
    });
}

#[test]
fn an_image_that_is_all_crowd_teaches_nothing() {
    each_detector(|name, config| {
        let detector = build(1, config)?;
        let crowd = Target { ignored: vec![[-1e4, -1e4, 1e4, 1e4]], ..Target::default() };
        let losses = train(&detector, &scene(1), std::slice::from_ref(&crowd))?;
        for (loss, value) in &losses {
            assert_eq!(value.item()?, 0.0, "{name}: {loss}");
        }
        for (parameter, gradient) in total(&losses)?.backward()? {
            assert!(values(&gradient).iter().all(|&g| g == 0.0), "{name}: {parameter} has a gradient");
        }
        // Beside an image with objects it changes nothing but the means.
        let both = train(&detector, &scene(2), &[objects(), crowd])?;
        assert_finite(name, &total(&both)?.backward()?);
        Ok(())
    });
}

#[test]
fn without_a_proposal_the_true_boxes_are_learned_and_nothing_is_detected() -> Result<()> {
    let mut config = support::tiny_faster_rcnn(CLASSES);
    config.rpn.train.score_threshold = 1.0;
    config.rpn.inference.score_threshold = 1.0;
    let detector = FasterRcnn::new(Builder::new(1, &Device::Cpu), &config)?;
    let images = scene(2);
    let pyramid = detector.pyramid(&images, Mode::Train)?;
    assert!(detector.proposals(&images, &pyramid)?.iter().all(Vec::is_empty));

    let random = &mut ChaCha8Rng::seed_from_u64(0);
    let pass = detector.train(&images, &pyramid, &[objects(), Target::default()], random)?;
    assert_eq!(pass.samples.boxes, [objects().boxes, vec![]]);
    assert_eq!(pass.logits.dims(), [objects().boxes.len(), CLASSES + 1]);
    assert_finite("with boxes", &total(&pass.losses)?.backward()?);

    let pyramid = detector.pyramid(&images, Mode::Train)?;
    let pass = detector.train(&images, &pyramid, &[Target::default(), Target::default()], random)?;
    assert_eq!(pass.logits.dims(), [0, CLASSES + 1]);
    let second_stage: Vec<f32> =
        pass.losses.iter().take(2).map(|(_, loss)| loss.item()).collect::<ckd_kernels::Result<_>>()?;
    assert_eq!(second_stage, [0.0, 0.0]);
    assert_finite("without boxes", &total(&pass.losses)?.backward()?);

    let found = detector.detect(&images)?;
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|image| image.is_empty()));
    Ok(())
}

#[test]
fn a_threshold_of_one_detects_nothing() -> Result<()> {
    let mut config = support::tiny_retinanet(CLASSES);
    config.postprocess.score_threshold = 1.0;
    let found = RetinaNet::new(Builder::new(1, &Device::Cpu), &config)?.detect(&scene(2))?;
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|image| image.is_empty()));
    Ok(())
}

#[test]
fn degenerate_boxes_leave_the_losses_finite() {
    each_detector(|name, config| {
        let detector = build(1, config)?;
        let boxes =
            vec![[10.0; 4], [20.0, 5.0, 20.0, 30.0], [-50.0, -50.0, -20.0, -20.0], [8.0, 8.0, 40.0, 40.0]];
        let target = Target { labels: vec![0; boxes.len()], boxes, ignored: vec![[3.0; 4]] };
        let losses = train(&detector, &scene(1), &[target])?;
        for (loss, value) in &losses {
            assert!(value.item()?.is_finite(), "{name}: {loss} = {}", value.item()?);
        }
        assert_finite(name, &total(&losses)?.backward()?);
        Ok(())
    });
}

#[test]
fn a_broken_pixel_shows_in_the_losses() {
    each_detector(|name, config| {
        let detector = build(1, config)?;
        let mut image = picture(7, 60, 64);
        image.0[1234] = f32::NAN;
        let losses = train(&detector, &padded(&[image]), &[objects()])?;
        assert!(!total(&losses)?.item()?.is_finite(), "{name}");
        Ok(())
    });
}

#[test]
fn targets_that_do_not_fit_are_refused() {
    let labels = |labels: &[u32]| Target { labels: labels.to_vec(), ..objects() };
    let one_class_too_many = [0, CLASSES as u32];
    let hostile: [(&str, Vec<Target>); 5] = [
        ("2 images", vec![]),
        ("2 images", vec![objects()]),
        ("2 images", vec![objects(), objects(), objects()]),
        ("2 boxes", vec![objects(), labels(&[0])]),
        ("3 classes", vec![objects(), labels(&one_class_too_many)]),
    ];
    each_detector(|name, config| {
        let detector = build(1, config)?;
        for (said, targets) in &hostile {
            let error = train(&detector, &scene(2), targets).err().map(|error| error.to_string());
            let error = error.unwrap_or_default();
            assert!(error.contains(said), "{name}: {error:?} does not speak of {said}");
        }
        Ok(())
    });
}

#[test]
fn a_pyramid_of_other_images_is_refused() {
    each_detector(|name, config| {
        let detector = build(1, config)?;
        for (shown, made) in [(1, 2), (2, 1)] {
            let pyramid = detector.pyramid(&scene(made), Mode::Train)?;
            let losses = losses_of(&detector, &scene(shown), &pyramid, &vec![objects(); shown]);
            assert!(losses.is_err(), "{name}: {shown} images, a pyramid of {made}");
        }
        Ok(())
    });
}

#[test]
fn sizes_of_nothing_are_refused() {
    let with = |width, freeze_at| {
        let (mut two, mut one) = (support::tiny_faster_rcnn(CLASSES), support::tiny_retinanet(CLASSES));
        for backbone in [&mut two.backbone, &mut one.backbone] {
            let backbone = support::resnet(backbone);
            (backbone.width, backbone.freeze_at) = (width, freeze_at);
        }
        [DetectorConfig::FasterRcnn(two), DetectorConfig::RetinaNet(one)]
    };
    with(0, 0).into_iter().for_each(|config| refused("width", config));
    with(8, 6).into_iter().for_each(|config| refused("freeze_at", config));
    refused("classes", DetectorConfig::FasterRcnn(support::tiny_faster_rcnn(0)));
    refused("classes", DetectorConfig::RetinaNet(support::tiny_retinanet(0)));
    let mut config = support::tiny_faster_rcnn(CLASSES);
    config.fpn_channels = 0;
    refused("width", DetectorConfig::FasterRcnn(config.clone()));
    (config.fpn_channels, config.roi.hidden) = (16, 0);
    refused("hidden", DetectorConfig::FasterRcnn(config.clone()));
    (config.roi.hidden, config.roi.pool_size) = (16, 0);
    refused("pool_size", DetectorConfig::FasterRcnn(config));
}

fn refused(what: &str, config: DetectorConfig) {
    let error = build(1, config).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains(what), "{error:?} does not speak of {what}");
}

// ---- stages that are computed again ----

#[test]
fn what_is_computed_again_gives_the_same_gradients_and_moves_statistics_once() -> Result<()> {
    for norm in [NormKind::Bn, NormKind::FrozenBn, NormKind::Gn] {
        let run = |recompute: [bool; 4]| -> Result<(Gradients, BTreeMap<String, Tensor>)> {
            let mut config = support::tiny_faster_rcnn(CLASSES);
            let backbone = support::resnet(&mut config.backbone);
            (backbone.norm, backbone.freeze_at, backbone.recompute) = (norm, 1, recompute);
            let detector = build(1, DetectorConfig::FasterRcnn(config))?;
            let losses = train(&detector, &scene(2), &[objects(), objects()])?;
            let gradients = total(&losses)?.backward()?;
            Ok((gradients, detector.params().snapshot()?))
        };
        let (kept, kept_params) = run([false; 4])?;
        let (again, again_params) = run([true, true, false, true])?;
        assert_eq!(kept.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>());
        for (name, gradient) in &kept {
            // A map's gradients are summed in another order.
            let (kept, again) = (values(gradient), values(&again[name]));
            let norm_of = |values: &[f32]| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let difference: Vec<f32> = kept.iter().zip(&again).map(|(a, b)| a - b).collect();
            assert!(norm_of(&difference) <= 1e-5 * norm_of(&kept), "{norm:?} {name}");
        }
        for (name, tensor) in &kept_params {
            assert_eq!(values(tensor), values(&again_params[name]), "{norm:?} {name}");
        }
    }
    Ok(())
}

// ---- frozen parts ----

#[test]
fn frozen_stages_keep_their_weights_and_statistics() -> Result<()> {
    let stages = ["", "layer1.", "layer2.", "layer3.", "layer4."];
    let stage_of = |name: &str| {
        let name = name.strip_prefix("backbone.body.")?;
        Some(stages.iter().skip(1).position(|stage| name.starts_with(stage)).map_or(0, |stage| stage + 1))
    };
    for freeze_at in 0..=5 {
        let mut config = support::tiny_retinanet(CLASSES);
        support::resnet(&mut config.backbone).norm = NormKind::Bn;
        support::resnet(&mut config.backbone).freeze_at = freeze_at;
        let detector = RetinaNet::new(Builder::new(1, &Device::Cpu), &config)?;
        let before = detector.params().snapshot()?;
        let pyramid = detector.pyramid(&scene(2), Mode::Train)?;
        let losses = detector.train(&scene(2), &pyramid, &[objects(), objects()])?.losses;
        let gradients = total(&losses)?.backward()?;
        for (name, param) in detector.params().iter() {
            let frozen = stage_of(name).is_some_and(|stage| stage < freeze_at);
            let expected = match (name.contains(".running_"), frozen) {
                (true, _) => Role::Buffer,
                (false, true) => Role::Frozen,
                (false, false) => Role::Trainable,
            };
            assert_eq!(param.role, expected, "freeze_at {freeze_at}: {name}");
            // The first stage is not part of RetinaNet's pyramid, but its output is layer2's input.
            assert_eq!(
                gradients.contains_key(name),
                expected == Role::Trainable,
                "freeze_at {freeze_at}: gradient of {name}"
            );
            let moved = values(param.value.tensor()) != values(&before[&**name]);
            assert_eq!(moved, expected == Role::Buffer && !frozen, "freeze_at {freeze_at}: {name} moved");
        }
    }
    Ok(())
}

#[test]
fn inference_moves_no_statistic() -> Result<()> {
    let mut config = support::tiny_retinanet(CLASSES);
    support::resnet(&mut config.backbone).norm = NormKind::Bn;
    let detector = RetinaNet::new(Builder::new(1, &Device::Cpu), &config)?;
    let before = bits(detector.params());
    detector.detect(&scene(2))?;
    assert_eq!(bits(detector.params()), before);
    Ok(())
}

#[test]
fn a_frozen_teacher_records_nothing() -> Result<()> {
    let images = scene(2);
    for norm in NORMS {
        for mode in [Mode::Inference, Mode::Train] {
            let mut config = support::tiny_faster_rcnn(CLASSES);
            support::resnet(&mut config.backbone).norm = norm;
            let teacher = FasterRcnn::new(Builder::new(1, &Device::Cpu).frozen(), &config)?;
            let before = bits(teacher.params());
            assert_eq!(teacher.params().trainable().count(), 0);
            let pyramid = teacher.pyramid(&images, mode)?;
            assert!(pyramid.iter().all(|level| !level.is_tracked()), "{norm:?} {mode:?}: pyramid");
            let logits = teacher.roi_logits(&pyramid, &[objects().boxes, vec![]])?;
            assert!(!logits.is_tracked(), "{norm:?} {mode:?}: logits");
            assert_eq!(bits(teacher.params()), before, "{norm:?} {mode:?}: parameters moved");

            let mut config = support::tiny_retinanet(CLASSES);
            support::resnet(&mut config.backbone).norm = norm;
            let teacher = RetinaNet::new(Builder::new(1, &Device::Cpu).frozen(), &config)?;
            let pyramid = teacher.pyramid(&images, mode)?;
            assert!(pyramid.iter().all(|level| !level.is_tracked()), "{norm:?} {mode:?}: pyramid");
            assert!(!teacher.anchor_logits(&pyramid)?.is_tracked(), "{norm:?} {mode:?}: logits");
        }
    }
    Ok(())
}

// ---- names and initial values ----

#[test]
fn parameters_and_statistics_are_called_as_in_torchvision() -> Result<()> {
    for (model, want) in torchvision_names() {
        let depth = ResNetDepth::ALL.into_iter().find(|depth| model.contains(depth.name()));
        let depth = depth.expect("a known trunk");
        let got = match model.split('_').next() {
            Some("fasterrcnn") => {
                names(build(0, DetectorConfig::FasterRcnn(support::faster_rcnn(depth, 4)))?.params())
            }
            Some("retinanet") => {
                names(build(0, DetectorConfig::RetinaNet(support::retinanet(depth, 5)))?.params())
            }
            _ => {
                let builder = Builder::new(0, &Device::Cpu);
                ResNet::new(&builder, support::backbone(depth))?;
                names(&builder.finish())
            }
        };
        assert_eq!(got, want, "{model}");
    }
    Ok(())
}

#[test]
fn initial_values_follow_the_seed_and_the_name_alone() {
    each_detector(|name, config| {
        let (first, again, other) = (build(1, config.clone())?, build(1, config.clone())?, build(2, config)?);
        assert_eq!(bits(first.params()), bits(again.params()), "{name}: the same seed");
        for ((parameter, a), b) in bits(first.params()).into_iter().zip(bits(other.params()).into_values()) {
            let constant = a.iter().all(|value| *value == a[0]);
            assert_eq!(a == b, constant, "{name}: {parameter} with another seed");
        }
        Ok(())
    });
}

#[test]
fn another_layer_changes_no_initial_value() -> Result<()> {
    let (mut deeper, mut richer) = (support::tiny_retinanet(CLASSES), support::tiny_retinanet(CLASSES + 4));
    deeper.head_convs += 2;
    support::resnet(&mut deeper.backbone).depth = ResNetDepth::ResNet34;
    support::resnet(&mut richer.backbone).norm = NormKind::Bn;
    support::resnet(&mut richer.backbone).freeze_at = 2;
    let small = bits(build(1, DetectorConfig::RetinaNet(support::tiny_retinanet(CLASSES)))?.params());
    let deeper = bits(build(1, DetectorConfig::RetinaNet(deeper))?.params());
    let richer = bits(build(1, DetectorConfig::RetinaNet(richer))?.params());
    for (name, values) in &small {
        assert_eq!(values, &deeper[name], "{name}: among more layers");
        let of_a_class = name.contains("cls_logits");
        assert_eq!(values == &richer[name], !of_a_class, "{name}: with more classes");
    }
    Ok(())
}

#[test]
fn initial_values_follow_torchvisions_rules() -> Result<()> {
    let (mut two, mut one) = (support::tiny_faster_rcnn(CLASSES), support::tiny_retinanet(CLASSES));
    (support::resnet(&mut two.backbone).width, two.fpn_channels, two.roi.hidden) = (32, 64, 64);
    (support::resnet(&mut one.backbone).width, one.fpn_channels) = (32, 64);
    for config in [DetectorConfig::FasterRcnn(two), DetectorConfig::RetinaNet(one)] {
        let detector = build(5, config)?;
        let mut drawn = BTreeSet::new();
        for (name, param) in detector.params().iter() {
            let tensor = param.value.tensor();
            check_rule(name, torchvisions_rule(name, detector.params()), &values(tensor));
            let start: Vec<u32> = values(tensor).iter().take(8).map(|value| value.to_bits()).collect();
            let constant = start.iter().all(|value| *value == start[0]);
            assert!(constant || drawn.insert(start), "{name} repeats another parameter's numbers");
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Rule {
    Constant(f64),
    Normal(f64),
    Uniform(f64),
}

/// What torchvision's constructors do to the parameter called `name`.
fn torchvisions_rule(name: &str, params: &ParamStore) -> Rule {
    let weight = name.rsplit_once('.').map(|(layer, _)| format!("{layer}.weight")).expect("a dotted name");
    let shape = params.get(&weight).map(|weight| weight.value.dims().to_vec()).unwrap_or_default();
    let kernel = shape.iter().skip(2).product::<usize>() as f64;
    let fan_in = shape.get(1).map_or(1.0, |inputs| *inputs as f64 * kernel);
    let is_bias = name.ends_with(".bias");
    let norm = name.contains("backbone.body") && shape.len() == 1;
    match name {
        _ if name.ends_with("running_mean") => Rule::Constant(0.0),
        _ if name.ends_with("running_var") => Rule::Constant(1.0),
        _ if norm => Rule::Constant(if is_bias { 0.0 } else { 1.0 }),
        // kaiming_normal_(mode="fan_out", nonlinearity="relu")
        _ if name.starts_with("backbone.body") => Rule::Normal((2.0 / (shape[0] as f64 * kernel)).sqrt()),
        // nn.Linear's own
        _ if name.starts_with("roi_heads") => Rule::Uniform(1.0 / fan_in.sqrt()),
        "head.classification_head.cls_logits.bias" => Rule::Constant(-(0.99_f64 / 0.01).ln()),
        _ if is_bias => Rule::Constant(0.0),
        // kaiming_uniform_(a=1)
        _ if name.starts_with("backbone.fpn") => Rule::Uniform((3.0 / fan_in).sqrt()),
        _ => Rule::Normal(0.01),
    }
}

/// Mean and spread within five standard errors; nothing outside a uniform's bounds.
fn check_rule(name: &str, rule: Rule, values: &[f32]) {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let spread = (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt();
    // The kurtosis k of a distribution gives its sample deviation a relative error of sqrt((k - 1) / 4n).
    let (std, kurtosis) = match rule {
        Rule::Constant(value) => {
            assert!(values.iter().all(|&v| v == value as f32), "{name}: not all {value}");
            return;
        }
        Rule::Normal(std) => (std, 3.0),
        Rule::Uniform(bound) => {
            let largest = values.iter().map(|v| v.abs()).fold(0.0, f32::max);
            assert!(f64::from(largest) <= bound * (1.0 + 1e-6), "{name}: {largest} is beyond {bound}");
            (bound / 3_f64.sqrt(), 1.8)
        }
    };
    assert!(mean.abs() < 5.0 * std / n.sqrt(), "{name}: mean {mean} of {rule:?}");
    let error = ((kurtosis - 1.0) / (4.0 * n)).sqrt();
    // A handful of numbers has no spread to speak of.
    assert!(n < 50.0 || (spread / std - 1.0).abs() < 5.0 * error, "{name}: deviation {spread} of {rule:?}");
}

// ---- norms, widths, batches ----

const NORMS: [NormKind; 3] = [NormKind::FrozenBn, NormKind::Bn, NormKind::Gn];

#[test]
fn every_norm_width_and_batch_trains() {
    let widths = [(8, ResNetDepth::ResNet18), (24, ResNetDepth::ResNet50), (64, ResNetDepth::ResNet18)];
    for norm in NORMS {
        for (images, (width, depth)) in (1..=3).zip(widths) {
            each_detector(|name, mut config| {
                let backbone = match &mut config {
                    DetectorConfig::FasterRcnn(config) => &mut config.backbone,
                    DetectorConfig::RetinaNet(config) => &mut config.backbone,
                };
                let backbone = support::resnet(backbone);
                (backbone.norm, backbone.width, backbone.depth) = (norm, width, depth);
                let place = format!("{name}, {norm:?}, {depth:?} of width {width}, {images} images");
                let detector = build(1, config)?;
                let batch = scene(images);
                let losses = train(&detector, &batch, &vec![objects(); images])?;
                assert!(total(&losses)?.item()? > 0.0, "{place}");
                let gradients = total(&losses)?.backward()?;
                assert_finite(&place, &gradients);
                for (parameter, tensor) in detector.params().trainable() {
                    let gradient = gradients.get(parameter).unwrap_or_else(|| panic!("{place}: {parameter}"));
                    assert_eq!(gradient.dims(), tensor.dims(), "{place}: {parameter}");
                }
                assert_eq!(detector.detect(&batch)?.len(), images, "{place}");
                Ok(())
            });
        }
    }
}

#[test]
fn a_pyramid_has_the_strides_that_its_levels_name() {
    each_detector(|name, config| {
        let detector = build(1, config)?;
        let (h, w) = scene(3).padded_size()?;
        for (level, map) in detector.levels().iter().zip(detector.pyramid(&scene(3), Mode::Inference)?) {
            let stride = 1 << level.0;
            assert_eq!(map.dims(), [3, 16, h.div_ceil(stride), w.div_ceil(stride)], "{name}: {level}");
        }
        Ok(())
    });
}

// ---- the same every time, whoever is beside it ----

#[test]
fn two_passes_have_the_same_gradients_bit_for_bit() {
    for norm in NORMS {
        each_detector(|name, mut config| {
            match &mut config {
                DetectorConfig::FasterRcnn(config) => {
                    support::resnet(&mut config.backbone).norm = norm;
                    // A real sample: its draws come from the step's own stream.
                    (config.rpn.sample.per_image, config.roi.sample.per_image) = (64, 32);
                }
                DetectorConfig::RetinaNet(config) => support::resnet(&mut config.backbone).norm = norm,
            }
            let gradients = || -> Result<Gradients> {
                let detector = build(1, config.clone())?;
                Ok(total(&train(&detector, &scene(3), &vec![objects(); 3])?)?.backward()?)
            };
            let (first, second) = (gradients()?, gradients()?);
            assert!(first.keys().eq(second.keys()), "{name}");
            for (parameter, gradient) in &first {
                let same = bits_of(gradient) == bits_of(&second[parameter]);
                assert!(same, "{name}, {norm:?}: {parameter}");
            }
            Ok(())
        });
    }
}

#[test]
fn an_image_is_detected_alike_alone_and_in_a_batch() {
    let (left, right) = (picture(1, 64, 90), picture(2, 96, 50));
    // The same padding: zeros beside an image are an image's border, and so seen by the convolutions.
    let place = |images: &[_]| padded_to(images, (96, 96));
    let (both, turned) = (place(&[left.clone(), right.clone()]), place(&[right.clone(), left.clone()]));
    let alone = [place(&[left]), place(&[right])];
    each_detector(|name, config| {
        let detector = build(1, config)?;
        // Norms that have seen images: with those they begin with, the second heads say nothing.
        for _ in 0..40 {
            train(&detector, &scene(2), &[objects(), objects()])?;
        }
        exaggerate(detector.params())?;
        let (both, turned) = (detector.detect(&both)?, detector.detect(&turned)?);
        for (index, image) in alone.iter().enumerate() {
            let single = detector.detect(image)?;
            // Batch norms of one small scene leave the convolutional head little to say.
            let least = if name == "Faster R-CNN v2" { 5 } else { 11 };
            assert!(single[0].len() >= least, "{name}: {} detections", single[0].len());
            assert_alike(&format!("{name}: image {index}"), &single[0], &both[index]);
            assert_alike(
                &format!("{name}: image {index} in the other place"),
                &single[0],
                &turned[1 - index],
            );
        }
        Ok(())
    });
}

/// Each detection of one has its like in the other: 0.01 pixels, 1e-4 of probability. Convolutions treat rows of
/// pixels in bands whose length depends on the batch, so the last bits may differ.
fn assert_alike(place: &str, a: &Detections, b: &Detections) {
    assert_eq!(a.len(), b.len(), "{place}: count");
    for (i, (&label, &score)) in a.labels.iter().zip(&a.scores).enumerate() {
        let like = (0..b.len()).any(|k| {
            let close = |(a, b): (&f32, &f32)| (a - b).abs() < 0.01;
            label == b.labels[k]
                && (score - b.scores[k]).abs() < 1e-4
                && a.boxes[i].iter().zip(&b.boxes[k]).all(close)
        });
        assert!(like, "{place}: {:?} of class {label} at {score} has no like", a.boxes[i]);
    }
}

// ---- what the tests are made of ----

fn build(seed: u64, config: DetectorConfig) -> Result<Detector> {
    Detector::new(Builder::new(seed, &Device::Cpu), &config)
}

/// Runs `test` with the settings of a tiny network of each kind.
fn each_detector(test: impl Fn(&str, DetectorConfig) -> Result<()>) {
    let configs = [
        ("Faster R-CNN", DetectorConfig::FasterRcnn(support::tiny_faster_rcnn(CLASSES))),
        ("RetinaNet", DetectorConfig::RetinaNet(support::tiny_retinanet(CLASSES))),
        ("Faster R-CNN v2", DetectorConfig::FasterRcnn(support::tiny_faster_rcnn_v2(CLASSES))),
        ("RetinaNet v2", DetectorConfig::RetinaNet(support::tiny_retinanet_v2(CLASSES))),
    ];
    for (name, config) in configs {
        test(name, config).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

fn train(detector: &Detector, images: &Images, targets: &[Target]) -> Result<Losses> {
    losses_of(detector, images, &detector.pyramid(images, Mode::Train)?, targets)
}

fn losses_of(detector: &Detector, images: &Images, pyramid: &[Value], targets: &[Target]) -> Result<Losses> {
    Ok(match detector {
        Detector::FasterRcnn(detector) => {
            detector.train(images, pyramid, targets, &mut ChaCha8Rng::seed_from_u64(0))?.losses
        }
        Detector::RetinaNet(detector) => detector.train(images, pyramid, targets)?.losses,
    })
}

fn total(losses: &Losses) -> Result<Value> {
    Ok(weighted_sum(&losses.iter().map(|(_, loss)| (loss, 1.0)).collect::<Vec<_>>())?)
}

/// The first `count` of three pictures of different sizes.
fn scene(count: usize) -> Images {
    let pictures = [picture(1, 60, 64), picture(2, 64, 41), picture(3, 33, 50)];
    padded(&pictures[..count])
}

fn picture(stream: u64, h: usize, w: usize) -> (Vec<f32>, usize, usize) {
    (golden::tensor(stream, 3 * h * w, 0.5, 0.5), h, w)
}

/// Two boxes that lie within every picture of [`scene`].
fn objects() -> Target {
    Target {
        boxes: vec![[3.0, 2.0, 29.0, 31.0], [12.5, 8.0, 40.0, 27.0]],
        labels: vec![0, 2],
        ignored: vec![[0.0, 20.0, 12.0, 32.0]],
    }
}

/// Makes the last layers twenty times as loud, so that scores and boxes differ from each other.
fn exaggerate(params: &ParamStore) -> Result<()> {
    for (name, param) in params.iter() {
        let last = [
            ("cls_logits.weight", 20.0),
            ("bbox_pred.weight", 20.0),
            ("cls_score.weight", 20.0),
            ("bbox_reg.weight", 20.0),
        ];
        if let Some((_, factor)) = last.iter().find(|(last, _)| name.ends_with(last)) {
            params.set(name, &(param.value.tensor() * *factor)?)?;
        }
    }
    Ok(())
}

fn assert_finite(place: &str, gradients: &Gradients) {
    let broken: Vec<&str> = gradients
        .iter()
        .filter(|(_, gradient)| values(gradient).iter().any(|value| !value.is_finite()))
        .map(|(name, _)| &**name)
        .collect();
    assert!(broken.is_empty(), "{place}: gradients that are not finite: {}", broken.join(", "));
}

fn bits(params: &ParamStore) -> BTreeMap<String, Vec<u32>> {
    params.iter().map(|(name, param)| (name.to_string(), bits_of(param.value.tensor()))).collect()
}

fn bits_of(tensor: &Tensor) -> Vec<u32> {
    values(tensor).into_iter().map(f32::to_bits).collect()
}

type Names = Vec<(String, Vec<usize>)>;

fn names(params: &ParamStore) -> Names {
    params.iter().map(|(name, param)| (name.to_string(), param.value.dims().to_vec())).collect()
}

/// Names and shapes of torchvision's trunks and detectors, as the golden values list them. The detectors of
/// the two depths that have no golden values are put together from a trunk and a detector of the same width.
fn torchvision_names() -> BTreeMap<String, Names> {
    let root = golden::roots().into_iter().next().expect("the repository's golden values");
    let table = std::fs::read(root.join("weights.json")).expect("weights.json");
    let table: serde_json::Value = serde_json::from_slice(&table).expect("JSON");
    let row = |row: &serde_json::Value| -> (String, Vec<usize>) {
        serde_json::from_value::<(u64, String, Vec<usize>, String)>(row.clone())
            .map(|(_, name, shape, _)| (name, shape))
            .expect("weights.json: stream, name, shape, rule")
    };
    let rows = |model: &str| -> Names {
        table["models"][model].as_array().expect("a list").iter().map(row).collect()
    };
    let mut models = BTreeMap::new();
    for depth in ResNetDepth::ALL {
        let mut trunk = rows(&format!("classifier_{}", depth.name()));
        trunk.retain(|(name, _)| !name.starts_with("fc."));
        let alike = match depth {
            ResNetDepth::ResNet18 | ResNetDepth::ResNet34 => "resnet18",
            ResNetDepth::ResNet50 | ResNetDepth::ResNet101 => "resnet50",
        };
        for kind in ["fasterrcnn", "retinanet"] {
            let mut detector = rows(&format!("{kind}_{alike}_fpn"));
            if alike != depth.name() {
                detector.retain(|(name, _)| !name.starts_with("backbone.body."));
                detector.extend(
                    trunk.iter().map(|(name, shape)| (format!("backbone.body.{name}"), shape.clone())),
                );
                detector.sort();
            }
            models.insert(format!("{kind}_{}_fpn", depth.name()), detector);
        }
        models.insert(depth.name().to_owned(), trunk);
    }
    models
}
