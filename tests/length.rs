//! A training ends by its schedule, by `train.minutes` or by `train.patience`, and goes on to the same end when it is resumed.

use std::fs;

use crate::support::tiny::{Tiny, assert_mentions, assert_same_run, log, names};
use ckd_det::engine::job::Start;
use ckd_det::engine::outcome::Ended;

#[test]
fn without_a_better_evaluation_a_run_ends_and_says_why() {
    // Nothing is found at this threshold: the first evaluation stays the best.
    let sets = ["detector.roi.score_threshold=0.999", "train.eval_every=1", "train.patience=2"];
    let (tiny, resumed) = (Tiny::new(), Tiny::new());
    let finished = tiny.train("plain.toml", &sets).unwrap();
    assert_eq!((finished.student.steps, finished.student.ended), (3, Ended::Patience));
    assert_eq!(finished.student.best.unwrap().step, 1);
    assert_eq!(tiny.json("runs/plain/outcome.json")["ended"], "patience");
    assert!(tiny.path("runs/plain/best.safetensors").exists());
    // One interruption after each step and each evaluation that another step follows.
    assert!(resumed.train_step_by_step("plain.toml", &sets) >= 3);
    assert_same_run(&tiny.path("runs/plain"), &resumed.path("runs/plain"));
    fs::remove_file(tiny.path("runs/plain/outcome.json")).unwrap();
    let told = tiny.told("plain.toml", &sets, Start::Resume).unwrap();
    assert_mentions(&told, &["ends at step 3 of 6", "the last 2 evaluations", "train.patience"]);
    assert_same_run(&tiny.path("runs/plain"), &resumed.path("runs/plain"));
}

#[test]
fn a_run_that_gets_better_or_waits_long_enough_makes_its_whole_schedule() {
    let tiny = Tiny::new();
    let sets = ["detector.roi.score_threshold=0.999", "train.eval_every=1", "train.patience=6"];
    let finished = tiny.train("plain.toml", &sets).unwrap();
    assert_eq!((finished.student.steps, finished.student.ended), (6, Ended::Schedule));
    assert!(!tiny.text("runs/plain/outcome.json").contains("ended"));
}

#[test]
fn a_schedule_that_does_not_fit_into_its_minutes_is_shortened_as_a_whole() {
    let tiny = Tiny::new();
    let sets = ["schedule.steps=100000", "schedule.kind=cosine", "train.minutes=0.02"];
    let told = tiny.told("plain.toml", &sets, Start::Anew).unwrap();
    let run = tiny.path("runs/plain");
    let steps = tiny.json("runs/plain/outcome.json")["steps"].as_u64().unwrap();
    assert_eq!(tiny.json("runs/plain/outcome.json")["fitted"], steps);
    assert!((5..10_000).contains(&steps), "{steps}");
    assert_mentions(&told, &[&format!("{steps} of 100000 steps fit into train.minutes"), "in proportion"]);
    // The cosine comes to its end all the same.
    let lines = log(&run);
    let last = lines.iter().rev().find_map(|line| line["lr"].as_f64()).unwrap();
    assert!(last < 0.02 * 0.2, "{last} after {steps} steps");

    // From the state that was saved when the length was decided, the run comes to the same end.
    let whole = Tiny::new();
    crate::support::tiny::copy_folder(&tiny.path("data"), &whole.path("data"));
    crate::support::tiny::copy_folder(&run, &whole.path("runs/plain"));
    let checkpoints = names(&run.join("checkpoints"));
    assert_eq!(checkpoints.len(), 2, "{checkpoints:?}");
    for lost in ["outcome.json", "last.safetensors", &format!("checkpoints/{}", checkpoints[1])] {
        fs::remove_file(run.join(lost)).unwrap();
    }
    tiny.start("plain.toml", &sets, Start::Resume, false).unwrap();
    assert_same_run(&whole.path("runs/plain"), &run);
}

#[test]
fn a_schedule_that_fits_into_its_minutes_stays_as_it_is() {
    let (tiny, plain) = (Tiny::new(), Tiny::new());
    let schedule = ["schedule.steps=12", "schedule.milestones=[8]"];
    tiny.train("plain.toml", &[schedule.as_slice(), &["train.minutes=600"]].concat()).unwrap();
    plain.train("plain.toml", &schedule).unwrap();
    assert_eq!(tiny.json("runs/plain/outcome.json")["steps"], 12);
    assert_eq!(log(&tiny.path("runs/plain")), log(&plain.path("runs/plain")));
}

#[test]
fn students_that_are_compared_make_as_many_steps_whatever_fits() {
    let tiny = Tiny::new();
    let sets = ["schedule.steps=100000", "train.minutes=0.02", "train.compare_alone=true"];
    tiny.train("distilled.toml", &sets).unwrap();
    let [alone, distilled] =
        ["runs/distilled/alone", "runs/distilled"].map(|run| tiny.json(&format!("{run}/outcome.json")));
    assert_eq!(alone["steps"], distilled["steps"]);
    assert_eq!(alone["fitted"], distilled["fitted"]);
    assert!(alone["fitted"].as_u64().unwrap() < 10_000);
}

#[test]
fn a_budget_and_a_patience_that_make_no_sense_are_refused() {
    let tiny = Tiny::new();
    let error = |sets: &[&str]| tiny.load("plain.toml", sets).unwrap_err().to_string();
    assert_mentions(
        &error(&["train.patience=3"]),
        &["patience", "say how often to evaluate: train.eval_every"],
    );
    assert_mentions(&error(&["train.patience=0", "train.eval_every=1"]), &["patience"]);
    assert_mentions(&error(&["train.minutes=inf"]), &["train.minutes", "finite"]);
    for minutes in ["0", "-1"] {
        assert_mentions(&error(&[&format!("train.minutes={minutes}")]), &["minutes", "above 0"]);
    }
}
