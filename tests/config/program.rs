//! `ckd-det config` as it is typed.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::{SMALL, assert_mentions, folder};

fn ckd_det(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ckd-det"))
        .args(args)
        .current_dir(folder)
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[test]
fn config_show_prints_a_config_that_shows_the_same_again() {
    let here = folder(&[]);
    let args = ["config", "show", "coco_r101_r18.toml", "--set", "student.backbone=resnet34"];
    let shown = ckd_det(here.path(), &args);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    let document = text(&shown.stdout);
    assert_mentions(&document, &["# resolved from embedded:coco_r101_r18.toml", "backbone = \"resnet34\""]);
    fs::write(here.path().join("mine.toml"), &document).expect("a new file");
    let again = ckd_det(here.path(), &["config", "show", "mine"]);
    assert_eq!(
        text(&again.stdout).split_once('\n').expect("lines").1,
        document.split_once('\n').expect("lines").1
    );
}

#[test]
fn config_check_reports_every_wrong_file_and_exits_with_2() {
    let here = folder(&[("a.toml", "sead = 1\n"), ("b.toml", "[data]\nkind = \"cocoa\"\n")]);
    let checked = ckd_det(here.path(), &["config", "check", "a.toml", "quickstart", "b.toml"]);
    assert_eq!(checked.status.code(), Some(2));
    assert_mentions(&text(&checked.stdout), &["ok  quickstart (embedded:quickstart.toml)"]);
    assert_mentions(
        &text(&checked.stderr),
        &[
            "--> a.toml:1:1",
            "did you mean \"seed\"?",
            "did you mean \"coco\"?",
            "2 of 3 configurations cannot be used",
        ],
    );
    let all = ckd_det(here.path(), &["config", "check", "--all", "--quiet"]);
    assert_eq!((all.status.code(), text(&all.stdout).as_str()), (Some(0), ""), "{}", text(&all.stderr));
}

#[test]
fn a_file_in_configs_hides_the_embedded_one() {
    let here =
        folder(&[("configs/quickstart.toml", SMALL), ("configs/own.toml", &format!("# My own\n{SMALL}"))]);
    let listed = text(&ckd_det(here.path(), &["config", "list"]).stdout);
    assert_mentions(&listed, &["(configs/quickstart.toml)", "My own (configs/own.toml)"]);
    let from_files = listed.lines().filter(|line| line.ends_with(')') && line.contains("(configs/"));
    assert_eq!(from_files.count(), 2, "those of the program have no path: {listed}");
    let shown = ckd_det(here.path(), &["config", "show", "quickstart"]);
    assert_mentions(&text(&shown.stdout), &["# resolved from configs/quickstart.toml", "root = \"data\""]);
}
