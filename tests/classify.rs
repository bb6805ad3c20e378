//! Image classification as a user meets it: training, resuming, distilling, probing, measuring, comparing.

use std::fs;
use std::path::Path;
#[cfg(target_os = "linux")]
use std::process::Stdio;

use crate::support::colours;
#[cfg(target_os = "linux")]
use crate::support::cores::{assert_disjoint, shares_of};
use crate::support::mpi::assert_jobs_are_one_process;
use crate::support::real;
use crate::support::tiny::{
    Folder, assert_ended, assert_mentions, assert_same_run, assert_same_tensors, log, names, tensors,
};
use crate::support::torch_file::TorchFile;
use candle_core::{Device, Tensor};
use ckd_det::config::{ClassifyConfig, Config, Document, Experiment};
use ckd_det::engine::EngineError;
use ckd_det::engine::classify::{ClassifierCard, learned_from};
use ckd_det::engine::experiment::Finding;
use ckd_det::export::onnx::OnnxModel;
use ckd_det::weights::WeightsFile;
use ckd_det::weights::file::write_safetensors;

pub(crate) const BASE: &str = r#"
task = "classify"
seed = 3

[data]
kind = "cifar10"
root = "data"

[student]
network = "resnet8"

[optim]
lr = 0.05

[schedule]
epochs = 3
kind = "cosine"
warmup_steps = 2

[train]
batch_size = 8
log_every = 1
share_steps = 0
eval_every = 1

[eval]
batch_size = 7
"#;

pub(crate) const DISTILLED: &str = r#"
extends = "base.toml"

[teacher]
network = "resnet14"
train = "teacher.toml"

[[distill]]
method = "ckd"
at = "logits"
weight = 2.0
"#;

/// Keys that train the teacher of `distilled.toml` in four parts.
const TEACHER_IN_PARTS: &str = r#"
extends = "base.toml"

[student]
network = "resnet14"

[schedule]
epochs = 1

[train]
accumulate = 4
"#;

/// A folder with the coloured images and configurations.
type Small = Folder<ClassifyConfig>;

impl Small {
    fn new() -> Self {
        let small = Self::empty();
        colours::write(&small.path("data"));
        small.write("base.toml", BASE);
        small.write("plain.toml", "extends = \"base.toml\"\n");
        small.write(
            "teacher.toml",
            "extends = \"base.toml\"\n[student]\nnetwork = \"resnet14\"\n[schedule]\nepochs = 1\n",
        );
        small.write("distilled.toml", DISTILLED);
        small
    }
}

#[test]
fn resumed_equals_uninterrupted_across_epochs_with_accumulation_and_augmentation() {
    let sets = [
        "train.accumulate=2",
        "input.auto_augment=cifar10",
        "input.jitter=[0.4, 0.4, 0.4]",
        "label_smoothing=0.1",
        "optim.nesterov=true",
    ];
    let (whole, resumed) = (Small::new(), Small::new());
    whole.train("plain.toml", &sets).unwrap();
    assert!(resumed.train_step_by_step("plain.toml", &sets) >= 3);
    assert_same_run(&whole.path("runs/plain"), &resumed.path("runs/plain"));
}

#[test]
fn four_processes_are_one_that_accumulates_four_batches_with_a_teacher() {
    let sets = [
        "train.accumulate=4",
        "train.batch_size=4",
        "train.compare_alone=true",
        "schedule.epochs=2",
        "distill.0.negatives_from=update",
    ];
    let (alone, shared) = (Small::new(), Small::new());
    alone.write("teacher.toml", TEACHER_IN_PARTS);
    shared.write("teacher.toml", TEACHER_IN_PARTS);
    alone.train("distilled.toml", &sets).unwrap();
    shared.train_on(4, "distilled.toml", &sets).unwrap();
    for run in ["runs/teacher", "runs/distilled/alone", "runs/distilled"] {
        assert_same_run(&alone.path(run), &shared.path(run));
    }
}

/// The statistics of all parts are those of a batch of all images.
#[test]
fn with_synchronised_norms_several_processes_train_as_one_with_the_whole_batch() {
    let (whole, shared) = (Small::new(), Small::new());
    let sets = ["schedule.epochs=1", "train.eval_every=1", "optim.lr=0.01"];
    whole.train("plain.toml", &sets).unwrap();
    let parts = ["train.sync_bn=true", "train.accumulate=2", "train.batch_size=4"];
    shared.train_on(2, "plain.toml", &[&sets[..], &parts].concat()).unwrap();
    let losses = |small: &Small| -> Vec<f64> {
        let lines = log(&small.path("runs/plain"));
        lines.iter().filter_map(|line| line["losses"]["loss_classifier"].as_f64()).collect()
    };
    let (one, two) = (losses(&whole), losses(&shared));
    // Later learning rates differ: the last batch of an epoch of 28 images is a half one, or none.
    for (one, two) in one.iter().zip(&two).take(2) {
        assert!((one - two).abs() < 1e-5 * one.abs(), "{one} {two}");
    }
    assert!(one.len() > 2 && two.len() > 2, "{one:?} {two:?}");
    // Norms of parts of their own go another way.
    let apart = Small::new();
    apart.train_on(2, "plain.toml", &[&sets[..], &parts[1..]].concat()).unwrap();
    assert!((losses(&apart)[0] - one[0]).abs() > 1e-3 * one[0].abs());
}

/// With the statistics of all parts and the negatives of all parts, nothing tells two parts from one batch of both.
#[test]
fn with_negatives_from_the_update_two_processes_distil_as_one_with_the_whole_batch() {
    const TAUGHT: &str = r#"
extends = "base.toml"

[teacher]
network = "resnet14"
weights = "teacher.safetensors"

[[distill]]
method = "ckd"
at = "logits"
weight = 2.0
negatives_from = "update"

[[distill]]
method = "icd"
at = "embedding"
width = 8
negatives_from = "update"
"#;
    let (whole, shared, apart) = (Small::new(), Small::new(), Small::new());
    whole.train("teacher.toml", &[]).unwrap();
    for small in [&whole, &shared, &apart] {
        fs::copy(whole.path("runs/teacher/last.safetensors"), small.path("teacher.safetensors")).unwrap();
        small.write("taught.toml", TAUGHT);
    }
    let sets = ["schedule.epochs=1", "optim.lr=0.01"];
    whole.train("taught.toml", &sets).unwrap();
    let parts = [&sets[..], &["train.sync_bn=true", "train.accumulate=2", "train.batch_size=4"]].concat();
    shared.train_on(2, "taught.toml", &parts).unwrap();
    let within = ["distill.0.negatives_from=part", "distill.1.negatives_from=part"];
    apart.train_on(2, "taught.toml", &[&parts[..], &within].concat()).unwrap();
    let losses = |small: &Small, term: &str| -> Vec<f64> {
        let lines = log(&small.path("runs/taught"));
        lines.iter().filter_map(|line| line["losses"][term].as_f64()).collect()
    };
    for term in ["loss_classifier", "ckd/logits", "icd/embedding/contrast", "icd/embedding/invariance"] {
        let (one, two) = (losses(&whole, term), losses(&shared, term));
        assert!(one.len() > 2 && two.len() > 2, "{term}: {one:?} {two:?}");
        // Later learning rates differ: the last batch of an epoch of 28 images is a half one, or none.
        for (one, two) in one.iter().zip(&two).take(2) {
            assert!((one - two).abs() < 2e-5 * one.abs().max(0.1), "{term}: {one} {two}");
        }
    }
    // Half as many rows have a lower level of chance: ln 4 instead of ln 8, times the weight.
    let chance = losses(&whole, "ckd/logits")[0] - losses(&apart, "ckd/logits")[0];
    assert!((chance - 2.0 * 2f64.ln()).abs() < 0.3, "{chance}");
}

#[test]
fn synchronised_norms_need_a_process_for_each_part() {
    let error = Small::new().train("plain.toml", &["train.sync_bn=true", "train.accumulate=2"]).unwrap_err();
    assert_mentions(&error.to_string(), &["each part needs a process: start 2", "train.accumulate to 1"]);
    let sets = ["train.sync_bn=true", "train.accumulate=4"];
    let error = Small::new().train_on(2, "plain.toml", &sets).unwrap_err();
    assert_mentions(&error, &["start 4 of them", "train.accumulate to 2"]);
    let error = Small::new().load("plain.toml", &["train.sync_bn=true", "train.share_steps=2"]).unwrap_err();
    assert_mentions(&error.to_string(), &["train.sync_bn", "train.share_steps"]);
}

#[test]
fn under_mpirun_a_classifier_is_distilled_as_by_one_process() {
    let new = || {
        let small = Small::new();
        small.write("teacher.toml", TEACHER_IN_PARTS);
        small
    };
    let same = |one: &Path, shared: &Path| {
        for run in ["teacher", "distilled"] {
            assert_same_run(&one.join(run), &shared.join(run));
        }
    };
    let sets =
        ["train.accumulate=4", "train.batch_size=4", "schedule.epochs=2", "distill.0.negatives_from=update"];
    assert_jobs_are_one_process(new, ("distilled.toml", &sets), &[2, 4], same);
}

#[test]
fn memories_of_crd_that_move_within_an_update_are_refused_to_several_processes() {
    let small = Small::new();
    small.write("crd.toml", &DISTILLED.replace("ckd", "crd").replace("\"logits\"", "\"embedding\""));
    let error = small.train_on(2, "crd.toml", &["train.accumulate=2"]).unwrap_err();
    assert_mentions(&error, &["crd", "one process"]);
}

#[test]
fn resumed_equals_uninterrupted_when_distilled_with_class_pairs() {
    let sets = ["data.order=class_pairs", "distill.0.warmup_steps=4", "train.eval_every=2"];
    let (whole, resumed) = (Small::new(), Small::new());
    whole.train("distilled.toml", &sets).unwrap();
    resumed.train_step_by_step("distilled.toml", &sets);
    for run in ["runs/teacher", "runs/distilled"] {
        assert_same_run(&whole.path(run), &resumed.path(run));
    }
}

#[test]
fn distillation_with_weight_0_is_plain_training_bit_for_bit() {
    let small = Small::new();
    small.train("plain.toml", &[]).unwrap();
    small.train("distilled.toml", &["distill.0.weight=0"]).unwrap();
    let [plain, distilled] = ["runs/plain", "runs/distilled"].map(|run| small.path(run));
    assert_same_tensors(&plain.join("last.safetensors"), &distilled.join("last.safetensors"));
    assert_eq!(log(&plain), log(&distilled));
    small.train("distilled.toml", &[]).unwrap();
    assert_ne!(
        tensors(&plain.join("last.safetensors")),
        tensors(&small.path("runs/distilled/last.safetensors"))
    );
    let steps = log(&small.path("runs/distilled"));
    assert!(steps[0]["losses"]["ckd/logits"].as_f64() > Some(0.0), "{}", steps[0]);
}

#[test]
fn a_comparison_says_what_the_teacher_was_worth_and_reports_the_last_step() {
    let small = Small::new();
    let finished = small.train("distilled.toml", &["train.compare_alone=true"]).unwrap();
    let Finding::Comparison(comparison) = &finished.finding else { panic!("nothing was compared") };
    assert_mentions(
        &comparison.to_string(),
        &["top-1", "agreement", "teacher", "student distilled", "difference"],
    );
    let distilled = &comparison.student_distilled;
    assert!(distilled.agreement.is_some() && comparison.student_alone.agreement.is_none());
    assert_eq!(distilled.parameters, comparison.student_alone.parameters);
    let lines = log(&small.path("runs/distilled"));
    let evaluations: Vec<f64> = lines.iter().filter_map(|line| line["eval"]["top1"].as_f64()).collect();
    assert_eq!(evaluations.len(), 3);
    assert_eq!(distilled.top1, evaluations[2], "the last, not the best");
    let best = evaluations.iter().copied().fold(0.0, f64::max);
    assert_eq!(finished.student.best.expect("a best one").score, best);
    assert_eq!(names(&small.path("runs/distilled/eval")).len(), 3);
}

#[test]
fn a_classifiers_shares_show_a_weight_that_is_off_and_leave_the_run_as_it_is() {
    let two = r#"
[[distill]]
method = "rcka"
at = "stages"
levels = ["stage3"]
patch = 4
weight = 1.0

[[distill]]
method = "crd"
at = "embedding"
negatives = 8
width = 16
weight = 0.5
"#;
    let small = Small::new();
    small.write("two.toml", &format!("{DISTILLED}{two}"));
    let shares = |name: &str, sets: &[&str]| {
        let name_set = format!("name={name}");
        small.train("two.toml", &[&["train.share_steps=2", &name_set], sets].concat()).unwrap();
        let lines = log(&small.path(&format!("runs/{name}")));
        let line = lines.iter().find(|line| line["shares"].is_object()).expect("a line of shares");
        assert_eq!((&line["step"], &line["shares"]["passes"]), (&2.into(), &2.into()));
        line["shares"]["gradient_norms"].as_object().expect("norms").clone()
    };
    let usual = shares("usual", &[]);
    let parts: Vec<&String> = usual.keys().collect();
    assert_eq!(parts, ["ckd (distill.0)", "classification", "crd (distill.2)", "rcka (distill.1)"]);
    assert!(usual.values().all(|norm| norm.as_f64().is_some_and(|norm| norm > 0.0)), "{usual:?}");
    // Statistics and CRD's memories are those of a run that is not measured.
    small.train("two.toml", &["name=unmeasured"]).unwrap();
    let checkpoints = names(&small.path("runs/usual/checkpoints"));
    let last = checkpoints.iter().rfind(|name| name.ends_with(".safetensors")).expect("a checkpoint");
    for file in ["last.safetensors".to_owned(), format!("checkpoints/{last}")] {
        let of = |run: &str| small.path(&format!("runs/{run}/{file}"));
        assert_same_tensors(&of("usual"), &of("unmeasured"));
    }

    // A learning rate of almost nothing: both runs measure the same network.
    let still = shares("still", &["optim.lr=1e-12"]);
    let loud = shares("loud", &["optim.lr=1e-12", "distill.1.weight=100"]);
    let ratio = |name: &str| loud[name].as_f64().unwrap() / still[name].as_f64().unwrap();
    assert!((ratio("rcka (distill.1)") - 100.0).abs() < 0.1, "{}", ratio("rcka (distill.1)"));
    for same in ["classification", "ckd (distill.0)"] {
        assert!((ratio(same) - 1.0).abs() < 1e-3, "{same}: {}", ratio(same));
    }
}

#[test]
fn colours_are_learned() {
    let small = Small::new();
    let sets = ["schedule.epochs=12", "train.eval_every=12", "optim.lr=0.1"];
    let finished = small.train("plain.toml", &sets).unwrap();
    assert!(finished.student.row.top1 >= 0.5, "top-1 {}, chance is 0.1", finished.student.row.top1);
}

#[test]
fn a_probe_trains_the_last_layer_alone_and_its_norms_adapt_only_if_told() {
    let small = Small::new();
    small.train("plain.toml", &["schedule.epochs=1", "train.eval_every=1"]).unwrap();
    let trained = small.path("runs/plain/last.safetensors");
    small.write("probe.toml", "extends = \"base.toml\"\ntask = \"probe\"\n");
    let init = format!("student.init={}", trained.display());
    let before = tensors(&trained);
    for (bn, adapts) in [("frozen", false), ("adapt", true)] {
        let name = format!("name=probe_{bn}");
        small.train("probe.toml", &[&init, &format!("probe.bn={bn}"), &name]).unwrap();
        let after = tensors(&small.path(&format!("runs/probe_{bn}/last.safetensors")));
        for (name, tensor) in &after {
            let moves = name.starts_with("fc.") || (adapts && name.contains("running_"));
            assert_eq!(*tensor != before[name], moves, "{bn}: {name}");
        }
    }
    let error = small.train("probe.toml", &[]).unwrap_err().to_string();
    assert_mentions(&error, &["student.init", "a probe needs a trained network"]);
}

#[test]
fn a_last_layer_for_other_classes_starts_at_random_and_any_other_difference_is_an_error() {
    let small = Small::new();
    small.train("plain.toml", &["schedule.epochs=1", "train.eval_every=1"]).unwrap();
    let trained = small.path("runs/plain/last.safetensors");
    let init = format!("student.init={}", trained.display());
    let error = small.train("plain.toml", &[&init, "student.network=resnet14", "name=b"]).unwrap_err();
    assert_mentions(&error.to_string(), &["does not fit the network", "layer1.1.conv1.weight is missing"]);
    let weights = format!("teacher.weights={}", trained.display());
    let error = small.train("distilled.toml", &[&weights]).unwrap_err();
    assert_mentions(&error.to_string(), &["does not fit the network"]);
}

#[test]
fn what_is_missing_is_named_with_where_it_was_looked_for() {
    let small = Small::new();
    fs::remove_file(small.path("data/cifar-10-batches-bin/test_batch.bin")).unwrap();
    let error = small.train("distilled.toml", &["teacher.weights=nowhere.pth"]).unwrap_err();
    assert!(matches!(error, EngineError::Missing(_)));
    assert_mentions(
        &error.to_string(),
        &["test_batch.bin", "cifar.html", "teacher.weights = \"nowhere.pth\"", "data.root"],
    );
    assert!(!small.path("runs").exists());
}

#[test]
fn damaged_data_is_an_error_that_names_the_file() {
    let small = Small::new();
    let test = small.path("data/cifar-10-batches-bin/test_batch.bin");
    for (bytes, says) in
        [(vec![0; 100], "no rows of 3073"), (vec![99; 3073], "label 99"), (Vec::new(), "no rows of 3073")]
    {
        fs::write(&test, bytes).unwrap();
        let error = small.train("plain.toml", &[]).unwrap_err().to_string();
        assert_mentions(&error, &[says]);
    }
}

#[test]
fn keys_that_make_no_sense_are_named() {
    let small = Small::new();
    let error = |sets: &[&str]| match ClassifyConfig::load(small.path("plain.toml"), &small.sets(sets)) {
        Ok(_) => panic!("{sets:?} was taken"),
        Err(error) => error.to_string(),
    };
    assert_mentions(&error(&["student.network=resnet2O"]), &["resnet2O", "did you mean \"resnet20\""]);
    assert_mentions(&error(&["label_smoothing=2"]), &["label_smoothing", "0 to 1"]);
    assert_mentions(&error(&["input.jitter=[1.0]"]), &["input.jitter", "three numbers"]);
    assert_mentions(&error(&["input.eval_resize_px=16"]), &["eval_resize_px", "32"]);
    assert_mentions(&error(&["detector.roi.head_width=3"]), &["unknown key", "detector"]);
    let wrong = Config::load(small.path("plain.toml"), &[]).unwrap_err().to_string();
    assert_mentions(&wrong, &["\"task\" is \"classify\"", "detect"]);
    let wrong = ClassifyConfig::load("quickstart.toml", &["task=detect".to_owned()]).unwrap_err().to_string();
    assert_mentions(&wrong, &["\"task\" is \"detect\"", "classify or probe"]);
    assert!(matches!(Experiment::load("quickstart.toml", &[]), Ok(Experiment::Detect(_))));
}

#[test]
fn the_program_trains_measures_and_compares() {
    let small = Small::new();
    let sets = ["--set", "schedule.epochs=1", "--quiet"];
    let trained = small.run_program(&[["train", "plain.toml"].as_slice(), &sets].concat());
    assert_ended(&trained, 0, &["top-1", "ECE", "runs/plain"]);
    let measured = small.run_program(&["eval", "--run", "runs/plain", "--json"]);
    assert_ended(&measured, 0, &[]);
    let measured: serde_json::Value = serde_json::from_slice(&measured.stdout).expect("one JSON object");
    let outcome = fs::read_to_string(small.path("runs/plain/outcome.json")).expect("an outcome");
    let outcome: serde_json::Value = serde_json::from_str(&outcome).expect("JSON");
    assert_eq!(measured["top1"], outcome["row"]["top1"]);
    assert_eq!(measured["images"], 20);
    // The same weights as somebody else would have saved them.
    let file = WeightsFile::read(&small.path("runs/plain/last.safetensors")).expect("weights");
    fs::write(small.path("theirs.pth"), TorchFile::of(&file.tensors).bytes()).expect("a file");
    let imported = ["eval", "--weights", "theirs.pth", "--config", "plain.toml"];
    assert_ended(&small.run_program(&imported), 0, &["told from its tensors", "top-1"]);
    let theirs = small.run_program(&[imported.as_slice(), &["--json"]].concat());
    let theirs: serde_json::Value = serde_json::from_slice(&theirs.stdout).expect("one JSON object");
    assert_eq!(theirs, measured);
    assert_ended(&small.run_program(&["eval"]), 0, &["runs/plain/last.safetensors on 20 images", "top-1"]);
    assert_ended(&small.run_program(&["eval", "--coco-val"]), 2, &["runs/plain", "a detector is needed"]);
    assert_ended(
        &small.run_program(&["config", "show", "plain.toml"]),
        0,
        &["task = \"classify\"", "pad_px = 4"],
    );

    let compare = || {
        let args = ["compare", "plain.toml", "distilled.toml", "--seeds", "0,1", "--out", "table"];
        small.run_program(&[args.as_slice(), &sets].concat())
    };
    let of_images = "top-1 over plain [95 % over images]";
    assert_ended(&compare(), 0, &["| plain | 2 |", "| distilled | 2 |", "top-1", "±", of_images]);
    let table = fs::read_to_string(small.path("table/compare.json")).expect("a table");
    let entries: serde_json::Value = serde_json::from_str(&table).expect("JSON");
    let difference = &entries[1]["difference"];
    let bound = |place: usize| difference["interval"][place].as_f64().expect("a bound");
    let mean = difference["mean"].as_f64().expect("a mean");
    assert!(bound(0) <= mean + 1e-9 && mean <= bound(1) + 1e-9, "{difference}");
    // What was kept is what was measured.
    let hits = fs::read_to_string(small.path("runs/plain_seed0/val_hits.txt")).expect("hits");
    let share = 100.0 * hits.matches('1').count() as f64 / hits.len() as f64;
    let top1 = entries[0]["runs"][0]["last"][0][1].as_f64().expect("top-1");
    assert!((share - top1).abs() < 1e-9 && hits.len() == 20, "{share} {top1}");
    let log = |run: &str| fs::read(small.path("runs").join(run).join("log.jsonl")).expect("a log");
    let before = [log("plain_seed0"), log("distilled_seed1")];
    assert_ended(&compare(), 0, &["| plain | 2 |"]);
    assert_eq!(
        [log("plain_seed0"), log("distilled_seed1")],
        before,
        "nothing was trained again, timings and all"
    );
    assert_eq!(fs::read_to_string(small.path("table/compare.json")).expect("a table"), table);
    // Another program's result is not used.
    fs::write(small.path("runs/plain_seed0/program.txt"), "another").expect("a file");
    assert_ended(&compare(), 0, &["| plain | 2 |"]);
    assert!(names(&small.path("runs")).contains(&"plain_seed0.1".to_owned()));
}

#[test]
fn a_comparison_of_several_runs_at_once_is_the_one_of_one_after_the_other() {
    let sets = ["--set", "schedule.epochs=1", "--seeds", "0,1,2", "--out", "table"];
    let compare = |small: &Small, more: &[&str]| {
        let args = [&["compare", "plain.toml", "distilled.toml"][..], &sets, more].concat();
        small.run_program(&args)
    };
    let (one, several) = (Small::new(), Small::new());
    assert_ended(&compare(&one, &["--threads", "1"]), 0, &["| plain | 3 |", "| distilled | 3 |"]);
    let told = compare(&several, &["--threads", "3", "--jobs", "3"]);
    assert_ended(
        &told,
        0,
        &["| plain | 3 |", "| distilled | 3 |", "plain_seed0: student 4/4  loss_classifier"],
    );
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(
        told.matches(": the teacher was trained before").count(),
        2,
        "one run trains it for all: {told}"
    );
    let named = ["plain_seed", "distilled_seed"];
    assert!(told.lines().all(|line| named.iter().any(|name| line.starts_with(name))), "{told}");
    assert_eq!(one.text("table/compare.json"), several.text("table/compare.json"));
    assert_eq!(one.text("table/compare.md"), several.text("table/compare.md"));
    for run in ["plain_seed1", "distilled_seed0"] {
        assert_same_run(&one.path("runs").join(run), &several.path("runs").join(run));
    }
    assert_eq!(names(&one.path("runs")), names(&several.path("runs")), "one teacher for all");
    // Typed again, everything is there.
    assert_ended(&compare(&several, &["--threads", "2", "--jobs", "2"]), 0, &["| plain | 3 |"]);
}

#[test]
fn of_several_runs_at_once_the_one_that_fails_is_named_and_the_others_are_kept() {
    let small = Small::new();
    small.write("wrong.toml", "extends = \"plain.toml\"\n[optim]\nlr = 1e30\n");
    let args = ["compare", "wrong.toml", "plain.toml", "--seeds", "0", "--threads", "2", "--jobs", "2"];
    let output = small.run_program(&[&args[..], &["--set", "schedule.epochs=1", "--out", "table"]].concat());
    assert_ended(&output, 4, &["error: wrong_seed0: ", "no other run begins"]);
    assert!(small.text("table/compare.json").contains("plain_seed0"));
}

#[cfg(target_os = "linux")]
#[test]
fn several_runs_at_once_keep_to_cores_of_their_own() {
    let small = Small::new();
    let args = ["compare", "plain.toml", "--seeds", "0,1", "--threads", "2", "--jobs", "2", "--out", "table"];
    let mut job = small.program(&[&args[..], &["--set", "schedule.epochs=1"]].concat());
    let job = job.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (output, shares) = shares_of(job, &small.path("."));
    assert_ended(&output, 0, &["| plain | 2 |"]);
    assert_disjoint(&shares, 2);
}

#[test]
fn more_runs_at_once_than_threads_are_refused() {
    let small = Small::new();
    let output = small.run_program(&["compare", "plain.toml", "--threads", "2", "--jobs", "3"]);
    assert_ended(&output, 2, &["there are 2 (--threads)", "at most --jobs 2"]);
    assert!(!small.path("runs").exists());
}

#[test]
#[ignore = "needs CKD_DET_DATA"]
fn a_published_resnet_has_its_published_accuracy() {
    let small = Small::new();
    fs::write(
        small.path("data/cifar-10-batches-bin/test_batch.bin"),
        &real::cifar10_test_rows()[..3073 * 1000],
    )
    .expect("a file");
    small.write(
        "published.toml",
        "extends = \"base.toml\"\ntask = \"probe\"\n[normalization]\nmean = [0.485, 0.456, 0.406]\n\
         std = [0.229, 0.224, 0.225]\n",
    );
    let init = format!("student.init={}", real::file("weights/resnet20-12fca82f.th").display());
    // A probe whose layer does not move measures the network as it is.
    let sets =
        [&init, "student.network=resnet20_a", "optim.lr=1e-30", "schedule.epochs=1", "eval.batch_size=200"];
    let finished = small.train("published.toml", &sets).unwrap();
    // 920 of the first 1,000 rows (the real data's README); another implementation may move a row.
    let right = (finished.student.row.top1 * 1000.0).round();
    assert!((right - 920.0).abs() <= 1.0, "{right} of 1000");
}

#[test]
fn a_trained_classifier_is_exported_in_every_format_and_used_again() {
    let small = Small::new();
    small.train("distilled.toml", &[]).unwrap();
    let export = |args: &[&str]| {
        let run = ["export", "--run", "runs/distilled", "--data-root", "data", "--out"];
        small.run_program(&[run.as_slice(), args].concat())
    };
    let compared = ["compared on 20 held-out images", "200 logits differ by at most", "onnx f32", "top-1"];
    assert_ended(&export(&["out/c.onnx"]), 0, &compared);
    assert_ended(&export(&["out/half.onnx", "--half", "--max-ap-loss", "100"]), 0, &["onnx f16", "of 20"]);
    assert_ended(&export(&["out/int8.onnx", "--int8", "--max-ap-loss", "100"]), 0, &["onnx int8 weights"]);
    let quantised = ["out/qdq.onnx", "--int8", "activations", "--images", "9", "--max-ap-loss", "100"];
    let seen = "ranges of activations from 9 training images";
    assert_ended(&export(&quantised), 0, &["compared on 9 held-out images", seen, "onnx int8 "]);
    let inside = ["out/u8.onnx", "--with-preprocess", "--images", "5"];
    assert_ended(&export(&inside), 0, &["compared on 5 held-out images", "onnx f32"]);
    let bytes = |name: &str| fs::read(small.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let sizes = ["out/int8.onnx", "out/half.onnx", "out/c.onnx"].map(|name| bytes(name).len());
    assert!(sizes.is_sorted_by(|a, b| a < b), "{sizes:?}");

    // The .safetensors says all that is needed, and nothing of a teacher; it goes on like the run.
    assert_ended(&export(&["out/c.safetensors"]), 0, &["resnet8", "0.08 M parameters", "10 classes"]);
    let trained = small.path("runs/distilled/last.safetensors");
    assert_same_tensors(&trained, &small.path("out/c.safetensors"));
    let exported = WeightsFile::read(&small.path("out/c.safetensors")).unwrap();
    let card = ClassifierCard::of(&exported).unwrap().expect("a card");
    assert!(card.config.teacher.is_none() && card.config.distill.is_empty());
    assert_eq!(card.config.labelled.normalization, Some(card.config.labelled.data.kind.normalization()));
    assert_eq!(card.provenance["exported_from_blake3"], WeightsFile::read(&trained).unwrap().hash);
    let loaded = ClassifyConfig::load(small.path("distilled.toml"), &small.sets(&[])).unwrap();
    let images = learned_from(&loaded).unwrap().expect("it is there");
    assert_eq!(card.provenance["data_blake3"], images.blake3());
    let input: serde_json::Value = serde_json::from_str(&exported.metadata["ckd_det.input"]).unwrap();
    assert_eq!(input["mean"], serde_json::json!([0.4914, 0.4822, 0.4465]));
    assert_eq!(input["side_px"], 32);
    let graph = OnnxModel::from_bytes(&bytes("out/c.onnx")).unwrap();
    let texts: std::collections::BTreeMap<&str, &str> = graph.metadata().collect();
    assert_eq!(texts["ckd_det.input"], exported.metadata["ckd_det.input"]);
    assert_eq!(texts["ckd_det.classes"], exported.metadata["ckd_det.classes"]);
    let again =
        ["export", "--weights", "out/c.safetensors", "--data-root", "data", "--out", "out/again.onnx"];
    assert_ended(&small.run_program(&again), 0, &["compared on 20"]);

    // A repository of the Hub.
    assert_ended(&export(&["hub", "--format", "hf"]), 0, &["hub: resnet8"]);
    assert_same_tensors(&trained, &small.path("hub/model.safetensors"));
    let json = |name: &str| -> serde_json::Value { serde_json::from_slice(&bytes(name)).unwrap() };
    assert_eq!(json("hub/config.json")["id2label"]["9"], "class 9");
    let preprocessor = json("hub/preprocessor_config.json");
    assert_eq!(preprocessor["image_mean"], serde_json::json!([0.4914, 0.4822, 0.4465]));
    assert_eq!(preprocessor["size"], serde_json::json!({ "height": 32, "width": 32 }));
    let model_card = String::from_utf8(bytes("hub/README.md")).unwrap();
    for line in ["pipeline_tag: image-classification", "- accuracy", "- uoft-cs/cifar10"] {
        assert!(model_card.lines().any(|own| own == line), "{line}: {model_card}");
    }
    assert!(model_card.contains(&format!("value: {}", card.provenance["top1"].parse::<f64>().unwrap())));
    let hub = ["eval", "--weights", "hub", "--data-root", "data"];
    assert_ended(&small.run_program(&hub), 0, &["top-1"]);

    // The .pth is a state dict: nothing is said beside the tensors.
    assert_ended(&export(&["out/c.pth"]), 0, &["resnet8"]);
    let state = WeightsFile::read(&small.path("out/c.pth")).unwrap();
    assert!(state.metadata.is_empty() && state.tensors.keys().eq(exported.tensors.keys()));
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (name, tensor) in &exported.tensors {
        assert_eq!(values(&state.tensors[name]), values(tensor), "{name}");
    }

    let inspected = ["resnet8 of 10 classes", "10 (class 0, class 1", "provenance"];
    assert_ended(&small.run_program(&["weights", "inspect", "out/c.safetensors"]), 0, &inspected);
    let picture = image::RgbImage::from_pixel(50, 40, image::Rgb([200, 60, 30]));
    picture.save(small.path("red.png")).unwrap();
    let predict = ["predict", "--weights", "out/c.safetensors", "red.png", "--json", "guesses.json"];
    assert_ended(&small.run_program(&predict), 0, &["red.png: ", "1 images -> guesses.json"]);
    let guesses: serde_json::Value = serde_json::from_slice(&bytes("guesses.json")).unwrap();
    let guesses = guesses[0]["guesses"].as_array().expect("guesses");
    let probabilities: Vec<f64> = guesses.iter().filter_map(|guess| guess["probability"].as_f64()).collect();
    assert_eq!(probabilities.len(), 5);
    assert!(probabilities.is_sorted_by(|a, b| a >= b) && probabilities.iter().sum::<f64>() <= 1.0);
}

#[test]
fn a_classifiers_export_that_is_refused_leaves_no_file() {
    let small = Small::new();
    small.train("plain.toml", &["schedule.epochs=1", "train.eval_every=1"]).unwrap();
    let weights = "runs/plain/last.safetensors";
    let export = |args: &[&str]| {
        small.run_program(&[["export", "--weights", weights, "--out", "none.onnx"].as_slice(), args].concat())
    };
    let data = ["--data-root", "data"];
    let says = ["--raw is for detectors", "resnet8 of 10 classes"];
    assert_ended(&export(&[data.as_slice(), &["--raw"]].concat()), 2, &says);
    assert_ended(&export(&["--config", "plain.toml"]), 2, &["leave out --config"]);
    assert_ended(&export(&["--data-root", "nowhere"]), 3, &["there is no folder nowhere"]);
    let loss = export(&[data.as_slice(), &["--int8", "--max-ap-loss=-1000"]].concat());
    assert_ended(&loss, 1, &["nothing was written", "top-1", "--max-ap-loss"]);
    assert_ended(&export(&["--int8", "activations", "--images", "0"]), 2, &["--images"]);
    // Without training images the ranges come from held-out ones, but from no image that the graph is compared on.
    for batch in ["data_batch_1.bin", "data_batch_2.bin"] {
        fs::remove_file(small.path("data/cifar-10-batches-bin").join(batch)).unwrap();
    }
    let quantised = |images: &str| {
        export(&["--data-root", "data", "--int8", "activations", "--max-ap-loss", "100", "--images", images])
    };
    assert_ended(&quantised("20"), 2, &["other images than it is compared on"]);
    assert!(!small.path("none.onnx").exists());
    assert_ended(
        &quantised("15"),
        0,
        &["ranges of activations from 5 held-out images that are not compared on"],
    );
    fs::remove_file(small.path("none.onnx")).unwrap();
    let detector = small.run_program(&["eval", "--coco-val", "--weights", weights]);
    assert_ended(&detector, 2, &["is a classifier, resnet8 of 10 classes", "a detector is needed"]);
    let predict = small.run_program(&["predict", "--weights", weights, "x.png", "--benchmark"]);
    assert_ended(&predict, 2, &["--benchmark is for detectors"]);
    // A weight that is no number has no graph that equals it.
    let file = WeightsFile::read(&small.path(weights)).unwrap();
    let mut broken = file.tensors.clone();
    let bias = Tensor::new(&[f32::NAN; 10], &Device::Cpu).unwrap();
    broken.insert("fc.bias".to_owned(), bias);
    write_safetensors(&small.path("broken.safetensors"), &broken, &file.metadata).unwrap();
    let args = ["export", "--weights", "broken.safetensors", "--out", "none.onnx", "--data-root", "data"];
    assert_ended(&small.run_program(&args), 1, &[]);
    assert!(!small.path("none.onnx").exists(), "{:?}", names(&small.path("")));

    // Without data the graph is compared on noise, and it is said.
    fs::remove_dir_all(small.path("data")).unwrap();
    let ranges = export(&["--int8", "activations", "--images", "3"]);
    assert_ended(&ranges, 3, &["3 images of noise", "--data-root"]);
    assert!(!small.path("none.onnx").exists());
    assert_ended(&export(&["--images", "3"]), 0, &["note:", "3 images of noise", "30 logits differ"]);
}
