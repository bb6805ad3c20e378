//! The program on several GPUs of a machine, or on their stand-in, beside one GPU that accumulates. In a build with the feature
//! `cuda`, and with `CKD_DET_TEST_DEVICE=cuda`.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ckd_det::config::ClassifyConfig;
use ckd_det::engine::task::Settings;

use crate::distill::support::device;
use crate::support::colours;
use crate::support::mpi::{alone, launchers};
use crate::support::tiny::{Folder, Tiny, assert_ended, assert_same_run, log};
use crate::{classify, faults};

/// Sets of a short run whose update has two parts.
const TWO_PARTS: [&str; 4] = [
    "teacher.weights=none.safetensors",
    "teacher.allow_random_weights=true",
    "train.accumulate=2",
    "optim.clip_grad_norm=1.0",
];

/// Whether there are two GPUs; the stand-in has two. Without any these tests fail.
fn are_two() -> bool {
    assert!(!device().is_cpu(), "these tests are of GPUs, or their stand-in: set CKD_DET_TEST_DEVICE=cuda");
    let are = ckd_kernels::cuda::machine().unwrap().gpus.len() > 1;
    if !are {
        eprintln!("NOT RUN: there is one GPU");
    }
    are
}

fn classifiers() -> Folder<ClassifyConfig> {
    let folder = Folder::empty();
    colours::write(&folder.path("data"));
    folder.write("base.toml", classify::BASE);
    folder.write("distilled.toml", classify::DISTILLED);
    folder
}

fn train<'a>(sets: &[&'a str], options: &[&'a str]) -> Vec<&'a str> {
    let sets = TWO_PARTS.iter().chain(sets).flat_map(|set| ["--set", *set]);
    ["train", "distilled.toml"].into_iter().chain(sets).chain(options.iter().copied()).collect()
}

/// The program at a training, one thread a process.
fn program<C: Settings>(folder: &Folder<C>, sets: &[&str], options: &[&str]) -> Command {
    folder.program(&[&train(sets, options)[..], &["--threads", "1"]].concat())
}

fn run<C: Settings>(folder: &Folder<C>, sets: &[&str], options: &[&str]) -> Output {
    program(folder, sets, options).output().unwrap()
}

#[test]
fn two_gpus_train_as_one_that_accumulates_two_batches_bit_for_bit() {
    if !are_two() {
        return;
    }
    // Negatives come from both parts.
    let sets = ["schedule.epochs=1", "distill.0.negatives_from=update"];
    let one = classifiers();
    assert_ended(&run(&one, &sets, &["--device", "cuda"]), 0, &["everything is in"]);
    let shared = classifiers();
    let output = run(&shared, &sets, &["--gpus", "2"]);
    assert_ended(&output, 0, &["everything is in"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches("everything is in").count(), 1, "{said}");
    let made = |folder: &Folder<ClassifyConfig>| folder.path("runs/distilled");
    let weights = |folder| fs::read(made(folder).join("last.safetensors")).unwrap();
    assert!(weights(&one) == weights(&shared), "last.safetensors differs");
    assert_same_run(&made(&one), &made(&shared));
    for launcher in launchers() {
        let shared = classifiers();
        let _alone = alone();
        let output = shared.job_command(launcher, 2, &train(&sets, &["--device", "cuda"])).output().unwrap();
        assert_ended(&output, 0, &["everything is in"]);
        assert_same_run(&made(&one), &made(&shared));
    }
}

#[test]
fn a_detector_that_two_gpus_distil_goes_on_with_one_as_if_nothing_had_happened() {
    if !are_two() {
        return;
    }
    let sets = ["schedule.steps=8", "train.eval_every=2"];
    let (one, changing) = (Tiny::new(), Tiny::new());
    assert_ended(&run(&one, &sets, &["--device", "cuda"]), 0, &["everything is in"]);
    let job = started(&changing, &sets);
    signal("-USR1", job.id());
    let output = job.wait_with_output().unwrap();
    assert_ended(&output, 130, &["interrupted after step", "the state is saved", "--gpus 2"]);
    let steps = log(&changing.path("runs/distilled"));
    assert!((1..8).contains(&steps.iter().filter(|line| line["loss"].is_f64()).count()), "{steps:?}");
    let output = run(&changing, &sets, &["--device", "cuda", "--resume"]);
    assert_ended(&output, 0, &["everything is in"]);
    assert_same_run(&one.path("runs/distilled"), &changing.path("runs/distilled"));
}

#[test]
fn a_number_of_gpus_that_cannot_be_had_is_refused_before_anything_is_written() {
    if !are_two() {
        return;
    }
    let folder = classifiers();
    let uneven = ["train.accumulate=1"];
    let output = run(&folder, &uneven, &["--gpus", "2"]);
    assert_ended(&output, 2, &["2 processes cannot share the 1 parts", "start 1 of them"]);
    for options in [&["--gpus", "2", "--device", "cuda:1"][..], &["--gpus", "99"]] {
        assert_ended(&run(&folder, &[], options), 2, &["--gpus"]);
    }
    assert!(!folder.path("runs").exists());
}

#[test]
fn with_synchronised_norms_two_gpus_train_as_one_with_the_whole_batch() {
    if !are_two() {
        return;
    }
    let losses = |options: &[&str]| -> Vec<f64> {
        let folder = classifiers();
        folder.write("plain.toml", "extends = \"base.toml\"\n[schedule]\nepochs = 1\n[optim]\nlr = 0.01\n");
        let output = folder.run_program(&[&["train", "plain.toml", "--threads", "1"][..], options].concat());
        assert_ended(&output, 0, &["everything is in"]);
        let lines = log(&folder.path("runs/plain"));
        lines.iter().filter_map(|line| line["losses"]["loss_classifier"].as_f64()).collect()
    };
    let parts = ["--gpus", "2", "--set", "train.accumulate=2", "--set", "train.batch_size=4"];
    let one = losses(&["--device", "cuda"]);
    let both = losses(&[&parts[..], &["--set", "train.sync_bn=true"]].concat());
    // Later learning rates differ, as the last batch of an epoch does.
    for (one, both) in one.iter().zip(&both).take(2) {
        assert!((one - both).abs() < 1e-5 * one.abs(), "{one} {both}");
    }
    assert!(one.len() > 2 && both.len() > 2, "{one:?} {both:?}");
    assert!((losses(&parts)[0] - one[0]).abs() > 1e-3 * one[0].abs());
}

#[test]
fn runs_at_once_have_a_gpu_each_and_are_those_of_one_after_the_other() {
    if !are_two() {
        return;
    }
    let compare = |folder: &Folder<ClassifyConfig>, options: &[&str]| {
        folder.write("plain.toml", "extends = \"base.toml\"\n[schedule]\nepochs = 1\n");
        let args = ["compare", "plain.toml", "--seeds", "0,1", "--out", "table", "--device", "cuda"];
        folder.run_program(&[&args[..], options].concat())
    };
    let (one, both) = (classifiers(), classifiers());
    assert_ended(&compare(&one, &["--threads", "1"]), 0, &["| plain | 2 |"]);
    assert_ended(&compare(&both, &["--threads", "2", "--jobs", "2"]), 0, &["| plain | 2 |"]);
    assert_eq!(one.text("table/compare.json"), both.text("table/compare.json"));
    for run in ["runs/plain_seed0", "runs/plain_seed1"] {
        assert_same_run(&one.path(run), &both.path(run));
    }
    let none = classifiers();
    assert_ended(&compare(&none, &["--threads", "99", "--jobs", "99"]), 2, &["cannot use cuda:"]);
    assert!(!none.path("runs").exists());
}

#[test]
fn one_process_that_is_killed_or_hangs_ends_all_with_its_code_and_is_named() {
    if !are_two() {
        return;
    }
    let sets = ["schedule.epochs=1000", "train.rank_timeout_s=2"];
    for (sent, code, said) in [
        ("-KILL", 137, "rank 1, on GPU 1, was ended by signal 9"),
        ("-STOP", 75, "rank 1, on GPU 1, still ran 5 s after another one had waited too long"),
    ] {
        let folder = classifiers();
        let job = started(&folder, &sets);
        let children = children(&job);
        assert_eq!(children.len(), 2);
        signal(sent, children[1]);
        let output = job.wait_with_output().unwrap();
        assert_ended(&output, code, &["after step", "rank 0 on this machine", said]);
        for process in children {
            assert!(!Path::new("/proc").join(process.to_string()).exists(), "{sent}: {process} runs on");
        }
    }
}

#[test]
fn an_error_of_one_process_of_two_gpus_ends_both_with_its_code_and_its_rank() {
    if !are_two() {
        return;
    }
    let tiny = Tiny::new();
    faults::coco(&tiny);
    // An image of the second part, whose header is whole: the first process never reads it.
    let image = tiny.path("data/train/000005.png");
    let mut bytes = fs::read(&image).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&image, bytes).unwrap();
    let output = run(&tiny, &["schedule.steps=1", "schedule.milestones=[1]"], &["--gpus", "2"]);
    assert_ended(&output, 1, &["rank 1 on this machine:\nerror: cannot decode data/train/000005.png"]);
}

/// A job of two processes that has made a step.
fn started<C: Settings>(folder: &Folder<C>, sets: &[&str]) -> Child {
    let mut job = program(folder, sets, &["--gpus", "2"]);
    let job = job.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (log, began) = (folder.path("runs/distilled/log.jsonl"), Instant::now());
    while fs::metadata(&log).map_or(0, |log| log.len()) == 0 {
        assert!(began.elapsed() < Duration::from_secs(120), "no step was made");
        std::thread::sleep(Duration::from_millis(20));
    }
    job
}

/// The processes that `job` has started, in order of their ranks.
fn children(job: &Child) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{0}/task/{0}/children", job.id())).unwrap();
    list.split_whitespace().map(|process| process.parse().unwrap()).collect()
}

fn signal(signal: &str, process: u32) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}
