//! Training as a user meets it: what distillation changes, what seeds change, and what stops a run.

use std::fs;

use crate::support::tiny::{
    Tiny, assert_mentions, assert_same_run, assert_same_tensors, log, metadata, names, tensors,
};
use ckd_det::engine::EngineError;
use ckd_det::engine::experiment::Finding;
use serde_json::Value;

#[test]
fn distillation_with_weights_0_is_plain_training_bit_for_bit() {
    for (plain, distilled, run) in [
        ("plain.toml", "distilled.toml", "runs/distilled"),
        ("retina_plain.toml", "retina_distilled.toml", "runs/retina_distilled"),
        ("fcos_plain.toml", "fcos_distilled.toml", "runs/fcos_distilled"),
    ] {
        let tiny = Tiny::new();
        let sets = ["distill.0.weight=0", "distill.1.weight=0", "train.accumulate=2", "schedule.steps=4"];
        tiny.train(plain, &sets[2..]).unwrap();
        tiny.train(distilled, &sets).unwrap();
        let plain = tiny.path(&run.replace("distilled", "plain"));
        assert_same_tensors(&plain.join("last.safetensors"), &tiny.path(run).join("last.safetensors"));
        let checkpoint = "checkpoints/step-00000004.safetensors";
        assert_same_tensors(&plain.join(checkpoint), &tiny.path(run).join(checkpoint));
        assert_eq!(log(&plain), log(&tiny.path(run)));
    }
}

#[test]
fn each_method_by_itself_changes_the_student_and_shows_in_the_log() {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &[]).unwrap();
    let plain = tensors(&tiny.path("runs/plain/last.safetensors"));
    for (off, name, terms) in
        [("distill.1.weight=0", "ckd", vec!["ckd"]), ("distill.0.weight=0", "rcka", vec!["p2", "p3"])]
    {
        tiny.train("distilled.toml", &[off, &format!("name={name}")]).unwrap();
        let run = tiny.path("runs").join(name);
        assert_ne!(tensors(&run.join("last.safetensors")), plain, "{name}");
        for line in log(&run).iter().filter(|line| line["losses"].is_object()) {
            let losses = line["losses"].as_object().unwrap();
            for term in &terms {
                let found =
                    losses.iter().any(|(name, value)| name.contains(term) && value.as_f64() > Some(0.0));
                assert!(found, "no {term} in {losses:?}");
            }
            let sum: f64 = losses.values().filter_map(Value::as_f64).sum();
            assert!((sum - line["loss"].as_f64().unwrap()).abs() < 1e-9);
        }
    }
}

#[test]
fn a_teacher_of_another_kind_sees_the_images_in_its_own_way() {
    let tiny = Tiny::new();
    let first_losses = |name: &str, resize: &str| -> Vec<(String, f64)> {
        let sets = [
            "teacher.weights=none.safetensors",
            "teacher.allow_random_weights=true",
            "teacher.fpn_norm=bn",
            "teacher.detector.anchor_corners=exact",
            "teacher.detector.rpn.head_convs=2",
            "teacher.detector.roi.head=four_conv_fc",
            "teacher.detector.roi.align=aligned",
            "student.backbone=mobilenet_v1",
            "student.width=8",
            "input.short_side_px=[48]",
            "schedule.steps=1",
            "schedule.milestones=[1]",
            &format!("teacher.resize={resize}"),
            &format!("name={name}"),
        ];
        tiny.train("distilled.toml", &sets).unwrap();
        let log = log(&tiny.path("runs").join(name));
        let step = log.iter().find(|line| line["losses"].is_object()).expect("a step");
        let losses = step["losses"].as_object().unwrap();
        losses.iter().map(|(name, value)| (name.clone(), value.as_f64().unwrap())).collect()
    };
    let same = first_losses("same", "bilinear");
    let other = first_losses("other", "pil_bilinear");
    assert!(same.iter().any(|(name, _)| name.starts_with("ckd")) && same.len() == other.len());
    for ((name, same), (_, other)) in same.iter().zip(&other) {
        // What the student alone is judged by is the same; what it is told by the teacher is not.
        assert_eq!(name.starts_with("loss_"), same == other, "{name}: {same}, {other}");
    }
}

/// The student's levels are p5 and p6 of stride 32, and p7: a ResNet has its p5, another such network has
/// all.
#[test]
fn a_mobilenet_v3_learns_from_a_resnet_and_from_its_like() {
    let tiny = Tiny::new();
    let five = "teacher.detector.anchor_sizes=[[8.0],[16.0],[32.0],[64.0],[128.0]]";
    let like = ["teacher.backbone=mobilenet_v3_large", "teacher.width=8"];
    let runs = [
        ("of_resnet", vec![five, "teacher.width=8"], vec!["p5"]),
        ("of_its_like", like.to_vec(), vec!["p5", "p6", "p7"]),
    ];
    for (name, teacher, levels) in runs {
        let quoted: Vec<String> = levels.iter().map(|level| format!("\"{level}\"")).collect();
        let (name_is, levels_are) =
            (format!("name={name}"), format!("distill.1.levels=[{}]", quoted.join(", ")));
        let mut sets = vec![
            "student.backbone=mobilenet_v3_large",
            "student.width=8",
            "detector.anchor_sizes=[[16.0,32.0],[24.0,48.0],[64.0,128.0]]",
            "teacher.weights=none.safetensors",
            "teacher.allow_random_weights=true",
            "distill.1.patch=1",
            "schedule.steps=2",
            "schedule.milestones=[1]",
            &name_is,
            &levels_are,
        ];
        sets.extend(teacher);
        tiny.train("distilled.toml", &sets).unwrap();
        let log = log(&tiny.path("runs").join(name));
        let step = log.iter().find(|line| line["losses"].is_object()).expect("a step");
        let losses = step["losses"].as_object().unwrap();
        let terms: Vec<&String> = losses.keys().filter(|term| term.starts_with("rcka")).collect();
        assert_eq!(terms.len(), levels.len(), "{name}: {losses:?}");
        let (ckd, _) = losses.iter().find(|(term, _)| term.starts_with("ckd")).expect("CKD's term");
        assert!(losses[ckd].as_f64() > Some(0.0), "{name}: {losses:?}");
    }
}

#[test]
fn one_seed_gives_one_result_and_another_seed_another() {
    let (one, again) = (Tiny::new(), Tiny::new());
    one.train("distilled.toml", &[]).unwrap();
    again.train("distilled.toml", &[]).unwrap();
    assert_same_run(&one.path("runs/distilled"), &again.path("runs/distilled"));
    one.train("distilled.toml", &["seed=4", "name=other"]).unwrap();
    assert_ne!(
        tensors(&one.path("runs/other/last.safetensors")),
        tensors(&one.path("runs/distilled/last.safetensors"))
    );
    assert_ne!(log(&one.path("runs/other")), log(&one.path("runs/distilled")));
}

#[test]
fn the_same_run_writes_the_same_bytes() {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &[]).unwrap();
    let first = fs::read(tiny.path("runs/plain/last.safetensors")).unwrap();
    tiny.train("plain.toml", &[]).unwrap();
    assert_eq!(fs::read(tiny.path("runs/plain/last.safetensors")).unwrap(), first);
    assert_eq!(fs::read(tiny.path("runs/plain.1/last.safetensors")).unwrap(), first);
}

#[test]
fn teacher_and_two_students_are_compared_and_the_teacher_is_reused() {
    let tiny = Tiny::new();
    let finished = tiny.train("distilled.toml", &["train.compare_alone=true"]).unwrap();
    let Finding::Comparison(comparison) = finished.finding else { panic!("no comparison") };
    let table = comparison.to_string();
    assert_mentions(&table, &["teacher", "student alone", "student distilled", "difference", "AP50"]);
    let summary = tiny.json("runs/distilled/summary.json");
    for model in ["teacher", "student_alone", "student_distilled"] {
        let row = &summary[model];
        assert_eq!(row["stats"].as_array().map(Vec::len), Some(12), "{model}");
        for figure in ["parameters", "gflops", "ms_per_image"] {
            assert!(row[figure].as_f64().is_some_and(|value| value > 0.0), "{model}: {figure}");
        }
    }
    assert!(summary["teacher"]["parameters"].as_u64() > summary["student_alone"]["parameters"].as_u64());
    assert_eq!(summary["student_alone"]["parameters"], summary["student_distilled"]["parameters"]);
    assert_eq!(summary["seed"], 3);
    let last_evaluation = |run: &str| log(&tiny.path(run)).pop().unwrap()["eval"].clone();
    assert_eq!(summary["student_alone"]["stats"], last_evaluation("runs/distilled/alone"));
    assert_eq!(summary["student_distilled"]["stats"], last_evaluation("runs/distilled"));
    let picture = fs::read(tiny.path("runs/distilled/detections.png")).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));

    let teacher = |file: &str| fs::read(tiny.path("runs/teacher").join(file)).unwrap();
    let (before, log_before) = (teacher("last.safetensors"), teacher("log.jsonl"));
    tiny.train("distilled.toml", &["train.compare_alone=true", "seed=9"]).unwrap();
    assert_eq!((teacher("last.safetensors"), teacher("log.jsonl")), (before, log_before), "timings and all");
    assert_eq!(names(&tiny.path("runs")), ["distilled", "distilled.1", "teacher"]);
}

#[test]
fn both_students_see_the_same_images_in_the_same_order_from_the_same_start() {
    let tiny = Tiny::new();
    // Weights that do not move: the detection losses then tell the batches, flips and samples apart.
    let sets = ["train.compare_alone=true", "optim.lr=1e-30", "optim.weight_decay=0"];
    tiny.train("distilled.toml", &sets).unwrap();
    let detection_losses = |run: &str| -> Vec<Vec<Value>> {
        let lines = log(&tiny.path(run));
        let steps = lines.iter().filter(|line| line["losses"].is_object());
        let names = ["loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"];
        steps.map(|line| names.map(|name| line["losses"][name].clone()).to_vec()).collect()
    };
    let alone = detection_losses("runs/distilled/alone");
    assert_eq!(alone.len(), 6);
    assert!(alone.iter().flatten().all(Value::is_f64));
    assert!(alone.windows(2).all(|pair| pair[0] != pair[1]), "every batch is another");
    assert_eq!(alone, detection_losses("runs/distilled"));
}

#[test]
fn checkpoints_and_weights_hold_the_student_alone_and_the_teachers_hash() {
    let tiny = Tiny::new();
    tiny.train("distilled.toml", &[]).unwrap();
    let teacher = fs::read(tiny.path("runs/teacher/last.safetensors")).unwrap();
    let hash = blake3::hash(&teacher).to_hex().to_string();
    let run = tiny.path("runs/distilled");
    let student = tensors(&run.join("last.safetensors"));
    let checkpoint = run.join("checkpoints/step-00000006.safetensors");
    for (name, (shape, _)) in tensors(&checkpoint) {
        let own = name.strip_prefix("model/").or_else(|| name.strip_prefix("velocity/"));
        let own = own.unwrap_or_else(|| panic!("{name} belongs to nobody"));
        assert_eq!(student[own].0, shape, "{name} has the student's shape, not the teacher's");
    }
    assert!(metadata(&checkpoint)["ckd_det.train_state"].contains(&hash));
    assert!(metadata(&run.join("last.safetensors"))["ckd_det.provenance"].contains(&hash));
    assert!(tiny.text("runs/distilled/config.toml").contains("teacher.toml"), "where it came from");
}

#[test]
fn a_teacher_is_trained_anew_when_its_configuration_changed() {
    let tiny = Tiny::new();
    tiny.train("distilled.toml", &["schedule.steps=2"]).unwrap();
    tiny.write("teacher.toml", &tiny.text("teacher.toml").replace("steps = 2", "steps = 1"));
    tiny.train("distilled.toml", &["schedule.steps=2"]).unwrap();
    let runs = names(&tiny.path("runs"));
    let [_, _, first, second] = runs.as_slice() else { panic!("{runs:?}") };
    assert!(first == "teacher" && second.starts_with("teacher-"), "{runs:?}");
    assert_eq!(tiny.json("runs/teacher/outcome.json")["steps"], 2, "the first one stays where it was");
    assert_eq!(tiny.json(&format!("runs/{second}/outcome.json"))["steps"], 1);
}

#[test]
fn teachers_of_two_data_sets_do_not_push_each_other_aside() {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &["schedule.steps=1"]).unwrap();
    let (before, data) =
        tiny.text("base.toml").split_once("[data]").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let after = data.split_once("[student]").unwrap().1;
    let coco = r#"[data]
kind = "coco"
root = "data"
train_images = "train"
val_images = "val"
train_annotations = "annotations/instances_train.json"
val_annotations = "annotations/instances_val.json"
"#;
    tiny.write("base.toml", &format!("{before}{coco}[student]{after}"));
    let boxes = "data/annotations/instances_train.json";
    let first = tiny.text(boxes);
    let mut changed = tiny.json(boxes);
    changed["annotations"][0]["bbox"] = serde_json::json!([1.0, 1.0, 20.0, 20.0]);
    let train = |boxes_now: &str, name: &str| {
        tiny.write(boxes, boxes_now);
        tiny.train("distilled.toml", &["schedule.steps=1", &format!("name={name}")]).unwrap();
    };
    train(&first, "on_first");
    train(&changed.to_string(), "on_changed");
    let teachers = || -> Vec<(String, Vec<u8>)> {
        let runs = names(&tiny.path("runs")).into_iter().filter(|name| name.starts_with("teacher"));
        runs.map(|name| (name.clone(), fs::read(tiny.path(&format!("runs/{name}/log.jsonl"))).unwrap()))
            .collect()
    };
    let trained = teachers();
    assert_eq!(trained.len(), 2, "the same configuration over other boxes is another teacher");
    train(&first, "on_first_again");
    train(&changed.to_string(), "on_changed_again");
    assert!(teachers() == trained, "both were found again: wall times in their logs are the same");
}

#[test]
fn a_teacher_in_its_students_file_is_trained_once_for_all_seeds() {
    let tiny = Tiny::new();
    let table = "train = { schedule = { steps = 2 } }";
    tiny.write("one.toml", &tiny.text("distilled.toml").replace("train = \"teacher.toml\"", table));
    tiny.train("one.toml", &["schedule.steps=1"]).unwrap();
    let weights = fs::read(tiny.path("runs/one_teacher/last.safetensors")).unwrap();
    assert_eq!(tiny.json("runs/one_teacher/outcome.json")["steps"], 2);
    tiny.train("one.toml", &["schedule.steps=1", "seed=8", "name=one_seed8"]).unwrap();
    assert_eq!(names(&tiny.path("runs")), ["one", "one_seed8", "one_teacher"]);
    assert_eq!(fs::read(tiny.path("runs/one_teacher/last.safetensors")).unwrap(), weights);
}

#[test]
fn a_finished_run_stays_where_it_is_until_the_new_ones_inputs_are_checked() {
    let tiny = Tiny::new();
    tiny.train("distilled.toml", &["schedule.steps=1"]).unwrap();
    tiny.write("damaged.safetensors", "no weights");
    let student = format!("student.init={}", tiny.path("damaged.safetensors").display());
    let init = format!("width = 16\ninit = {:?}", tiny.path("damaged.safetensors"));
    assert!(tiny.train("distilled.toml", &["schedule.steps=1", &student]).is_err());
    tiny.write("teacher.toml", &tiny.text("teacher.toml").replace("width = 16", &init));
    assert!(tiny.train("distilled.toml", &["schedule.steps=1"]).is_err());
    assert_eq!(names(&tiny.path("runs")), ["distilled", "teacher"]);
}

#[test]
fn an_earlier_run_is_kept_beside_the_new_one() {
    let tiny = Tiny::new();
    for lr in ["optim.lr=0.01", "optim.lr=0.02", "optim.lr=0.03"] {
        tiny.train("plain.toml", &[lr, "schedule.steps=1"]).unwrap();
    }
    assert_eq!(names(&tiny.path("runs")), ["plain", "plain.1", "plain.2"]);
    for (run, lr) in [("plain.1", "lr = 0.01"), ("plain.2", "lr = 0.02"), ("plain", "lr = 0.03")] {
        assert_mentions(&tiny.text(&format!("runs/{run}/config.toml")), &[lr]);
    }
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_overwrites_nothing() {
    let tiny = Tiny::new();
    let sets =
        ["optim.lr=1e6", "schedule.warmup_steps=0", "train.checkpoint_every=1", "train.keep_checkpoints=9"];
    let error = tiny.train("plain.toml", &sets).unwrap_err();
    let EngineError::NonFinite { step, .. } = error else { panic!("{error}") };
    assert!((1..6).contains(&step), "step {step}");
    assert_mentions(&error.to_string(), &[&format!("after step {step}, "), "loss_", "optim.lr", "unharmed"]);
    let checkpoints = names(&tiny.path("runs/plain/checkpoints"));
    // The step may fail in its losses, or leave weights that cannot be used.
    let saved = [step, step - 1].map(|step| format!("step-{step:08}.safetensors"));
    assert!(saved.contains(checkpoints.last().unwrap()), "none of the step that failed: {checkpoints:?}");
    assert!(!tiny.path("runs/plain/last.safetensors").exists());
    for (name, (_, bytes)) in tensors(&tiny.path("runs/plain/checkpoints/step-00000001.safetensors")) {
        let finite = bytes.chunks_exact(4).all(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite());
        assert!(finite, "{name}");
    }
}

#[test]
fn a_teacher_of_other_classes_is_refused_with_both_lists() {
    let tiny = Tiny::new();
    let data = |classes: usize| format!("data.synth.classes={classes}");
    tiny.write("other.toml", "extends = \"teacher.toml\"\n");
    let other = Tiny::new();
    other.train("teacher.toml", &[&data(2)]).unwrap();
    let weights = format!("teacher.weights={}", other.path("runs/teacher/last.safetensors").display());
    let error = tiny.train("distilled.toml", &[&weights, &data(3)]).unwrap_err();
    assert!(matches!(error, EngineError::Classes(_)));
    assert_mentions(
        &error.to_string(),
        &["runs/teacher/last.safetensors", "2 classes (", "3 classes (", "class 3"],
    );
    assert!(!tiny.path("runs").exists(), "nothing was begun");
}

#[test]
fn a_teacher_of_another_build_is_refused_with_the_keys_that_differ() {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &["schedule.steps=1"]).unwrap();
    let weights = format!("teacher.weights={}", tiny.path("runs/plain/last.safetensors").display());
    let error = tiny.train("distilled.toml", &[&weights]).unwrap_err().to_string();
    assert_mentions(
        &error,
        &["runs/plain/last.safetensors was trained as another network", "teacher.width = 8 (now 16)"],
    );
}

#[test]
fn teacher_and_student_of_one_name_are_refused() {
    let tiny = Tiny::new();
    let error = tiny.train("distilled.toml", &["name=teacher"]).unwrap_err();
    assert_mentions(&error.to_string(), &["runs/teacher", "the same folder", "`name`"]);
}

#[test]
fn everything_that_is_missing_is_named_at_once_before_anything_is_made() {
    let tiny = Tiny::new();
    let sets = ["teacher.weights=nowhere/teacher.pth", "student.init=nowhere/r18.pth"];
    let error = tiny.train("distilled.toml", &sets).unwrap_err();
    assert!(matches!(error, EngineError::Missing(_)));
    assert_mentions(
        &error.to_string(),
        &[
            "teacher.weights = \"nowhere/teacher.pth\"",
            "student.init = \"nowhere/r18.pth\"",
            &tiny.path("nowhere/r18.pth").display().to_string(),
            "--set teacher.train=",
            "https://download.pytorch.org/models/resnet18",
        ],
    );
    assert_eq!(
        names(&tiny.path(".")).iter().filter(|name| ["data", "runs"].contains(&name.as_str())).count(),
        0
    );
}

#[test]
fn a_teacher_to_be_trained_never_starts_at_random_where_its_initial_weights_are_missing() {
    let tiny = Tiny::new();
    tiny.train("distilled.toml", &["schedule.steps=1"]).unwrap();
    let init = "width = 16\ninit = \"nowhere/trunk.pth\"\nfreeze_at = 0";
    tiny.write("teacher.toml", &tiny.text("teacher.toml").replace("width = 16", init));
    let error = tiny.train("distilled.toml", &["schedule.steps=1"]).unwrap_err();
    assert_mentions(&error.to_string(), &["teacher needs", "student.init = \"nowhere/trunk.pth\""]);
    // With a teacher that is finished they are not needed any more.
    let recorded = tiny.text("runs/teacher/config.toml");
    let recorded = recorded.split("# blake3").next().unwrap();
    let with_init = recorded.replace("[student]", "[student]\ninit = \"nowhere/trunk.pth\"\nfreeze_at = 0");
    tiny.write("runs/teacher/config.toml", &with_init);
    tiny.train("distilled.toml", &["schedule.steps=1"]).unwrap();
}

#[test]
fn a_short_run_evaluates_keeps_the_best_and_logs_every_step() {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &["train.eval_every=2", "train.keep_checkpoints=2"]).unwrap();
    let run = tiny.path("runs/plain");
    let lines = log(&run);
    let steps: Vec<u64> =
        lines.iter().filter(|line| line["loss"].is_f64()).filter_map(|line| line["step"].as_u64()).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    assert_eq!(names(&run.join("eval")), [2, 4, 6].map(|step| format!("step-{step:08}.json")));
    assert_eq!(names(&run.join("checkpoints")), [4, 6].map(|step| format!("step-{step:08}.safetensors")));
    let evaluations: Vec<f64> = lines.iter().filter_map(|line| line["eval"][0].as_f64()).collect();
    let best = evaluations.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let outcome = tiny.json("runs/plain/outcome.json");
    assert_eq!(outcome["best"]["score"], best);
    assert_eq!(outcome["row"]["stats"][0], *evaluations.last().unwrap());
}
