//! `teacher.train`: the configuration that trains the teacher first.

use super::diagnose::{ConfigError, Diagnostics};
use super::load::{Loaded, load_last};
use super::lookup::{ConfigSource, Reference};
use super::schema::{Config, Detector, Network, Teacher};
use super::tree::Node;
use super::validate::Problem;

/// Loads what `teacher.train` names, and checks that it makes the teacher that is wanted. `trail`
/// ends with the configuration itself.
pub(super) fn teacher_experiment(
    config: &Config,
    root: &Node,
    trail: &mut Vec<ConfigSource>,
) -> Result<Option<Loaded>, ConfigError> {
    let Some(teacher) = &config.teacher else { return Ok(None) };
    let (Some(name), Some(node)) = (&teacher.train, root.at("teacher.train")) else { return Ok(None) };
    let found = Reference { key: "teacher.train", name, place: &node.place }.follow(trail)?;
    trail.push(found);
    let mut loaded: Loaded = load_last(trail, &[])?;
    loaded.config.data = config.data.clone();
    loaded.config.output = config.output.clone();
    let differences = differences(config, teacher, &loaded);
    if differences.is_empty() {
        return Ok(Some(loaded));
    }
    let findings = differences.into_iter().map(|problem| problem.found_in(root)).collect();
    Err(ConfigError::Invalid(Diagnostics(findings)))
}

/// The keys in which the teacher is not the student that its own configuration trains.
fn differences(config: &Config, teacher: &Teacher, loaded: &Loaded) -> Vec<Problem> {
    let mut wanted = weight_shapes(&teacher.network, config.teacher_detector());
    wanted.push(("teacher.normalization", format!("{:?}", config.teacher_normalization())));
    wanted.push(("teacher.resize", config.teacher_resize().to_string()));
    let mut made = weight_shapes(&loaded.config.student.network, &loaded.config.detector);
    made.push(("teacher.normalization", format!("{:?}", loaded.config.normalization)));
    made.push(("teacher.resize", loaded.config.input.resize.to_string()));
    let pairs = wanted.into_iter().zip(made).filter(|((_, wanted), (_, made))| wanted != made);
    pairs
        .map(|((key, wanted), (_, made))| Problem {
            key: key.to_owned(),
            message: format!("is {wanted}, but {} trains a teacher with {made}", loaded.source),
            help: "the teacher must equal the [student] of the configuration that trains it".to_owned(),
        })
        .collect()
}

/// What decides which weights a network has, of what shapes, and what they mean.
fn weight_shapes(network: &Network, detector: &Detector) -> Vec<(&'static str, String)> {
    vec![
        ("detector.architecture", detector.architecture.to_string()),
        ("detector.anchor_sizes", format!("{:?}", detector.anchor_sizes)),
        ("detector.aspect_ratios", format!("{:?}", detector.aspect_ratios)),
        ("detector.anchor_corners", detector.anchor_corners.to_string()),
        ("detector.rpn.head_convs", detector.rpn.head_convs.to_string()),
        ("detector.roi.pool_size", detector.roi.pool_size.to_string()),
        ("detector.roi.sampling_ratio", detector.roi.sampling_ratio.to_string()),
        ("detector.roi.align", detector.roi.align.to_string()),
        ("detector.roi.head", detector.roi.head.to_string()),
        ("detector.roi.head_norm", detector.roi.head_norm.to_string()),
        ("detector.retina.head_convs", detector.retina.head_convs.to_string()),
        ("detector.retina.head_norm", detector.retina.head_norm.to_string()),
        ("detector.retina.p6_from", detector.retina.p6_from.to_string()),
        ("teacher.backbone", network.backbone.to_string()),
        ("teacher.width", network.stem_channels().to_string()),
        ("teacher.norm", network.norm.to_string()),
        ("teacher.stride_in", network.stride_in.to_string()),
        ("teacher.fpn_norm", network.fpn_norm.to_string()),
        ("teacher.fpn_channels", network.fpn_channels.unwrap_or(detector.fpn_channels).to_string()),
        ("teacher.head_width", network.head_width.unwrap_or(detector.roi.head_width).to_string()),
    ]
}
