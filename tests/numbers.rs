//! Numbers that are infinite or not numbers: refused by name, blamed on what is to blame, left out where that is wanted.

use std::fs;

use crate::support::tiny::{
    Tiny, assert_ended, assert_mentions, assert_same_run, assert_same_tensors, log, names,
};
use candle_core::Device;
use ckd_det::engine::EngineError;
use ckd_det::engine::job::Start;
use ckd_det::report::run_folder::{Line, RunFolder};
use ckd_det::weights::WeightsFile;
use ckd_det::weights::file::write_safetensors;

const HEAD: &str = "roi_heads.box_predictor.cls_score.weight";

/// Writes the last weights of a run with `value` in a tensor of the head.
pub(crate) fn spoiled(tiny: &Tiny, run: &str, value: f32, to: &str) -> String {
    let mut file = WeightsFile::read(&tiny.path(run).join("last.safetensors")).unwrap();
    let head = file.tensors.get_mut(HEAD).unwrap();
    let mut values = head.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.iter_mut().skip(1).for_each(|other| *other = value);
    *head = candle_core::Tensor::from_vec(values, head.shape(), &Device::Cpu).unwrap();
    let path = tiny.path(to);
    write_safetensors(&path, &file.tensors, &file.metadata).unwrap();
    path.display().to_string()
}

#[test]
fn weights_that_are_no_numbers_are_refused_by_name_wherever_they_are_used() {
    let tiny = Tiny::new();
    assert_ended(&tiny.run_program(&["train", "teacher.toml"]), 0, &[]);
    let bad = spoiled(&tiny, "runs/teacher", f32::NAN, "bad.safetensors");
    let bad = bad.as_str();
    let (teacher, init) = (format!("teacher.weights={bad}"), format!("student.init={bad}"));
    let uses: [&[&str]; 7] = [
        &["eval", "--coco-val", "--weights", bad],
        &["predict", "data/val/000001.png", "--weights", bad],
        &["export", "--weights", bad, "--out", "student.onnx"],
        &["weights", "import", bad, "--out", "imported.safetensors"],
        &["weights", "inspect", bad],
        &["train", "distilled.toml", "--set", &teacher],
        &["train", "teacher.toml", "--set", "name=begun", "--set", &init],
    ];
    for args in uses {
        let output = tiny.run_program(args);
        assert_ended(&output, 1, &["bad.safetensors cannot be used", HEAD, "are infinite or not numbers"]);
        assert!(!String::from_utf8_lossy(&output.stderr).contains("optim.lr"), "{args:?}");
    }
    for made in ["student.onnx", "imported.safetensors", "predictions"] {
        assert!(!tiny.path(made).exists(), "{made}");
    }
    let output = tiny.run_program(&["weights", "inspect", bad, "--allow-non-finite"]);
    assert_ended(&output, 0, &["unusable", HEAD, "are infinite or not numbers"]);
}

#[test]
fn weights_after_the_last_update_are_checked_as_after_any_other() {
    let tiny = Tiny::new();
    for lr in ["1e38", "1e24"] {
        let lr = format!("optim.lr={lr}");
        let sets = [&lr, "schedule.steps=1", "schedule.milestones=[1]", "schedule.warmup_steps=0"];
        let error = tiny.train("plain.toml", &sets).unwrap_err();
        assert!(matches!(error, EngineError::NonFinite { step: 1, .. }), "{error}");
        assert_mentions(&error.to_string(), &["weight", "The last update left weights", "a lower optim.lr"]);
        assert!(
            !tiny.path("runs/plain/checkpoints").exists()
                && !tiny.path("runs/plain/last.safetensors").exists()
        );
    }
}

#[test]
fn a_loss_that_is_not_finite_before_any_update_is_not_blamed_on_the_learning_rate() {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &["schedule.steps=1", "schedule.milestones=[1]"]).unwrap();
    let init = spoiled(&tiny, "runs/plain", 3e38, "huge.safetensors");
    let error = tiny.train("plain.toml", &[&format!("student.init={init}")]).unwrap_err();
    assert!(matches!(error, EngineError::NonFinite { step: 0, .. }), "{error}");
    let error = error.to_string();
    assert_mentions(&error, &["the learning rate is not to blame", "initial weights", HEAD, "images ["]);
    assert!(!error.contains("optim.lr"), "{error}");
}

/// `distilled.toml` with LCKA alone.
fn with_lcka(tiny: &Tiny, weights: &str) {
    let whole = tiny.text("distilled.toml");
    let head = &whole[..whole.find("[[distill]]").unwrap()];
    tiny.write(
        "distilled.toml",
        &format!("{head}[[distill]]\nmethod = \"lcka\"\nat = \"roi_logits\"\n{weights}"),
    );
}

#[test]
fn an_alignment_of_regions_logits_trains_at_its_default_weights() {
    let tiny = Tiny::new();
    with_lcka(&tiny, "");
    tiny.train("distilled.toml", &["schedule.steps=60", "schedule.milestones=[50]"]).unwrap();
    let lines = RunFolder::at(tiny.path("runs/distilled")).lines().unwrap();
    let Some(Line::Step(last)) = lines.iter().rev().find(|line| matches!(line, Line::Step(_))) else {
        panic!("no step")
    };
    assert!(last.loss < 5.0, "{}", last.loss);
}

#[test]
fn a_run_that_distillation_throws_out_of_its_course_names_the_weights_of_distillation() {
    let tiny = Tiny::new();
    with_lcka(&tiny, "weight = 15.0\nweight_inter = 15.0\n");
    let error = tiny.train("distilled.toml", &["schedule.steps=60", "schedule.milestones=[50]"]).unwrap_err();
    assert!(matches!(error, EngineError::NonFinite { .. }), "{error}");
    assert_mentions(
        &error.to_string(),
        &["optim.lr", "distill.0.weight = 15 of lcka", "distill.0.weight_inter"],
    );
}

/// A guard so strict that some steps of a run are left out.
const STRICT: [&str; 7] = [
    "optim.lr=1e-6",
    "schedule.steps=16",
    "schedule.milestones=[12]",
    "train.spike_factor=1.02",
    "train.checkpoint_every=3",
    "train.non_finite_limit=100",
    "train.eval_every=7",
];

#[test]
fn a_step_is_left_out_or_gone_back_from_with_the_same_result_and_the_log_says_which() {
    let (skipped, rewound) = (Tiny::new(), Tiny::new());
    skipped.train("plain.toml", &[STRICT.as_slice(), &["train.on_non_finite=skip"]].concat()).unwrap();
    let sets = [STRICT.as_slice(), &["train.on_non_finite=rewind"]].concat();
    let told = rewound.told("plain.toml", &sets, Start::Anew).unwrap();
    assert_mentions(&told, &["back to ", "train.spike_factor", "will be left out"]);
    let left_out = |tiny: &Tiny| -> Vec<u64> {
        let lines = RunFolder::at(tiny.path("runs/plain")).lines().unwrap();
        lines
            .iter()
            .filter_map(|line| match line {
                Line::LeftOut(line) if line.images.len() == 2 => Some(line.step),
                _ => None,
            })
            .collect()
    };
    let steps = left_out(&skipped);
    assert!((1..=8).contains(&steps.len()) && steps.iter().all(|step| (9..=16).contains(step)), "{steps:?}");
    assert_eq!(left_out(&rewound), steps);
    let last = "runs/plain/last.safetensors";
    assert_same_tensors(&skipped.path(last), &rewound.path(last));
    assert_eq!(log(&skipped.path("runs/plain")).len(), log(&rewound.path("runs/plain")).len());
}

#[test]
fn a_run_that_leaves_steps_out_resumes_bit_for_bit() {
    let sets = [STRICT.as_slice(), &["train.on_non_finite=skip"]].concat();
    let (whole, resumed) = (Tiny::new(), Tiny::new());
    whole.train("plain.toml", &sets).unwrap();
    resumed.train_step_by_step("plain.toml", &sets);
    assert_same_run(&whole.path("runs/plain"), &resumed.path("runs/plain"));
}

#[test]
fn a_spike_stops_the_run_where_nothing_else_is_asked_for_or_too_many_were_left_out() {
    let tiny = Tiny::new();
    let error = tiny.train("plain.toml", &STRICT).unwrap_err();
    assert!(matches!(error, EngineError::NonFinite { .. }));
    assert_mentions(
        &error.to_string(),
        &["above 1.02 (train.spike_factor) times its running median", "images ["],
    );
    for policy in ["train.on_non_finite=skip", "train.on_non_finite=rewind"] {
        let limit = [STRICT.as_slice(), &["train.non_finite_limit=0", policy]].concat();
        let error = tiny.train("plain.toml", &limit).unwrap_err();
        assert_mentions(&error.to_string(), &["0 steps were left out before", "train.non_finite_limit"]);
    }
    assert!(tiny.train("plain.toml", &["train.spike_factor=1"]).is_err());
    assert!(names(&tiny.path("runs")).len() >= 3 && fs::metadata(tiny.path("runs/plain/log.jsonl")).is_ok());
}
