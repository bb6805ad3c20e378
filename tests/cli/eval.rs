//! `ckd-det eval` and `export`: a detector however it is named, results files, classes that differ.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{stats, text, trained};
use crate::support::tiny::{Tiny, assert_ended, metadata, tensors};

#[test]
fn eval_finds_the_numbers_of_training_again_however_the_detector_is_named() {
    let tiny = trained();
    let expected = tiny.json("runs/distilled/outcome.json")["row"]["stats"].clone();
    let eval = |args: &[&str]| {
        stats(&tiny.run_program(&[["eval", "--coco-val", "--json"].as_slice(), args].concat()))
    };
    assert_eq!(eval(&[]), expected, "the latest run");
    assert_eq!(eval(&["--run", "runs/distilled"]), expected);
    assert_eq!(eval(&["--weights", "runs/distilled/last.safetensors"]), expected);
    assert_ended(&tiny.run_program(&["export", "--out", "student.safetensors"]), 0, &["student.safetensors"]);
    assert_eq!(eval(&["--weights", "student.safetensors"]), expected);
    assert_eq!(eval(&["--data-root", "data", "--weights", "student.safetensors"]), expected);
    let alone = tiny.json("runs/distilled/alone/outcome.json")["row"]["stats"].clone();
    assert_eq!(eval(&["--run", "runs/distilled/alone"]), alone);

    for eval in [&["eval"][..], &["eval", "--coco-val"]] {
        let output = tiny.run_program(eval);
        assert_ended(
            &output,
            0,
            &["runs/distilled/last.safetensors on 4 images", "AP by class:", "ms an image"],
        );
    }
    let output = tiny.run_program(&["eval", "--coco-val", "--max-images", "2"]);
    assert_ended(&output, 0, &["on 2 images"]);
    assert_ended(&tiny.run_program(&["eval", "--coco-val", "--max-images", "0"]), 2, &["--max-images"]);
    let lines = text(&tiny.run_program(&["eval", "--coco-val", "--summary", "pycocotools"]));
    assert!(lines.starts_with(" Average Precision  (AP)") && lines.lines().count() == 12, "{lines}");
}

#[test]
fn saved_detections_score_as_the_detector_did() {
    let tiny = trained();
    let output =
        tiny.run_program(&["eval", "--run", "runs/distilled", "--json", "--save", "out/results.json"]);
    let truth = "data/annotations/instances_val.json";
    let scored = tiny.run_program(&["eval", "--gt", truth, "--dt", "out/results.json", "--json"]);
    assert_eq!(stats(&scored), stats(&output));
    let output = tiny.run_program(&["eval", "--gt", truth, "--dt", "out/results.json"]);
    assert_ended(&output, 0, &["Average Precision"]);
    let output = tiny.run_program(&["eval", "--gt", "out/results.json", "--dt", truth]);
    assert_ended(&output, 1, &["out/results.json is not a COCO annotation file"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr).matches("expected an object").count(), 1, "said once");
    let both = ["eval", "--gt", truth, "--dt", "out/results.json", "--save", "again.json"];
    assert_ended(&tiny.run_program(&both), 2, &["--save", "--gt"]);
}

#[test]
fn the_summary_of_a_results_file_is_pycocotools_to_the_byte() {
    let tiny = Tiny::empty();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/coco_eval");
    let text = |name: &str| fs::read_to_string(golden.join(name)).unwrap();
    let cases: Value = serde_json::from_str(&text("cases.json")).unwrap();
    let crowded = cases.as_array().unwrap().iter().find(|case| case["name"] == "a crowded scene").unwrap();
    for (name, content) in [
        ("fakebbox54", [text("fakebbox54_gt.json"), text("fakebbox54_results.json")]),
        ("crowded", [crowded["gt"].to_string(), crowded["results"].to_string()]),
    ] {
        tiny.write("gt.json", &content[0]);
        tiny.write("dt.json", &content[1]);
        let eval = ["eval", "--gt", "gt.json", "--dt", "dt.json", "--summary", "pycocotools"];
        let output = tiny.run_program(&eval);
        assert_ended(&output, 0, &[]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), text(&format!("{name}_summary.txt")), "{name}");
        assert_ended(&tiny.run_program(&[&eval[..], &["--max-dets", "5"]].concat()), 2, &["--max-dets"]);
    }
}

#[test]
fn eval_on_data_of_other_classes_is_refused() {
    let tiny = trained();
    let synth =
        ["data", "synth", "--out", "other", "--images-train", "1", "--images-val", "2", "--size", "64"];
    assert_ended(&tiny.run_program(&[synth.as_slice(), &["--classes", "2"]].concat()), 0, &[]);
    // The weights' own data is drawn; ask for the other as any COCO data.
    tiny.write(
        "coco.toml",
        "extends = \"base.toml\"\n[data]\nkind = \"coco\"\nroot = \"other\"\ntrain_images = \"train\"\n\
         train_annotations = \"annotations/instances_train.json\"\nval_images = \"val\"\n\
         val_annotations = \"annotations/instances_val.json\"\n",
    );
    let base = tiny.text("base.toml");
    let (data, synth) = (base.find("[data.synth]").unwrap(), base.find("[student]").unwrap());
    tiny.write("base.toml", &[&base[..data], &base[synth..]].concat());
    let weights = ["--weights", "runs/distilled/last.safetensors", "--config", "coco.toml"];
    let output = tiny.run_program(&[["eval", "--coco-val"].as_slice(), &weights].concat());
    assert_ended(
        &output,
        2,
        &["3 classes (", "2 classes (", "other/annotations/instances_val.json", "class 3"],
    );
}

#[test]
fn without_a_finished_run_eval_says_what_to_name() {
    let tiny = Tiny::new();
    assert_ended(&tiny.run_program(&["eval", "--coco-val"]), 3, &["no finished run", "--run", "--weights"]);
    fs::create_dir_all(tiny.path("runs/half")).unwrap();
    let output = tiny.run_program(&["eval", "--coco-val", "--run", "runs/half"]);
    assert_ended(&output, 3, &["runs/half/last.safetensors", "no finished run", "--resume"]);
    let output = tiny.run_program(&["eval", "--coco-val", "--weights", "none.safetensors"]);
    assert_ended(&output, 3, &["none.safetensors"]);
    assert_ended(&tiny.run_program(&["eval"]), 3, &["no finished run", "--run", "--weights"]);
}

#[test]
fn weights_that_say_nothing_of_themselves_need_the_experiments_name() {
    let tiny = trained();
    let output = tiny.run_program(&["eval", "--coco-val", "--json"]);
    write_without_header(&tiny.path("runs/distilled/last.safetensors"), &tiny.path("bare.safetensors"));
    let bare = ["eval", "--coco-val", "--json", "--weights", "bare.safetensors"];
    assert_ended(&tiny.run_program(&bare), 1, &["bare.safetensors", "does not say", "--config"]);
    let named = tiny.run_program(&[bare.as_slice(), &["--config", "plain.toml"]].concat());
    assert_eq!(stats(&named), stats(&output));
    let output =
        tiny.run_program(&["predict", "x.png", "--weights", "bare.safetensors", "--config", "plain.toml"]);
    assert_ended(&output, 2, &["do not name their classes"]);
}

/// The tensors of a weights file alone, as another program would write them.
fn write_without_header(from: &Path, to: &Path) {
    let tensors = tensors(from);
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name.as_str(), view.expect("f32"))
    });
    fs::write(to, safetensors::serialize(views, None).expect("tensors")).expect("a new file");
}

#[test]
fn an_export_is_the_student_with_all_that_another_program_needs() {
    let tiny = trained();
    let export = ["export", "--run", "runs/distilled", "--out", "out/student.safetensors"];
    assert_ended(&tiny.run_program(&export), 0, &["out/student.safetensors", "3 classes"]);
    let (exported, run) =
        (tiny.path("out/student.safetensors"), tiny.path("runs/distilled/last.safetensors"));
    assert_eq!(tensors(&exported), tensors(&run));
    assert!(
        tensors(&exported)
            .keys()
            .all(|name| { ["backbone.", "rpn.", "roi_heads."].iter().any(|part| name.starts_with(part)) })
    );
    let header = metadata(&exported);
    let entry = |key: &str| -> Value { serde_json::from_str(&header[key]).unwrap() };
    assert_eq!(header["format"], "pt");
    let categories = tiny.json("data/annotations/instances_val.json")["categories"].clone();
    for (ours, theirs) in
        entry("ckd_det.categories").as_array().unwrap().iter().zip(categories.as_array().unwrap())
    {
        assert_eq!((&ours["id"], &ours["name"]), (&theirs["id"], &theirs["name"]));
    }
    let input = entry("ckd_det.input");
    assert_eq!((input["short_side_px"].as_u64(), input["long_side_px"].as_u64()), (Some(64), Some(64)));
    assert_eq!(input["channels"], "RGB");
    let mean: Vec<f64> = serde_json::from_value(input["mean"].clone()).unwrap();
    assert!((mean[0] - 0.485).abs() < 1e-6 && input["std"].as_array().map(Vec::len) == Some(3));
    let config = &header["ckd_det.config"];
    assert!(!config.contains("[teacher]") && !config.contains("[[distill]]"), "{config}");
    let hash = blake3::hash(&fs::read(&run).unwrap()).to_hex().to_string();
    assert_eq!(entry("ckd_det.provenance")["exported_from_blake3"], hash.as_str());
}
