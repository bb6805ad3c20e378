//! `ckd-det train`: what is missing, what ends a run and with which exit code, what is printed and kept.

use std::fs;

use serde_json::Value;

use super::{stats, text};
use crate::support::real;
use crate::support::tiny::{Tiny, assert_ended, metadata, names, tensors};

#[test]
fn without_coco_and_weights_everything_missing_is_named_before_anything_is_loaded() {
    let tiny = Tiny::new();
    let empty = tempfile::tempdir().expect("a temporary folder");
    let output = tiny.program(&["train", "coco_r101_r18.toml"]).current_dir(&empty).output().unwrap();
    let here = |path: &str| empty.path().canonicalize().unwrap().join(path).display().to_string();
    assert_ended(
        &output,
        3,
        &[
            "training images: data/coco/train2017",
            "validation annotations: data/coco/annotations/instances_val2017.json",
            &here("data/coco"),
            "https://cocodataset.org/#download",
            "--set data.root=FOLDER",
            "teacher.weights = \"weights/faster_rcnn_r101_fpn.pth\"",
            &here("weights/faster_rcnn_r101_fpn.pth"),
            "--set teacher.train=EXPERIMENT.toml",
            "student.init = \"weights/resnet18.pth\"",
            "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        ],
    );
    assert!(output.stdout.is_empty());
    assert!(names(empty.path()).is_empty(), "nothing was made");
}

#[test]
fn where_only_weights_are_missing_only_weights_are_named() {
    let tiny = Tiny::new();
    for path in ["train2017", "val2017", "annotations"] {
        fs::create_dir_all(tiny.path("coco").join(path)).unwrap();
    }
    // Not even JSON: they would be an error as soon as they are read.
    tiny.write("coco/annotations/instances_train2017.json", "-");
    tiny.write("coco/annotations/instances_val2017.json", "-");
    let output = tiny.run_program(&["train", "coco_r101_r18.toml", "--set", "data.root=coco"]);
    assert_ended(&output, 3, &["teacher.weights", "student.init"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("data that"));
}

#[test]
fn an_unknown_configuration_or_key_is_bad_usage() {
    let tiny = Tiny::new();
    let output = tiny.run_program(&["train", "coco_r101_r81.toml"]);
    assert_ended(&output, 2, &["no configuration", "did you mean \"coco_r101_r18\""]);
    let output = tiny.run_program(&["train", "plain.toml", "--set", "optim.lerning_rate=1"]);
    assert_ended(&output, 2, &["unknown key \"lerning_rate\"", "--set"]);
    assert!(!tiny.path("runs").exists());
}

#[test]
fn a_loss_that_is_not_finite_ends_with_4() {
    let tiny = Tiny::new();
    let sets = ["--set", "optim.lr=1e30", "--set", "schedule.warmup_steps=0"];
    let output = tiny.run_program(&[["train", "plain.toml"].as_slice(), &sets].concat());
    assert_ended(&output, 4, &["error: after step ", "loss_", "optim.lr"]);
}

#[test]
fn a_teacher_of_other_classes_and_a_foreign_checkpoint_end_with_2() {
    let tiny = Tiny::new();
    assert_ended(&tiny.run_program(&["train", "teacher.toml", "--set", "data.synth.classes=2"]), 0, &[]);
    fs::rename(tiny.path("data"), tiny.path("data2")).unwrap();
    let weights = "teacher.weights=runs/teacher/last.safetensors";
    let output = tiny.run_program(&["train", "distilled.toml", "--set", weights]);
    assert_ended(&output, 2, &["2 classes", "3 classes", "runs/teacher/last.safetensors"]);
    let sets = ["--set", "data.root=data2", "--set", "data.synth.classes=2", "--set", "schedule.steps=3"];
    let output = tiny.run_program(&[["train", "teacher.toml", "--resume"].as_slice(), &sets].concat());
    assert_ended(&output, 2, &["data.root: was \"data\", now \"data2\"", "schedule.steps: was 2, now 3"]);
}

#[test]
fn an_earlier_run_is_kept_and_the_user_is_told() {
    let tiny = Tiny::new();
    let train = ["train", "plain.toml", "--set", "schedule.steps=1"];
    assert_ended(&tiny.run_program(&train), 0, &["everything is in runs/plain"]);
    assert_ended(&tiny.run_program(&train), 0, &["the earlier run is kept as runs/plain.1"]);
}

#[test]
fn quiet_prints_the_result_and_nothing_else() {
    let tiny = Tiny::new();
    let train = ["train", "plain.toml", "--quiet", "--set", "schedule.steps=1"];
    for _ in 0..2 {
        let output = tiny.run_program(&train);
        assert_ended(&output, 0, &[]);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let lines: Vec<String> = text(&output).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("AP ") && lines[1].starts_with("everything is in"), "{lines:?}");
    }
}

#[test]
fn paths_beside_the_configuration_are_found_again_from_elsewhere() {
    let tiny = Tiny::new();
    let synth = ["data", "synth", "--out", "set", "--images-train", "4", "--images-val", "2", "--size", "64"];
    assert_ended(&tiny.run_program(&[synth.as_slice(), &["--classes", "3"]].concat()), 0, &[]);
    let base = tiny.text("base.toml");
    let (data, student) = (base.find("[data]").unwrap(), base.find("[student]").unwrap());
    let coco = "[data]\nkind = \"coco\"\nroot = \"set\"\ntrain_images = \"train\"\nval_images = \"val\"\n\
                train_annotations = \"annotations/instances_train.json\"\n\
                val_annotations = \"annotations/instances_val.json\"\n\n";
    tiny.write("coco.toml", &[&base[..data], coco, &base[student..]].concat());
    let elsewhere = tempfile::tempdir().unwrap();
    let config = tiny.path("coco.toml").display().to_string();
    let run = |args: &[&str]| tiny.program(args).current_dir(&elsewhere).output().unwrap();
    assert_ended(&run(&["train", &config, "--set", "schedule.steps=1"]), 0, &["AP "]);
    let evaluated = run(&["eval", "--coco-val", "--json"]);
    let outcome = fs::read(elsewhere.path().join("runs/coco/outcome.json")).unwrap();
    let outcome: Value = serde_json::from_slice(&outcome).unwrap();
    assert_eq!(stats(&evaluated), outcome["row"]["stats"]);
    fs::rename(tiny.path("set"), elsewhere.path().join("moved")).unwrap();
    assert_ended(&run(&["eval", "--coco-val"]), 3, &["validation images", "--data-root"]);
    assert_eq!(
        stats(&run(&["eval", "--coco-val", "--json", "--data-root", "moved"])),
        outcome["row"]["stats"]
    );
}

#[test]
#[ignore = "needs CKD_DET_DATA"]
fn genuine_coco_images_go_through_training_and_evaluation() {
    let tiny = Tiny::new();
    let root = format!("data.root={}", real::unpacked("coco_mini", &tiny.path(".")).display());
    let mut args = vec!["train", "coco_mini.toml", "--set", &root];
    for set in [
        "teacher.width=8",
        "student.width=8",
        "detector.fpn_channels=16",
        "detector.roi.head_width=32",
        "input.short_side_px=[200]",
        "input.eval_short_side_px=200",
        "input.long_side_px=333",
        "schedule.steps=2",
        "eval.max_images=3",
        "distill.1.patch=4",
    ] {
        args.extend(["--set", set]);
    }
    let output = tiny.run_program(&args);
    assert_ended(&output, 0, &["AP "]);
    let outcome = tiny.json("runs/coco_mini/outcome.json");
    assert_eq!(outcome["per_class"].as_array().map(Vec::len), Some(80));
    let classes =
        &tensors(&tiny.path("runs/coco_mini/last.safetensors"))["roi_heads.box_predictor.cls_score.weight"];
    assert_eq!(classes.0, [81, 32]);
    let header = metadata(&tiny.path("runs/coco_mini/last.safetensors"));
    let categories: Value = serde_json::from_str(&header["ckd_det.categories"]).unwrap();
    let ids: Vec<u64> = categories.as_array().unwrap().iter().filter_map(|c| c["id"].as_u64()).collect();
    assert_eq!((ids.len(), ids[0], ids[11], ids[79]), (80, 1, 13, 90), "COCO's ids with their gaps");
    assert_eq!(stats(&tiny.run_program(&["eval", "--coco-val", "--json"])), outcome["row"]["stats"]);
    let saved = ["eval", "--coco-val", "--max-images", "1", "--save", "detections.json"];
    assert_ended(&tiny.run_program(&saved), 0, &["on 1 images"]);
    for detection in tiny.json("detections.json").as_array().unwrap() {
        assert!(ids.contains(&detection["category_id"].as_u64().unwrap()));
    }
}
