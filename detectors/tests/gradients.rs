//! The gradient of a whole training loss is the slope of that loss: central differences along a direction,
//! (L(p + h d) - L(p - h d)) / 2h against <gradient, d>, for parameters of every part of a detector.
//!
//! Everything that is not differentiated is held: the sampled regions are those of the unperturbed network
//! (proposals carry no gradient, by definition), and all of them fit into the sample.
//!
//! Tolerance: 1% of the gradient's norm, at the best of four steps. Long ones meet curvature and ReLUs that
//! switch on the way, whose part shrinks with the step; short ones meet the rounding of the f32 loss, about
//! 1e-7 of the 3e-5 by which the shortest moves it, and so 0.5%. A wrong gradient is wrong at every step.

use crate::golden;
use crate::support;
use crate::support::{padded, values};
use candle_core::Tensor;
use ckd_detectors::backbone::{BackboneConfig, Trunk};
use ckd_detectors::faster_rcnn::FasterRcnn;
use ckd_detectors::fcos::Fcos;
use ckd_detectors::fpn::{ExtraLevels, Fpn};
use ckd_detectors::images::{Images, Target};
use ckd_detectors::nn::{Mode, NormKind};
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::retinanet::RetinaNet;
use ckd_detectors::roi_heads::{RoiHeads, RoiSamples};
use ckd_detectors::rpn::Rpn;
use ckd_detectors::{DetectorConfig, Losses, Result};
use ckd_kernels::Value;
use ckd_kernels::elementwise::weighted_sum;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const TOLERANCE: f64 = 0.01;

/// How far the steps move the loss, along the gradient and to first order.
const CHANGES: [f64; 4] = [1e-3, 2.5e-4, 6e-5, 3e-5];

#[test]
fn the_gradient_of_faster_rcnn_is_the_slope_of_its_loss() -> Result<()> {
    // The beta of smooth L1: torchvision's, and Detectron2's.
    for (norm, beta) in [(NormKind::Bn, 1.0 / 9.0), (NormKind::Gn, 1.0 / 9.0), (NormKind::Bn, 0.0)] {
        let mut config = support::tiny_faster_rcnn(3);
        config.backbone.norm = norm;
        (config.settings.rpn.smooth_l1_beta, config.settings.roi.smooth_l1_beta) = (beta, beta);
        let (images, targets) = scene();
        let parts = Parts::new(&config)?;
        let samples = parts.samples(&images, &targets)?;

        // The parts with held regions are the network itself.
        let detector = FasterRcnn::new(builder(), &config)?;
        louder(detector.params())?;
        let pyramid = detector.pyramid(&images, Mode::Train)?;
        let whole = detector.train(&images, &pyramid, &targets, &mut random())?.losses;
        let held = parts.losses(&images, &targets, &samples)?;
        for ((name, a), (_, b)) in whole.iter().zip(&held) {
            assert_eq!(a.item()?, b.item()?, "{name}");
        }

        check_slopes(
            &parts.params,
            || parts.losses(&images, &targets, &samples),
            &[
                "backbone.body.conv1.weight",
                "backbone.body.layer2.1.bn2.weight",
                "backbone.body.layer1.1.conv2.weight",
                "backbone.body.layer3.0.downsample.0.weight",
                "backbone.body.layer4.1.bn2.bias",
                "backbone.fpn.inner_blocks.0.0.weight",
                "backbone.fpn.inner_blocks.3.0.bias",
                "backbone.fpn.layer_blocks.1.0.weight",
                "rpn.head.conv.0.0.weight",
                "rpn.head.cls_logits.weight",
                "rpn.head.bbox_pred.bias",
                "roi_heads.box_head.fc6.weight",
                "roi_heads.box_head.fc7.bias",
                "roi_heads.box_predictor.cls_score.weight",
                "roi_heads.box_predictor.bbox_pred.weight",
            ],
        )?;
    }
    Ok(())
}

/// |d| - beta / 2 or d² / (2 beta) of each of the four deltas of a positive: at most beta / 2 below |d|.
#[test]
fn smooth_l1s_beta_lowers_each_box_loss_by_half_of_it_for_each_delta_at_most() -> Result<()> {
    let (images, targets) = scene();
    let losses = |beta: f64| -> Result<Losses> {
        let mut config = support::tiny_faster_rcnn(3);
        (config.settings.rpn.smooth_l1_beta, config.settings.roi.smooth_l1_beta) = (beta, beta);
        let parts = Parts::new(&config)?;
        let samples = parts.samples(&images, &targets)?;
        parts.losses(&images, &targets, &samples)
    };
    let (plain, rounded) = (losses(0.0)?, losses(1.0 / 9.0)?);
    for ((name, plain), (_, rounded)) in plain.iter().zip(&rounded) {
        let (plain, rounded) = (f64::from(plain.item()?), f64::from(rounded.item()?));
        match *name {
            "loss_box_reg" | "loss_rpn_box_reg" => {
                // Of all that are sampled, some are positives.
                let most = 4.0 * 0.5 / 9.0;
                assert!(plain > rounded && plain - rounded < most, "{name}: {plain} and {rounded}");
            }
            _ => assert_eq!(plain, rounded, "{name}"),
        }
    }
    Ok(())
}

#[test]
fn the_gradient_of_retinanet_is_the_slope_of_its_loss() -> Result<()> {
    for (norm, beta) in [(NormKind::Bn, 0.0), (NormKind::FrozenBn, 0.0), (NormKind::FrozenBn, 0.1)] {
        let mut config = support::tiny_retinanet(3);
        config.backbone.norm = norm;
        config.settings.retina.smooth_l1_beta = beta;
        // On each level, p7 with its one cell too, some object finds its best anchor.
        let sizes = [8.0, 16.0, 24.0, 32.0, 128.0].map(|size| vec![size]);
        config.settings.anchor_sizes = Some(sizes.into());
        let detector = RetinaNet::new(builder(), &config)?;
        louder(detector.params())?;
        let (images, targets) = scene();
        let losses = || -> Result<Losses> {
            let pyramid = detector.pyramid(&images, Mode::Train)?;
            Ok(detector.train(&images, &pyramid, &targets)?.losses)
        };
        check_slopes(
            detector.params(),
            losses,
            &[
                "backbone.body.conv1.weight",
                "backbone.body.layer2.0.conv1.weight",
                "backbone.body.layer4.0.downsample.0.weight",
                "backbone.fpn.inner_blocks.1.0.weight",
                "backbone.fpn.layer_blocks.0.0.bias",
                "backbone.fpn.extra_blocks.p6.weight",
                "backbone.fpn.extra_blocks.p7.weight",
                "head.classification_head.conv.0.0.weight",
                "head.classification_head.cls_logits.bias",
                "head.regression_head.conv.1.0.weight",
                "head.regression_head.bbox_reg.weight",
            ],
        )?;
    }
    Ok(())
}

/// Without p6: of its 2x2 cells here a group norm of four values curves more than differences of f32 losses
/// can follow. The next test has it on larger images.
#[test]
fn the_gradient_of_fcos_is_the_slope_of_its_loss() -> Result<()> {
    for norm in [NormKind::Bn, NormKind::FrozenBn] {
        let mut config = support::tiny_fcos(3);
        config.backbone.norm = norm;
        let detector = Fcos::new(builder(), &config)?;
        louder(detector.params())?;
        let (images, targets) = scene();
        let losses = || -> Result<Losses> {
            let pyramid = detector.pyramid(&images, Mode::Train)?;
            Ok(detector.train(&images, &pyramid, &targets)?.losses)
        };
        check_slopes(
            detector.params(),
            losses,
            &[
                "backbone.body.conv1.weight",
                "backbone.body.layer2.0.conv1.weight",
                "backbone.body.layer4.0.downsample.0.weight",
                "backbone.fpn.inner_blocks.1.0.weight",
                "backbone.fpn.layer_blocks.0.0.bias",
                "backbone.fpn.layer_blocks.2.0.weight",
                "head.classification_head.conv.0.weight",
                "head.classification_head.conv.1.weight",
                "head.classification_head.cls_logits.bias",
                "head.regression_head.conv.3.weight",
                "head.regression_head.conv.4.bias",
                "head.regression_head.bbox_reg.weight",
                "head.regression_head.bbox_ctrness.weight",
                "head.regression_head.bbox_ctrness.bias",
            ],
        )?;
    }
    Ok(())
}

/// The objects are so large that points of p6 find them.
#[test]
fn the_gradient_of_the_levels_above_fcos_is_the_slope_of_its_loss() -> Result<()> {
    let mut config = support::tiny_fcos(3);
    config.backbone.norm = NormKind::FrozenBn;
    let detector = Fcos::new(builder(), &config)?;
    louder(detector.params())?;
    let picture = |stream, h, w| (golden::tensor(stream, 3 * h * w, 0.5, 0.5), h, w);
    let images = padded(&[picture(1, 416, 400), picture(2, 390, 416)]);
    let target = |box_of, label| Target { boxes: vec![box_of], labels: vec![label], ..Target::default() };
    let targets = [target([3.0, 2.0, 397.0, 411.0], 0), target([1.0, 5.0, 410.0, 388.0], 2)];
    let losses = || -> Result<Losses> {
        let pyramid = detector.pyramid(&images, Mode::Train)?;
        Ok(detector.train(&images, &pyramid, &targets)?.losses)
    };
    let pyramid = detector.pyramid(&images, Mode::Train)?;
    let pass = detector.train(&images, &pyramid, &targets)?;
    // p3, p4 and p5 of 416 pixels have 52, 26 and 13 cells a side, p6 has 7.
    let (first, behind) = (52 * 52 + 26 * 26 + 13 * 13, 52 * 52 + 26 * 26 + 13 * 13 + 49);
    assert!(pass.positives[0].iter().any(|&point| (first..behind).contains(&point)));
    check_slopes(
        detector.params(),
        losses,
        &[
            "backbone.fpn.layer_blocks.2.0.weight",
            "backbone.fpn.extra_blocks.p6.weight",
            "backbone.fpn.extra_blocks.p6.bias",
            "backbone.fpn.extra_blocks.p7.weight",
        ],
    )
}

#[test]
fn the_gradient_of_inverted_residuals_is_the_slope_of_a_sum_over_their_map() -> Result<()> {
    for norm in [NormKind::Bn, NormKind::Gn] {
        check_slopes_of_map(
            &support::tiny_mobilenet(norm, 0),
            1,
            &[
                "0.0.weight",
                "1.conv.0.0.weight",
                // A block of stride 2, and one that adds its input.
                "4.conv.0.0.weight",
                "4.conv.1.0.weight",
                "4.conv.2.weight",
                "5.conv.0.0.weight",
                "5.conv.1.0.weight",
                "5.conv.1.1.weight",
                "5.conv.2.weight",
                "5.conv.3.bias",
            ],
        )?;
    }
    Ok(())
}

#[test]
fn the_gradient_of_squeeze_and_excitation_is_the_slope_of_a_sum_over_their_map() -> Result<()> {
    for norm in [NormKind::Bn, NormKind::Gn] {
        check_slopes_of_map(
            &support::tiny_mobilenet_v3(norm, 0),
            1,
            &[
                "0.0.weight",
                "1.block.0.0.weight",
                // A 5x5 of stride 2, and a block that adds its input; both with squeeze-and-excitation.
                "4.block.1.0.weight",
                "4.block.2.fc1.weight",
                "4.block.2.fc1.bias",
                "4.block.2.fc2.weight",
                "4.block.2.fc2.bias",
                "5.block.0.0.weight",
                "5.block.1.1.bias",
                "5.block.2.fc2.weight",
                "5.block.3.0.weight",
                "5.block.3.1.weight",
            ],
        )?;
    }
    Ok(())
}

/// The later blocks have a hard swish.
#[test]
fn the_gradient_of_hard_swish_blocks_is_the_slope_of_a_sum_over_their_map() -> Result<()> {
    check_slopes_of_map(
        &support::tiny_mobilenet_v3(NormKind::Gn, 0),
        2,
        &[
            "0.1.bias",
            "7.block.0.0.weight",
            "7.block.1.0.weight",
            "8.block.2.1.weight",
            "11.block.2.fc1.weight",
            "12.block.2.fc2.bias",
            "12.block.3.0.weight",
        ],
    )
}

#[test]
fn the_gradient_of_grouped_convolutions_is_the_slope_of_a_sum_over_their_map() -> Result<()> {
    for norm in [NormKind::Bn, NormKind::Gn] {
        check_slopes_of_map(
            // Groups of two channels.
            &BackboneConfig { width_multiplier: 0.5, ..support::tiny("resnext50_32x4d", norm, 0) },
            1,
            &[
                "conv1.weight",
                "layer1.0.conv2.weight",
                "layer1.0.downsample.0.weight",
                "layer1.2.conv2.weight",
                // A grouped 3x3 of stride 2.
                "layer2.0.conv2.weight",
                "layer2.0.bn2.weight",
                "layer2.3.conv2.weight",
                "layer2.3.bn3.bias",
            ],
        )?;
    }
    Ok(())
}

/// Compares slope and gradient of a sum over one map of a trunk: below a fine one few activations have kinks
/// for a step to cross.
fn check_slopes_of_map(config: &BackboneConfig, map: usize, names: &[&str]) -> Result<()> {
    let builder = builder();
    let trunk = Trunk::new(&builder, config)?;
    let params = builder.finish();
    let (images, _) = scene();
    let input = Value::constant(images.pixels);
    let losses = || -> Result<Losses> {
        let map = trunk.forward(&input, Mode::Train)?.swap_remove(map);
        let count: usize = map.dims().iter().product();
        let weights = golden::tensor(9, count, 1.0 / (count as f64).sqrt(), 0.0);
        let weights = Tensor::from_vec(weights, map.dims(), crate::support::device())?;
        Ok(vec![("sum", Value::from_candle(&[&map], |map| (&map[0] * weights)?.sum_all())?)])
    };
    check_slopes(&params, losses, names)
}

/// Faster R-CNN in its parts, so that the regions of one pass can be held for the next.
struct Parts {
    body: Trunk,
    fpn: Fpn,
    rpn: Rpn,
    heads: RoiHeads,
    config: DetectorConfig,
    params: ParamStore,
}

impl Parts {
    fn new(config: &DetectorConfig) -> Result<Self> {
        let builder = builder();
        let settings = &config.settings;
        let (backbone, width) = (builder.within("backbone"), settings.fpn_channels);
        let body = Trunk::new(&backbone.within("body"), &config.backbone)?;
        let fpn = Fpn::new(
            &backbone.within("fpn"),
            body.pyramid_channels(),
            width,
            config.fpn_norm,
            ExtraLevels::Subsample,
        )?;
        let pyramid = config.pyramid()?;
        let anchors = settings.anchors(&pyramid)?;
        let rpn = Rpn::new(&builder.within("rpn"), width, anchors, &settings.rpn)?;
        let (strides, shape) = (pyramid.map_strides(), (width, config.classes));
        let heads = RoiHeads::new(&builder.within("roi_heads"), shape, strides, &settings.roi)?;
        let parts = Self { body, fpn, rpn, heads, config: config.clone(), params: builder.finish() };
        louder(&parts.params)?;
        Ok(parts)
    }

    fn pyramid(&self, images: &Images) -> Result<Vec<Value>> {
        let input = images.normalized(&self.config.normalization)?;
        self.fpn.forward(self.body.pyramid_inputs(&input, Mode::Train)?, Mode::Train)
    }

    fn samples(&self, images: &Images, targets: &[Target]) -> Result<RoiSamples> {
        let output = self.rpn.forward(images, &self.pyramid(images)?)?;
        let proposals = self.rpn.proposals(&output, images, &self.config.settings.rpn.in_training())?;
        self.heads.sample(proposals, targets, &mut random())
    }

    fn losses(&self, images: &Images, targets: &[Target], samples: &RoiSamples) -> Result<Losses> {
        let pyramid = self.pyramid(images)?;
        let second = self.heads.forward(&pyramid, &samples.boxes, Mode::Train)?;
        let mut losses: Losses = self.heads.losses(&second, samples)?.into();
        losses.extend(self.rpn.train(images, &pyramid, targets, &mut random())?.0);
        Ok(losses)
    }
}

/// Compares slope and gradient of each parameter in `names`: along the gradient, and along random signs.
fn check_slopes(params: &ParamStore, losses: impl Fn() -> Result<Losses>, names: &[&str]) -> Result<()> {
    let sum =
        |losses: Losses| -> Result<f64> { losses.iter().map(|(_, loss)| Ok(f64::from(loss.item()?))).sum() };
    let terms = losses()?;
    let terms: Vec<_> = terms.iter().map(|(_, loss)| (loss, 1.0)).collect();
    let gradients = weighted_sum(&terms)?.backward()?;
    let mut wrong = Vec::new();
    for (stream, &name) in (1..).zip(names) {
        let gradient = gradients.get(name).unwrap_or_else(|| panic!("{name}: no gradient"));
        let tensor = params.get(name).expect("it has a gradient").value.tensor().clone();
        let start = values(&tensor);
        let gradient = values(gradient);
        let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        assert!(norm > 0.0, "{name}: no slope at all");
        let along: Vec<f64> = gradient.iter().map(|&g| f64::from(g) / norm).collect();
        let unit = 1.0 / (start.len() as f64).sqrt();
        let signs: Vec<f64> =
            (0..start.len() as u64).map(|i| unit.copysign(golden::value(stream, i))).collect();
        for (what, direction) in [("along the gradient", along), ("along random signs", signs)] {
            let loss_at = |step: f64| -> Result<f64> {
                let moved: Vec<f32> =
                    start.iter().zip(&direction).map(|(&p, d)| (f64::from(p) + step * d) as f32).collect();
                params.set(name, &Tensor::from_vec(moved, tensor.dims(), crate::support::device())?)?;
                sum(losses()?)
            };
            let expected: f64 = gradient.iter().zip(&direction).map(|(&g, d)| f64::from(g) * d).sum();
            let mut errors = Vec::new();
            for change in CHANGES {
                let step = change / norm;
                let slope = (loss_at(step)? - loss_at(-step)?) / (2.0 * step);
                errors.push((slope - expected) / norm);
            }
            if errors.iter().all(|error| error.abs() > TOLERANCE) {
                wrong.push(format!("{name} {what}: norm {norm:.2e}, off by {errors:.5?} of it"));
            }
        }
        params.set(name, &Tensor::from_vec(start, tensor.dims(), crate::support::device())?)?;
    }
    assert!(wrong.is_empty(), "\n  {}", wrong.join("\n  "));
    Ok(())
}

fn builder() -> Builder {
    Builder::new(4, crate::support::device())
}

fn random() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(0)
}

/// The last layers start so small that hardly anything flows through them: five times as much.
fn louder(params: &ParamStore) -> Result<()> {
    for (name, param) in params.iter() {
        let is_head = name.starts_with("rpn.") || name.starts_with("head.");
        if is_head && name.ends_with(".weight") {
            params.set(name, &(param.value.tensor() * 5.0)?)?;
        }
    }
    Ok(())
}

fn scene() -> (Images, Vec<Target>) {
    let picture = |stream, h, w| (golden::tensor(stream, 3 * h * w, 0.5, 0.5), h, w);
    let target = |boxes: &[[f32; 4]]| Target {
        boxes: boxes.to_vec(),
        labels: [0, 2, 1].into_iter().take(boxes.len()).collect(),
        ..Target::default()
    };
    let targets = vec![
        target(&[[3.0, 2.0, 29.0, 31.0], [12.5, 8.0, 80.0, 77.0]]),
        target(&[[0.0, 0.0, 96.0, 87.0], [5.0, 4.0, 14.0, 12.0], [22.0, 20.0, 46.0, 45.0]]),
    ];
    (padded(&[picture(1, 96, 90), picture(2, 87, 96)]), targets)
}
