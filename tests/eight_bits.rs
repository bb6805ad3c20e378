//! Teachers and students that compute in 8 bits: nearly the same, resumed bit for bit, or refused with what to do.

use std::fs;

use ckd_det::export::student::{Student, StudentError};
use image::RgbImage;
use serde_json::Value;

use crate::support::tiny::{Tiny, assert_ended, assert_same_run, copy_folder, log, metadata, tensors};

const ROUNDED: &str = "out/rounded.safetensors";

/// A trained student, exported with the ranges of its activations.
fn exported() -> Tiny {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &[]).unwrap_or_else(|error| panic!("{error}"));
    let export =
        ["export", "--out", ROUNDED, "--int8", "activations", "--images", "3", "--max-ap-loss", "100"];
    let told = ["compared on 3 images", "f32", "ranges of activations from 3 images of", "in 8 bits", "AP"];
    assert_ended(&tiny.run_program(&export), 0, &told);
    tiny
}

#[test]
fn a_student_that_was_exported_with_ranges_predicts_and_is_measured_in_8_bits() {
    let tiny = exported();
    let last = tiny.path("runs/plain/last.safetensors");
    assert_eq!(tensors(&tiny.path(ROUNDED)), tensors(&last), "the weights stay f32");
    assert!(metadata(&tiny.path(ROUNDED))["ckd_det.input_ranges"].contains("backbone.body.conv1"));
    let image = "data/val/000001.png";
    let results = |out: &str, flags: &[&str]| -> Vec<Value> {
        let predict = ["predict", "--weights", ROUNDED, "--no-pictures", "--json", out, image];
        assert_ended(&tiny.run_program(&[predict.as_slice(), flags].concat()), 0, &["objects"]);
        tiny.json(out).as_array().unwrap().clone()
    };
    let (exact, rounded) = (results("out/f32.json", &[]), results("out/int8.json", &["--int8"]));
    assert!(!exact.is_empty() && exact != rounded);
    let best = |results: &[Value]| results[0]["score"].as_f64().unwrap();
    assert!((best(&exact) - best(&rounded)).abs() < 0.05, "{} {}", best(&exact), best(&rounded));

    let student = || Student::open(tiny.path(ROUNDED)).unwrap();
    let pixels: RgbImage = image::open(tiny.path(image)).unwrap().to_rgb8();
    let objects = student().in_8_bits().unwrap().detect(&pixels).unwrap().len();
    assert_eq!(objects, rounded.len());
    assert_eq!(student().detect(&pixels).unwrap().len(), exact.len());

    let eval = ["eval", "--coco-val", "--weights", ROUNDED, "--json"];
    let ap = |flags: &[&str]| -> f64 {
        let output = tiny.run_program(&[eval.as_slice(), flags].concat());
        assert_ended(&output, 0, &[]);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["stats"][0].as_f64().unwrap()
    };
    assert!((ap(&[]) - ap(&["--int8"])).abs() < 0.1);
}

#[test]
fn what_has_no_ranges_is_told_how_to_get_them() {
    let tiny = exported();
    let last = "runs/plain/last.safetensors";
    let how = ["has no ranges of activations", "export --int8 activations --out FILE.safetensors"];
    for verb in [&["predict", "data/val/000001.png"][..], &["eval", "--coco-val"]] {
        assert_ended(&tiny.run_program(&[verb, &["--int8", "--weights", last]].concat()), 2, &how);
    }
    let error = Student::open(tiny.path(last)).unwrap().in_8_bits().unwrap_err();
    assert!(matches!(error, StudentError::NoRanges { .. }), "{error}");
    assert!(how.iter().all(|part| error.to_string().contains(part)), "{error}");
    let export = |options: &[&str]| {
        tiny.run_program(&[&["export", "--out", "out/none.safetensors"], options].concat())
    };
    assert_ended(&export(&["--int8"]), 2, &["--int8 is for ONNX"]);
    assert_ended(&export(&["--int8", "activations", "--images", "0"]), 2, &["needs --images"]);
    let loss = ["--int8", "activations", "--images", "2", "--max-ap-loss=-1000"];
    assert_ended(&export(&loss), 1, &["nothing was written", "in 8 bits loses"]);
    assert!(!tiny.path("out/none.safetensors").exists());
}

#[test]
fn damaged_ranges_are_an_error_that_names_the_file() {
    let tiny = exported();
    let file = fs::read(tiny.path(ROUNDED)).unwrap();
    let key = br#"\"backbone.body.conv1\":[-"#;
    let at =
        file.windows(key.len()).position(|window| window == key).expect("the stem sees negative numbers");
    let mut damaged = file.clone();
    damaged[at + key.len() - 1] = b'x';
    fs::write(tiny.path("out/damaged.safetensors"), damaged).unwrap();
    let output = tiny.run_program(&["eval", "--coco-val", "--int8", "--weights", "out/damaged.safetensors"]);
    assert_ended(&output, 1, &["out/damaged.safetensors", "damaged"]);
}

#[test]
fn a_teacher_in_8_bits_teaches_nearly_the_same_and_its_student_resumes_bit_for_bit() {
    const INT8: &str = "teacher.precision=int8";
    let (exact, whole, resumed) = (Tiny::new(), Tiny::new(), Tiny::new());
    exact.train("distilled.toml", &[]).unwrap_or_else(|error| panic!("{error}"));
    for folder in ["data", "runs"] {
        for other in [&whole, &resumed] {
            copy_folder(&exact.path(folder), &other.path(folder));
        }
    }
    for other in [&whole, &resumed] {
        fs::remove_dir_all(other.path("runs/distilled")).unwrap();
    }
    whole.train("distilled.toml", &[INT8]).unwrap_or_else(|error| panic!("{error}"));
    assert!(resumed.train_step_by_step("distilled.toml", &[INT8]) >= 3);
    assert_same_run(&whole.path("runs/distilled"), &resumed.path("runs/distilled"));

    let terms = |tiny: &Tiny| -> Vec<f64> {
        let first = log(&tiny.path("runs/distilled")).into_iter().find(|line| line.get("losses").is_some());
        let losses = first.unwrap()["losses"].clone();
        let distilled = |(name, loss): (&String, &Value)| name.contains('/').then(|| loss.as_f64().unwrap());
        losses.as_object().unwrap().iter().filter_map(distilled).collect()
    };
    let (exact, rounded) = (terms(&exact), terms(&whole));
    assert!(exact.len() >= 3 && exact != rounded, "{exact:?} {rounded:?}");
    for (exact, rounded) in exact.iter().zip(&rounded) {
        assert!((exact - rounded).abs() < 0.05 * exact.abs(), "{exact} {rounded}");
    }
}
