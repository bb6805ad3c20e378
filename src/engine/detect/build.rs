//! From a configuration to a network.

use candle_core::Device;
use ckd_detectors::anchors::AnchorGenerator;
use ckd_detectors::backbone::{
    BackboneConfig, MobileNetV1, MobileNetV1Config, MobileNetV2, MobileNetV2Config, ResNetConfig,
    ResNetDepth, StrideIn,
};
use ckd_detectors::faster_rcnn::FasterRcnnConfig;
use ckd_detectors::fpn::P6From;
use ckd_detectors::images::Normalization;
use ckd_detectors::nn::{HeadNorm, NormKind};
use ckd_detectors::param::Builder;
use ckd_detectors::postprocess::{Clip, RetinaPostprocess, RoiPostprocess};
use ckd_detectors::proposals::ProposalFilter;
use ckd_detectors::retinanet::{BoxLoss, RetinaNetConfig};
use ckd_detectors::roi_heads::{BoxHead, RoiConfig};
use ckd_detectors::rpn::RpnConfig;
use ckd_detectors::sampler::SampleSize;
use ckd_detectors::{Detector, DetectorConfig};
use ckd_kernels::roi_align::{Alignment, Sampling};

use crate::config::{
    self, AnchorCorners, Architecture, Backbone, Config, Network, Norm, RoiAlign, RoiHead, Stage,
};
use crate::engine::Result;

/// The student of `config` with its initial weights: random ones that depend on the seed alone.
pub fn student(config: &Config, classes: usize, device: &Device) -> Result<Detector> {
    let normalization = config.normalization;
    let frozen = config.student.frozen_stages();
    let network = &config.student.network;
    let settings = detector_config(config, &config.detector, network, frozen, normalization, classes)?;
    Ok(Detector::new(Builder::new(config.run.seed, device), &settings)?)
}

/// The same network as [`student`], for inference alone: nothing in it is trainable.
pub fn frozen_student(config: &Config, classes: usize, device: &Device) -> Result<Detector> {
    let settings = student_settings(config, classes)?;
    Ok(Detector::new(Builder::new(config.run.seed, device).frozen(), &settings)?)
}

/// What [`frozen_student`] is built from.
pub fn student_settings(config: &Config, classes: usize) -> Result<DetectorConfig> {
    let normalization = config.normalization;
    detector_config(config, &config.detector, &config.student.network, 0, normalization, classes)
}

/// The teacher of `config`; nothing in it is trainable.
pub fn teacher(
    config: &Config,
    teacher: &config::Teacher,
    classes: usize,
    device: &Device,
) -> Result<Detector> {
    let normalization = *config.teacher_normalization();
    let detector = config.teacher_detector();
    let settings = detector_config(config, detector, &teacher.network, 0, normalization, classes)?;
    Ok(Detector::new(Builder::new(config.run.seed, device).frozen(), &settings)?)
}

fn detector_config(
    config: &Config,
    detector: &config::Detector,
    network: &Network,
    freeze_at: usize,
    normalization: Normalization,
    classes: usize,
) -> Result<DetectorConfig> {
    let backbone = backbone(config, network, freeze_at);
    let fpn_norm = head_norm(network.fpn_norm);
    let fpn_channels = fpn_channels(detector, network);
    let anchors = anchors(detector)?;
    Ok(match detector.architecture {
        Architecture::FasterRcnn => {
            let rpn = &detector.rpn;
            let filter = |pre_nms_top_n, post_nms_top_n| ProposalFilter {
                pre_nms_top_n,
                post_nms_top_n,
                nms_threshold: exact(rpn.nms_threshold),
                score_threshold: exact(rpn.score_threshold),
                min_size: exact(rpn.min_size),
            };
            let roi = &detector.roi;
            DetectorConfig::FasterRcnn(FasterRcnnConfig {
                backbone,
                fpn_channels,
                fpn_norm,
                classes,
                anchors,
                rpn: RpnConfig {
                    train: filter(rpn.pre_nms_top_n_train, rpn.post_nms_top_n_train),
                    inference: filter(rpn.pre_nms_top_n_test, rpn.post_nms_top_n_test),
                    fg_iou: exact(rpn.fg_iou),
                    bg_iou: exact(rpn.bg_iou),
                    sample: SampleSize {
                        per_image: rpn.batch_per_image,
                        positive_fraction: exact(rpn.positive_fraction),
                    },
                    head_convs: rpn.head_convs,
                },
                roi: RoiConfig {
                    fg_iou: exact(roi.fg_iou),
                    bg_iou: exact(roi.bg_iou),
                    sample: SampleSize {
                        per_image: roi.batch_per_image,
                        positive_fraction: exact(roi.positive_fraction),
                    },
                    pool_size: roi.pool_size,
                    sampling: match roi.sampling_ratio {
                        0 => Sampling::Adaptive,
                        ratio => Sampling::Fixed(ratio),
                    },
                    alignment: match roi.align {
                        RoiAlign::Legacy => Alignment::Legacy,
                        RoiAlign::Aligned => Alignment::HalfPixel,
                    },
                    head: match roi.head {
                        RoiHead::TwoFc => BoxHead::TwoFc,
                        RoiHead::FourConvFc => BoxHead::FourConvFc(head_norm(roi.head_norm)),
                    },
                    hidden: network.head_width.unwrap_or(roi.head_width),
                    postprocess: RoiPostprocess {
                        score_threshold: exact(roi.score_threshold),
                        nms_threshold: exact(roi.nms_threshold),
                        detections_per_image: roi.detections_per_image,
                    },
                },
                normalization,
            })
        }
        Architecture::RetinaNet => {
            let retina = &detector.retina;
            DetectorConfig::RetinaNet(RetinaNetConfig {
                backbone,
                fpn_channels,
                fpn_norm,
                p6_from: match retina.p6_from {
                    config::P6From::P5 => P6From::P5,
                    config::P6From::C5 => P6From::C5,
                },
                classes,
                anchors,
                head_convs: retina.head_convs,
                head_norm: head_norm(retina.head_norm),
                fg_iou: exact(retina.fg_iou),
                bg_iou: exact(retina.bg_iou),
                focal_alpha: exact(retina.focal_alpha),
                focal_gamma: exact(retina.focal_gamma),
                box_loss: match retina.box_loss {
                    config::BoxLoss::L1 => BoxLoss::L1,
                    config::BoxLoss::Giou => BoxLoss::Giou,
                },
                postprocess: RetinaPostprocess {
                    score_threshold: exact(retina.score_threshold),
                    topk_candidates: retina.topk_candidates,
                    nms_threshold: exact(retina.nms_threshold),
                    detections_per_image: retina.detections_per_image,
                    clip: match retina.clip {
                        config::Clip::BeforeNms => Clip::BeforeNms,
                        config::Clip::AfterNms => Clip::AfterNms,
                    },
                },
                normalization,
            })
        }
    })
}

/// Channels of the pyramid of `network`.
pub fn fpn_channels(detector: &config::Detector, network: &Network) -> usize {
    network.fpn_channels.unwrap_or(detector.fpn_channels)
}

fn head_norm(norm: config::HeadNorm) -> HeadNorm {
    match norm {
        config::HeadNorm::None => None,
        config::HeadNorm::FrozenBn => Some(NormKind::FrozenBn),
        config::HeadNorm::Bn => Some(NormKind::Bn),
        config::HeadNorm::Gn => Some(NormKind::Gn),
    }
}

fn backbone(config: &Config, network: &Network, freeze_at: usize) -> BackboneConfig {
    let width = network.stem_channels();
    let norm = match network.norm {
        Norm::FrozenBn => NormKind::FrozenBn,
        Norm::Bn => NormKind::Bn,
        Norm::Gn => NormKind::Gn,
    };
    let recompute = [Stage::Layer1, Stage::Layer2, Stage::Layer3, Stage::Layer4]
        .map(|stage| config.run.engine.recompute.contains(&stage));
    let stride_in = match network.stride_in {
        config::StrideIn::Middle => StrideIn::Middle,
        config::StrideIn::First => StrideIn::First,
    };
    let resnet =
        |depth| BackboneConfig::ResNet(ResNetConfig { depth, width, norm, stride_in, freeze_at, recompute });
    match network.backbone {
        Backbone::ResNet18 => resnet(ResNetDepth::ResNet18),
        Backbone::ResNet34 => resnet(ResNetDepth::ResNet34),
        Backbone::ResNet50 => resnet(ResNetDepth::ResNet50),
        Backbone::ResNet101 => resnet(ResNetDepth::ResNet101),
        Backbone::MobileNetV1 => {
            let width_multiplier = width as f64 / MobileNetV1::STEM_CHANNELS as f64;
            BackboneConfig::MobileNetV1(MobileNetV1Config { width_multiplier, norm, freeze_at })
        }
        Backbone::MobileNetV2 => {
            let width_multiplier = width as f64 / MobileNetV2::STEM_CHANNELS as f64;
            BackboneConfig::MobileNetV2(MobileNetV2Config { width_multiplier, norm, freeze_at })
        }
    }
}

/// The anchors of a detector.
pub fn anchors(detector: &config::Detector) -> Result<AnchorGenerator> {
    let sizes = detector.anchor_sizes.clone().unwrap_or_else(|| default_sizes(detector));
    let ratios = &detector.aspect_ratios;
    let made = match detector.anchor_corners {
        AnchorCorners::Rounded => AnchorGenerator::new(&sizes, ratios),
        AnchorCorners::Exact => {
            let first = match detector.architecture {
                Architecture::FasterRcnn => 2,
                Architecture::RetinaNet => 3,
            };
            let strides: Vec<usize> = (first..).map(|level| 1 << level).take(sizes.len()).collect();
            AnchorGenerator::exact(&sizes, ratios, &strides)
        }
    };
    Ok(made.map_err(ckd_detectors::Error::from)?)
}

/// The published anchor sizes, level by level: RetinaNet's are three steps of an octave, which torchvision rounds
/// down.
fn default_sizes(detector: &config::Detector) -> Vec<Vec<f32>> {
    let scales = |base: f64| -> Vec<f32> {
        let third = |third: u32| base * 2f64.powf(f64::from(third) / 3.0);
        match (detector.architecture, detector.anchor_corners) {
            (Architecture::FasterRcnn, _) => vec![base as f32],
            (Architecture::RetinaNet, AnchorCorners::Rounded) => {
                (0..3).map(|step| third(step).floor() as f32).collect()
            }
            (Architecture::RetinaNet, AnchorCorners::Exact) => {
                (0..3).map(|step| third(step) as f32).collect()
            }
        }
    };
    [32.0, 64.0, 128.0, 256.0, 512.0].map(scales).to_vec()
}

/// The decimal that was written: 0.7, not the 0.699999988 that it becomes in f32.
fn exact(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
