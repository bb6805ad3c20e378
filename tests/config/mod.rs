//! Configurations as a user meets them: names, layers, `--set`, errors, and the `config` verb.

mod errors;
mod layers;
mod program;
mod teacher;

use std::fs;

use ckd_det::config::{Config, ConfigError, Document, Experiment, Length, Loaded, NormKind, list};
use tempfile::TempDir;

/// A complete configuration with nothing to spare.
const SMALL: &str = r#"
[detector]
architecture = "faster_rcnn"

[data]
kind = "coco"
root = "data"

[student]
backbone = "resnet18"

[optim]
lr = 0.01

[schedule]
steps = 10
milestones = [5]
"#;

/// Sections that make [`SMALL`] distil.
const TEACHER: &str = r#"
[teacher]
backbone = "resnet50"
weights = "teacher.pth"

[[distill]]
method = "ckd"
at = "roi_logits"

[[distill]]
method = "rcka"
levels = ["p2", "p3"]
"#;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a new folder");
        fs::write(path, text).expect("a new file");
    }
    folder
}

fn load_in(folder: &TempDir, name: &str, sets: &[&str]) -> Result<Loaded<Config>, ConfigError> {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    Config::load(folder.path().join(name), &sets)
}

fn load(text: &str, sets: &[&str]) -> Result<Loaded<Config>, ConfigError> {
    load_in(&folder(&[("x.toml", text)]), "x.toml", sets)
}

/// The error with the temporary folder's name left out.
fn error_in(folder: &TempDir, name: &str, sets: &[&str]) -> String {
    let error = load_in(folder, name, sets).expect_err("the configuration is wrong").to_string();
    error.replace(&format!("{}/", folder.path().display()), "")
}

fn error(text: &str, sets: &[&str]) -> String {
    error_in(&folder(&[("x.toml", text)]), "x.toml", sets)
}

#[track_caller]
fn assert_mentions(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "not mentioned: {part}\n{message}");
    }
}

#[test]
fn every_config_of_the_repository_loads_and_its_resolved_form_loads_to_the_same() {
    let all = list();
    assert!(all.iter().any(|listed| listed.name == "quickstart"));
    for listed in all {
        let loaded =
            Experiment::load(&listed.name, &[]).unwrap_or_else(|error| panic!("{}: {error}", listed.name));
        let document = loaded.resolved_toml();
        let file = listed.name.rsplit('/').next().unwrap();
        assert_mentions(&document, &[&format!("name = \"{file}\"")]);
        let again = folder(&[("again.toml", &document)]);
        let reloaded = Experiment::load(again.path().join("again.toml"), &[]);
        let reloaded = reloaded.unwrap_or_else(|error| panic!("{error}")).resolved_toml();
        let body = |document: &str| document.split_once('\n').expect("lines").1.to_owned();
        assert_eq!(body(&reloaded), body(&document), "{}", listed.name);
        assert!(!listed.summary.is_empty(), "{} opens with a comment that sums it up", listed.name);
    }
}

#[test]
fn defaults_are_torchvisions() {
    let config = load(SMALL, &[]).expect("a complete configuration").config;
    assert_eq!(config.run.name, "x");
    assert_eq!(config.detector.fpn_channels, 256);
    assert_eq!(
        (config.detector.rpn.pre_nms_top_n_train, config.detector.rpn.post_nms_top_n_test),
        (2000, 1000)
    );
    assert_eq!((config.detector.roi.batch_per_image, config.detector.roi.positive_fraction), (512, 0.25));
    assert_eq!((config.detector.retina.detections_per_image, config.detector.retina.focal_gamma), (300, 2.0));
    assert_eq!(
        (config.input.short_side_px.as_slice(), config.input.eval_short_side()),
        ([800].as_slice(), 800)
    );
    assert_eq!(config.normalization.mean, [0.485, 0.456, 0.406]);
    assert_eq!((config.student.network.width, config.student.network.norm), (None, NormKind::FrozenBn));
    assert_eq!(config.student.network.stem_channels(), 64);
    let mobilenet = load(SMALL, &["student.backbone=mobilenet_v2"]).expect("valid").config;
    assert_eq!(mobilenet.student.network.stem_channels(), 32);
    assert_eq!((config.run.optim.norm_decay(), config.run.optim.bias_decay()), (1e-4, 1e-4));
    assert_eq!(config.run.schedule.length(), Length::Steps(10));
}

#[test]
fn stages_freeze_by_default_only_where_there_are_weights_to_keep() {
    let frozen = |sets: &[&str]| load(SMALL, sets).expect("valid").config.student.frozen_stages();
    assert_eq!(frozen(&[]), 0);
    assert_eq!(frozen(&["student.init=r18.pth"]), 2);
    assert_eq!(frozen(&["student.init=r18.pth", "student.freeze_at=0"]), 0);
}

#[test]
fn every_key_is_explained() {
    let keys = Config::keys();
    for key in &keys {
        assert!(!key.documentation.is_empty() && !key.takes.is_empty(), "{key:?}");
    }
    let default =
        |path: &str| keys.iter().find(|key| key.path == path).and_then(|key| key.default.as_deref());
    assert_eq!(default("detector.rpn.nms_threshold"), Some("0.7"));
    assert_eq!(default("student.norm"), Some("\"frozen_bn\""));
    assert_eq!(default("distill.N.weight_inter"), Some("0.0"));
    assert_eq!(default("optim.lr"), None);
}
