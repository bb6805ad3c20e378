//! `teacher.train`: the configuration that trains the teacher first.

use ckd_settings::{Diagnostics, Node, Problem};

use super::error::ConfigError;
use super::load::{Loaded, Root, load_last};
use super::lookup::{ConfigSource, Reference};
use super::schema::{ClassifyConfig, Config, DetectorSettings, Network};

/// A fact about a teacher, named by the key that decides it.
type Fact = (String, String);

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
    wanted.push(("teacher.normalization".to_owned(), format!("{:?}", config.teacher_normalization())));
    wanted.push(("teacher.resize".to_owned(), config.teacher_resize().to_string()));
    let mut made = weight_shapes(&loaded.config.student.network, &loaded.config.detector);
    made.push(("teacher.normalization".to_owned(), format!("{:?}", loaded.config.normalization)));
    made.push(("teacher.resize".to_owned(), loaded.config.input.resize.to_string()));
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
        [("teacher.network", network), ("teacher.normalization", normalization), ("input.side_px", side)]
            .map(|(key, value)| (key.to_owned(), value))
            .into()
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
    // Another architecture has other keys; the difference is named already.
    let pairs = wanted.into_iter().filter_map(|(key, wanted)| {
        let made = made.iter().find(|(other, _)| *other == key).map(|(_, made)| made)?;
        (wanted != *made).then_some((key, wanted, made))
    });
    let problems = pairs.map(|(key, wanted, made)| Problem {
        key,
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
    let settings = network.settings(detector);
    let in_table = |key: &str| format!("detector.{key}");
    let mut facts: Vec<Fact> =
        settings.facts().into_iter().map(|(key, value)| (in_table(key), value)).collect();
    facts.extend(settings.head_norms().into_iter().map(|(key, norm)| (in_table(key), norm.to_string())));
    let of_network = [
        ("backbone", network.backbone.to_string()),
        ("width", network.stem_channels().to_string()),
        ("norm", network.norm.to_string()),
        ("stride_in", network.stride_in.to_string()),
        ("fpn_norm", network.fpn_norm.to_string()),
        ("fpn_channels", settings.fpn_channels.to_string()),
        ("head_width", settings.roi.head_width.to_string()),
    ];
    facts.extend(of_network.map(|(key, value)| (format!("teacher.{key}"), value)));
    facts
}
