//! Whether weights from elsewhere are used by the conventions they were trained with: what no shape shows.

use std::fmt::Write;

use ckd_detectors::names::Scheme;
use ckd_detectors::pyramid::Pyramid;

use super::recognise::{Kind, Recognised};
use super::{ModelCard, WeightsError, WeightsFile};
use crate::config::{Architecture, Config, DetectorSettings, Network, Normalization, Resize};

/// Purpose of weights in a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The teacher: all must be as in the file.
    Teacher,
    /// The start of the student, which trains on: its trunk must see what it saw.
    StudentInit,
}

/// Checks that the network of `config` that is to have the weights of `file` is the one they were trained in. Files that
/// say nothing about it, those under torchvision's names without a card, agree with everything.
///
/// # Errors
/// Lists every key of the configuration that differs.
pub fn check(file: &WeightsFile, config: &Config, role: Role) -> Result<(), WeightsError> {
    let Some((own, differs)) = network_of(file)? else { return Ok(()) };
    if let (Role::Teacher, Some(reason)) = (role, differs) {
        return Err(WeightsError::Card { path: file.path.clone(), reason: reason.to_owned() });
    }
    let (section, ours) = match (role, &config.teacher) {
        (Role::Teacher, Some(teacher)) => (
            "teacher",
            facts(
                (config.teacher_detector(), &teacher.network, &config.pyramid(&teacher.network)),
                config.teacher_normalization(),
                config.teacher_resize(),
                "teacher",
            ),
        ),
        _ => ("student", facts_of_student(config, "student")),
    };
    // Under the keys that they have here.
    let theirs = facts_of_student(&own, section);
    let matters = |fact: &Fact| role == Role::Teacher || fact.of_trunk;
    let mut report = String::new();
    for theirs in theirs.iter().filter(|fact| matters(fact)) {
        // Another architecture has other keys; the difference is named already.
        let Some(ours) = ours.iter().find(|ours| ours.key == theirs.key) else { continue };
        if theirs.value != ours.value {
            let _ = write!(report, "\n    {} = {} (now {})", ours.key, theirs.value, ours.value);
        }
    }
    if report.is_empty() {
        return Ok(());
    }
    Err(WeightsError::Conventions { path: file.path.clone(), section, report })
}

/// The configuration whose student `file` is, and why that is not quite it, as far as the file says.
fn network_of(file: &WeightsFile) -> Result<Option<(Config, Option<&'static str>)>, WeightsError> {
    if let Ok(card) = ModelCard::of(file) {
        return Ok(Some((card.config, None)));
    }
    if matches!(file.names.scheme, Scheme::Torchvision | Scheme::FlatMobileNet) {
        return Ok(None);
    }
    let unknown = |reason| WeightsError::Card { path: file.path.clone(), reason };
    let recognised = Recognised::of(file).map_err(unknown)?;
    match recognised.kind {
        Kind::Detector { .. } | Kind::Backbone => {
            Ok(Some((recognised.config(file, &[])?, recognised.differs)))
        }
        Kind::Classifier { .. } | Kind::Body { .. } => Ok(None),
    }
}

/// A key of the configuration that weights depend on.
struct Fact {
    key: String,
    value: String,
    /// Whether it is about what the trunk sees and does.
    of_trunk: bool,
}

/// Facts of the student of `config` under the keys of `section`.
fn facts_of_student(config: &Config, section: &str) -> Vec<Fact> {
    let network = &config.student.network;
    let network = (&config.detector, network, &config.pyramid(network));
    facts(network, &config.normalization, config.input.resize, section)
}

fn facts(
    (detector, network, pyramid): (&DetectorSettings, &Network, &Pyramid),
    normalization: &Normalization,
    resize: Resize,
    section: &str,
) -> Vec<Fact> {
    let fact = |key: String, value: String, of_trunk: bool| Fact { key, value, of_trunk };
    let is_teacher = section == "teacher";
    let of_network = |key: &str, value: String| fact(format!("{section}.{key}"), value, true);
    let of_images = |key: &str, value: String| {
        fact(if is_teacher { format!("teacher.{key}") } else { key.to_owned() }, value, true)
    };
    let word = |word: &dyn std::fmt::Display| format!("\"{word}\"");
    let resize_key = if is_teacher { "teacher.resize" } else { "input.resize" };
    let mut facts = vec![
        of_network("backbone", word(&network.backbone)),
        of_network("width", network.stem_channels().to_string()),
        of_network("stride_in", word(&network.stride_in)),
        of_images("normalization.mean", format!("{:?}", normalization.mean)),
        of_images("normalization.std", format!("{:?}", normalization.std)),
        // A start survives it.
        fact(resize_key.to_owned(), word(&resize), false),
    ];
    let table = if is_teacher { "teacher.detector" } else { "detector" };
    let sizes = format!("{:?}", detector.sizes_of_anchors(pyramid));
    let of_detector = detector.facts().into_iter();
    facts.extend(of_detector.map(|(key, value)| {
        // The published sizes are the same, written or not.
        let value = if key == "anchor_sizes" { sizes.clone() } else { value };
        fact(format!("{table}.{key}"), value, false)
    }));
    facts
}

/// Keys, with their values as TOML, that make the student of `own` the teacher of the student of `config`.
pub fn keys_of_teacher(own: &Config, config: &Config) -> Vec<(String, String)> {
    let (network, settings) = (&own.student.network, own.student.network.settings(&own.detector));
    let own_tables = ["teacher.detector.", "teacher.normalization.", "teacher.resize"];
    let inherited = facts_of_student(config, "teacher");
    let is_inherited = |fact: &Fact| {
        own_tables.iter().any(|table| fact.key.starts_with(table))
            && inherited.iter().any(|ours| (&ours.key, &ours.value) == (&fact.key, &fact.value))
    };
    let theirs = facts_of_student(own, "teacher").into_iter().filter(|fact| !is_inherited(fact));
    let mut keys: Vec<(String, String)> = theirs.map(|fact| (fact.key, fact.value)).collect();
    // Shapes show these, so that no file is refused for them.
    let mut give = |key: &str, value: String| keys.push((format!("teacher.{key}"), value));
    give("norm", format!("\"{}\"", network.norm));
    give("fpn_norm", format!("\"{}\"", network.fpn_norm));
    give("fpn_channels", settings.fpn_channels.to_string());
    if settings.architecture == Architecture::FasterRcnn {
        give("head_width", settings.roi.head_width.to_string());
    }
    for (key, norm) in settings.head_norms() {
        give(&format!("detector.{key}"), format!("\"{norm}\""));
    }
    keys
}

/// The configuration whose student the detector in `file` is.
///
/// # Errors
/// A file of no known detector; one whose detections here would not be those that it was trained for.
pub fn detector_of(file: &WeightsFile) -> Result<Config, WeightsError> {
    let wrong = |reason: String| WeightsError::Card { path: file.path.clone(), reason };
    if let Ok(card) = ModelCard::of(file) {
        return Ok(card.config);
    }
    let recognised = Recognised::of(file).map_err(wrong)?;
    match (recognised.kind, recognised.differs) {
        (Kind::Detector { .. }, None) => recognised.config(file, &[]),
        (Kind::Detector { .. }, Some(reason)) => Err(wrong(reason.to_owned())),
        _ => Err(wrong(format!("it is a {}, not a detector", recognised.name))),
    }
}
