//! Faults of disks, of processes and of people: what was trained is kept, and what is wrong is said.
//! docs/RELIABILITY.md lists them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::tiny::{
    Tiny, assert_ended, assert_same_run, assert_same_tensors, copy_folder, log, names,
};
use candle_core::Device;
use ckd_det::data::synth::{Synth, generate};
use ckd_det::engine::job::Start;
use ckd_det::report::run_folder::{BadImageLine, Line, RunFolder};
use ckd_det::weights::WeightsFile;
use ckd_det::weights::file::write_safetensors;
use ckd_detectors::classifier::Architecture;
use ckd_detectors::param::Builder;

/// All files below a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let paths = names(folder).into_iter().map(|name| folder.join(name));
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// A number that looks random and is the same in every run of the tests.
fn scattered(index: u64) -> u64 {
    let hash = blake3::hash(&index.to_le_bytes());
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap())
}

#[test]
fn one_flipped_bit_anywhere_in_a_run_is_noticed_or_harmless() {
    const PLACES: u64 = 200;
    let sets = [
        "schedule.steps=3",
        "schedule.milestones=[2]",
        "train.eval_every=2",
        "train.checkpoint_every=1",
        "train.keep_checkpoints=9",
        "eval.max_images=2",
    ];
    let tiny = Tiny::new();
    tiny.train("plain.toml", &sets).unwrap();
    let run = tiny.path("runs/plain");
    copy_folder(&run, &tiny.path("finished"));
    let [expected, best] =
        ["last", "best"].map(|name| fs::read(run.join(name).with_extension("safetensors")).unwrap());
    let log_before = log(&run);
    for lost in ["last.safetensors", "outcome.json", "checkpoints/step-00000003.safetensors"] {
        fs::remove_file(run.join(lost)).unwrap();
    }
    copy_folder(&run, &tiny.path("interrupted"));
    assert_eq!(names(&tiny.path("interrupted/checkpoints")).len(), 2);
    let mut noticed = 0;
    for place in 0..PLACES {
        let from = tiny.path(if place % 2 == 0 { "finished" } else { "interrupted" });
        let all = files(&from);
        let file = &all[(place / 2) as usize % all.len()];
        let name = file.strip_prefix(&from).unwrap().to_owned();
        fs::remove_dir_all(&run).unwrap();
        copy_folder(&from, &run);
        let mut bytes = fs::read(file).unwrap();
        let (at, bit) = (scattered(2 * place) as usize % bytes.len(), scattered(2 * place + 1) % 8);
        bytes[at] ^= 1 << bit;
        fs::write(run.join(&name), &bytes).unwrap();
        let what = format!("bit {bit} of byte {at} of {}, place {place}", name.display());
        match tiny.told("plain.toml", &sets, Start::Resume) {
            Err(error) => {
                let file = name.file_name().unwrap().to_string_lossy().into_owned();
                assert!(error.to_string().contains(&file), "{what}: {error}");
                noticed += 1;
            }
            Ok(notes) => {
                assert_eq!(fs::read(run.join("last.safetensors")).unwrap(), expected, "{what}");
                let same_log = || {
                    String::from_utf8(fs::read(run.join("log.jsonl")).unwrap()).is_ok()
                        && log(&run) == log_before
                };
                assert!(notes.contains("log.jsonl") || same_log(), "{what}: {notes}");
                noticed += u64::from(notes.contains("damaged"));
            }
        }
        let left = run.join("best.safetensors");
        assert!(fs::read(&left).unwrap() == best || WeightsFile::read(&left).is_err(), "{what}");
    }
    assert!(noticed >= 20, "{noticed} of {PLACES}");
}

/// A configuration of a COCO set in `set`, of which the program makes nothing anew.
pub(crate) fn coco(tiny: &Tiny) {
    let synth = Synth { images_train: 6, images_val: 3, image_size_px: 64, classes: 3, ..synth() };
    generate(&synth, &tiny.path("set")).unwrap();
    fs::remove_file(tiny.path("set/synth.json")).unwrap();
    let base = tiny.text("base.toml");
    let (data, student) = (base.find("[data]").unwrap(), base.find("[student]").unwrap());
    let coco = "[data]\nkind = \"coco\"\nroot = \"data\"\ntrain_images = \"train\"\nval_images = \"val\"\n\
                train_annotations = \"annotations/instances_train.json\"\n\
                val_annotations = \"annotations/instances_val.json\"\n\n";
    tiny.write("base.toml", &[&base[..data], coco, &base[student..]].concat());
    fs::rename(tiny.path("set"), tiny.path("data")).unwrap();
}

fn synth() -> Synth {
    Synth {
        images_train: 1,
        images_val: 1,
        image_size_px: 64,
        classes: 1,
        seed: 0,
        min_objects: 1,
        max_objects: 4,
    }
}

#[test]
fn an_evaluation_that_fails_costs_no_step() {
    let (whole, tiny) = (Tiny::new(), Tiny::new());
    coco(&whole);
    coco(&tiny);
    whole.train("plain.toml", &[]).unwrap();
    let picture = tiny.path("data/val/000003.png");
    let good = fs::read(&picture).unwrap();
    // Damage that no header shows: a cut file would be found before the first step.
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 0xff;
    fs::write(&picture, bad).unwrap();
    let error = tiny.train("plain.toml", &[]).unwrap_err().to_string();
    assert!(error.contains("000003.png"), "{error}");
    assert_eq!(names(&tiny.path("runs/plain/checkpoints")), ["step-00000006.safetensors"]);
    let steps = fs::read(tiny.path("runs/plain/log.jsonl")).unwrap();
    fs::write(&picture, good).unwrap();
    tiny.start("plain.toml", &[], Start::Resume, false).unwrap();
    assert!(
        fs::read(tiny.path("runs/plain/log.jsonl")).unwrap().starts_with(&steps),
        "no step was made again"
    );
    assert_same_run(&whole.path("runs/plain"), &tiny.path("runs/plain"));
}

#[test]
fn what_every_evaluation_needs_is_tried_before_the_first_step() {
    let tiny = Tiny::new();
    coco(&tiny);
    fs::write(tiny.path("data/val/000001.png"), b"no image").unwrap();
    let error = tiny.train("plain.toml", &[]).unwrap_err().to_string();
    assert!(error.contains("000001.png"), "{error}");
    assert!(!tiny.path("runs/plain/log.jsonl").exists() && !tiny.path("runs/plain/checkpoints").exists());
}

/// Damages a PNG in a way that its header does not show.
fn spoil(picture: &Path) {
    let mut bytes = fs::read(picture).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(picture, bytes).unwrap();
}

#[test]
fn images_that_are_left_out_or_replaced_are_in_the_log_once_with_file_and_reason() {
    let sets =
        ["data.on_bad_image=skip", "data.max_bad_images=0.5", "schedule.steps=12", "schedule.milestones=[8]"];
    let damaged = || {
        let tiny = Tiny::new();
        coco(&tiny);
        fs::remove_file(tiny.path("data/train/000002.png")).unwrap();
        spoil(&tiny.path("data/train/000004.png"));
        tiny
    };
    let found = |tiny: &Tiny| -> Vec<(String, String)> {
        let lines = RunFolder::at(tiny.path("runs/plain")).lines().unwrap();
        let found = lines.into_iter().filter_map(|line| match line {
            Line::BadImage(BadImageLine { step, bad_image, reason }) => Some((step, bad_image, reason)),
            _ => None,
        });
        found
            .map(|(step, file, reason)| {
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                assert_eq!(step == 0, name == "000002.png", "{name} is found at step {step}");
                (name, reason)
            })
            .collect()
    };
    let (whole, resumed) = (damaged(), damaged());
    let told = whole.told("plain.toml", &sets, Start::Anew).unwrap();
    assert!(told.contains("000004.png") && told.contains("other images take its place"), "{told}");
    resumed.train_step_by_step("plain.toml", &sets);
    for tiny in [&whole, &resumed] {
        let found = found(tiny);
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["000002.png", "000004.png"]);
        assert!(found[0].1.contains("is not in") && found[1].1.contains("cannot decode"), "{found:?}");
    }
    let last = "runs/plain/last.safetensors";
    assert_same_tensors(&whole.path(last), &resumed.path(last));
}

#[test]
fn activations_are_calibrated_without_broken_images_where_those_are_left_out() {
    let tiny = Tiny::new();
    coco(&tiny);
    let sets = ["data.on_bad_image=skip", "data.max_bad_images=0.5"];
    tiny.train("plain.toml", &[sets.as_slice(), &["schedule.steps=1"]].concat()).unwrap();
    fs::remove_file(tiny.path("data/train/000001.png")).unwrap();
    spoil(&tiny.path("data/train/000002.png"));
    let export =
        ["export", "--out", "s.onnx", "--int8", "activations", "--max-ap-loss", "100", "--images", "3"];
    assert_ended(
        &tiny.run_program(&export),
        0,
        &["ranges of activations from 3 images of ", "instances_train.json"],
    );
    tiny.train("plain.toml", &["schedule.steps=1", "name=stops"]).unwrap_err();
}

#[test]
fn a_dry_run_forecasts_every_part_and_leaves_nothing() {
    let tiny = Tiny::new();
    let dry = [
        "train",
        "distilled.toml",
        "--dry-run",
        "--set",
        "train.compare_alone=true",
        "--set",
        "train.eval_every=4",
    ];
    let parts = [
        "teacher: 2 steps of ",
        "student alone: 6 steps of ",
        "student distilled: 6 steps of ",
        "2 evaluations of 4 images",
        "the whole run: about 0:",
        "peak memory ",
        "nothing was kept",
    ];
    assert_ended(&tiny.run_program(&dry), 0, &parts);
    assert!(!tiny.path("runs").exists());
    assert_ended(&tiny.run_program(&["train", "distilled.toml"]), 0, &[]);
    let before = files(&tiny.path("runs"));
    let output = tiny.run_program(&dry);
    assert_ended(&output, 0, &parts[1..]);
    assert!(!String::from_utf8_lossy(&output.stdout).contains("teacher:"), "it is trained");
    assert_eq!(files(&tiny.path("runs")), before);
    let broken = Tiny::new();
    coco(&broken);
    fs::write(broken.path("data/val/000001.png"), b"no image").unwrap();
    assert_ended(&broken.run_program(&["train", "plain.toml", "--dry-run"]), 1, &["000001.png"]);
}

#[test]
fn a_run_says_what_a_checkpoint_takes_and_what_the_disk_has() {
    let tiny = Tiny::new();
    let told =
        tiny.told("plain.toml", &["schedule.steps=1", "schedule.milestones=[1]"], Start::Anew).unwrap();
    let size = fs::metadata(tiny.path("runs/plain/checkpoints/step-00000001.safetensors")).unwrap().len();
    let said = format!("a checkpoint takes {:.1} MiB; the disk of ", size as f64 / f64::from(1 << 20));
    assert!(told.contains(&said) && told.contains(" MiB free"), "{said}: {told}");
}

#[test]
fn a_comparison_that_cannot_write_its_table_is_refused_before_it_trains() {
    let tiny = Tiny::new();
    tiny.write("taken", "a file");
    for out in ["taken", "taken/below"] {
        let output = tiny.run_program(&["compare", "plain.toml", "--seeds", "0", "--out", out]);
        assert_ended(&output, 2, &["cannot be written to --out", "taken"]);
    }
    assert!(!tiny.path("runs").exists());
    assert_eq!(tiny.text("taken"), "a file");
}

#[test]
fn a_prediction_that_fails_leaves_earlier_results_as_they_are() {
    let tiny = Tiny::new();
    assert_ended(&tiny.run_program(&["train", "plain.toml"]), 0, &[]);
    tiny.write("text.jpg", "no image");
    let fails = ["predict", "text.jpg", "--no-pictures"];
    assert_ended(
        &tiny.run_program(&fails),
        1,
        &["nothing was written to predictions/results.json", "text.jpg"],
    );
    assert!(!tiny.path("predictions").exists());
    assert_ended(&tiny.run_program(&["predict", "data/val/000001.png", "--no-pictures"]), 0, &[]);
    let results = tiny.text("predictions/results.json");
    assert_ended(&tiny.run_program(&fails), 1, &["nothing was written to predictions/results.json"]);
    let some = ["predict", "text.jpg", "data/val/000002.png", "--no-pictures"];
    assert_ended(&tiny.run_program(&some), 1, &["1 of the 2 images", "nothing was written to"]);
    assert_eq!(tiny.text("predictions/results.json"), results);
}

#[test]
fn a_folder_of_data_that_is_named_and_not_there_is_missing_and_not_made() {
    let tiny = Tiny::new();
    assert_ended(&tiny.run_program(&["train", "plain.toml"]), 0, &[]);
    for verb in [&["eval", "--coco-val"][..], &["export", "--out", "student.onnx"]] {
        let output = tiny.run_program(&[verb, &["--data-root", "nosuch"]].concat());
        assert_ended(&output, 3, &["there is no folder nosuch", "--data-root"]);
    }
    assert!(!tiny.path("nosuch").exists() && !tiny.path("student.onnx").exists());
}

#[test]
fn a_checkpoint_is_written_by_the_clock_too() {
    let tiny = Tiny::new();
    let keep = "train.keep_checkpoints=9";
    tiny.train("plain.toml", &[keep, "train.checkpoint_minutes=1e-9"]).unwrap();
    let all = [1, 2, 3, 4, 5, 6].map(|step| format!("step-{step:08}.safetensors"));
    assert_eq!(names(&tiny.path("runs/plain/checkpoints")), all);
    tiny.train("plain.toml", &[keep, "train.checkpoint_minutes=0", "name=off"]).unwrap();
    assert_eq!(names(&tiny.path("runs/off/checkpoints")), all[5..]);
    assert!(tiny.train("plain.toml", &["train.checkpoint_minutes=-1"]).is_err());
}

/// Enough steps to be in the middle of.
const LONG: [&str; 6] = [
    "--set",
    "schedule.steps=2000",
    "--set",
    "schedule.milestones=[30]",
    "--set",
    "train.checkpoint_every=2",
];

/// The program under way, with its words caught.
fn started(tiny: &Tiny, args: &[&str], more: &[&str]) -> Child {
    let mut command = tiny.program(&[args, more].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

fn wait_for(child: &mut Child, file: &Path) {
    let start = Instant::now();
    while !file.exists() {
        assert!(child.try_wait().expect("a child").is_none(), "it ended before {}", file.display());
        assert!(start.elapsed() < Duration::from_secs(60), "no {}", file.display());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn kill(mut child: Child) {
    child.kill().expect("SIGKILL");
    child.wait().expect("it is dead");
}

#[test]
fn one_run_folder_has_one_process() {
    let tiny = Tiny::new();
    let long = tiny.text("teacher.toml").replace("steps = 2", "steps = 2000\nmilestones = [30]");
    tiny.write("teacher.toml", &long);
    let seed = ["--set", "seed=1", "--set", "name=plain_seed1"];
    let cases: [(&[&str], &str, &[&str]); 3] = [
        (&["train", "plain.toml"], "plain", &["train", "plain.toml"]),
        (
            &[["train", "plain.toml"].as_slice(), &seed].concat(),
            "plain_seed1",
            &["compare", "plain.toml", "--seeds", "1"],
        ),
        (&["train", "teacher.toml"], "teacher", &["train", "distilled.toml"]),
    ];
    for (first, run, second) in cases {
        let mut child = started(&tiny, first, &LONG);
        let folder = tiny.path("runs").join(run);
        wait_for(&mut child, &folder.join("checkpoints/step-00000002.safetensors"));
        let holder = format!("runs/{run} is in use by pid {} on ", child.id());
        assert_ended(&tiny.run_program(second), 2, &[&holder, "--set name=NAME"]);
        assert!(folder.join("run.lock").exists() && child.try_wait().unwrap().is_none(), "the first goes on");
        assert!(!tiny.path("runs").join(format!("{run}.1")).exists(), "nothing was renamed");
        kill(child);
    }
}

#[test]
fn what_a_killed_process_left_is_taken_over_and_cleaned() {
    let tiny = Tiny::new();
    let mut child = started(&tiny, &["train", "plain.toml"], &LONG);
    wait_for(&mut child, &tiny.path("runs/plain/checkpoints/step-00000002.safetensors"));
    let id = child.id();
    kill(child);
    for left in ["runs/plain/.write-a.partial", "runs/plain/checkpoints/.write-b.partial"] {
        tiny.write(left, "half of a");
    }
    let mut again = started(&tiny, &["train", "plain.toml", "--resume"], &LONG);
    let start = Instant::now();
    let cleaned = || {
        files(&tiny.path("runs"))
            .iter()
            .all(|file| !["a.partial", "b.partial"].iter().any(|end| file.to_string_lossy().ends_with(end)))
    };
    while !cleaned() {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(&again, "TERM");
    let said = format!("(pid {id} on ");
    assert!(again.try_wait().unwrap().is_none());
    assert_ended(
        &again.wait_with_output().unwrap(),
        130,
        &["runs/plain was left by a process", &said, "takes it over"],
    );
    assert!(!tiny.path("runs/plain/run.lock").exists(), "given back");
}

#[test]
fn a_folder_that_is_taken_away_is_noticed_and_the_state_is_saved_beside_it() {
    let tiny = Tiny::new();
    let sets = ["--set", "schedule.steps=300", "--set", "train.checkpoint_every=2"];
    let mut child = started(&tiny, &["train", "plain.toml"], &sets);
    wait_for(&mut child, &tiny.path("runs/plain/checkpoints/step-00000002.safetensors"));
    fs::rename(tiny.path("runs/plain"), tiny.path("elsewhere")).unwrap();
    let said = ["runs/plain was deleted or moved", "is saved in runs/plain.rescued", "--resume"];
    assert_ended(&child.wait_with_output().unwrap(), 1, &said);
    fs::rename(tiny.path("runs/plain.rescued"), tiny.path("runs/plain")).unwrap();
    let args = [["train", "plain.toml", "--resume"].as_slice(), &sets].concat();
    assert_ended(&tiny.run_program(&args), 0, &["AP "]);
    let whole = Tiny::new();
    assert_ended(&whole.run_program(&[["train", "plain.toml"].as_slice(), &sets].concat()), 0, &["AP "]);
    let last = "runs/plain/last.safetensors";
    assert_same_tensors(&whole.path(last), &tiny.path(last));
}

#[test]
fn a_run_that_was_never_begun_is_no_earlier_run() {
    let tiny = Tiny::new();
    fs::create_dir_all(tiny.path("runs/plain/checkpoints")).unwrap();
    tiny.write("runs/plain/config.toml", "another = 1\n");
    tiny.write("runs/plain/log.jsonl", "");
    tiny.train("plain.toml", &["schedule.steps=1"]).unwrap();
    assert_eq!(names(&tiny.path("runs")), ["plain"]);
    tiny.train("plain.toml", &["schedule.steps=1"]).unwrap();
    assert_eq!(names(&tiny.path("runs")), ["plain", "plain.1"]);
}

#[test]
fn a_run_that_does_not_exist_cannot_be_gone_on_with() {
    let tiny = Tiny::new();
    let output = tiny.run_program(&["train", "plain.toml", "--resume"]);
    assert_ended(&output, 2, &["there is no run in runs/plain to go on with", "without --resume"]);
    assert!(!tiny.path("runs").exists());
}

#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(status.expect("kill").success());
}

/// Waits for the program's end, which must come soon.
#[cfg(unix)]
#[track_caller]
fn assert_ends_soon(child: Child, mentions: &[&str]) {
    let start = Instant::now();
    let output = child.wait_with_output().unwrap();
    // A second, and as much again for a machine that does other things too.
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_ended(&output, 130, mentions);
}

#[cfg(unix)]
#[test]
fn every_polite_signal_saves_the_state_and_ends_the_training() {
    let tiny = Tiny::new();
    for name in ["INT", "TERM", "HUP", "USR1"] {
        let mut child = started(&tiny, &["train", "plain.toml", "--set", &format!("name={name}")], &LONG);
        let checkpoints = tiny.path("runs").join(name).join("checkpoints");
        wait_for(&mut child, &checkpoints.join("step-00000002.safetensors"));
        signal(&child, name);
        assert_ends_soon(child, &["interrupted after step", "the state is saved", "--resume"]);
        let steps = log(&tiny.path("runs").join(name)).len();
        assert_eq!(names(&checkpoints).pop().unwrap(), format!("step-{steps:08}.safetensors"), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn a_signal_ends_an_evaluation_which_is_made_when_the_run_goes_on() {
    let tiny = Tiny::new();
    let sets = [
        "--set",
        "schedule.steps=1",
        "--set",
        "schedule.milestones=[1]",
        "--set",
        "data.synth.images_val=1500",
    ];
    let mut child = started(&tiny, &["train", "plain.toml"], &sets);
    wait_for(&mut child, &tiny.path("runs/plain/checkpoints/step-00000001.safetensors"));
    std::thread::sleep(Duration::from_millis(50));
    signal(&child, "TERM");
    assert_ends_soon(child, &["interrupted after step 1", "the state is saved"]);
    assert!(!tiny.path("runs/plain/eval").exists() && !tiny.path("runs/plain/last.safetensors").exists());
    let args = [["train", "plain.toml", "--resume"].as_slice(), &sets].concat();
    assert_ended(&tiny.run_program(&args), 0, &["AP "]);
    assert_eq!(log(&tiny.path("runs/plain")).len(), 2, "a step and its evaluation");
}

#[cfg(unix)]
#[test]
fn a_signal_ends_the_making_of_data_and_leaves_no_half_file() {
    let tiny = Tiny::new();
    let many = ["--images-train", "50000", "--images-val", "1", "--size", "64"];
    let synth = [["data", "synth", "--out", "data"].as_slice(), &many].concat();
    let train = ["train", "plain.toml", "--set", "data.root=other", "--set", "data.synth.images_train=50000"];
    for (args, folder) in [(synth.as_slice(), "data"), (&train, "other")] {
        let mut child = started(&tiny, args, &[]);
        wait_for(&mut child, &tiny.path(folder).join("train/000002.png"));
        signal(&child, "TERM");
        assert_ends_soon(child, &["interrupted"]);
        let left = files(&tiny.path(folder));
        assert!(
            left.len() > 1 && left.iter().all(|file| file.extension().is_some_and(|end| end == "png")),
            "{left:?}"
        );
    }
}

/// A classifier's weights of 100 MB, as torchvision names them.
#[cfg(unix)]
fn write_large_weights(path: &Path) {
    let network =
        "resnet50".parse::<Architecture>().unwrap().build(Builder::new(0, &Device::Cpu), 1000).unwrap();
    let tensors = network.params().snapshot().unwrap();
    write_safetensors(path, &tensors, &BTreeMap::new()).unwrap();
}

#[cfg(unix)]
#[test]
fn a_signal_ends_an_import_and_an_export_and_leaves_no_half_file() {
    let tiny = Tiny::new();
    let many =
        ["data.synth.images_val=1500", "schedule.steps=1", "schedule.milestones=[1]", "eval.max_images=2"];
    tiny.train("plain.toml", &many).unwrap();
    write_large_weights(&tiny.path("large.safetensors"));
    fs::create_dir(tiny.path("out")).unwrap();
    let export = ["export", "--run", "runs/plain", "--out", "out/s.onnx", "--images", "1500"];
    for name in ["INT", "TERM"] {
        let child =
            started(&tiny, &["weights", "import", "large.safetensors", "--out", "out/r50.safetensors"], &[]);
        // The file is being written.
        let start = Instant::now();
        while names(&tiny.path("out")).iter().all(|name| !name.ends_with(".partial")) {
            assert!(start.elapsed() < Duration::from_secs(60) && !tiny.path("out/r50.safetensors").exists());
        }
        signal(&child, name);
        assert_ends_soon(child, &["interrupted"]);
        assert!(names(&tiny.path("out")).is_empty(), "{:?}", names(&tiny.path("out")));

        let mut child = started(&tiny, &export, &[]);
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        assert!(line.contains("compared on 1500 images"), "{line}");
        signal(&child, name);
        assert_ends_soon(child, &["interrupted"]);
        assert!(names(&tiny.path("out")).is_empty(), "{:?}", names(&tiny.path("out")));
    }
    let whole = ["weights", "import", "large.safetensors", "--out", "out/r50.safetensors"];
    assert_ended(&tiny.run_program(&whole), 0, &["resnet50"]);
}

#[cfg(unix)]
#[test]
fn a_second_signal_leaves_at_once() {
    let tiny = Tiny::new();
    // A step of many seconds.
    let slow =
        ["--set", "train.accumulate=100000", "--set", "schedule.steps=9", "--set", "schedule.milestones=[2]"];
    let mut child = started(&tiny, &["train", "plain.toml"], &slow);
    // The last file that a run writes before its first step.
    wait_for(&mut child, &tiny.path("runs/plain/environment.json"));
    signal(&child, "TERM");
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "the step is still under way");
    signal(&child, "TERM");
    assert_ends_soon(child, &["the state is saved first", "once more to leave at once"]);
}

#[cfg(unix)]
#[test]
fn a_training_goes_on_when_nobody_listens() {
    let tiny = Tiny::new();
    let run = |name: &str, stdout: Stdio, stderr: Stdio| {
        let mut command = tiny.program(&["train", "plain.toml", "--set", &format!("name={name}")]);
        let mut child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
        // Whoever read has gone.
        drop((child.stdout.take(), child.stderr.take()));
        let status = child.wait().unwrap();
        assert!(tiny.path("runs").join(name).join("last.safetensors").exists(), "{name}: {status}");
        status.code()
    };
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    assert_eq!(run("closed", Stdio::piped(), Stdio::piped()), Some(0));
    assert_eq!(run("full", Stdio::null(), full()), Some(0));
    // Its results cannot be said: all is written, and the exit code tells.
    assert_eq!(run("mute", full(), full()), Some(1));
}
