//! Image classification as a user meets it: training, resuming, distilling, probing, measuring, comparing.

#[path = "support/tiny.rs"]
mod tiny;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::Device;
use ckd_det::config::{ClassifyConfig, Config, Experiment};
use ckd_det::engine::EngineError;
use ckd_det::engine::experiment::{self, Finding, Finished, Request};
use ckd_det::engine::job::Start;
use ckd_det::report::table::ClassifierRow;
use tempfile::TempDir;
use tiny::{assert_ended, assert_mentions, assert_same_run, assert_same_tensors, log, names, tensors};

const BASE: &str = r#"
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
eval_every = 1

[eval]
batch_size = 7
"#;

const DISTILLED: &str = r#"
extends = "base.toml"

[teacher]
network = "resnet14"
train = "teacher.toml"

[[distill]]
method = "ckd"
at = "logits"
weight = 2.0
"#;

/// A folder with 28 training and 20 test images in CIFAR-10's binary form: classes are colours with noise.
struct Small(TempDir);

impl Small {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data/cifar-10-batches-bin");
        fs::create_dir_all(&data).expect("a new folder");
        fs::write(data.join("data_batch_1.bin"), rows(0..20)).expect("a file");
        fs::write(data.join("data_batch_2.bin"), rows(20..28)).expect("a file");
        fs::write(data.join("test_batch.bin"), rows(100..120)).expect("a file");
        let small = Self(folder);
        small.write("base.toml", BASE);
        small.write("plain.toml", "extends = \"base.toml\"\n");
        small.write(
            "teacher.toml",
            "extends = \"base.toml\"\n[student]\nnetwork = \"resnet14\"\n[schedule]\nepochs = 1\n",
        );
        small.write("distilled.toml", DISTILLED);
        small
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a new file");
    }

    fn sets(&self, sets: &[&str]) -> Vec<String> {
        let mut sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        sets.push(format!("data.root={}", self.path("data").display()));
        sets.push(format!("output={}", self.path("runs").display()));
        sets
    }

    fn start(
        &self,
        config: &str,
        sets: &[&str],
        start: Start,
        stop: bool,
    ) -> Result<Finished<ClassifierRow>, EngineError> {
        let loaded = ClassifyConfig::load(self.path(config), &self.sets(sets))?;
        let stop = AtomicBool::new(stop);
        let request = Request { device: &Device::Cpu, quiet: true, start, stop: &stop, command: "go on" };
        experiment::run(&loaded, &request)
    }

    fn train(&self, config: &str, sets: &[&str]) -> Result<Finished<ClassifierRow>, EngineError> {
        self.start(config, sets, Start::Anew, false)
    }

    fn train_step_by_step(&self, config: &str, sets: &[&str]) -> usize {
        let mut start = Start::Anew;
        for interruptions in 0..100 {
            match self.start(config, sets, start, true) {
                Ok(_) => return interruptions,
                Err(EngineError::Interrupted { .. }) => start = Start::Resume,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the run never ends");
    }

    fn run_program(&self, args: &[&str]) -> std::process::Output {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ckd-det"));
        command.current_dir(self.0.path()).args(args).output().expect("the program starts")
    }
}

/// Rows of CIFAR-10's binary form: a label, then 3,072 bytes by planes.
fn rows(images: std::ops::Range<u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for image in images {
        let label = (image * 7 % 10) as u8;
        bytes.push(label);
        bytes.extend((0..3072u64).map(|place| {
            let noise = (image * 3079 + place).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
            let tone = [25 * label, 255 - 25 * label, 17 * (label % 5)][place as usize / 1024];
            tone.saturating_add(noise as u8)
        }));
    }
    bytes
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
    assert_ended(&small.run_program(&["eval"]), 2, &["--coco-val", "--run DIR"]);
    assert_ended(
        &small.run_program(&["config", "show", "plain.toml"]),
        0,
        &["task = \"classify\"", "pad_px = 4"],
    );

    let compare = || {
        let args = ["compare", "plain.toml", "distilled.toml", "--seeds", "0,1", "--out", "table"];
        small.run_program(&[args.as_slice(), &sets].concat())
    };
    assert_ended(&compare(), 0, &["| plain | 2 |", "| distilled | 2 |", "top-1", "±"]);
    let table = fs::read_to_string(small.path("table/compare.json")).expect("a table");
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
fn a_published_resnet_has_its_published_accuracy() {
    let data = std::env::var_os("CKD_DET_DATA").map(std::path::PathBuf::from);
    let data = data.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"));
    let (weights, packed) =
        (data.join("weights/resnet20-12fca82f.th"), data.join("cifar10/test_batch.bin.xz"));
    if !weights.exists() || !packed.exists() {
        eprintln!("skipped: no {} or {}", weights.display(), packed.display());
        return;
    }
    let unpacked = std::process::Command::new("xz").arg("-dc").arg(&packed).output();
    let Some(unpacked) = unpacked.ok().filter(|output| output.status.success()) else {
        eprintln!("skipped: `xz` cannot unpack {}", packed.display());
        return;
    };
    let small = Small::new();
    fs::write(small.path("data/cifar-10-batches-bin/test_batch.bin"), &unpacked.stdout[..3073 * 1000])
        .expect("a file");
    small.write(
        "published.toml",
        "extends = \"base.toml\"\ntask = \"probe\"\n[normalization]\nmean = [0.485, 0.456, 0.406]\n\
         std = [0.229, 0.224, 0.225]\n",
    );
    let init = format!("student.init={}", weights.display());
    // A probe whose layer does not move measures the network as it is.
    let sets =
        [&init, "student.network=resnet20_a", "optim.lr=1e-30", "schedule.epochs=1", "eval.batch_size=200"];
    let finished = small.train("published.toml", &sets).unwrap();
    // 920 of the first 1,000 rows (the real data's README); another implementation may move a row.
    let right = (finished.student.row.top1 * 1000.0).round();
    assert!((right - 920.0).abs() <= 1.0, "{right} of 1000");
}
