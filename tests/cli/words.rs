//! Words of the program: configurations, keys and methods by name, help, completions.

use std::fs;

use super::text;
use crate::support::tiny::{Tiny, assert_ended, assert_mentions};

#[test]
fn configurations_and_keys_are_found_by_a_word() {
    let here = Tiny::empty();
    let lines = |args: &[&str]| -> Vec<String> {
        let output = here.run_program(args);
        assert_ended(&output, 0, &[]);
        text(&output).lines().map(str::to_owned).collect()
    };
    let (all, some) = (lines(&["config", "list"]), lines(&["config", "list", "MobileNet"]));
    assert!(!some.is_empty() && some.len() < all.len() / 4, "{} of {}", some.len(), all.len());
    let (listed, headings): (Vec<_>, Vec<_>) =
        some.iter().filter(|line| !line.is_empty()).partition(|line| line.starts_with("  "));
    assert!(listed.iter().all(|line| line.to_lowercase().contains("mobilenet")), "{some:?}");
    assert_eq!(headings, ["bccd", "cifar100", "coco", "imagenet"], "{some:?}");
    let (all, some) = (lines(&["config", "keys"]), lines(&["config", "keys", "milestones"]));
    assert!(!some.is_empty() && some.len() < all.len() / 20, "{} of {}", some.len(), all.len());
    assert!(some.iter().any(|line| line.starts_with("  milestones = []")), "{some:?}");
    let reference = lines(&["config", "keys", "--reference"]).join("\n");
    let written = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIGURATION.md")).unwrap();
    let advice = "docs/CONFIGURATION.md is stale: write `ckd-det config keys --reference` into it";
    assert!(written.trim_end() == reference.trim_end(), "{advice}");
    let section = lines(&["config", "keys", "detector.rpn"]);
    assert_eq!(section[0], "[detector.rpn]   # task = \"detect\"");
    assert!(section[1..].iter().all(|line| line.starts_with("  ")), "{section:?}");
    let methods = lines(&["config", "keys", "distill"]);
    assert!(methods.iter().any(|line| line.starts_with("[[distill]] method = \"review_kd\"")), "{methods:?}");
    assert_ended(
        &here.run_program(&["config", "list", "nosuchword"]),
        2,
        &["no configuration has \"nosuchword\""],
    );
    assert_ended(&here.run_program(&["config", "keys", "nosuchword"]), 2, &["no key has"]);
}

#[test]
fn a_key_is_explained_by_its_path_its_last_part_or_a_place_in_an_array() {
    let here = Tiny::empty();
    let explain = |key: &str| here.run_program(&["config", "explain", key]);
    assert_ended(
        &explain("optim.lr"),
        0,
        &[
            "optim.lr: a finite number",
            "default: required",
            "\"detect\", \"classify\", \"cohort\", \"pretrain\"",
            "below [optim]",
        ],
    );
    assert_ended(&explain("warmup_factor"), 0, &["schedule.warmup_factor: ", "default: 0.001"]);
    assert_ended(
        &explain("distill.0.negatives"),
        0,
        &["of method = \"ckd\"", "--set distill.0.negatives=VALUE", "below [[distill]]"],
    );
    assert_ended(&explain("detector"), 0, &["detector: a table", "its keys: ckd-det config keys detector"]);
    assert_ended(&explain("optim.lrr"), 2, &["there is no key \"optim.lrr\"", "did you mean \"optim.lr\"?"]);
}

#[test]
fn two_configurations_differ_in_the_keys_that_are_shown() {
    let here = Tiny::new();
    let diff = |args: &[&str]| here.run_program(&[&["config", "diff"], args].concat());
    assert_ended(&diff(&["plain.toml", "plain.toml"]), 0, &["no key differs"]);
    let set = diff(&["plain.toml", "plain.toml", "--set", "optim.lr=0.5", "--set", "train.spike_factor=4"]);
    assert_ended(&set, 0, &["optim.lr", "0.02", "0.5", "train.spike_factor  not given", "4.0"]);
    assert_eq!(text(&set).lines().count(), 3, "{}", text(&set));
    // The teacher's own training counts too.
    here.write("long.toml", &here.text("teacher.toml").replace("steps = 2", "steps = 9"));
    let other = diff(&["distilled.toml", "distilled.toml", "--set", "teacher.train=long.toml"]);
    assert_ended(&other, 0, &["teacher.train.schedule.steps", "teacher.train.name"]);
    assert_ended(&diff(&["plain.toml", "nowhere.toml"]), 2, &["there is no configuration \"nowhere.toml\""]);
}

#[test]
fn help_shows_examples_and_exit_codes() {
    let here = Tiny::empty();
    let help = here.run_program(&["--help"]);
    assert_ended(&help, 0, &[]);
    assert_mentions(
        &text(&help),
        &["Examples:", "Exit codes:", "130  interrupted", "--device <cpu|cuda[:N]>"],
    );
    let script = here.run_program(&["completions", "bash"]);
    assert_mentions(&text(&script), &["complete -F", "doctor"]);
}

#[test]
fn a_shell_completes_names_of_configurations_methods_and_keys() {
    let here = Tiny::empty();
    let script = |shell: &str| text(&here.run_program(&["completions", shell]));
    here.write("completed.bash", &script("bash"));
    let completed = |line: &[&str]| -> Vec<String> {
        let [.., before, word] = line else { panic!("a line has two words") };
        let ask = format!(
            "source completed.bash; COMP_WORDS=({}); COMP_CWORD={}; _ckd_det_completed ckd-det '{word}' '{before}'; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            line.join(" "),
            line.len() - 1
        );
        let mut bash = std::process::Command::new("bash");
        let output = bash.args(["--norc", "-c", &ask]).current_dir(here.path("")).output().expect("bash");
        text(&output).lines().map(str::to_owned).collect()
    };
    let names = completed(&["ckd-det", "train", "coco_r101_r1"]);
    assert!(names.contains(&"coco_r101_r18".to_owned()), "{names:?}");
    assert!(names.iter().all(|name| name.starts_with("coco_r101_r1")), "{names:?}");
    assert!(completed(&["ckd-det", "train", "--set", "optim.l"]).contains(&"optim.lr=".to_owned()));
    assert_eq!(completed(&["ckd-det", "methods", "review"]), ["review_kd"]);
    assert!(completed(&["ckd-det", "config", "explain", "train.pat"]).contains(&"train.patience".to_owned()));
    assert!(completed(&["ckd-det", "comp"]).contains(&"compare".to_owned()));
    let zsh = script("zsh");
    assert_mentions(&zsh, &["#compdef ckd-det", ":_ckd_det_configurations'", ":_ckd_det_assignments'"]);
    assert_mentions(&script("fish"), &["optim.lr=", "coco_r101_r18"]);
    script("powershell");
}
