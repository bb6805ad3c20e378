//! The verb `bench` as a user types it: what it prints, and what it refuses.

use crate::support::tiny::{Tiny, assert_ended, assert_mentions, names};
use serde_json::Value;

/// The object that `bench ARGS --json` prints.
#[track_caller]
fn report(tiny: &Tiny, args: &[&str]) -> Value {
    let output = tiny.run_program(&[&["bench"], args, &["--classes", "3", "--json"]].concat());
    assert_ended(&output, 0, &[]);
    serde_json::from_slice(&output.stdout).expect("one JSON object and nothing else")
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value.as_f64().filter(|number| number.is_finite()).unwrap_or_else(|| panic!("no number: {value}"))
}

/// The numbers agree with each other.
#[track_caller]
fn assert_sane(report: &Value) {
    let ms = |key: &str| number(&report[key]);
    assert!(
        0.0 < ms("ms_min") && ms("ms_min") <= ms("ms_median") && ms("ms_median") <= ms("ms_max"),
        "{report}"
    );
    let images_per_s = number(&report["batch"]) * 1e3 / ms("ms_median");
    assert!((number(&report["images_per_s"]) / images_per_s - 1.0).abs() < 1e-9, "{report}");
    assert!(number(&report["gflop_per_image"]) > 0.0, "{report}");
    match &report["peak_rss_mib"] {
        Value::Null if cfg!(not(target_os = "linux")) => {}
        peak => assert!((5.0..10_000.0).contains(&number(peak)), "{report}"),
    }
    assert!(number(&report["threads"]) >= 1.0, "{report}");
    assert!(["scalar", "avx2", "avx512"].contains(&report["simd"].as_str().unwrap()), "{report}");
    assert_eq!(report["precision"], "f32");
}

#[test]
fn a_step_is_timed_whole_and_in_parts() {
    let tiny = Tiny::new();
    for config in ["distilled.toml", "retina_distilled.toml"] {
        let report = report(&tiny, &["step", config, "--steps", "3", "--warmup", "0"]);
        assert_sane(&report);
        let keys: Vec<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "config",
                "work",
                "batch",
                "size",
                "classes",
                "steps",
                "ms_median",
                "ms_min",
                "ms_max",
                "images_per_s",
                "parts_ms",
                "gflop_per_image",
                "peak_rss_mib",
                "threads",
                "simd",
                "precision"
            ]
        );
        assert_eq!(report["config"], config.trim_end_matches(".toml"));
        assert_eq!(report["size"], serde_json::json!([64, 64]), "the configuration's");
        assert_eq!([&report["batch"], &report["steps"]], [2, 3]);
        let parts = report["parts_ms"].as_object().unwrap();
        assert_eq!(parts.keys().collect::<Vec<_>>(), ["teacher", "student_forward", "backward_update"]);
        for part in parts.values() {
            assert!(0.0 < number(part) && number(part) < number(&report["ms_max"]), "{report}");
        }
    }
    assert!(!tiny.path("runs").exists() && !tiny.path("data").exists(), "nothing is written");
}

#[test]
fn without_a_teacher_the_student_alone_is_timed() {
    let tiny = Tiny::new();
    for (plain, distilled) in
        [("plain.toml", "distilled.toml"), ("retina_plain.toml", "retina_distilled.toml")]
    {
        let alone = report(&tiny, &["step", plain, "--steps", "1"]);
        assert_sane(&alone);
        assert_eq!(number(&alone["parts_ms"]["teacher"]), 0.0);
        let taught = report(&tiny, &["step", distilled, "--steps", "1"]);
        assert!(number(&taught["gflop_per_image"]) > number(&alone["gflop_per_image"]), "{taught}");
    }
}

#[test]
fn one_step_takes_as_long_as_its_parts() {
    let tiny = Tiny::new();
    let report = report(&tiny, &["step", "distilled.toml", "--steps", "1", "--warmup", "0"]);
    let parts = report["parts_ms"].as_object().unwrap();
    let sum: f64 = parts.values().map(number).sum();
    // Each is rounded down to the microsecond.
    assert!((sum - number(&report["ms_median"])).abs() <= 0.003 + 1e-9, "{report}");
    assert_eq!([&report["ms_min"], &report["ms_max"]], [&report["ms_median"]; 2]);
}

#[test]
fn a_step_with_negatives_from_all_parts_has_the_pass_that_finds_their_rows() {
    let tiny = Tiny::new();
    let bench = ["step", "distilled.toml", "--steps", "1", "--warmup", "0", "--set", "train.accumulate=3"];
    let own = report(&tiny, &bench);
    let all = report(&tiny, &[&bench[..], &["--set", "distill.0.negatives_from=update"]].concat());
    assert!(own["negatives_of_parts"].is_null(), "{own}");
    assert_eq!(all["negatives_of_parts"], 3);
    // Both networks run forward twice.
    let ratio = number(&all["gflop_per_image"]) / number(&own["gflop_per_image"]);
    assert!((ratio - 2.0).abs() < 1e-6, "{ratio}");
}

#[test]
fn inference_is_timed_of_the_student_and_of_the_teacher() {
    let tiny = Tiny::new();
    let args = ["distilled.toml", "--steps", "2", "--set", "train.batch_size=1", "--size", "50x70"];
    let student = report(&tiny, &[&["forward"], args.as_slice()].concat());
    let teacher = report(&tiny, &[&["forward", "--teacher"], args.as_slice()].concat());
    for report in [&student, &teacher] {
        assert_sane(report);
        assert_eq!([&report["batch"], &report["size"][0], &report["size"][1]], [1, 50, 70]);
        assert!(report.get("parts_ms").is_none());
    }
    assert_eq!([&student["work"], &teacher["work"]], ["student's inference", "teacher's pyramid"]);
    let output = tiny.run_program(&["bench", "forward", "plain.toml", "--teacher"]);
    assert_ended(&output, 2, &["plain.toml has no teacher"]);
}

#[test]
fn the_configurations_of_coco_need_neither_data_nor_weights() {
    let tiny = Tiny::new();
    let empty = tempfile::tempdir().expect("a temporary folder");
    for config in ["coco_r101_r18", "coco_retinanet_r101_r18"] {
        let narrow = ["teacher.width=8", "student.width=8", "detector.fpn_channels=16", "train.batch_size=1"];
        let sets = narrow.iter().flat_map(|set| ["--set", *set]);
        let args: Vec<&str> =
            ["bench", "step", config, "--size", "64x96", "--steps", "1"].into_iter().collect();
        let args: Vec<&str> = args.into_iter().chain(sets).collect();
        let output = tiny.program(&args).current_dir(&empty).output().unwrap();
        assert_ended(&output, 0, &[config, "64x96 pixels, 90 classes", "backward, update", "images/s"]);
    }
    assert!(names(empty.path()).is_empty(), "nothing was made");
}

#[test]
fn bad_flags_are_refused_with_what_would_be_right() {
    let tiny = Tiny::new();
    for size in ["64", "64x", "x64", "0x64", "64x0", "-64x64", "64x64x3", "64*64", "1e3x64", "64x99999", ""] {
        let output = tiny.run_program(&["bench", "step", "plain.toml", &format!("--size={size}")]);
        assert_ended(&output, 2, &["--size <HxW>", "for example 800x1344"]);
    }
    for (flag, value) in
        [("--steps", "0"), ("--steps", "-1"), ("--warmup", "x"), ("--classes", "0"), ("--classes", "70000")]
    {
        let output = tiny.run_program(&["bench", "step", "plain.toml", &format!("{flag}={value}")]);
        assert_ended(&output, 2, &[flag]);
    }
    assert_ended(&tiny.run_program(&["bench", "step", "plain.toml", "--teacher"]), 2, &["--teacher"]);
    assert_ended(&tiny.run_program(&["bench", "step"]), 2, &["CONFIG"]);
    assert_ended(&tiny.run_program(&["bench", "step", "plian.toml"]), 2, &["no configuration"]);
    let output = tiny.run_program(&["bench", "step", "plain.toml", "--set", "train.batch_size=0"]);
    assert_ended(&output, 2, &["train.batch_size"]);
    for batch in ["4294967295", "1000000000000000"] {
        let batch = format!("train.batch_size={batch}");
        let output =
            tiny.run_program(&["bench", "step", "plain.toml", "--size", "4096x4096", "--set", &batch]);
        assert_ended(&output, 2, &["4096x4096 pixels is too large"]);
    }
}

#[test]
fn the_help_has_examples() {
    let tiny = Tiny::new();
    for verb in ["step", "forward"] {
        let output = tiny.run_program(&["bench", verb, "--help"]);
        assert_ended(&output, 0, &[]);
        let example = format!("ckd-det bench {verb} coco_r101_r18 --set train.batch_size=1");
        assert_mentions(&String::from_utf8_lossy(&output.stdout), &["Examples:", &example]);
    }
}

#[test]
fn a_step_is_recorded_operation_by_operation() {
    let tiny = Tiny::new();
    let output = tiny.run_program(&[
        "bench",
        "step",
        "distilled.toml",
        "--steps",
        "1",
        "--classes",
        "3",
        "--trace",
        "step.json",
    ]);
    assert_ended(&output, 0, &[]);
    let text = std::fs::read_to_string(tiny.path("step.json")).unwrap();
    let trace: Value = serde_json::from_str(&text).unwrap();
    let events: Vec<&Value> =
        trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X").collect();
    let named = |name: &str| {
        let found: Vec<_> = events.iter().filter(|event| event["name"] == name).collect();
        assert_eq!(found.len(), 1, "{name}");
        let [begin, took] = ["ts", "dur"].map(|key| number(&found[0][key]));
        (begin, begin + took)
    };
    let (pyramid, gradients) = (named("student's pyramid"), named("gradients"));
    assert!(pyramid.1 <= gradients.0, "the forward pass ends before the gradients begin");
    let within = |(begin, end): (f64, f64)| {
        let inside = |event: &&&Value| begin <= number(&event["ts"]) && number(&event["ts"]) < end;
        events
            .iter()
            .filter(inside)
            .filter(|event| event["name"].as_str().unwrap().starts_with("conv::"))
            .count()
    };
    assert!(within(pyramid) >= 20, "the convolutions of a ResNet-18 and its pyramid: {}", within(pyramid));
    assert!(within(gradients) >= 20, "their gradients: {}", within(gradients));
}

#[test]
fn the_loader_is_timed_without_weights_or_teacher() {
    let tiny = Tiny::new();
    let output = tiny.run_program(&[
        "bench",
        "loader",
        "distilled.toml",
        "--batches",
        "5",
        "--set",
        "student.init=\"none\"",
        "--json",
    ]);
    assert_ended(&output, 0, &[]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!([&report["config"], &report["images"]], [&Value::from("distilled"), &Value::from(10)]);
    assert!(number(&report["images_per_s"]) > 0.0 && number(&report["workers"]) >= 1.0);
    assert!(cfg!(not(unix)) || number(&report["processor_ms_per_image"]) > 0.0, "{report}");
}
