//! A run that was interrupted, killed or damaged goes on as if nothing had happened, bit for bit, or says why not.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::tiny::{Tiny, assert_ended, assert_mentions, assert_same_run, log, names};
use ckd_det::engine::EngineError;
use ckd_det::engine::job::Start;

/// Trains `config` once in one go and once interrupted after every step, and compares.
#[track_caller]
fn check_resuming(config: &str, run: &str, sets: &[&str]) {
    let (whole, resumed) = (Tiny::new(), Tiny::new());
    whole.train(config, sets).unwrap_or_else(|error| panic!("{error}"));
    let interruptions = resumed.train_step_by_step(config, sets);
    assert!(interruptions >= 3, "interrupted {interruptions} times");
    assert_same_run(&whole.path(run), &resumed.path(run));
}

#[test]
fn resumed_equals_uninterrupted_across_an_epoch_with_accumulation_scales_and_flips() {
    // 5 batches an epoch, 2 a step: the 3rd and the 5th step begin in the middle of an epoch and of a pair.
    let sets = [
        "train.accumulate=2",
        "train.eval_every=3",
        "input.short_side_px=[48, 64, 80]",
        "input.long_side_px=96",
        "optim.nesterov=true",
        "optim.clip_grad_norm=1.0",
    ];
    check_resuming("plain.toml", "runs/plain", &sets);
}

#[test]
fn resumed_equals_uninterrupted_with_adamw_and_an_average_of_the_weights() {
    let sets = [
        "optim.kind=adamw",
        "optim.lr=0.001",
        "optim.backbone_lr_factor=0.1",
        "train.ema_decay=0.9",
        "train.eval_every=2",
    ];
    check_resuming("plain.toml", "runs/plain", &sets);
}

#[test]
fn resumed_equals_uninterrupted_with_sgd_and_an_average_of_the_weights() {
    check_resuming("plain.toml", "runs/plain", &["train.ema_decay=0.75"]);
}

#[test]
fn resumed_equals_uninterrupted_when_distilled() {
    check_resuming("distilled.toml", "runs/distilled", &["train.accumulate=2", "distill.0.warmup_steps=3"]);
}

#[test]
fn resumed_equals_uninterrupted_for_retinanet_and_epochs() {
    let sets = ["schedule.epochs=2", "schedule.milestones=[1]", "train.eval_every=1", "train.batch_size=3"];
    check_resuming("retina_plain.toml", "runs/retina_plain", &sets);
}

#[test]
fn resumed_equals_uninterrupted_for_a_distilled_fcos() {
    check_resuming("fcos_distilled.toml", "runs/fcos_distilled", &["schedule.steps=4"]);
}

#[test]
fn resumed_equals_uninterrupted_for_a_distilled_retinanet() {
    check_resuming("retina_distilled.toml", "runs/retina_distilled", &["schedule.steps=4"]);
}

#[test]
fn a_comparison_that_is_interrupted_everywhere_goes_on_stage_by_stage() {
    let sets = ["schedule.steps=3", "train.compare_alone=true"];
    let (whole, resumed) = (Tiny::new(), Tiny::new());
    whole.train("distilled.toml", &sets).unwrap();
    // The teacher stops once, each student twice.
    assert_eq!(resumed.train_step_by_step("distilled.toml", &sets), 1 + 2 + 2);
    for run in ["runs/teacher", "runs/distilled/alone", "runs/distilled"] {
        assert_same_run(&whole.path(run), &resumed.path(run));
    }
}

#[test]
fn to_resume_a_finished_run_trains_nothing() {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &[]).unwrap();
    let before = fs::read(tiny.path("runs/plain/log.jsonl")).unwrap();
    tiny.start("plain.toml", &[], Start::Resume, false).unwrap();
    assert_eq!(fs::read(tiny.path("runs/plain/log.jsonl")).unwrap(), before, "timings and all");
    assert_eq!(names(&tiny.path("runs")), ["plain"]);
}

#[test]
fn a_run_that_ended_before_its_outcome_was_written_is_finished_by_resuming() {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &[]).unwrap();
    let whole = Tiny::new();
    whole.train("plain.toml", &[]).unwrap();
    for lost in ["outcome.json", "last.safetensors", "summary.json"] {
        fs::remove_file(tiny.path("runs/plain").join(lost)).unwrap();
    }
    tiny.start("plain.toml", &[], Start::Resume, false).unwrap();
    assert_same_run(&whole.path("runs/plain"), &tiny.path("runs/plain"));
    assert!(tiny.path("runs/plain/summary.json").exists());
}

#[test]
fn resuming_without_a_checkpoint_starts_at_step_0() {
    let (whole, resumed) = (Tiny::new(), Tiny::new());
    whole.train("plain.toml", &[]).unwrap();
    resumed.start("plain.toml", &[], Start::Resume, false).unwrap();
    assert_same_run(&whole.path("runs/plain"), &resumed.path("runs/plain"));
}

#[test]
fn another_configuration_cannot_resume_a_run_and_the_differing_keys_are_named() {
    let tiny = Tiny::new();
    let interrupted = tiny.start("plain.toml", &["optim.clip_grad_norm=5.0"], Start::Anew, true);
    assert!(matches!(interrupted, Err(EngineError::Interrupted { step: 1, .. })));
    let checkpoints = names(&tiny.path("runs/plain/checkpoints"));
    let sets = ["optim.lr=0.5", "student.width=16", "input.short_side_px=[32, 64]"];
    let error = tiny.start("plain.toml", &sets, Start::Resume, false).unwrap_err();
    assert!(matches!(error, EngineError::Run { .. }));
    assert_mentions(
        &error.to_string(),
        &[
            "runs/plain/config.toml",
            "optim.lr: was 0.02, now 0.5",
            "student.width: was 8, now 16",
            "input.short_side_px: was [64], now [32, 64]",
            "optim.clip_grad_norm: was 5.0, now not given",
            "start anew without --resume",
        ],
    );
    assert!(!error.to_string().contains("seed"), "what agrees is not named: {error}");
    assert_eq!(names(&tiny.path("runs/plain/checkpoints")), checkpoints);
}

#[test]
fn settings_of_speed_and_reporting_may_change_on_resuming() {
    let (whole, resumed) = (Tiny::new(), Tiny::new());
    whole.train("plain.toml", &[]).unwrap();
    resumed.start("plain.toml", &[], Start::Anew, true).unwrap_err();
    let sets = ["data.workers=1", "data.queue=1", "train.checkpoint_every=2", "train.keep_checkpoints=5"];
    resumed.start("plain.toml", &sets, Start::Resume, false).unwrap();
    assert_same_run(&whole.path("runs/plain"), &resumed.path("runs/plain"));
    let kept = ["step-00000001", "step-00000002", "step-00000004", "step-00000006"];
    assert_eq!(
        names(&resumed.path("runs/plain/checkpoints")),
        kept.map(|name| format!("{name}.safetensors"))
    );
}

#[test]
fn another_teacher_cannot_resume_a_distilled_run() {
    let tiny = Tiny::new();
    tiny.train("teacher.toml", &[]).unwrap();
    tiny.train("teacher.toml", &["seed=4", "name=other"]).unwrap();
    let teacher = tiny.path("teacher.safetensors");
    fs::copy(tiny.path("runs/teacher/last.safetensors"), &teacher).unwrap();
    let set = format!("teacher.weights={}", teacher.display());
    tiny.start("distilled.toml", &[&set], Start::Anew, true).unwrap_err();
    fs::copy(tiny.path("runs/other/last.safetensors"), &teacher).unwrap();
    let error = tiny.start("distilled.toml", &[&set], Start::Resume, false).unwrap_err();
    assert_mentions(&error.to_string(), &["another teacher", "step-00000001.safetensors"]);
}

#[test]
fn a_damaged_checkpoint_is_named_with_what_to_do_and_deleting_it_helps() {
    let (whole, tiny) = (Tiny::new(), Tiny::new());
    whole.train("plain.toml", &[]).unwrap();
    tiny.start("plain.toml", &[], Start::Anew, true).unwrap_err();
    tiny.start("plain.toml", &[], Start::Resume, true).unwrap_err();
    let newest = tiny.path("runs/plain/checkpoints/step-00000002.safetensors");
    let good = fs::read(&newest).unwrap();
    for damaged in [&good[..good.len() / 2], &good[..5], b"", b"not a checkpoint at all"] {
        fs::write(&newest, damaged).unwrap();
        let error = tiny.start("plain.toml", &[], Start::Resume, false).unwrap_err();
        assert_mentions(
            &error.to_string(),
            &["step-00000002.safetensors is damaged", "delete it to go on from", "step-00000001.safetensors"],
        );
        assert_eq!(fs::read(&newest).unwrap(), damaged, "nothing is touched");
    }
    fs::remove_file(&newest).unwrap();
    tiny.start("plain.toml", &[], Start::Resume, false).unwrap();
    assert_same_run(&whole.path("runs/plain"), &tiny.path("runs/plain"));
}

#[test]
fn a_checkpoint_of_another_network_or_a_weights_file_in_its_place_is_refused() {
    let tiny = Tiny::new();
    tiny.train("teacher.toml", &[]).unwrap();
    tiny.start("plain.toml", &[], Start::Anew, true).unwrap_err();
    let newest = tiny.path("runs/plain/checkpoints/step-00000001.safetensors");
    fs::copy(tiny.path("runs/teacher/checkpoints/step-00000002.safetensors"), &newest).unwrap();
    let error = tiny.start("plain.toml", &[], Start::Resume, false).unwrap_err();
    assert_mentions(&error.to_string(), &["step-00000001.safetensors", "belongs to another network"]);
    fs::copy(tiny.path("runs/teacher/last.safetensors"), &newest).unwrap();
    let error = tiny.start("plain.toml", &[], Start::Resume, false).unwrap_err();
    assert_mentions(&error.to_string(), &["step-00000001.safetensors", "not a checkpoint"]);
}

#[test]
fn what_a_killed_write_left_is_no_checkpoint() {
    let (whole, tiny) = (Tiny::new(), Tiny::new());
    whole.train("plain.toml", &[]).unwrap();
    tiny.start("plain.toml", &[], Start::Anew, true).unwrap_err();
    let folder = tiny.path("runs/plain/checkpoints");
    fs::write(folder.join(".write-x7Gk2p.partial"), b"half of a checkp").unwrap();
    tiny.start("plain.toml", &[], Start::Resume, false).unwrap();
    assert_same_run(&whole.path("runs/plain"), &tiny.path("runs/plain"));
}

/// Enough steps to be in the middle of when the signal comes.
const LONG: [&str; 6] =
    ["--set", "schedule.steps=40", "--set", "schedule.milestones=[30]", "--set", "train.checkpoint_every=2"];

fn train_in_background(tiny: &Tiny) -> Child {
    let args = [["train", "plain.toml"].as_slice(), &LONG].concat();
    tiny.program(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

fn wait_for(child: &mut Child, file: &Path) {
    let start = Instant::now();
    while !file.exists() {
        assert!(child.try_wait().expect("a child").is_none(), "the run ended before {}", file.display());
        assert!(start.elapsed() < Duration::from_secs(60), "no {}", file.display());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_killed_run_resumes_to_the_same_bits() {
    let (whole, killed) = (Tiny::new(), Tiny::new());
    assert_ended(&whole.run_program(&[["train", "plain.toml"].as_slice(), &LONG].concat()), 0, &["AP "]);
    let mut child = train_in_background(&killed);
    wait_for(&mut child, &killed.path("runs/plain/checkpoints/step-00000004.safetensors"));
    child.kill().expect("SIGKILL");
    child.wait().expect("it is dead");
    assert!(!killed.path("runs/plain/last.safetensors").exists(), "it was killed in the middle");
    let resumed = killed.run_program(&[["train", "plain.toml", "--resume"].as_slice(), &LONG].concat());
    assert_ended(&resumed, 0, &["AP "]);
    assert_same_run(&whole.path("runs/plain"), &killed.path("runs/plain"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_the_state_and_says_how_to_go_on() {
    let (whole, stopped) = (Tiny::new(), Tiny::new());
    assert_ended(&whole.run_program(&[["train", "plain.toml"].as_slice(), &LONG].concat()), 0, &["AP "]);
    let mut child = train_in_background(&stopped);
    wait_for(&mut child, &stopped.path("runs/plain/checkpoints/step-00000002.safetensors"));
    let signal = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(signal.expect("kill").success());
    let output = child.wait_with_output().expect("it ends");
    let go_on = "ckd-det train plain.toml --set schedule.steps=40 --set 'schedule.milestones=[30]' \
                 --set train.checkpoint_every=2";
    assert_ended(&output, 130, &["interrupted after step", "the state is saved", go_on, "--resume"]);
    let steps = log(&stopped.path("runs/plain")).len();
    assert!((2..40).contains(&steps), "{steps} steps");
    let newest = names(&stopped.path("runs/plain/checkpoints")).pop().unwrap();
    assert_eq!(newest, format!("step-{steps:08}.safetensors"), "saved at its last step");
    let resumed = stopped.run_program(&[["train", "plain.toml", "--resume"].as_slice(), &LONG].concat());
    assert_ended(&resumed, 0, &["AP "]);
    assert_same_run(&whole.path("runs/plain"), &stopped.path("runs/plain"));
}
