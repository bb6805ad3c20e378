//! `train --teacher FILE` and `methods --for`: a trained network becomes a teacher without a line of configuration.

use crate::support::tiny::{Tiny, assert_ended};

const ONE_STEP: [&str; 2] = ["--set", "schedule.steps=1"];

/// A folder with the finished run of a wider network.
fn with_teacher() -> Tiny {
    let tiny = Tiny::new();
    tiny.train("teacher.toml", &["schedule.steps=1", "detector.roi.head_width=48"])
        .unwrap_or_else(|error| panic!("{error}"));
    tiny
}

#[test]
fn a_trained_network_teaches_a_student_whose_configuration_knows_nothing_of_it() {
    let tiny = with_teacher();
    let train = |args: &[&str]| tiny.run_program(&[&["train"], args, &ONE_STEP].concat());
    let other_anchors = ["--set", "detector.anchor_sizes=[[4.0], [8.0], [16.0], [32.0], [64.0]]"];
    let args = ["plain.toml", "--teacher", "runs/teacher", "--set", "name=taught"];
    let chosen = [
        "teacher.backbone=\"resnet18\"",
        "teacher.width=16",
        "teacher.head_width=48",
        "teacher.detector.anchor_sizes=[[8.0]",
        "[[distill]] { method = \"ckd\", at = \"roi_logits\" }",
        "[[distill]] { method = \"rcka\", at = \"fpn\", levels = [\"p2\", \"p3\", \"p4\", \"p5\"], patch = 2 }",
    ];
    assert_ended(&train(&[&args[..], &other_anchors].concat()), 0, &chosen);
    let written = tiny.text("runs/taught/config.toml");
    assert!(written.contains("[teacher]") && written.contains("method = \"rcka\""), "{written}");

    // A word of --method may stand for two; what the user sets goes over what is chosen.
    let args = [
        "plain.toml",
        "--teacher",
        "runs/teacher/best.safetensors",
        "--method",
        "review_ckd",
        "--set",
        "distill.1.weight=0.5",
    ];
    let chosen = ["{ method = \"ckd\"", "{ method = \"review_kd\""];
    assert_ended(&train(&args), 0, &chosen);
    assert!(tiny.text("runs/plain/config.toml").contains("weight = 0.5"));
}

#[test]
fn a_teacher_that_cannot_teach_is_refused_with_the_reason() {
    let tiny = with_teacher();
    let train = |args: &[&str]| tiny.run_program(&[&["train"], args, &ONE_STEP].concat());
    let refused: [(&[&str], i32, &[&str]); 5] = [
        (&["distilled.toml", "--teacher", "runs/teacher"], 2, &["distilled.toml has a teacher", "--set"]),
        (
            &["retina_plain.toml", "--teacher", "runs/teacher"],
            2,
            &["faster_rcnn", "retinanet", "region by region"],
        ),
        (&["plain.toml", "--teacher", "runs/nothing"], 3, &["there is no runs/nothing", "a finished run"]),
        (&["plain.toml", "--method", "ckd"], 2, &["--teacher"]),
        (&["plain.toml", "--teacher", "runs/teacher", "--method", "crd"], 2, &["crd does not fit"]),
    ];
    for (args, code, mentions) in refused {
        assert_ended(&train(args), code, mentions);
    }
}

#[test]
fn methods_are_listed_that_fit_a_teacher_and_a_student() {
    let tiny = with_teacher();
    let listed = tiny.run_program(&["methods", "--for", "runs/teacher", "plain.toml"]);
    let fit =
        ["ckd         { method = \"ckd\", at = \"roi_logits\" }", "crd         no: ", "fgd         { method"];
    assert_ended(&listed, 0, &fit);
    let listed = tiny.run_program(&["methods", "--json", "--for", "runs/teacher", "plain.toml"]);
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout).unwrap();
    for row in &rows {
        let reason = if row["fits"] == true { "entry" } else { "reason" };
        assert!(row[reason].as_str().is_some_and(|text| !text.contains('\n')), "{row}");
    }
    assert!(rows.len() > 15, "{}", rows.len());
}

#[test]
fn the_heads_and_boxes_of_one_stage_detectors_can_be_distilled() {
    let tiny = Tiny::new();
    for kind in ["retina", "fcos"] {
        tiny.train(&format!("{kind}_teacher.toml"), &["schedule.steps=1"]).unwrap();
        let (teacher, student) = (format!("runs/{kind}_teacher"), format!("{kind}_plain.toml"));
        let fit = ["cross_kd", "box_imitation", "tbr"]
            .map(|method| format!("{{ method = \"{method}\", at = \"anchor_boxes\" }}"));
        let listed = tiny.run_program(&["methods", "--for", &teacher, &student]);
        assert_ended(&listed, 0, &fit.each_ref().map(String::as_str));
    }
}
