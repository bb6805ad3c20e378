//! Networks with torchvision's settings, and small inputs for them.
#![allow(missing_docs, unreachable_pub)]

pub mod report;
pub mod scene;

use std::collections::BTreeMap;

use std::sync::LazyLock;

use candle_core::{Device, Tensor};
use ckd_detectors::Result;
use ckd_detectors::anchors::AnchorCorners;
use ckd_detectors::backbone::{BackboneConfig, Trunk};
use ckd_detectors::detector::{Detector, DetectorConfig};
use ckd_detectors::fpn::P6From;
use ckd_detectors::images::{Images, Normalization};
use ckd_detectors::nn::{HeadNorm, Mode, NormKind};
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::postprocess::Clip;
use ckd_detectors::retinanet::BoxLoss;
use ckd_detectors::roi_heads::{RoiAlign, RoiHead};
use ckd_detectors::settings::{Architecture, DetectorSettings};
use ckd_kernels::Value;

/// The device that the tests run on: the CPU, or with `CKD_DET_TEST_DEVICE=cuda` the first GPU.
pub(crate) fn device() -> &'static Device {
    static DEVICE: LazyLock<Device> =
        LazyLock::new(|| match std::env::var("CKD_DET_TEST_DEVICE").as_deref() {
            Err(_) | Ok("cpu") => Device::Cpu,
            #[cfg(feature = "cuda")]
            Ok("cuda") => ckd_kernels::cuda::open(0).expect("a GPU, or its stand-in"),
            Ok(other) => panic!("CKD_DET_TEST_DEVICE={other}: cpu, or cuda in a build with the feature cuda"),
        });
    &DEVICE
}

/// Names, shapes and values of a network's parameters, in the order of the names.
pub type Weights = Vec<(String, Vec<usize>, Vec<f32>)>;

/// A sample so large that everything fits: nothing is left to chance.
const EVERYTHING: usize = 1_000_000;

/// The ResNets with golden values.
pub const RESNETS: [&str; 4] = ["resnet18", "resnet34", "resnet50", "resnet101"];

/// The published trunk.
pub fn backbone(name: &str) -> BackboneConfig {
    BackboneConfig::new(name.parse().expect("a backbone"))
}

/// A trunk of a quarter of the width that trains in milliseconds.
pub fn tiny(name: &str, norm: NormKind, freeze_at: usize) -> BackboneConfig {
    BackboneConfig { width_multiplier: 0.25, norm, freeze_at, ..backbone(name) }
}

/// The result of each numbered layer of a MobileNet: `features.0`, `features.1`, ...
pub fn layers(trunk: &Trunk, x: &Value) -> Result<BTreeMap<usize, Value>> {
    let mut layers = BTreeMap::new();
    trunk.each_step(x, Mode::Inference, |step, map| {
        let index = step.name().and_then(|name| name.split('.').next()).and_then(|index| index.parse().ok());
        layers.insert(index.expect("a numbered layer"), map.clone());
    })?;
    Ok(layers)
}

/// A MobileNetV2 that trains in milliseconds.
pub fn tiny_mobilenet(norm: NormKind, freeze_at: usize) -> BackboneConfig {
    tiny("mobilenet_v2", norm, freeze_at)
}

/// A MobileNetV3-Large that trains in milliseconds.
pub fn tiny_mobilenet_v3(norm: NormKind, freeze_at: usize) -> BackboneConfig {
    tiny("mobilenet_v3_large", norm, freeze_at)
}

/// A MobileNetV1 that trains in milliseconds.
pub fn tiny_mobilenet_v1(norm: NormKind, freeze_at: usize) -> BackboneConfig {
    tiny("mobilenet_v1", norm, freeze_at)
}

/// torchvision's defaults.
fn detector(architecture: Architecture, depth: &str, classes: usize) -> DetectorConfig {
    DetectorConfig {
        backbone: backbone(depth),
        fpn_norm: HeadNorm::None,
        classes,
        normalization: Normalization::default(),
        settings: DetectorSettings::new(architecture),
    }
}

/// torchvision's defaults, but for the sampling.
pub fn faster_rcnn(depth: &str, classes: usize) -> DetectorConfig {
    let mut config = detector(Architecture::FasterRcnn, depth, classes);
    let (rpn, roi) = (&mut config.settings.rpn, &mut config.settings.roi);
    (rpn.batch_per_image, roi.batch_per_image) = (EVERYTHING, EVERYTHING);
    roi.positive_fraction = 0.5;
    config
}

/// torchvision's defaults.
pub fn retinanet(depth: &str, classes: usize) -> DetectorConfig {
    detector(Architecture::RetinaNet, depth, classes)
}

/// torchvision's defaults.
pub fn fcos(depth: &str, classes: usize) -> DetectorConfig {
    detector(Architecture::Fcos, depth, classes)
}

/// A Faster R-CNN that trains in milliseconds.
pub fn tiny_faster_rcnn(classes: usize) -> DetectorConfig {
    let mut config = faster_rcnn("resnet18", classes);
    config.backbone = config.backbone.with_stem_channels(8);
    let settings = &mut config.settings;
    (settings.fpn_channels, settings.roi.head_width) = (16, 32);
    (settings.rpn.post_nms_top_n_train, settings.rpn.post_nms_top_n_test) = (50, 50);
    config
}

/// A RetinaNet that trains in milliseconds; its threshold lets detections through before any training.
pub fn tiny_retinanet(classes: usize) -> DetectorConfig {
    let mut config = retinanet("resnet18", classes);
    config.backbone = config.backbone.with_stem_channels(8);
    config.settings.fpn_channels = 16;
    let retina = &mut config.settings.retina;
    (retina.head_convs, retina.score_threshold) = (2, 0.001);
    config
}

/// An FCOS that trains in milliseconds; its threshold lets detections through before any training.
pub fn tiny_fcos(classes: usize) -> DetectorConfig {
    let mut config = fcos("resnet18", classes);
    config.backbone = config.backbone.with_stem_channels(8);
    config.settings.fpn_channels = 16;
    let fcos = &mut config.settings.fcos;
    (fcos.head_convs, fcos.score_threshold) = (2, 0.001);
    config
}

/// The same with torchvision's second heads and Detectron2's geometry.
pub fn tiny_faster_rcnn_v2(classes: usize) -> DetectorConfig {
    let mut config = tiny_faster_rcnn(classes);
    config.fpn_norm = HeadNorm::Bn;
    let settings = &mut config.settings;
    settings.rpn.head_convs = 2;
    settings.roi.head = RoiHead::FourConvFc;
    (settings.roi.align, settings.roi.sampling_ratio) = (RoiAlign::Aligned, 0);
    exact_anchors(settings);
    config
}

/// The same with torchvision's second heads and Detectron2's geometry.
pub fn tiny_retinanet_v2(classes: usize) -> DetectorConfig {
    let mut config = tiny_retinanet(classes);
    let retina = &mut config.settings.retina;
    (retina.head_norm, retina.p6_from, retina.box_loss) = (HeadNorm::Gn, P6From::C5, BoxLoss::Giou);
    retina.clip = Clip::AfterNms;
    exact_anchors(&mut config.settings);
    config
}

fn exact_anchors(settings: &mut DetectorSettings) {
    settings.anchor_sizes = Some([32.0, 64.0, 128.0, 256.0, 512.0].map(|size| vec![size]).into());
    settings.anchor_corners = AnchorCorners::Exact;
}

/// Pads images (3, h, w), row-major, to a common size that is a multiple of 32.
pub fn padded(images: &[(Vec<f32>, usize, usize)]) -> Images {
    let side = |of: fn(&(Vec<f32>, usize, usize)) -> usize| {
        images.iter().map(of).max().expect("an image").next_multiple_of(32)
    };
    padded_to(images, (side(|image| image.1), side(|image| image.2)))
}

/// Pads images (3, h, w), row-major, to (height, width).
pub fn padded_to(images: &[(Vec<f32>, usize, usize)], (height, width): (usize, usize)) -> Images {
    let mut pixels = vec![0f32; images.len() * height * width * 3];
    for ((image, h, w), slot) in images.iter().zip(pixels.chunks_exact_mut(height * width * 3)) {
        for (at, value) in image.iter().enumerate() {
            let (channel, y, x) = (at / (h * w), at / w % h, at % w);
            slot[(y * width + x) * 3 + channel] = *value;
        }
    }
    let pixels = Tensor::from_vec(pixels, (images.len(), height, width, 3), crate::support::device())
        .and_then(|pixels| pixels.permute((0, 3, 1, 2)))
        .expect("as many pixels as the shape says");
    Images { pixels, sizes: images.iter().map(|&(_, h, w)| (h, w)).collect() }
}

/// Fills a network: every parameter from `weights`, and every weight into a parameter.
pub fn fill(params: &ParamStore, weights: &Weights) {
    let own: Vec<&str> = params.iter().map(|(name, _)| &**name).collect();
    let given: Vec<&str> = weights.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(own, given, "names of the parameters");
    for (name, shape, values) in weights {
        let tensor = Tensor::from_slice(values, shape.as_slice(), crate::support::device())
            .expect("shape and values fit");
        params.set(name, &tensor).expect("the network has this parameter");
    }
}

/// The elements of a tensor, row-major.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().and_then(|flat| flat.to_vec1()).expect("f32")
}

/// The weights whose names are `wanted`.
pub fn part(weights: &Weights, wanted: impl Fn(&str) -> bool) -> Weights {
    weights.iter().filter(|(name, ..)| wanted(name)).cloned().collect()
}

/// Classes of the tiny networks.
pub const CLASSES: usize = 3;

/// A detector with random weights.
pub fn build(seed: u64, config: DetectorConfig) -> Result<Detector> {
    Detector::new(Builder::new(seed, crate::support::device()), &config)
}

/// Runs `test` with the settings of a tiny network of each kind.
pub fn each_detector(test: impl Fn(&str, DetectorConfig) -> Result<()>) {
    let configs = [
        ("Faster R-CNN", tiny_faster_rcnn(CLASSES)),
        ("RetinaNet", tiny_retinanet(CLASSES)),
        ("Faster R-CNN v2", tiny_faster_rcnn_v2(CLASSES)),
        ("RetinaNet v2", tiny_retinanet_v2(CLASSES)),
        ("FCOS", tiny_fcos(CLASSES)),
    ];
    for (name, config) in configs {
        test(name, config).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// The parameters, bit by bit.
pub fn bits(params: &ParamStore) -> BTreeMap<String, Vec<u32>> {
    params.iter().map(|(name, param)| (name.to_string(), bits_of(param.value.tensor()))).collect()
}

/// The elements, bit by bit.
pub fn bits_of(tensor: &Tensor) -> Vec<u32> {
    values(tensor).into_iter().map(f32::to_bits).collect()
}
