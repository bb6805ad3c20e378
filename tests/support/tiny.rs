//! The smallest experiments that go through the whole program: ten images of 64 pixels, narrow networks.
//!
//! Each has a folder of its own with `data/`, `runs/` and its configurations.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use ckd_collective::Solo;
use ckd_det::config::{Config, Loaded};
use ckd_det::engine::EngineError;
use ckd_det::engine::experiment::{self, Finished, Request};
use ckd_det::engine::job::{Row, Start};
use ckd_det::engine::observer::{Eval, Observer, Observers, Step};
use ckd_det::engine::task::Settings;
use serde_json::Value;
use tempfile::TempDir;

/// Everything but `[teacher]` and `[[distill]]`.
const BASE: &str = r#"
seed = 3
output = "runs"

[detector]
architecture = "faster_rcnn"
fpn_channels = 16
anchor_sizes = [[8.0], [16.0], [32.0], [64.0], [128.0]]

[detector.rpn]
pre_nms_top_n_train = 60
post_nms_top_n_train = 30
pre_nms_top_n_test = 40
post_nms_top_n_test = 20
batch_per_image = 16

[detector.roi]
batch_per_image = 16
head_width = 32
score_threshold = 0.01

[detector.retina]
head_convs = 1
score_threshold = 0.01

[detector.fcos]
head_convs = 1
score_threshold = 0.01

[input]
short_side_px = [64]
long_side_px = 64

[data]
kind = "synth"
root = "data"

[data.synth]
images_train = 10
images_val = 4
image_size_px = 64
classes = 3

[student]
backbone = "resnet18"
width = 8
norm = "bn"

[optim]
lr = 0.02

[schedule]
steps = 6
milestones = [4]
warmup_steps = 2

[train]
batch_size = 2
log_every = 1
share_steps = 0

[eval]
batch_size = 2
"#;

const TEACHER: &str = r#"
extends = "base.toml"

[student]
width = 16

[schedule]
steps = 2
"#;

const DISTILLED: &str = r#"
extends = "base.toml"

[teacher]
backbone = "resnet18"
width = 16
norm = "bn"
train = "teacher.toml"

[[distill]]
method = "ckd"
at = "roi_logits"
weight = 0.5

[[distill]]
method = "rcka"
levels = ["p2", "p3"]
weight = 1.0
patch = 4
"#;

/// What turns any of them into RetinaNet.
const RETINA: &str = r#"
[detector]
architecture = "retinanet"
anchor_sizes = [[8.0, 10.0], [16.0, 20.0], [32.0, 40.0], [64.0, 80.0], [128.0, 160.0]]
"#;

/// Settings that turn any of them into FCOS.
const FCOS: &str = r#"
[detector]
architecture = "fcos"
"#;

/// A folder of experiments with configurations of the kind `C`.
pub(crate) struct Folder<C> {
    folder: TempDir,
    kind: PhantomData<C>,
}

/// A folder with `plain.toml`, `distilled.toml` (taught by `teacher.toml`) and the same for RetinaNet and FCOS:
/// `retina_plain.toml`, `fcos_plain.toml`, and so on.
pub(crate) type Tiny = Folder<Config>;

impl Tiny {
    pub(crate) fn new() -> Self {
        let tiny = Self::empty();
        tiny.write("base.toml", BASE);
        tiny.write("plain.toml", "extends = \"base.toml\"\n");
        tiny.write("teacher.toml", TEACHER);
        tiny.write("distilled.toml", DISTILLED);
        for (kind, settings) in [("retina", RETINA), ("fcos", FCOS)] {
            let base = format!("{kind}_base.toml");
            tiny.write(&base, &format!("extends = \"base.toml\"\n{settings}"));
            tiny.write(&format!("{kind}_plain.toml"), &format!("extends = \"{base}\"\n"));
            tiny.write(&format!("{kind}_teacher.toml"), &TEACHER.replace("base.toml", &base));
            let distilled = DISTILLED
                .replace("base.toml", &base)
                .replace("teacher.toml", &format!("{kind}_teacher.toml"))
                .replace("roi_logits", "anchor_logits")
                .replace(r#"["p2", "p3"]"#, r#"["p3", "p4"]"#);
            tiny.write(&format!("{kind}_distilled.toml"), &distilled);
        }
        tiny
    }
}

impl<C: Settings> Folder<C> {
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder"), kind: PhantomData }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a new file");
    }

    pub(crate) fn text(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn load(&self, config: &str, sets: &[&str]) -> Result<Loaded<C>, EngineError> {
        Ok(C::load(self.path(config), &self.sets(sets))?)
    }

    /// `sets` and where data and runs are: tests share a process and so the current folder.
    pub(crate) fn sets(&self, sets: &[&str]) -> Vec<String> {
        let mut sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        sets.push(format!("data.root={}", self.path("data").display()));
        sets.push(format!("output={}", self.path("runs").display()));
        sets
    }

    /// Trains `config` inside this process.
    pub(crate) fn train(&self, config: &str, sets: &[&str]) -> Result<Finished<Row<C::Task>>, EngineError> {
        self.start(config, sets, Start::Anew, false)
    }

    /// As `train`, anew or not, and stopped by the user after one step or evaluation or not.
    pub(crate) fn start(
        &self,
        config: &str,
        sets: &[&str],
        start: Start,
        stop: bool,
    ) -> Result<Finished<Row<C::Task>>, EngineError> {
        self.start_at(&Device::Cpu, config, sets, start, stop)
    }

    /// `start` on a device of its own.
    pub(crate) fn start_at(
        &self,
        device: &Device,
        config: &str,
        sets: &[&str],
        start: Start,
        stop: bool,
    ) -> Result<Finished<Row<C::Task>>, EngineError> {
        let (ends, stop) = (stop, AtomicBool::new(false));
        let observers = match ends {
            true => Observers::of_files().with(StopsSoon(&stop)),
            false => Observers::of_files(),
        };
        self.observed(device, (config, sets), start, &observers, &stop)
    }

    fn observed(
        &self,
        device: &Device,
        (config, sets): (&str, &[&str]),
        start: Start,
        observers: &Observers<'_>,
        stop: &AtomicBool,
    ) -> Result<Finished<Row<C::Task>>, EngineError> {
        let command = format!("ckd-det train {config}");
        let request = Request {
            device,
            ranks: &Solo::default(),
            observers,
            start,
            stop,
            command: &command,
            methods: &[],
        };
        experiment::run(&self.load(config, sets)?, &request)
    }

    /// Trains `config`, anew or not, and hands over what the run told in words.
    pub(crate) fn told(&self, config: &str, sets: &[&str], start: Start) -> Result<String, EngineError> {
        let notes = Notes::default();
        let observers = Observers::of_files().with(&notes);
        self.observed(&Device::Cpu, (config, sets), start, &observers, &AtomicBool::new(false))?;
        Ok(notes.0.borrow().join("\n"))
    }

    /// Trains `config` one step at a time, each in a run that is resumed. Returns how often it was interrupted.
    pub(crate) fn train_step_by_step(&self, config: &str, sets: &[&str]) -> usize {
        let mut start = Start::Anew;
        for interruptions in 0..100 {
            match self.start(config, sets, start, true) {
                Ok(_) => return interruptions,
                Err(EngineError::Interrupted { .. }) => start = Start::Resume,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the run never ends");
    }

    /// The program in this folder.
    pub(crate) fn program(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ckd-det"));
        command.current_dir(self.folder.path()).args(args);
        command
    }

    pub(crate) fn run_program(&self, args: &[&str]) -> Output {
        self.program(args).output().expect("the program starts")
    }
}

/// All that a run told in words.
#[derive(Default)]
struct Notes(RefCell<Vec<String>>);

impl Observer for Notes {
    fn note(&self, note: &str) {
        self.0.borrow_mut().push(note.to_owned());
    }
}

/// A user who wants the run to stop once anything was done.
pub(crate) struct StopsSoon<'a>(pub(crate) &'a AtomicBool);

impl Observer for StopsSoon<'_> {
    fn step(&self, _: &Step<'_>) -> Result<(), EngineError> {
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn eval(&self, _: &Eval<'_>) -> Result<(), EngineError> {
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// What a run printed and how it ended.
#[track_caller]
pub(crate) fn assert_ended(output: &Output, code: i32, mentions: &[&str]) {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert_mentions(&text, mentions);
    assert!(!text.contains("panicked"), "{text}");
}

#[track_caller]
pub(crate) fn assert_mentions(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "not mentioned: {part}\n{text}");
    }
}

/// The tensors of a safetensors file, bit by bit.
pub(crate) fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = safetensors::SafeTensors::deserialize(&bytes)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), view.data().to_vec()))).collect()
}

/// The header's text entries of a safetensors file.
pub(crate) fn metadata(path: &Path) -> BTreeMap<String, String> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("safetensors");
    header.metadata().clone().unwrap_or_default().into_iter().collect()
}

#[track_caller]
pub(crate) fn assert_same_tensors(a: &Path, b: &Path) {
    let (ours, theirs) = (tensors(a), tensors(b));
    assert!(!ours.is_empty());
    let differing: Vec<&String> = ours
        .keys()
        .chain(theirs.keys().filter(|name| !ours.contains_key(*name)))
        .filter(|name| ours.get(*name) != theirs.get(*name))
        .collect();
    assert!(differing.is_empty(), "{} and {} differ in {differing:?}", a.display(), b.display());
}

/// Fields of a log that hold wall time and memory.
const WALL: [&str; 7] =
    ["ms", "data_wait_ms", "teacher_ms", "forward_ms", "backward_ms", "time", "memory_mib"];

/// The lines of a run's log without the fields that hold wall time.
pub(crate) fn log(run: &Path) -> Vec<Value> {
    let path = run.join("log.jsonl");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines()
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).expect("a line of JSON");
            let fields = line.as_object_mut().expect("an object a line");
            fields.retain(|key, _| !WALL.contains(&key.as_str()));
            line
        })
        .collect()
}

/// Copies a folder with all that is in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a new folder");
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        match from.is_dir() {
            true => copy_folder(&from, &to),
            false => drop(fs::copy(from, to).expect("a copy")),
        }
    }
}

/// Names of the files in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Checks that two runs are the same bit for bit: weights, velocities, log, evaluations, outcome.
#[track_caller]
pub(crate) fn assert_same_run(a: &Path, b: &Path) {
    assert_same_tensors(&a.join("last.safetensors"), &b.join("last.safetensors"));
    assert_same_tensors(&a.join("best.safetensors"), &b.join("best.safetensors"));
    assert_eq!(a.join("ema.safetensors").exists(), b.join("ema.safetensors").exists());
    if a.join("ema.safetensors").exists() {
        assert_same_tensors(&a.join("ema.safetensors"), &b.join("ema.safetensors"));
    }
    let newest = |run: &Path| names(&run.join("checkpoints")).pop().expect("a checkpoint");
    assert_eq!(newest(a), newest(b));
    let checkpoint = |run: &Path| run.join("checkpoints").join(newest(run));
    assert!(
        tensors(&checkpoint(a))
            .keys()
            .any(|name| ["velocity/", "square/"].iter().any(|slot| name.starts_with(slot)))
    );
    assert_same_tensors(&checkpoint(a), &checkpoint(b));
    let state = |run: &Path| -> Value {
        let state = &metadata(&checkpoint(run))["ckd_det.train_state"];
        let mut state: Value = serde_json::from_str(state).expect("JSON");
        assert!(state["config"].is_string() && state["log"].is_string(), "{state}");
        // The settings name the run's folder.
        state["config"] = Value::Null;
        with_any_teacher(state)
    };
    assert_eq!(state(a), state(b), "step, best, threads, teacher");
    assert_eq!(log(a), log(b));
    let evaluations = |run: &Path| -> Vec<(String, String)> {
        let folder = run.join("eval");
        names(&folder)
            .into_iter()
            .map(|name| (name.clone(), fs::read_to_string(folder.join(name)).expect("an evaluation")))
            .collect()
    };
    assert_eq!(evaluations(a), evaluations(b));
    let outcome = |run: &Path| -> Value {
        let text = fs::read_to_string(run.join("outcome.json")).expect("an outcome");
        let mut outcome: Value = serde_json::from_str(&text).expect("JSON");
        // Of wall times, too.
        outcome["blake3"] = Value::Null;
        for row in ["row", "ema"] {
            if outcome[row].is_object() {
                outcome[row]["ms_per_image"] = Value::Null;
                outcome[row]["name"] = Value::Null;
            }
        }
        with_any_teacher(outcome)
    };
    assert_eq!(outcome(a), outcome(b));
}

/// The hash of a teacher's file, in whose header its folder stands, replaced.
fn with_any_teacher(mut record: Value) -> Value {
    if record["teacher"].is_string() {
        record["teacher"] = "some".into();
    }
    record
}
