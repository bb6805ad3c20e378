//! From a configuration to a network.

use candle_core::Device;
use ckd_detectors::backbone::{
    BackboneConfig, MobileNetV1, MobileNetV1Config, MobileNetV2, MobileNetV2Config, ResNetConfig,
    ResNetDepth, StrideIn,
};
use ckd_detectors::images::Normalization;
use ckd_detectors::param::Builder;
use ckd_detectors::{Detector, DetectorConfig};

use crate::config::{self, Backbone, Config, DetectorSettings, Network, Stage};
use crate::engine::Result;

/// The student of `config` with its initial weights: random ones that depend on the seed alone.
pub fn student(config: &Config, classes: usize, device: &Device) -> Result<Detector> {
    let settings = DetectorConfig {
        backbone: backbone(config, &config.student.network, config.student.frozen_stages()),
        ..student_settings(config, classes)
    };
    Ok(Detector::new(Builder::new(config.run.seed, device), &settings)?)
}

/// The same network as [`student`], for inference alone: nothing in it is trainable.
pub fn frozen_student(config: &Config, classes: usize, device: &Device) -> Result<Detector> {
    let settings = student_settings(config, classes);
    Ok(Detector::new(Builder::new(config.run.seed, device).frozen(), &settings)?)
}

/// Settings that [`frozen_student`] is built from.
pub fn student_settings(config: &Config, classes: usize) -> DetectorConfig {
    let own = (&config.detector, config.normalization);
    network(config, own, &config.student.network, classes)
}

/// The teacher of `config`; nothing in it is trainable.
pub fn teacher(
    config: &Config,
    teacher: &config::Teacher,
    classes: usize,
    device: &Device,
) -> Result<Detector> {
    let own = (config.teacher_detector(), *config.teacher_normalization());
    let settings = network(config, own, &teacher.network, classes);
    Ok(Detector::new(Builder::new(config.run.seed, device).frozen(), &settings)?)
}

fn network(
    config: &Config,
    (detector, normalization): (&DetectorSettings, Normalization),
    network: &Network,
    classes: usize,
) -> DetectorConfig {
    let backbone = backbone(config, network, 0);
    let settings = network.settings(detector);
    DetectorConfig { backbone, fpn_norm: network.fpn_norm, classes, normalization, settings }
}

fn backbone(config: &Config, network: &Network, freeze_at: usize) -> BackboneConfig {
    let width = network.stem_channels();
    let norm = network.norm;
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
