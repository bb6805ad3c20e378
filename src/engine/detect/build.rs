//! From a configuration to a network.

use candle_core::Device;
use ckd_detectors::backbone::BackboneConfig;
use ckd_detectors::images::Normalization;
use ckd_detectors::param::Builder;
use ckd_detectors::{Detector, DetectorConfig};

use crate::config::{self, Config, DetectorSettings, Network, Stage};
use crate::engine::Result;
use crate::weights::{WeightsFile, load};

/// The student of `config` with its initial weights: random ones that depend on the seed alone.
pub fn student(config: &Config, classes: usize, device: &Device) -> Result<Detector> {
    let settings = DetectorConfig {
        backbone: backbone(config, &config.student.network, config.student.frozen_stages()),
        ..student_settings(config, classes)
    };
    Ok(Detector::new(Builder::new(config.run.seed, device), &settings)?)
}

/// Builds the network of [`student`] for inference alone: nothing in it is trainable.
pub fn frozen_student(config: &Config, classes: usize, device: &Device) -> Result<Detector> {
    let settings = student_settings(config, classes);
    Ok(Detector::new(Builder::new(config.run.seed, device).frozen(), &settings)?)
}

/// The detector that `config` describes, for inference, with the weights of `file`.
///
/// A configuration in a file from elsewhere may claim any size, so nothing is made before every name and shape was found
/// in the file.
///
/// # Errors
/// Lists every missing, unexpected and mis-shaped name.
pub fn loaded(config: &Config, classes: usize, file: &WeightsFile, device: &Device) -> Result<Detector> {
    let outline = Detector::new(Builder::outline(), &student_settings(config, classes))?;
    load::check(outline.params(), file)?;
    let detector = frozen_student(config, classes, device)?;
    load::strict(detector.params(), file)?;
    Ok(detector)
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
    let recompute = [Stage::Layer1, Stage::Layer2, Stage::Layer3, Stage::Layer4]
        .map(|stage| config.run.engine.recompute.contains(&stage));
    let published = BackboneConfig::new(network.backbone).with_stem_channels(network.stem_channels());
    BackboneConfig { norm: network.norm, stride_in: network.stride_in, freeze_at, recompute, ..published }
}
