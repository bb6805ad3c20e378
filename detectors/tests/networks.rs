//! What holds for every network, whatever its weights: hostile inputs, frozen parts, norms and widths, determinism.

use crate::golden;
use crate::support;
use std::collections::BTreeMap;

use crate::support::{CLASSES, bits, bits_of, build, each_detector, padded, padded_to, values};
use candle_core::Tensor;
use ckd_detectors::backbone::BackboneConfig;
use ckd_detectors::detector::{Detector, DetectorConfig};
use ckd_detectors::faster_rcnn::FasterRcnn;
use ckd_detectors::fcos::Fcos;
use ckd_detectors::images::{Images, Target};
use ckd_detectors::nn::{Mode, NormKind};
use ckd_detectors::param::{Builder, ParamStore, Role};
use ckd_detectors::postprocess::Detections;
use ckd_detectors::regions::Regions;
use ckd_detectors::retinanet::RetinaNet;
use ckd_detectors::{Losses, Result};
use ckd_kernels::elementwise::weighted_sum;
use ckd_kernels::{Gradients, Value};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

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
    config.settings.rpn.score_threshold = 1.0;
    let detector = FasterRcnn::new(Builder::new(1, crate::support::device()), &config)?;
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
    config.settings.retina.score_threshold = 1.0;
    let mut points = support::tiny_fcos(CLASSES);
    points.settings.fcos.score_threshold = 1.0;
    for config in [config, points] {
        let found = build(1, config)?.detect(&scene(2))?;
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|image| image.is_empty()));
    }
    Ok(())
}

#[test]
fn degenerate_boxes_leave_the_losses_finite() {
    each_detector(|name, config| {
        let detector = build(1, config)?;
        let boxes =
            vec![[10.0; 4], [20.0, 5.0, 20.0, 30.0], [-50.0, -50.0, -20.0, -20.0], [8.0, 8.0, 40.0, 40.0]];
        let target =
            Target { labels: vec![0; boxes.len()], boxes, ignored: vec![[3.0; 4]], ..Target::default() };
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
fn weights_of_boxes_scale_the_losses_of_what_is_matched_with_them() {
    each_detector(|name, config| {
        let detector = build(1, config)?;
        let weighted = |weights: &[f32]| Target { weights: weights.to_vec(), ..objects() };
        let losses = |weights: &[f32]| -> Result<BTreeMap<&'static str, f32>> {
            let losses = train(&detector, &scene(2), &[weighted(weights), objects()])?;
            losses.into_iter().map(|(loss, value)| Ok((loss, value.item()?))).collect()
        };
        let (plain, half, both) = (losses(&[])?, losses(&[0.5, 0.5])?, losses(&[2.0, 0.25])?);
        assert_eq!(losses(&[1.0, 1.0])?, plain, "{name}: weights of 1 change nothing");
        let (first, second) = (losses(&[2.0, 1.0])?, losses(&[1.0, 0.25])?);
        let mut moved = 0;
        for (loss, &plain) in &plain {
            // Each box adds its own part, its weight times what it is matched with; background keeps what it has.
            let sum = first[loss] + second[loss] - plain;
            assert!((both[loss] - sum).abs() <= 2e-5 * plain.abs().max(sum.abs()), "{name}: {loss}");
            assert!(half[loss] <= plain, "{name}: {loss}");
            moved += usize::from(half[loss] < plain);
        }
        assert!(moved >= 2, "{name}: class and box losses are weighted");
        // Of one image with all boxes at half weight the box losses are halves.
        let alone = |weights: &[f32]| train(&detector, &scene(1), &[weighted(weights)]);
        for ((loss, whole), (_, half)) in alone(&[])?.iter().zip(&alone(&[0.5, 0.5])?) {
            if loss.contains("box_reg") || loss.contains("bbox") {
                let (whole, half) = (whole.item()?, half.item()?);
                assert!(whole > 0.0 && (half - 0.5 * whole).abs() <= 1e-6 * whole, "{name}: {loss}");
            }
        }
        for wrong in [vec![1.0], vec![1.0, -0.5], vec![f32::NAN, 1.0], vec![1.0, f32::INFINITY]] {
            let error = train(&detector, &scene(1), &[weighted(&wrong)]).unwrap_err().to_string();
            assert!(error.contains("weight"), "{name}: {error}");
        }
        Ok(())
    });
}

#[test]
fn an_image_counts_by_the_weights_of_its_boxes_and_its_background() {
    each_detector(|name, config| {
        let detector = build(1, config)?;
        let weighted = |weight: f32| Target { weights: vec![weight; 2], background: weight, ..objects() };
        let losses = |weight: f32| -> Result<BTreeMap<&'static str, f32>> {
            let losses = train(&detector, &scene(2), &[weighted(weight), objects()])?;
            losses.into_iter().map(|(loss, value)| Ok((loss, value.item()?))).collect()
        };
        let (none, whole, double) = (losses(0.0)?, losses(1.0)?, losses(2.0)?);
        for (loss, &none) in &none {
            assert!(none > 0.0 && none < whole[loss], "{name}: {loss}");
            let more = 2.0 * whole[loss] - none;
            assert!((double[loss] - more).abs() <= 2e-5 * more, "{name}: {loss}");
        }
        // Alone and of weight 0, it teaches nothing.
        let losses = train(&detector, &scene(1), &[weighted(0.0)])?;
        for (loss, value) in &losses {
            assert_eq!(value.item()?, 0.0, "{name}: {loss}");
        }
        let gradients = total(&losses)?.backward()?;
        assert!(gradients.values().all(|gradient| values(gradient).iter().all(|x| *x == 0.0)), "{name}");
        let wrong = Target { background: f32::NAN, ..objects() };
        assert!(train(&detector, &scene(1), &[wrong]).unwrap_err().to_string().contains("weight of NaN"));
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
            *backbone = BackboneConfig { freeze_at, ..backbone.with_stem_channels(width) };
        }
        [two, one]
    };
    with(0, 0).into_iter().for_each(|config| refused("width", config));
    with(8, 6).into_iter().for_each(|config| refused("freeze_at", config));
    refused("classes", support::tiny_faster_rcnn(0));
    refused("classes", support::tiny_retinanet(0));
    refused("classes", support::tiny_fcos(0));
    let mut two_a_cell = support::tiny_fcos(CLASSES);
    two_a_cell.settings.anchor_sizes = Some(vec![vec![8.0, 16.0]; 5]);
    refused("one anchor size a level", two_a_cell);
    let mut config = support::tiny_faster_rcnn(CLASSES);
    config.settings.fpn_channels = 0;
    refused("width", config.clone());
    (config.settings.fpn_channels, config.settings.roi.head_width) = (16, 0);
    refused("head_width", config.clone());
    (config.settings.roi.head_width, config.settings.roi.pool_size) = (16, 0);
    refused("pool_size", config);
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
            let backbone = &mut config.backbone;
            (backbone.norm, backbone.freeze_at, backbone.recompute) = (norm, 1, recompute);
            let detector = build(1, config)?;
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
        config.backbone.norm = NormKind::Bn;
        config.backbone.freeze_at = freeze_at;
        let detector = RetinaNet::new(Builder::new(1, crate::support::device()), &config)?;
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
    config.backbone.norm = NormKind::Bn;
    let detector = RetinaNet::new(Builder::new(1, crate::support::device()), &config)?;
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
            config.backbone.norm = norm;
            let teacher = FasterRcnn::new(Builder::new(1, crate::support::device()).frozen(), &config)?;
            let before = bits(teacher.params());
            assert_eq!(teacher.params().trainable().count(), 0);
            let pyramid = teacher.pyramid(&images, mode)?;
            assert!(pyramid.iter().all(|level| !level.is_tracked()), "{norm:?} {mode:?}: pyramid");
            let logits = teacher.roi_logits(&pyramid, &[objects().boxes, vec![]])?;
            assert!(!logits.is_tracked(), "{norm:?} {mode:?}: logits");
            assert_eq!(bits(teacher.params()), before, "{norm:?} {mode:?}: parameters moved");

            let mut config = support::tiny_retinanet(CLASSES);
            config.backbone.norm = norm;
            let teacher = RetinaNet::new(Builder::new(1, crate::support::device()).frozen(), &config)?;
            let pyramid = teacher.pyramid(&images, mode)?;
            assert!(pyramid.iter().all(|level| !level.is_tracked()), "{norm:?} {mode:?}: pyramid");
            assert!(!teacher.anchor_logits(&pyramid)?.is_tracked(), "{norm:?} {mode:?}: logits");

            let mut config = support::tiny_fcos(CLASSES);
            config.backbone.norm = norm;
            let teacher = Fcos::new(Builder::new(1, crate::support::device()).frozen(), &config)?;
            assert_eq!(teacher.params().trainable().count(), 0);
            let pyramid = teacher.pyramid(&images, mode)?;
            assert!(pyramid.iter().all(|level| !level.is_tracked()), "{norm:?} {mode:?}: pyramid");
            assert!(!teacher.point_logits(&pyramid)?.is_tracked(), "{norm:?} {mode:?}: logits");
        }
    }
    Ok(())
}

#[test]
fn regions_of_another_kind_of_detector_are_refused() -> Result<()> {
    let images = scene(1);
    let regions = |config| -> Result<(Detector, Vec<Value>, Regions)> {
        let detector = build(1, config)?;
        let pyramid = detector.pyramid(&images, Mode::Train)?;
        let random = &mut ChaCha8Rng::seed_from_u64(0);
        let regions = detector.train(&images, &pyramid, &[objects()], random)?.1;
        Ok((detector, pyramid, regions))
    };
    let (two, pyramid, rois) = regions(support::tiny_faster_rcnn(CLASSES))?;
    assert_eq!(bits_of(two.logits_at(&pyramid, &rois)?.tensor()), bits_of(rois.logits().tensor()));
    for config in [support::tiny_retinanet(CLASSES), support::tiny_fcos(CLASSES)] {
        let (one, own, anchors) = regions(config)?;
        assert_eq!(bits_of(one.logits_at(&own, &anchors)?.tensor()), bits_of(anchors.logits().tensor()));
        assert!(one.logits_at(&own, &rois).unwrap_err().to_string().contains("no roi_logits"));
        assert!(two.logits_at(&pyramid, &anchors).unwrap_err().to_string().contains("no anchor_logits"));
    }
    Ok(())
}

// ---- norms, widths, batches ----

const NORMS: [NormKind; 3] = [NormKind::FrozenBn, NormKind::Bn, NormKind::Gn];

#[test]
fn every_norm_width_and_batch_trains() {
    let widths = [(8, "resnet18"), (24, "resnet50"), (64, "resnet18")];
    for norm in NORMS {
        for (images, (width, depth)) in (1..=3).zip(widths) {
            each_detector(|name, mut config| {
                config.backbone =
                    BackboneConfig { norm, ..support::backbone(depth).with_stem_channels(width) };
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
            config.backbone.norm = norm;
            // A real sample: its draws come from the step's own stream.
            let settings = &mut config.settings;
            (settings.rpn.batch_per_image, settings.roi.batch_per_image) = (64, 32);
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

fn train(detector: &Detector, images: &Images, targets: &[Target]) -> Result<Losses> {
    losses_of(detector, images, &detector.pyramid(images, Mode::Train)?, targets)
}

fn losses_of(detector: &Detector, images: &Images, pyramid: &[Value], targets: &[Target]) -> Result<Losses> {
    Ok(detector.train(images, pyramid, targets, &mut ChaCha8Rng::seed_from_u64(0))?.0)
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
        ..Target::default()
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
