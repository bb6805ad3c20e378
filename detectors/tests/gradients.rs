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
use candle_core::{Device, Tensor};
use ckd_detectors::backbone::Trunk;
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
    for norm in [NormKind::Bn, NormKind::Gn] {
        let mut config = support::tiny_faster_rcnn(3);
        config.backbone.norm = norm;
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

#[test]
fn the_gradient_of_retinanet_is_the_slope_of_its_loss() -> Result<()> {
    for norm in [NormKind::Bn, NormKind::FrozenBn] {
        let mut config = support::tiny_retinanet(3);
        config.backbone.norm = norm;
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

/// Without p6: of its 2x2 cells here a group norm of four values curves more than differences of f32 losses can follow.
/// Its gradient is torchvision's, as `variants::fcos_is_torchvisions` shows.
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

/// The sum is over C3 alone: below it few activations have kinks for a step to cross.
#[test]
fn the_gradient_of_inverted_residuals_is_the_slope_of_a_sum_over_their_map() -> Result<()> {
    for norm in [NormKind::Bn, NormKind::Gn] {
        let builder = builder();
        let trunk = Trunk::new(&builder, &support::tiny_mobilenet(norm, 0))?;
        let params = builder.finish();
        let (images, _) = scene();
        let input = Value::constant(images.pixels);
        let losses = || -> Result<Losses> {
            let c3 = trunk.forward(&input, Mode::Train)?.swap_remove(1);
            let count: usize = c3.dims().iter().product();
            let weights = golden::tensor(9, count, 1.0 / (count as f64).sqrt(), 0.0);
            let weights = Tensor::from_vec(weights, c3.dims(), &Device::Cpu)?;
            Ok(vec![("sum", Value::from_candle(&[&c3], |c3| (&c3[0] * weights)?.sum_all())?)])
        };
        check_slopes(
            &params,
            losses,
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
            body.channels(),
            width,
            config.fpn_norm,
            ExtraLevels::Subsample,
        )?;
        let anchors = settings.anchors(&settings.architecture.levels())?;
        let rpn = Rpn::new(&builder.within("rpn"), width, anchors, &settings.rpn)?;
        let heads = RoiHeads::new(&builder.within("roi_heads"), width, config.classes, &settings.roi)?;
        let parts = Self { body, fpn, rpn, heads, config: config.clone(), params: builder.finish() };
        louder(&parts.params)?;
        Ok(parts)
    }

    fn pyramid(&self, images: &Images) -> Result<Vec<Value>> {
        let input = images.normalized(&self.config.normalization)?;
        self.fpn.forward(self.body.forward(&input, Mode::Train)?, Mode::Train)
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
                params.set(name, &Tensor::from_vec(moved, tensor.dims(), &Device::Cpu)?)?;
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
        params.set(name, &Tensor::from_vec(start, tensor.dims(), &Device::Cpu)?)?;
    }
    assert!(wrong.is_empty(), "\n  {}", wrong.join("\n  "));
    Ok(())
}

fn builder() -> Builder {
    Builder::new(4, &Device::Cpu)
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
        ignored: vec![],
    };
    let targets = vec![
        target(&[[3.0, 2.0, 29.0, 31.0], [12.5, 8.0, 80.0, 77.0]]),
        target(&[[0.0, 0.0, 96.0, 87.0], [5.0, 4.0, 14.0, 12.0], [22.0, 20.0, 46.0, 45.0]]),
    ];
    (padded(&[picture(1, 96, 90), picture(2, 87, 96)]), targets)
}
