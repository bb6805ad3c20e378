//! Comparisons of several runs at once.

use super::*;

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
