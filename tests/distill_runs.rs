//! Methods in whole runs: what they train beside the student, schedules, the report of shares, and `ckd-det methods`.

use crate::support::tiny::{
    Tiny, assert_ended, assert_mentions, assert_same_run, assert_same_tensors, log, names, tensors,
};
use ckd_det::config::{Config, Document};
use ckd_det::distill::{mcl::CohortMethod, methods, taught};
use serde_json::Value;

/// Every method that Faster R-CNN has taps for, with the weight of each small enough to train.
const EVERY_METHOD: &str = r#"
[teacher]
backbone = "resnet18"
width = 16
norm = "bn"
train = "teacher.toml"

[[distill]]
method = "icd"
at = "roi_logits"
width = 8
weight = 0.1

[[distill]]
method = "review_kd"
levels = ["p4", "p2", "p3"]
width = 12
weight = 0.1

[[distill]]
method = "fgd"
levels = ["p2", "p3"]
weight = 1e-4
weight_background = 1e-4
weight_attention = 1e-4
weight_context = 1e-4

[[distill]]
method = "fgfi"
levels = ["p2", "p3", "p4"]
weight = 0.01
from_step = 1

[[distill]]
method = "fitnet"
levels = ["p3"]
weight = 0.1

[[distill]]
method = "mimic"
levels = ["p4"]
weight = 0.1
until_step = 3
decay_steps = 1

[[distill]]
method = "ckd"
at = "roi_logits"
negatives = "student"

[[distill]]
method = "rcka"
levels = ["p2"]
weight = 0.1
weight_inter = 0.1
patch = 4

[[distill]]
method = "lcka"
at = "roi_logits"
weight = 0.1
weight_inter = 0.1

[[distill]]
method = "fcka"
levels = ["p5"]
weight = 0.1

[[distill]]
method = "kd"
at = "roi_logits"
weight = 0.1

[[distill]]
method = "dkd"
at = "roi_logits"
weight = 0.1

[[distill]]
method = "dist"
at = "roi_logits"
weight = 0.1
weight_intra = 0.1

[[distill]]
method = "at"
levels = ["p3"]
weight = 1.0

[[distill]]
method = "pkd"
levels = ["p2"]
weight = 0.1
std = "sample"

[[distill]]
method = "cwd"
levels = ["p2"]
weight = 0.1

[[distill]]
method = "mgd"
levels = ["p3"]
weight = 1e-5

[[distill]]
method = "dense"
levels = ["p3"]
weight = 0.1

[[distill]]
method = "queue"
levels = ["p5"]
rows = 4
weight = 0.1

[[distill]]
method = "local"
levels = ["p5"]
weight = 0.1

[[distill]]
method = "tbr"
at = "roi_boxes"
margin = 0.1

[[distill]]
method = "box_imitation"
at = "roi_boxes"
regions = "all"
normalizer = "confidence"
"#;

/// RetinaNet's and FCOS's.
const CROSS_KD: &str = r#"
[[distill]]
method = "cross_kd"
at = "anchor_boxes"
reuse = 1
weight = 0.1
weight_boxes = 0.1
"#;

/// Those that no detector has taps for.
const FOR_CLASSIFIERS: [&str; 2] = ["rkd", "crd"];
/// Those of one-stage detectors.
const FOR_ONE_STAGE: [&str; 1] = ["cross_kd"];
/// Those of two-stage detectors.
const FOR_TWO_STAGES: [&str; 2] = ["kd", "dkd"];

pub(crate) fn faster(tiny: &Tiny) -> &'static str {
    tiny.write("every.toml", &format!("extends = \"base.toml\"\n{EVERY_METHOD}"));
    "every.toml"
}

pub(crate) fn retina(tiny: &Tiny) -> &'static str {
    one_stage(tiny, "retina");
    "retina_every.toml"
}

pub(crate) fn fcos(tiny: &Tiny) -> &'static str {
    one_stage(tiny, "fcos");
    "fcos_every.toml"
}

/// As [`faster`]; detectors of one stage have other levels, and no softmax for KD and DKD.
fn one_stage(tiny: &Tiny, kind: &str) {
    let without = |text: String, method: &str| -> String {
        let entries = text.split("[[distill]]");
        let kept: Vec<&str> =
            entries.filter(|entry| !entry.contains(&format!("method = \"{method}\""))).collect();
        kept.join("[[distill]]")
    };
    let text = ["p5", "p4", "p3", "p2"].iter().fold(EVERY_METHOD.to_owned(), |text, level| {
        let next = format!("p{}", level[1..].parse::<u8>().unwrap() + 1);
        text.replace(&format!("\"{level}\""), &format!("\"{next}\""))
    });
    let text = without(without(text, "kd"), "dkd");
    let text = text
        .replace("roi_logits", "anchor_logits")
        .replace("roi_boxes", "anchor_boxes")
        .replace("teacher.toml", &format!("{kind}_teacher.toml"));
    tiny.write(&format!("{kind}_every.toml"), &format!("extends = \"{kind}_base.toml\"\n{text}{CROSS_KD}"));
}

#[test]
fn every_method_trains_and_a_resumed_run_is_the_uninterrupted_one() {
    let configs: [fn(&Tiny) -> &'static str; 3] = [faster, retina, fcos];
    for (config, run) in configs.into_iter().zip(["runs/every", "runs/retina_every", "runs/fcos_every"]) {
        let (whole, resumed) = (Tiny::new(), Tiny::new());
        let (name, again) = (config(&whole), config(&resumed));
        let sets = ["schedule.steps=3", "schedule.milestones=[2]"];
        whole.train(name, &sets).unwrap();
        assert!(resumed.train_step_by_step(again, &sets) >= 3);
        assert_same_run(&whole.path(run), &resumed.path(run));

        let checkpoint = tensors(&whole.path(run).join("checkpoints/step-00000003.safetensors"));
        let trained: Vec<&String> = checkpoint.keys().filter(|name| name.contains("/distill.")).collect();
        for part in [
            "distill.0.student.weight",
            "distill.1.p",
            "distill.2.p",
            "distill.3.p",
            "distill.4.p",
            "distill.5.p",
        ] {
            let model = trained.iter().filter(|name| name.starts_with(&format!("model/{part}"))).count();
            let velocity =
                trained.iter().filter(|name| name.starts_with(&format!("velocity/{part}"))).count();
            assert!(model > 0 && model == velocity, "{part}: {trained:?}");
        }
        let student = tensors(&whole.path(run).join("last.safetensors"));
        assert!(student.keys().all(|name| !name.contains("distill")), "dropped at the end");
        let alone = tensors(&whole.path(&format!("{}/last.safetensors", run.replace("every", "teacher"))));
        assert!(student.keys().eq(alone.keys()), "the same tensors as a network that never had a teacher");
    }
}

/// The losses of each step.
fn losses(tiny: &Tiny, run: &str) -> Vec<Vec<String>> {
    let lines = log(&tiny.path(run));
    let steps = lines.iter().filter_map(|line| line["losses"].as_object());
    steps.map(|losses| losses.keys().cloned().collect()).collect()
}

#[test]
fn every_method_shows_in_the_log_while_it_counts() {
    let configs: [fn(&Tiny) -> &'static str; 3] = [faster, retina, fcos];
    for (config, run) in configs.into_iter().zip(["runs/every", "runs/retina_every", "runs/fcos_every"]) {
        let tiny = Tiny::new();
        tiny.train(config(&tiny), &["schedule.steps=4", "schedule.milestones=[3]"]).unwrap();
        let steps = losses(&tiny, run);
        let has =
            |step: usize, method: &str| steps[step].iter().any(|name| name.split('/').next() == Some(method));
        let of_others: &[&str] = if run == "runs/every" { &FOR_ONE_STAGE } else { &FOR_TWO_STAGES };
        for method in taught().iter().map(|card| card.method) {
            let expected = match method {
                "fgfi" => [false, true, true, true],
                "mimic" => [true, true, true, false],
                method => [!FOR_CLASSIFIERS.contains(&method) && !of_others.contains(&method); 4],
            };
            assert_eq!([0, 1, 2, 3].map(|step| has(step, method)), expected, "{run} {method}: {steps:?}");
        }
        let level = if run == "runs/every" { "mimic/p4" } else { "mimic/p5" };
        let weighted = |step: usize| log(&tiny.path(run))[step]["losses"][level].as_f64().unwrap();
        assert!(weighted(2) < 0.75 * weighted(1), "it is half in its last step");
    }
}

#[test]
fn every_weight_0_is_plain_training_bit_for_bit_even_while_shares_are_asked_for() {
    let tiny = Tiny::new();
    let name = faster(&tiny);
    let mut sets = vec!["schedule.steps=2".to_owned(), "train.share_steps=2".to_owned()];
    let shown = ckd_det::config::Config::load(tiny.path(name), &[]).unwrap().config;
    for (index, entry) in shown.distill.iter().enumerate() {
        sets.extend(entry.weights().iter().map(|(key, _)| format!("distill.{index}.{key}=0")));
    }
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    tiny.train(name, &sets).unwrap();
    tiny.train("plain.toml", &["schedule.steps=2"]).unwrap();
    for file in ["last.safetensors", "checkpoints/step-00000002.safetensors"] {
        assert_same_tensors(&tiny.path("runs/plain").join(file), &tiny.path("runs/every").join(file));
    }
    assert_eq!(log(&tiny.path("runs/plain")), log(&tiny.path("runs/every")));
}

fn shares(tiny: &Tiny, run: &str) -> serde_json::Map<String, Value> {
    let lines = log(&tiny.path(run));
    let line = lines.iter().find(|line| line["shares"].is_object()).expect("a line of shares");
    assert_eq!(line["step"], 2);
    assert_eq!(line["shares"]["passes"], 2);
    line["shares"]["gradient_norms"].as_object().expect("norms").clone()
}

#[test]
fn a_weight_that_is_off_by_100_shows_in_the_shares() {
    for (config, method, base) in [
        ("distilled.toml", "ckd (distill.0)", "distilled"),
        ("retina_distilled.toml", "ckd (distill.0)", "retina_distilled"),
    ] {
        let tiny = Tiny::new();
        let measured = ["schedule.steps=3", "train.share_steps=2"];
        tiny.train(config, &measured).unwrap();
        let usual = shares(&tiny, &format!("runs/{base}"));
        let names: Vec<&String> = usual.keys().collect();
        assert_eq!(names, ["ckd (distill.0)", "detection", "rcka (distill.1)"]);
        assert!(usual.values().all(|norm| norm.as_f64().unwrap() > 0.0), "{usual:?}");
        // A learning rate of almost nothing: both runs measure the same network.
        let still = ["optim.lr=1e-12", "name=still"];
        tiny.train(config, &[&measured[..], &still].concat()).unwrap();
        let still = shares(&tiny, "runs/still");
        let loud = ["optim.lr=1e-12", "name=loud", "distill.0.weight=50"];
        tiny.train(config, &[&measured[..], &loud].concat()).unwrap();
        let loud = shares(&tiny, "runs/loud");
        let norm = |of: &serde_json::Map<String, Value>, name: &str| of[name].as_f64().unwrap();
        let ratio = norm(&loud, method) / norm(&still, method);
        assert!((ratio - 100.0).abs() < 0.1, "{ratio}");
        for same in ["detection", "rcka (distill.1)"] {
            assert!((norm(&loud, same) / norm(&still, same) - 1.0).abs() < 1e-3, "{same}");
        }
    }
}

#[test]
fn a_measured_step_is_the_same_step_bit_for_bit() {
    for (config, sets) in [
        ("distilled.toml", ["schedule.steps=2", "train.accumulate=1"]),
        // Rows of all parts are looked at, and a memory moves.
        ("distilled.toml", ["distill.0.negatives_from=\"update\"", "train.accumulate=2"]),
        ("retina_distilled.toml", ["schedule.steps=2", "train.accumulate=1"]),
    ] {
        let (plain, measured) = (Tiny::new(), Tiny::new());
        plain.train(config, &sets).unwrap();
        measured.train(config, &[&sets[..], &["train.share_steps=2"]].concat()).unwrap();
        let run = format!("runs/{}", config.trim_end_matches(".toml"));
        let file = format!("{run}/last.safetensors");
        assert_same_tensors(&plain.path(&file), &measured.path(&file));
        let mut lines = log(&measured.path(&run));
        lines.retain(|line| !line["shares"].is_object());
        assert_eq!(log(&plain.path(&run)), lines, "{config} {sets:?}");
    }
}

#[test]
fn every_run_with_a_teacher_tells_of_a_weight_that_is_far_off_and_which_would_balance_it() {
    assert_eq!(Config::load("quickstart", &[]).unwrap().config.run.train.share_steps(), 5);
    let tiny = Tiny::new();
    let sets =
        ["train.share_steps=2", "schedule.steps=2", "optim.lr=1e-12"].map(|set| ["--set", set]).concat();
    let measured = [&["train", "distilled.toml"], &sets[..]].concat();
    let loud = tiny.run_program(&[&measured[..], &["--set", "distill.0.weight=5e5"]].concat());
    let warning = "warning: ckd (distill.0) sends the student";
    assert_ended(
        &loud,
        0,
        &[warning, "times the gradient of the detection losses", "--set distill.0.weight="],
    );
    let told = String::from_utf8_lossy(&loud.stderr).into_owned();
    let advice = told.split("--set distill.0.weight=").nth(1).and_then(|rest| rest.split(' ').next());
    let balanced = format!("distill.0.weight={}", advice.expect("a weight"));
    let quiet = tiny.run_program(&[&measured[..], &["--set", &balanced, "--set", "name=quiet"]].concat());
    assert_ended(&quiet, 0, &["whose gradient reaches the student (2 passes)"]);
    assert!(!String::from_utf8_lossy(&quiet.stderr).contains(warning), "{quiet:?}");
}

#[test]
fn shares_go_on_where_a_run_was_interrupted() {
    let (whole, parted) = (Tiny::new(), Tiny::new());
    let sets = ["schedule.steps=3", "train.share_steps=3"];
    whole.train("distilled.toml", &sets).unwrap();
    assert!(parted.train_step_by_step("distilled.toml", &sets) > 1);
    let line =
        |tiny: &Tiny| log(&tiny.path("runs/distilled")).into_iter().find(|line| line["shares"].is_object());
    assert_eq!(line(&whole).expect("shares")["shares"]["passes"], 3);
    assert_eq!(line(&whole), line(&parted));
}

#[test]
fn a_tap_that_the_networks_lack_is_found_before_any_data_is_read() {
    let tiny = Tiny::new();
    for (entry, mentions) in [
        ("method = \"kd\"\nat = \"logits\"", ["\"distill.0.at\" is \"logits\"", "set at = \"roi_logits\""]),
        ("method = \"tbr\"\nat = \"roi_logits\"", ["which tbr cannot compare", "set at = \"roi_boxes\""]),
        ("method = \"ckd\"\nat = \"roi_boxes\"", ["which ckd cannot compare", "set at = \"roi_logits\""]),
        ("method = \"rkd\"\nat = \"roi_logits\"", ["which rkd cannot compare", "use another method"]),
        ("method = \"crd\"\nat = \"embedding\"", ["which faster_rcnn does not have", "use another method"]),
        ("method = \"pkd\"\nlevels = [\"p7\"]", ["\"distill.0.levels.0\" is \"p7\"", "p2, p3, p4, p5, p6"]),
        (
            "method = \"at\"\nat = \"stages\"\nlevels = [\"p2\"]",
            ["\"distill.0.at\" is \"stages\"", "set at = \"fpn\""],
        ),
        ("method = \"cwd\"\nlevels = [\"p2\"]\ndecay_steps = 3", ["decay_steps", "give until_step"]),
        (
            "method = \"fgd\"\nlevels = [\"p2\"]\nfrom_step = 9\nuntil_step = 9",
            ["until_step", "not after from_step"],
        ),
    ] {
        let teacher = "[teacher]\nbackbone = \"resnet18\"\nweights = \"nowhere.pth\"\n";
        tiny.write("wrong.toml", &format!("extends = \"base.toml\"\n{teacher}[[distill]]\n{entry}\n"));
        let error = tiny.train("wrong.toml", &[]).unwrap_err().to_string();
        assert_mentions(&error, &mentions);
    }
    assert_eq!(names(&tiny.path("")).iter().filter(|name| *name == "runs" || *name == "data").count(), 0);
}

#[test]
fn the_methods_are_listed_with_their_keys_defaults_and_papers() {
    let tiny = Tiny::new();
    let output = tiny.run_program(&["methods", "--json"]);
    assert_ended(&output, 0, &[]);
    let listing: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listing.len(), methods().len());
    for (listed, card) in listing.iter().zip(taught()) {
        assert_eq!(listed["method"], card.method);
        assert_eq!(listed["entry"], "[[distill]]");
        assert!(listed["paper"].as_str().unwrap().len() > 8);
        let keys: Vec<&str> =
            listed["keys"].as_array().unwrap().iter().map(|key| key["path"].as_str().unwrap()).collect();
        assert!(keys.contains(&"at") && keys.contains(&"weight"), "{keys:?}");
    }
    for (listed, method) in listing[taught().len()..].iter().zip(CohortMethod::ALL) {
        assert_eq!((&listed["method"], &listed["entry"]), (&method.word().into(), &"[cohort]".into()));
    }
    assert_ended(&tiny.run_program(&["methods"]), 0, &["review_kd", "arXiv 2104.09044", "temperature = 1.0"]);
    let explained = tiny.run_program(&["methods", "icd"]);
    assert_ended(&explained, 0, &["method = \"icd\"", "theta = 1.0", "at most 10", "arXiv 2407.11802"]);
    assert_ended(&tiny.run_program(&["methods", "cdk"]), 2, &["cdk"]);
}
