//! Outputs of the verbs: standard output, devices, pipes, symbolic links, and what is refused before any work.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::support::tiny::{Tiny, assert_ended, assert_mentions, names};

/// A folder with a run of one step.
fn trained() -> Tiny {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &["schedule.steps=1", "schedule.milestones=[1]"]).unwrap();
    tiny
}

const WEIGHTS: &str = "runs/plain/last.safetensors";
const VAL: &str = "data/annotations/instances_val.json";
const PREDICT: [&str; 6] = ["predict", "--weights", WEIGHTS, "--no-pictures", "data/val", "--json"];

/// Standard output as a list of JSON; words must be on standard error.
#[track_caller]
fn listed(output: &Output, words: &str) -> Vec<Value> {
    assert_ended(output, 0, &[]);
    assert_mentions(&String::from_utf8_lossy(&output.stderr), &[words]);
    serde_json::from_slice(&output.stdout).expect("a list of JSON and nothing else")
}

#[test]
fn an_output_named_minus_is_standard_output_and_words_go_to_standard_error() {
    let tiny = trained();
    let before = names(&tiny.path("."));
    let run = |args: &[&str]| tiny.run_program(args);
    let to = |args: &[&str], out: &'static str| run(&[args, &[out]].concat());
    assert_ended(&to(&PREDICT, "results.json"), 0, &["detections -> results.json"]);
    let results: Vec<Value> = serde_json::from_str(&tiny.text("results.json")).unwrap();
    assert_eq!(listed(&to(&PREDICT, "-"), "detections -> standard output"), results);
    assert_eq!(listed(&to(&PREDICT, "/dev/stdout"), "data/val/000001.png: "), results);
    let eval = ["eval", "--coco-val", "--weights", WEIGHTS, "--save", "-"];
    assert!(!listed(&run(&eval), "AP by class").is_empty());

    let check = ["data", "check", "--annotations", VAL, "--images", "data/val", "--fix", "-"];
    let convert =
        ["data", "convert", "--from", "coco", "--annotations", VAL, "--images", "data/val", "--out", "-"];
    for (args, words) in [(check.as_slice(), "boxes by area"), (&convert, "standard output: 4 images")] {
        let output = run(args);
        assert_ended(&output, 0, &[]);
        assert_mentions(&String::from_utf8_lossy(&output.stderr), &[words]);
        let coco: Value = serde_json::from_slice(&output.stdout).expect("a COCO file and nothing else");
        assert_eq!(coco["images"].as_array().map(Vec::len), Some(4));
    }
    for verb in [
        ["export", "--weights", WEIGHTS, "--format", "safetensors", "--out"].as_slice(),
        &["export", "--weights", WEIGHTS, "--format", "torchvision", "--out"],
        &["weights", "import", WEIGHTS, "--out"],
    ] {
        assert_ended(&to(verb, "file"), 0, &[]);
        let output = to(verb, "-");
        assert_ended(
            &output,
            0,
            &["standard output: "].into_iter().filter(|_| verb[0] == "weights").collect::<Vec<_>>(),
        );
        assert!(output.stdout == fs::read(tiny.path("file")).unwrap(), "{verb:?}");
        assert!(!output.stderr.is_empty(), "{verb:?}");
    }
    let compare = run(&["compare", "plain.toml", "--seeds", "0", "--set", "schedule.steps=1", "--out", "-"]);
    assert_eq!(listed(&compare, "student")[0]["runs"].as_array().map(Vec::len), Some(1));
    let more = ["file", "results.json"].map(str::to_owned);
    let expected: Vec<String> = {
        let mut all = [before, more.to_vec()].concat();
        all.sort();
        all
    };
    assert_eq!(names(&tiny.path(".")), expected, "no file of that name, no folder of the comparison");
}

#[test]
fn a_folder_named_minus_is_refused_where_a_folder_is_wanted() {
    let tiny = trained();
    let convert = ["data", "convert", "--from", "coco", "--annotations", VAL, "--images", "data/val"];
    for (args, says) in [
        (["predict", "data/val", "--out", "-"].as_slice(), "a folder is wanted"),
        (&["data", "synth", "--images-train", "1", "--images-val", "1", "--out", "-"], "a folder is wanted"),
        (
            &[convert.as_slice(), &["--to", "yolo", "--split", "val", "--out", "-"]].concat(),
            "is a folder: name it",
        ),
        (&["export", "--weights", WEIGHTS, "--out", "-"], "standard output does not tell the format"),
    ] {
        let output = tiny.run_program(args);
        assert_ended(&output, 2, &[says]);
        assert!(output.stdout.is_empty() && !tiny.path("-").exists());
    }
}

#[cfg(unix)]
#[test]
fn devices_and_pipes_are_written_to_and_stay_what_they_are() {
    use std::os::unix::fs::FileTypeExt;

    let tiny = trained();
    assert_ended(&tiny.run_program(&[PREDICT.as_slice(), &["results.json"]].concat()), 0, &[]);
    let results = tiny.text("results.json");
    assert_ended(&tiny.run_program(&[PREDICT.as_slice(), &["/dev/null"]].concat()), 0, &["-> /dev/null"]);
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    let full = tiny.run_program(&[PREDICT.as_slice(), &["/dev/full"]].concat());
    assert_ended(&full, 1, &["cannot write /dev/full", "No space left"]);

    let pipe = tiny.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for verb in [PREDICT.as_slice(), &["weights", "import", WEIGHTS, "--out"]] {
        let mut writer = tiny.program(&[verb, &["pipe"]].concat());
        let mut writer = writer.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let read = fs::read(&pipe).unwrap();
        assert!(writer.wait().unwrap().success());
        assert!(read == results.as_bytes() || read.len() > 10_000 && verb[0] == "weights");
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    }

    // What is led into a file comes after what was there, and the file is no other one.
    let shell =
        format!("echo first; exec {} {} /dev/stdout", env!("CARGO_BIN_EXE_ckd-det"), PREDICT.join(" "));
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &shell]).current_dir(tiny.path(".")).stderr(Stdio::null());
    let out = fs::File::create(tiny.path("all.txt")).unwrap();
    assert!(command.stdout(out).status().unwrap().success());
    let all = tiny.text("all.txt");
    let parsed = |text: &str| serde_json::from_str::<Value>(text).expect("a list of results");
    assert_eq!(all.strip_prefix("first\n").map(parsed), Some(parsed(&results)), "{all}");
}

#[cfg(unix)]
#[test]
fn a_symbolic_link_stays_and_the_file_that_it_leads_to_is_replaced() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    let tiny = trained();
    fs::create_dir_all(tiny.path("far/away")).unwrap();
    tiny.write("far/away/results.json", "old");
    fs::set_permissions(tiny.path("far/away/results.json"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("away/results.json", tiny.path("far/link")).unwrap();
    symlink("far/link", tiny.path("link.json")).unwrap();
    symlink("far/none/new.json", tiny.path("dangling.json")).unwrap();
    symlink("loop.json", tiny.path("loop.json")).unwrap();
    let old = fs::metadata(tiny.path("far/away/results.json")).unwrap().ino();
    let predict = |out: &'static str| tiny.run_program(&[PREDICT.as_slice(), &[out]].concat());
    let is_link = |path: &str| fs::symlink_metadata(tiny.path(path)).unwrap().file_type().is_symlink();
    assert_ended(&predict("link.json"), 0, &["-> link.json"]);
    assert!(is_link("link.json") && is_link("far/link"));
    let new = fs::metadata(tiny.path("far/away/results.json")).unwrap();
    assert!(new.ino() != old, "replaced at once, not written over");
    assert_eq!(new.permissions().mode() & 0o777, 0o600, "nobody else may read it now");
    assert!(tiny.json("far/away/results.json").is_array());
    assert_eq!(names(&tiny.path("far/away")), ["results.json"], "nothing is left beside it");
    assert_ended(&predict("dangling.json"), 0, &[]);
    assert!(is_link("dangling.json") && tiny.json("far/none/new.json").is_array());
    assert_ended(&predict("loop.json"), 2, &["cannot write loop.json", "too many symbolic links"]);
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_any_work() {
    let tiny = trained();
    tiny.write("taken", "a file");
    let convert =
        ["data", "convert", "--from", "coco", "--annotations", VAL, "--images", "data/val", "--out"];
    for verb in [
        PREDICT.as_slice(),
        &["eval", "--coco-val", "--weights", WEIGHTS, "--save"],
        &["export", "--weights", WEIGHTS, "--format", "onnx", "--out"],
        &["weights", "import", WEIGHTS, "--out"],
        &["data", "check", "--annotations", VAL, "--images", "data/val", "--fix"],
        &convert,
    ] {
        for out in ["runs", "taken/below.json"] {
            let output = tiny.run_program(&[verb, &[out]].concat());
            assert_ended(&output, 2, &["cannot write", out]);
            assert!(output.stdout.is_empty(), "{verb:?}");
        }
    }
    assert_eq!(fs::read(tiny.path("taken")).unwrap(), b"a file");
    assert!(Path::new(&tiny.path("runs")).is_dir());
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let tiny = trained();
    let mut command = tiny.program(&[PREDICT.as_slice(), &["-"]].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_ended(&child.wait_with_output().unwrap(), 0, &[]);
}
