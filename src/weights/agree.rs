//! Whether weights from elsewhere are used by the conventions they were trained with: what no shape shows.

use std::fmt::Write;

use ckd_detectors::names::Scheme;

use super::recognise::{Kind, Recognised};
use super::{ModelCard, WeightsError, WeightsFile};
use crate::config::{Config, DetectorSettings, Network, Normalization, Resize};

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
                config.teacher_detector(),
                &teacher.network,
                config.teacher_normalization(),
                config.teacher_resize(),
                "teacher",
            ),
        ),
        _ => (
            "student",
            facts(
                &config.detector,
                &config.student.network,
                &config.normalization,
                config.input.resize,
                "student",
            ),
        ),
    };
    // Under the keys that they have here.
    let theirs = facts(&own.detector, &own.student.network, &own.normalization, own.input.resize, section);
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
        Kind::Classifier { .. } => Ok(None),
    }
}

/// A key of the configuration that weights depend on.
struct Fact {
    key: String,
    value: String,
    /// Whether it is about what the trunk sees and does.
    of_trunk: bool,
}

fn facts(
    detector: &DetectorSettings,
    network: &Network,
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
    let of_detector = detector.facts().into_iter();
    facts.extend(of_detector.map(|(key, value)| fact(format!("{table}.{key}"), value, false)));
    facts
}
