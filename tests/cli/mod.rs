//! The program as a user types it: `train`, `eval`, `predict`, `export`, `doctor`, help; results, files, messages, exit codes.

mod data_check;
mod eval;
mod missing;
mod predict;
mod train;
mod words;

use std::process::Output;

use serde_json::Value;

use crate::support::tiny::{Tiny, assert_ended};

/// The twelve numbers that `eval ... --json` prints.
#[track_caller]
fn stats(output: &Output) -> Value {
    assert_ended(output, 0, &[]);
    let printed: Value = serde_json::from_slice(&output.stdout).expect("one JSON object and nothing else");
    assert_eq!(printed["stats"].as_array().map(Vec::len), Some(12), "{printed}");
    printed["stats"].clone()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with a trained `runs/distilled` (and `runs/teacher`), compared with the student alone.
fn trained() -> Tiny {
    let tiny = Tiny::new();
    let sets = ["--set", "train.compare_alone=true", "--set", "optim.clip_grad_norm=10.0"];
    let output = tiny.run_program(&[["train", "distilled.toml"].as_slice(), &sets].concat());
    assert_ended(
        &output,
        0,
        &["teacher", "student alone", "student distilled", "difference", "runs/distilled"],
    );
    tiny
}
