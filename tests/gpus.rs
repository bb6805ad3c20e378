//! The program on several GPUs of a machine, or on their stand-in, beside one GPU that accumulates. In a build with the feature
//! `cuda`, and with `CKD_DET_TEST_DEVICE=cuda`.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use ckd_det::config::ClassifyConfig;

use crate::classify;
use crate::distill::support::device;
use crate::support::colours;
use crate::support::mpi::{alone, launchers};
use crate::support::tiny::{Folder, assert_ended, assert_same_run};

/// Sets of a short run whose update has two parts and whose negatives come from both.
const TWO_PARTS: [&str; 6] = [
    "teacher.weights=none.safetensors",
    "teacher.allow_random_weights=true",
    "schedule.epochs=1",
    "train.accumulate=2",
    "distill.0.negatives_from=update",
    "optim.clip_grad_norm=1.0",
];

/// Whether there are two GPUs; the stand-in has as many as it is told. Without any these tests fail.
fn are_two() -> bool {
    assert!(!device().is_cpu(), "these tests are of GPUs, or their stand-in: set CKD_DET_TEST_DEVICE=cuda");
    let count = ckd_kernels::cuda::machine().unwrap().gpus.len();
    let are = count > 1 || std::env::var_os("CPU_CUDA_DIR").is_some();
    if !are {
        eprintln!("NOT RUN: there is one GPU");
    }
    are
}

fn folder() -> Folder<ClassifyConfig> {
    let folder = Folder::empty();
    colours::write(&folder.path("data"));
    folder.write("base.toml", classify::BASE);
    folder.write("distilled.toml", classify::DISTILLED);
    folder
}

fn train<'a>(sets: &[&'a str], options: &[&'a str]) -> Vec<&'a str> {
    let sets = sets.iter().flat_map(|set| ["--set", *set]);
    ["train", "distilled.toml"].into_iter().chain(sets).chain(options.iter().copied()).collect()
}

fn run(mut command: Command) -> Output {
    command.env("CPU_CUDA_GPUS", "2").output().unwrap()
}

#[test]
fn two_gpus_train_as_one_that_accumulates_two_batches_bit_for_bit() {
    if !are_two() {
        return;
    }
    let one = folder();
    assert_ended(
        &run(one.program(&train(&TWO_PARTS, &["--device", "cuda", "--threads", "1"]))),
        0,
        &["everything is in"],
    );
    let shared = folder();
    let output = run(shared.program(&train(&TWO_PARTS, &["--gpus", "2", "--threads", "1"])));
    assert_ended(&output, 0, &["everything is in"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches("everything is in").count(), 1, "{said}");
    assert_same_run(&one.path("runs/distilled"), &shared.path("runs/distilled"));
    for launcher in launchers() {
        let shared = folder();
        let _alone = alone();
        let output = run(shared.job_command(launcher, 2, &train(&TWO_PARTS, &["--device", "cuda"])[..]));
        assert_ended(&output, 0, &["everything is in"]);
        assert_same_run(&one.path("runs/distilled"), &shared.path("runs/distilled"));
    }
}

#[test]
fn what_ends_one_process_of_several_gpus_ends_all_with_its_code() {
    if !are_two() {
        return;
    }
    let folder = folder();
    let uneven = run(folder.program(&train(&TWO_PARTS[..2], &["--gpus", "2"])));
    assert_ended(&uneven, 2, &["2 processes cannot share the 1 parts", "start 1 of them"]);
    assert!(!folder.path("runs").exists());
    for options in [&["--gpus", "2", "--device", "cuda:1"][..], &["--gpus", "3"]] {
        assert_ended(&run(folder.program(&train(&TWO_PARTS, options))), 2, &["--gpus"]);
    }

    let long = [&TWO_PARTS[..2], &["train.accumulate=2", "schedule.epochs=1000"]].concat();
    let mut job = folder.program(&train(&long, &["--gpus", "2"]));
    let job = job.env("CPU_CUDA_GPUS", "2").stdout(Stdio::null()).stderr(Stdio::null());
    let mut job = job.spawn().unwrap();
    let (log, began) = (folder.path("runs/distilled/log.jsonl"), Instant::now());
    while std::fs::metadata(&log).map_or(0, |log| log.len()) == 0 {
        assert!(began.elapsed() < Duration::from_secs(120), "no step was made");
        std::thread::sleep(Duration::from_millis(50));
    }
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", job.id())).unwrap();
    let children: Vec<&str> = children.split_whitespace().collect();
    assert_eq!(children.len(), 2);
    assert!(Command::new("kill").args(["-KILL", children[1]]).status().unwrap().success());
    assert_eq!(job.wait().unwrap().code(), Some(137));
    assert!(!std::path::Path::new("/proc").join(children[0]).exists(), "the other one runs on");
}
