//! `teacher.train`: the configuration that trains the teacher first.

use ckd_settings::{Diagnostics, Node, Problem};

use super::error::ConfigError;
use super::load::{Loaded, Root, load_last};
use super::lookup::{ConfigSource, Reference};
use super::schema::{ClassifyConfig, Config, DetectorSettings, Network};

/// A fact about a teacher, named by the key that decides it.
type Fact = (&'static str, String);

/// The detector that `teacher.train` trains.
pub(super) fn of_detectors(
    config: &Config,
    root: &Node,
    trail: &mut Vec<ConfigSource>,
) -> Result<Option<Loaded<Config>>, ConfigError> {
    let Some(teacher) = &config.teacher else { return Ok(None) };
    let Some(mut loaded) = follow::<Config>(teacher.train.as_deref(), root, trail)? else { return Ok(None) };
    loaded.config.data = config.data.clone();
    loaded.config.run.output = config.run.output.clone();
    let mut wanted = weight_shapes(&teacher.network, config.teacher_detector());
    wanted.push(("teacher.normalization", format!("{:?}", config.teacher_normalization())));
    wanted.push(("teacher.resize", config.teacher_resize().to_string()));
    let mut made = weight_shapes(&loaded.config.student.network, &loaded.config.detector);
    made.push(("teacher.normalization", format!("{:?}", loaded.config.normalization)));
    made.push(("teacher.resize", loaded.config.input.resize.to_string()));
    agreeing(loaded, wanted, made, root).map(Some)
}

/// The classifier that `teacher.train` trains.
pub(super) fn of_classifiers(
    config: &ClassifyConfig,
    root: &Node,
    trail: &mut Vec<ConfigSource>,
) -> Result<Option<Loaded<ClassifyConfig>>, ConfigError> {
    let Some(teacher) = &config.teacher else { return Ok(None) };
    let Some(mut loaded) = follow::<ClassifyConfig>(teacher.train.as_deref(), root, trail)? else {
        return Ok(None);
    };
    loaded.config.labelled.data = config.labelled.data.clone();
    loaded.config.run.output = config.run.output.clone();
    let made = &loaded.config;
    let facts = |network: String, normalization: String, side: String| {
        vec![("teacher.network", network), ("teacher.normalization", normalization), ("input.side_px", side)]
    };
    let wanted = facts(
        teacher.network.to_string(),
        format!("{:?}", config.teacher_normalization()),
        config.labelled.input.side_px.to_string(),
    );
    let made = facts(
        made.student.network.to_string(),
        format!("{:?}", made.student_normalization()),
        made.labelled.input.side_px.to_string(),
    );
    agreeing(loaded, wanted, made, root).map(Some)
}

/// Loads the configuration that `teacher.train` names. `trail` ends with the configuration itself.
fn follow<C: Root>(
    name: Option<&str>,
    root: &Node,
    trail: &mut Vec<ConfigSource>,
) -> Result<Option<Loaded<C>>, ConfigError> {
    let (Some(name), Some(node)) = (name, root.at("teacher.train")) else { return Ok(None) };
    let found = Reference { key: "teacher.train", name, place: &node.place }.follow(trail)?;
    trail.push(found);
    load_last(trail, &[]).map(Some)
}

/// `loaded`, if the teacher that it makes is the one that is wanted.
fn agreeing<C>(
    loaded: Loaded<C>,
    wanted: Vec<Fact>,
    made: Vec<Fact>,
    root: &Node,
) -> Result<Loaded<C>, ConfigError> {
    let differing = wanted.into_iter().zip(made).filter(|((_, wanted), (_, made))| wanted != made);
    let problems = differing.map(|((key, wanted), (_, made))| Problem {
        key: key.to_owned(),
        message: format!("is {wanted}, but {} trains a teacher with {made}", loaded.source),
        help: "the teacher must equal the [student] of the configuration that trains it".to_owned(),
    });
    match Diagnostics::of(problems.map(|problem| problem.found_in(root)).collect()) {
        Some(wrong) => Err(wrong.into()),
        None => Ok(loaded),
    }
}

/// Settings that decide which weights a network has, of what shapes, and what they mean.
fn weight_shapes(network: &Network, detector: &DetectorSettings) -> Vec<Fact> {
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
