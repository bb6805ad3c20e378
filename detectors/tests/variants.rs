//! The variants that imported weights need, against torchvision's numbers: its second versions, its detectors with
//! Detectron2's conventions put in, and further trunks (`tools/golden/detector_variants.py`).

use crate::golden;
use crate::support;
use std::path::Path;

use crate::golden::{Case, Golden};
use crate::support::report::Report;
use crate::support::scene::{self, Scene};
use crate::support::{Weights, fill, values};
use candle_core::Tensor;
use ckd_detectors::anchors::AnchorCorners;
use ckd_detectors::backbone::{BackboneConfig, StrideIn, Trunk};
use ckd_detectors::faster_rcnn::FasterRcnn;
use ckd_detectors::fcos::Fcos;
use ckd_detectors::fpn::P6From;
use ckd_detectors::nn::{HeadNorm, Mode, NormKind};
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::postprocess::Clip;
use ckd_detectors::retinanet::{BoxLoss, RetinaNet};
use ckd_detectors::roi_heads::{RoiAlign, RoiHead};
use ckd_detectors::{DetectorConfig, Result};
use ckd_kernels::Value;
use ckd_kernels::elementwise::weighted_sum;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

#[test]
fn faster_rcnn_v2_is_torchvisions() {
    let mut config = support::faster_rcnn("resnet50", 4);
    config.fpn_norm = HeadNorm::Bn;
    config.settings.rpn.head_convs = 2;
    config.settings.roi.head = RoiHead::FourConvFc;
    faster_rcnn("detector/fasterrcnn_v2", config);
}

#[test]
fn retinanet_v2_is_torchvisions() {
    let mut config = support::retinanet("resnet50", 5);
    let retina = &mut config.settings.retina;
    (retina.head_norm, retina.p6_from, retina.box_loss) = (HeadNorm::Gn, P6From::C5, BoxLoss::Giou);
    retinanet("detector/retinanet_v2", config);
}

#[test]
fn fcos_is_torchvisions() {
    with_case("detector/fcos", |case, weights| {
        let config = scene::fcos(case, support::fcos("resnet50", 5));
        let detector = Fcos::new(Builder::new(0, crate::support::device()), &config)?;
        fill(detector.params(), weights);
        let scene = Scene::of(case, 0);
        let mut report = Report::of(case);

        let pyramid = detector.pyramid(&scene.images, Mode::Train)?;
        let pass = detector.train(&scene.images, &pyramid, &scene.targets)?;
        report.losses_and_gradients(&pass.losses)?;

        let pyramid = detector.pyramid(&scene.images, Mode::Inference)?;
        report.pyramid(&["0", "1", "2", "p6", "p7"], &pyramid);
        let output = detector.forward(&scene.images, &pyramid)?;
        report.summary("cls_logits_summary", output.logits.tensor());
        report.summary("bbox_regression_summary", output.distances.tensor());
        report.summary("bbox_ctrness_summary", output.centerness.tensor());
        report.detections(&scene.images.sizes, &scene.originals, detector.detect(&scene.images)?, 0)?;
        report.finish();
        Ok(())
    });
}

#[test]
fn faster_rcnn_has_detectron2s_conventions() {
    let mut config = support::faster_rcnn("resnet50", 4);
    config.backbone.stride_in = StrideIn::First;
    let settings = &mut config.settings;
    settings.anchor_corners = AnchorCorners::Exact;
    (settings.roi.align, settings.roi.sampling_ratio) = (RoiAlign::Aligned, 0);
    faster_rcnn("detector/detectron2_fasterrcnn", config);
}

#[test]
fn retinanet_has_detectron2s_conventions() {
    let mut config = support::retinanet("resnet50", 5);
    config.backbone.stride_in = StrideIn::First;
    config.settings.anchor_corners = AnchorCorners::Exact;
    let retina = &mut config.settings.retina;
    (retina.p6_from, retina.clip) = (P6From::C5, Clip::AfterNms);
    retinanet("detector/detectron2_retinanet", config);
}

#[test]
fn mobilenet_v1_is_that_of_the_paper() {
    // The paper's 4.2 million are these and a classifier's 1,025,000.
    trunk("mobilenet_v1", 3_206_976, 4);
}

#[test]
fn resnext50_is_torchvisions() {
    // torchvision's 25,028,904 are these and a classifier's.
    trunk("resnext50_32x4d", 25_028_904 - 2_049_000, 2);
}

#[test]
fn mobilenet_v3_is_torchvisions() {
    // torchvision's 5,483,032 are these and a classifier's two linear layers.
    trunk("mobilenet_v3_large", 5_483_032 - 961 * 1280 - 1281 * 1000, 3);
}

/// The pyramid over two maps of stride 32, fifteen anchors a cell.
#[test]
fn faster_rcnn_on_mobilenet_v3_is_torchvisions() {
    let mut config = support::faster_rcnn("mobilenet_v3_large", 4);
    config.settings.rpn.score_threshold = 0.05;
    faster_rcnn("detector/fasterrcnn_mobilenet_v3", config);
}

/// A trunk with so many weights, and the gradients of a sum over its finest `maps`.
fn trunk(name: &str, weight_count: usize, maps: usize) {
    with_case(&format!("trunk/{name}"), |case, weights| {
        let builder = Builder::new(0, crate::support::device());
        let config = BackboneConfig { norm: NormKind::Bn, ..support::backbone(name) };
        let trunk = Trunk::new(&builder.within("backbone"), &config)?;
        let params = builder.finish();
        assert_eq!(params.weight_count(), weight_count);
        let prefixed: Weights = weights
            .iter()
            .map(|(name, shape, v)| (format!("backbone.{name}"), shape.clone(), v.clone()))
            .collect();
        fill(&params, &prefixed);

        let (x, shape) = case.f32("x");
        let x = Value::constant(Tensor::from_vec(x, shape, crate::support::device())?);
        let mut report = Report::of(case);
        for (map, stage) in trunk.forward(&x, Mode::Inference)?.iter().zip(2..) {
            report.summary(&format!("c{stage}_summary"), map.tensor());
        }
        let mut sums = Vec::new();
        let trained = trunk.forward(&x, Mode::Train)?;
        for (map, stream) in trained[..maps].iter().zip(case.attr_usize("map_streams")..) {
            let count: usize = map.dims().iter().product();
            let factors = golden::tensor(stream as u64, count, 1.0, 0.0);
            let factors = Tensor::from_vec(factors, map.dims(), crate::support::device())?;
            let scale = 1.0 / (count as f64).sqrt();
            sums.push((Value::from_candle(&[map], |map| (&map[0] * factors)?.sum_all())?, scale));
        }
        let terms: Vec<(&Value, f64)> = sums.iter().map(|(sum, scale)| (sum, *scale)).collect();
        let loss = weighted_sum(&terms)?;
        report.close("loss", &[loss.item()?]);
        let gradients = loss.backward()?;
        let unprefixed = gradients.iter().map(|(name, g)| (name["backbone.".len()..].into(), g.clone()));
        report.gradients(&unprefixed.collect());
        new_statistics(&mut report, case, &params, "backbone.");
        report.finish();
        Ok(())
    });
}

fn faster_rcnn(name: &str, config: DetectorConfig) {
    with_case(name, |case, weights| {
        let detector =
            FasterRcnn::new(Builder::new(0, crate::support::device()), &scene::faster_rcnn(case, config))?;
        fill(detector.params(), weights);
        let scene = Scene::of(case, 1);
        let mut report = Report::of(case);

        let pyramid = detector.pyramid(&scene.images, Mode::Train)?;
        let random = &mut ChaCha8Rng::seed_from_u64(0);
        let pass = detector.train(&scene.images, &pyramid, &scene.targets, random)?;
        report.losses_and_gradients(&pass.losses)?;
        new_statistics(&mut report, case, detector.params(), "");

        fill(detector.params(), weights);
        let pyramid = detector.pyramid(&scene.images, Mode::Inference)?;
        match pyramid.len() {
            3 => report.pyramid(&["0", "1", "pool"], &pyramid),
            _ => report.pyramid(&["0", "1", "2", "3", "pool"], &pyramid),
        }
        for (image, boxes) in detector.proposals(&scene.images, &pyramid)?.iter().enumerate() {
            report.close(&format!("proposals_image{image}"), boxes.as_flattened());
        }
        report.detections(&scene.images.sizes, &scene.originals, detector.detect(&scene.images)?, 1)?;
        report.finish();
        Ok(())
    });
}

fn retinanet(name: &str, config: DetectorConfig) {
    with_case(name, |case, weights| {
        let detector =
            RetinaNet::new(Builder::new(0, crate::support::device()), &scene::retinanet(case, config))?;
        fill(detector.params(), weights);
        let scene = Scene::of(case, 0);
        let mut report = Report::of(case);

        let pyramid = detector.pyramid(&scene.images, Mode::Train)?;
        let pass = detector.train(&scene.images, &pyramid, &scene.targets)?;
        report.losses_and_gradients(&pass.losses)?;

        let pyramid = detector.pyramid(&scene.images, Mode::Inference)?;
        report.pyramid(&["0", "1", "2", "p6", "p7"], &pyramid);
        let output = detector.forward(&scene.images, &pyramid, Mode::Inference)?;
        report.summary("cls_logits_summary", output.logits.tensor());
        report.summary("bbox_regression_summary", output.deltas.tensor());
        report.detections(&scene.images.sizes, &scene.originals, detector.detect(&scene.images)?, 0)?;
        report.finish();
        Ok(())
    });
}

/// The first values of each statistic that a case speaks of, after a training pass.
fn new_statistics(report: &mut Report, case: &Case, params: &ParamStore, prefix: &str) {
    for key in case.outputs() {
        if let Some(name) = key.strip_prefix("new:") {
            let param = params.get(&format!("{prefix}{name}")).expect("a statistic of the network");
            report.close(key, &values(param.value.tensor())[..16]);
        }
    }
}

fn with_case(name: &str, test: impl FnOnce(&Case, &Weights) -> Result<()>) {
    let golden = Golden::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"));
    let case = golden.case(name);
    test(&case, &weights(&case)).unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// torchvision's parameters, filled by the rule of the golden models: parameter k of the sorted names from stream
/// base + k.
fn weights(case: &Case) -> Weights {
    let rows = case.attrs["weights"].as_array().expect("a list of parameters");
    let row = |(k, row): (u64, &serde_json::Value)| {
        let name = row[0].as_str().expect("a name");
        let sides = row[1].as_array().expect("a shape");
        let shape: Vec<usize> = sides.iter().map(|side| side.as_u64().expect("a count") as usize).collect();
        let fan_in: usize = shape.iter().skip(1).product();
        let factor = case.attrs["multiply"][name].as_f64().unwrap_or(1.0);
        let rule = |v: f64| match name.rsplit('.').next() {
            Some("running_mean") => 0.1 * v,
            Some("running_var") => 1.0 + 0.5 * v.abs(),
            Some("weight") if shape.len() == 1 => 1.0 + 0.1 * v,
            _ if shape.len() == 1 => 0.1 * v,
            _ => v / (fan_in as f64).sqrt() * factor,
        };
        let stream = case.attr_usize("base_stream") as u64 + k;
        let count: usize = shape.iter().product();
        let values = (0..count as u64).map(|i| rule(golden::value(stream, i)) as f32).collect();
        (name.to_owned(), shape, values)
    };
    (0..).zip(rows).map(row).collect()
}
