//! A classifier that several processes train: the same as one that accumulates.

use super::*;

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
