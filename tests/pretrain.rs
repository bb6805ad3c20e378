//! Backbones that learn from a frozen one on images without labels, and what begins with them.

use std::fs;
use std::path::Path;

use ckd_det::config::{ClassifyConfig, Config, PretrainConfig};
use ckd_det::engine::experiment::Finding;
use ckd_det::engine::job::Start;

use crate::support::tiny::{
    Folder, Tiny, assert_ended, assert_mentions, assert_same_run, log, names, tensors,
};
use crate::{classify, support::colours};

const BASE: &str = r#"
task = "pretrain"
seed = 3

[input]
side_px = 16
crop = "random_resized"

[data]
root = "data"
held_out = 0.2

[teacher]
network = "resnet14"
weights = "teacher.safetensors"

[student]
network = "resnet8"

[[distill]]
method = "dense"
at = "stages"
levels = ["stage3"]

[[distill]]
method = "queue"
at = "stages"
levels = ["stage3"]
weight = 0.1

[optim]
lr = 0.05

[schedule]
epochs = 3
kind = "cosine"
warmup_steps = 2

[train]
batch_size = 4
log_every = 1
eval_every = 1

[eval]
batch_size = 3
"#;

pub(crate) type Small = Folder<PretrainConfig>;

impl Small {
    /// Twenty images of several sizes in folders of any depth, and a teacher that was trained on other ones.
    pub(crate) fn new() -> Self {
        let small = Self::empty();
        photographs(&small.path("data"));
        let taught = Folder::<ClassifyConfig>::empty();
        colours::write(&taught.path("data"));
        taught.write("teacher.toml", classify::BASE);
        taught.train("teacher.toml", &["student.network=resnet14", "schedule.epochs=1"]).unwrap();
        fs::copy(taught.path("runs/teacher/last.safetensors"), small.path("teacher.safetensors")).unwrap();
        small.write("base.toml", BASE);
        small.write("run.toml", "extends = \"base.toml\"\n");
        small
    }

    /// The keys that name the teacher, and `sets`.
    fn with(&self, sets: &[&str]) -> Vec<String> {
        let teacher = format!("teacher.weights={}", self.path("teacher.safetensors").display());
        sets.iter().map(|set| (*set).to_owned()).chain([teacher]).collect()
    }
}

/// Twenty images with stripes of different colours.
fn photographs(root: &Path) {
    for image in 0..20u32 {
        let folder = root.join(["", "a", "a/deep", "b"][image as usize % 4]);
        fs::create_dir_all(&folder).unwrap();
        let colour =
            |x: u32, y: u32| image::Rgb([(image * 12) as u8, ((x + image) * 9) as u8, (y * image) as u8]);
        image::RgbImage::from_fn(18 + image % 3, 24, colour)
            .save(folder.join(format!("{image}.png")))
            .unwrap();
    }
}

fn cosines(run: &Path) -> Vec<f64> {
    log(run).iter().filter_map(|line| line["eval"]["cosine"].as_f64()).collect()
}

#[test]
fn a_backbone_comes_nearer_to_its_teacher_and_leaves_projector_and_last_layer_behind() {
    let small = Small::new();
    let sets = small.with(&["schedule.epochs=6", "train.ema_decay=0.5"]);
    let finished = small.train("run.toml", &sets.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let run = small.path("runs/run");
    let cosines = cosines(&run);
    assert!(cosines.len() >= 6 && cosines.last() > cosines.first(), "{cosines:?}");
    let Finding::Student(outcome) = &finished.finding else { panic!("nothing to compare with") };
    assert!((outcome.row.cosine - cosines.last().unwrap()).abs() < 1e-9);
    for file in ["last.safetensors", "best.safetensors", "ema.safetensors"] {
        let tensors = tensors(&run.join(file));
        assert!(tensors.contains_key("conv1.weight") && tensors.contains_key("bn1.running_mean"));
        let beside = |name: &&String| name.starts_with("fc.") || name.contains("distill");
        assert_eq!(tensors.keys().find(beside), None, "{file}");
    }
    // Sixteen images are learned from in batches of four; the other four are held out.
    let steps = log(&run).iter().filter(|line| line["step"].is_u64() && line["losses"].is_object()).count();
    assert_eq!(steps, 24);
    let page = fs::read_to_string(run.join("report.html")).unwrap_or_default();
    assert!(page.is_empty() || page.contains("cosine"));
}

#[test]
fn resumed_equals_uninterrupted_with_its_queue() {
    let (whole, resumed) = (Small::new(), Small::new());
    // One file, so that both say the same of their teacher.
    let sets = whole.with(&["train.accumulate=2", "input.jitter=[0.4, 0.4, 0.4]", "distill.1.rows=6"]);
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    whole.train("run.toml", &sets).unwrap();
    assert!(resumed.train_step_by_step("run.toml", &sets) >= 3);
    assert_same_run(&whole.path("runs/run"), &resumed.path("runs/run"));
}

#[test]
fn the_methods_shares_of_the_gradient_show_a_weight_that_is_off_and_leave_the_run_as_it_is() {
    let small = Small::new();
    let train = |name: &str, sets: &[&str]| {
        let own = small.with(&[&["schedule.epochs=1", &format!("name={name}")], sets].concat());
        small.told("run.toml", &own.iter().map(String::as_str).collect::<Vec<_>>(), Start::Anew).unwrap()
    };
    let shares = |name: &str| {
        let lines = log(&small.path(&format!("runs/{name}")));
        lines.into_iter().find(|line| line["shares"].is_object()).map(|line| line["shares"].clone())
    };
    let told = train("usual", &["train.share_steps=2"]);
    assert_mentions(&told, &["whose gradient reaches the student (2 passes)"]);
    let usual = shares("usual").unwrap();
    let norms = usual["gradient_norms"].as_object().unwrap();
    assert_eq!(norms.keys().collect::<Vec<_>>(), ["dense (distill.0)", "queue (distill.1)"]);
    assert!(norms.values().all(|norm| norm.as_f64().is_some_and(|norm| norm > 0.0)), "{norms:?}");
    // Statistics and the queue are those of a run that is not measured.
    train("unmeasured", &["train.share_steps=0"]);
    assert_eq!(shares("unmeasured"), None);
    let checkpoints = names(&small.path("runs/usual/checkpoints"));
    let last = checkpoints.iter().rfind(|name| name.ends_with(".safetensors")).expect("a checkpoint");
    for file in ["last.safetensors".to_owned(), format!("checkpoints/{last}")] {
        let of = |run: &str| tensors(&small.path(&format!("runs/{run}/{file}")));
        assert_eq!(of("usual"), of("unmeasured"), "{file}");
    }

    // There is no task's loss: the first method is what the others are beside. Nothing is told of a single one.
    let told = train("loud", &["train.share_steps=1", "distill.1.weight=1e5"]);
    assert_mentions(
        &told,
        &["queue (distill.1) sends", "the gradient of dense (distill.0)", "--set distill.1.weight="],
    );
    train("single", &["distill.1.weight=0"]);
    assert_eq!(shares("single"), None);
}

#[test]
fn images_are_blended_unless_that_is_not_wanted() {
    let small = Small::new();
    let last = |name: &str, own: &str| {
        let name = format!("name={name}");
        let sets = small.with(&["schedule.epochs=1", own, &name]);
        small.train("run.toml", &sets.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    };
    last("mixed", "mix_up=true");
    last("again", "mix_up=true");
    last("plain", "mix_up=false");
    let file = |name: &str| tensors(&small.path(&format!("runs/{name}/last.safetensors")));
    assert_eq!(file("mixed"), file("again"));
    assert_ne!(file("mixed"), file("plain"));
}

#[test]
fn stl10s_images_without_labels_are_learned_from() {
    let small = Small::new();
    let images: Vec<u8> = (0..24u8).flat_map(|image| vec![10 * image; 96 * 96 * 3]).collect();
    fs::write(small.path("data/unlabeled_X.bin"), images).unwrap();
    let sets = small.with(&["data.kind=stl10", "schedule.epochs=1"]);
    let told = small.told("run.toml", &sets.iter().map(String::as_str).collect::<Vec<_>>(), Start::Anew);
    assert_mentions(&told.unwrap(), &["19 images to learn from, 5 held out"]);
    assert!(small.path("runs/run/last.safetensors").exists());
}

#[test]
fn other_methods_at_stages_go_along() {
    let small = Small::new();
    let more = ["fitnet", "pkd", "local"].map(|method| {
        format!("[[distill]]\nmethod = \"{method}\"\nat = \"stages\"\nlevels = [\"stage3\"]\nweight = 0.01\n")
    });
    let rcka =
        "[[distill]]\nmethod = \"rcka\"\nat = \"stages\"\nlevels = [\"stage2\"]\npatch = 4\nweight = 0.01\n";
    small.write("more.toml", &format!("{BASE}{}{rcka}", more.concat()));
    let sets = small.with(&["schedule.epochs=1"]);
    small.train("more.toml", &sets.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let line = log(&small.path("runs/more")).into_iter().find(|line| line["losses"].is_object()).unwrap();
    for term in
        ["dense/stage3", "queue/stage3", "fitnet/stage3", "pkd/stage3", "local/stage3", "rcka/stage2/intra"]
    {
        assert!(line["losses"][term].is_f64(), "{term}: {line}");
    }
}

#[test]
fn classifiers_and_detectors_begin_with_the_backbone() {
    let small = Small::new();
    let one = small.with(&["schedule.epochs=1"]);
    small.train("run.toml", &one.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let file = small.path("runs/run/best.safetensors");
    let init = format!("student.init={}", file.display());
    // A probe moves the last layer alone.
    let probing = Folder::<ClassifyConfig>::empty();
    colours::write(&probing.path("data"));
    probing.write("probe.toml", classify::BASE);
    probing.train("probe.toml", &["task=probe", &init, "schedule.epochs=1"]).unwrap();
    let probed = tensors(&probing.path("runs/probe/last.safetensors"));
    let own = tensors(&file);
    assert!(own.iter().all(|(name, tensor)| probed[name] == *tensor));
    assert_eq!(probed.len(), own.len() + 2);

    // A detector whose backbone does not train, and the way back: its backbone teaches.
    let mobile =
        ["student.network=mobilenet_v2", "teacher.network=mobilenet_v2", "teacher.allow_random_weights=true"];
    let stage = ["distill.0.levels=[\"stage4\"]", "distill.1.levels=[\"stage4\"]", "input.side_px=32"];
    let none = ["teacher.weights=none.safetensors", "name=mobile", "schedule.epochs=1"];
    small.train("run.toml", &[&mobile[..], &stage, &none].concat()).unwrap();
    let file = small.path("runs/mobile/last.safetensors");
    let init = format!("student.init={}", file.display());
    let tiny = Tiny::new();
    let detector = [
        "student.backbone=mobilenet_v2",
        "student.width=32",
        "student.norm=frozen_bn",
        "student.freeze_at=5",
    ];
    tiny.train("plain.toml", &[&detector[..], &[&init, "schedule.steps=1"]].concat()).unwrap();
    let whole = tiny.path("runs/plain/last.safetensors");
    let (own, detector) = (tensors(&file), tensors(&whole));
    let mut shared = 0;
    for (name, tensor) in
        own.iter().filter_map(|(name, tensor)| Some((name.strip_prefix("features.")?, tensor)))
    {
        if let Some(theirs) = detector.get(&format!("backbone.body.{name}")) {
            assert!(theirs == tensor, "{name}");
            shared += 1;
        }
    }
    assert!(shared > 100, "{shared}");
    let teacher = format!("teacher.weights={}", whole.display());
    small
        .train("run.toml", &[&mobile[..2], &stage, &[&teacher, "name=back", "schedule.epochs=1"]].concat())
        .unwrap();
}

#[test]
fn the_program_trains_forecasts_and_refuses() {
    let small = Small::new();
    let output = small.run_program(&["train", "run.toml", "--dry-run"]);
    assert_ended(&output, 0, &["backbone", "evaluations of 4 images", "nothing was kept"]);
    assert!(!names(small.path("").as_path()).iter().any(|name| name == "runs"));
    let output = small.run_program(&["train", "run.toml", "--set", "schedule.epochs=1"]);
    assert_ended(
        &output,
        0,
        &["16 images to learn from, 4 held out", "cosine ", "everything is in runs/run"],
    );
    let refused = |sets: &[&str]| small.train("run.toml", sets).map(drop).unwrap_err().to_string();
    let missing = refused(&["teacher.weights=nowhere.safetensors", "name=missing"]);
    assert_mentions(&missing, &["teacher.weights", "nowhere.safetensors"]);
    for (sets, told) in [
        (["distill=[]", "seed=1"], "method = \"dense\""),
        (["distill.0.levels=[\"stage4\"]", "seed=1"], "stage4"),
        (["data.held_out=1.5", "seed=1"], "held_out"),
        (["train.compare_alone=true", "seed=1"], "compare_alone"),
        (["distill.0.until_step=3", "distill.1.from_step=2"], "learns at every step"),
    ] {
        let error = small.load("run.toml", &sets).map(drop).unwrap_err().to_string();
        assert_mentions(&error, &[told]);
    }
    // Another network's weights, and a folder with one image.
    let other = small.with(&["teacher.network=resnet20", "name=other"]);
    let other = refused(&other.iter().map(String::as_str).collect::<Vec<_>>());
    assert_mentions(&other, &["is missing from the file"]);
    let lonely = small.path("lonely");
    fs::create_dir_all(&lonely).unwrap();
    fs::copy(small.path("data/0.png"), lonely.join("0.png")).unwrap();
    let config =
        fs::read_to_string(small.path("base.toml")).unwrap().replace("root = \"data\"", "root = \"lonely\"");
    small.write("lonely.toml", &config);
    assert_ended(&small.run_program(&["train", "lonely.toml"]), 2, &["it has 1 images"]);
}

#[test]
fn a_backbone_is_no_detector_and_no_classifier() {
    let small = Small::new();
    let one = small.with(&["schedule.epochs=1"]);
    small.train("run.toml", &one.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let export = ["export", "--run", "runs/run", "--out", "backbone.onnx"];
    for verb in [&["eval"][..], &["predict", "--run", "runs/run", "data/0.png"], &export] {
        let advice = ["runs/run learned features without labels", "student.init = \"run:run\""];
        assert_ended(&small.run_program(verb), 2, &advice);
    }
    let output = small.run_program(&["runs"]);
    assert_ended(&output, 0, &["run"]);
    let inspect = ["weights", "inspect", "runs/run/last.safetensors"];
    assert_ended(&small.run_program(&inspect), 0, &["architecture  resnet8 without its last layer"]);
    let output = small.run_program(&["weights", "inspect", "--json", "runs/run/last.safetensors"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["architecture"], &report["classes"]), (&"resnet8".into(), &serde_json::Value::Null));
    let unknown = Folder::<Config>::empty();
    assert!(unknown.load("nowhere.toml", &[]).is_err());
}
