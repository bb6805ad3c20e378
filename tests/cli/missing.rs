//! Wrong usage, and data and weights that are not there, whatever the verb; `doctor`.

use std::fs;

use super::{errors, text};
use crate::support::tiny::{Tiny, assert_ended, assert_mentions, names};

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_valid() {
    let here = Tiny::empty();
    for (args, part) in [
        (&["config", "show", "quickstrat"][..], "did you mean \"quickstart\"?"),
        (&["config", "show", "configs/nothing.toml"], "looked for configs/nothing.toml"),
        (&["config", "show"], "required"),
        (&["confog"], "config"),
        (&["--device", "gpu", "doctor"], "cuda:N"),
        (&["--threads", "0", "doctor"], "--threads"),
    ] {
        let output = here.run_program(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_mentions(&errors(&output), &[part]);
    }
    if !cfg!(feature = "cuda") {
        let output = here.run_program(&["doctor", "--device", "cuda:0"]);
        assert_ended(&output, 2, &[]);
        assert_mentions(&errors(&output), &["built without CUDA", "--features cuda"]);
    }
}

#[test]
fn missing_data_and_weights_end_with_3_whatever_the_verb() {
    let tiny = Tiny::new();
    let synth = ["data", "synth", "--out", "set", "--images-train", "2", "--images-val", "2", "--size", "64"];
    assert_ended(&tiny.run_program(&synth), 0, &[]);
    let val = "set/annotations/instances_val.json";
    fs::create_dir(tiny.path("some")).unwrap();
    fs::copy(tiny.path("set/val/000001.png"), tiny.path("some/000001.png")).unwrap();
    let base = tiny.text("base.toml");
    let (data, student) = (base.find("[data]").unwrap(), base.find("[student]").unwrap());
    let coco = "[data]\nkind = \"coco\"\nroot = \".\"\ntrain_images = \"some\"\nval_images = \"set/val\"\n\
                train_annotations = \"set/annotations/instances_val.json\"\n\
                val_annotations = \"set/annotations/instances_val.json\"\n\n";
    tiny.write("coco.toml", &[&base[..data], coco, &base[student..]].concat());
    tiny.write("folder.toml", "task = \"classify\"\n[data]\nkind = \"folder\"\nroot = \"nosuch\"\n[student]\n\
                               network = \"resnet8\"\n[optim]\nlr = 0.1\n[schedule]\nsteps = 1\nkind = \"cosine\"\n");
    let cases: [&[&str]; 38] = [
        &["train", "coco.toml", "--set", "data.root=nosuch"],
        &["train", "coco.toml"],
        &["train", "coco.toml", "--dry-run"],
        &["train", "folder.toml"],
        &["train", "folder.toml", "--set", "data.kind=cifar10"],
        &["train", "plain.toml", "--set", "student.init=nosuch.pth"],
        &["compare", "coco.toml", "--seeds", "0", "--set", "data.root=nosuch"],
        &["compare", "folder.toml", "--seeds", "0"],
        &["eval", "--coco-val"],
        &["eval", "--coco-val", "--run", "nosuch"],
        &["eval", "--coco-val", "--weights", "nosuch.safetensors"],
        &["eval", "--coco-val", "--data-root", "nosuch"],
        &["eval", "--run", "nosuch"],
        &["eval", "--weights", "nosuch.safetensors", "--config", "folder.toml"],
        &["eval", "--gt", "nosuch.json", "--dt", "nosuch.json"],
        &["eval", "--gt", val, "--dt", "nosuch.json"],
        &["predict", "nosuch.jpg"],
        &["predict", "set/val"],
        &["predict", "--weights", "nosuch.safetensors", "set/val"],
        &["predict", "nosuch/*.jpg"],
        &["predict", "--annotations", "nosuch.json", "set/val"],
        &["export"],
        &["export", "--run", "nosuch"],
        &["export", "--weights", "nosuch.safetensors"],
        &["weights", "import", "nosuch.pth", "--out", "x.safetensors"],
        &["weights", "inspect", "nosuch.pth"],
        &["weights", "diff", "nosuch.pth", "nosuch.pth"],
        &["data", "check", "--annotations", "nosuch.json", "--images", "set/val"],
        &["data", "check", "--annotations", val, "--images", "nosuch"],
        &["data", "check", "--annotations", val, "--images", "some"],
        &["data", "check", "--annotations", val, "--images", "set/val", "--against", "nosuch.json"],
        &["data", "check", "--format", "yolo", "--root", "nosuch", "--split", "val"],
        &["data", "check", "--format", "voc", "--root", "nosuch", "--split", "val"],
        &["data", "check", "--format", "folder", "--root", "nosuch"],
        &["data", "check", "--format", "cifar10", "--root", "nosuch"],
        &["data", "convert", "--from", "voc", "--root", "nosuch", "--split", "val", "--out", "x.json"],
        &[
            "data",
            "convert",
            "--from",
            "coco",
            "--annotations",
            "nosuch.json",
            "--images",
            ".",
            "--out",
            "x.json",
        ],
        &[
            "data",
            "convert",
            "--from",
            "coco",
            "--annotations",
            val,
            "--images",
            "some",
            "--to",
            "voc",
            "--split",
            "val",
            "--out",
            "x",
        ],
    ];
    for args in cases {
        let output = tiny.run_program(args);
        assert_eq!(output.status.code(), Some(3), "{args:?}\n{}{}", text(&output), errors(&output));
        assert!(errors(&output).contains("error: "), "{args:?}");
    }
    assert!(
        !tiny.path("x.safetensors").exists()
            && !tiny.path("x.json").exists()
            && !tiny.path("predictions").exists()
    );
    // Weights that are there, and an image that is not.
    assert_ended(&tiny.run_program(&["train", "plain.toml", "--set", "schedule.steps=1"]), 0, &[]);
    assert_ended(
        &tiny.run_program(&["predict", "nosuch.jpg", "--no-pictures"]),
        3,
        &["1 of the 1 images", "nosuch.jpg"],
    );
    assert_ended(&tiny.run_program(&["predict", "nosuch.jpg", "--benchmark"]), 3, &["nosuch.jpg"]);
    // A configuration is none of these.
    for verb in
        [["compare", "nosuch.toml"].as_slice(), &["train", "nosuch.toml"], &["bench", "step", "nosuch.toml"]]
    {
        assert_ended(&tiny.run_program(verb), 2, &["there is no configuration \"nosuch.toml\""]);
    }
}

#[test]
fn doctor_tells_what_is_missing_and_leaves_nothing_behind() {
    let here = Tiny::empty();
    fs::create_dir_all(here.path("data/coco/val2017")).expect("a new folder");
    let report = here.run_program(&["doctor", "coco_r101_r18", "cifar10_r56_r20", "--threads", "1"]);
    assert_ended(&report, 0, &[]);
    assert!(!text(&report).contains("problem"), "{}", text(&report));
    assert_mentions(
        &text(&report),
        &[
            concat!("ckd-det      ", env!("CARGO_PKG_VERSION")),
            "candle-core  0.11.1",
            "computing with 1 threads",
            "found        data/coco/val2017",
            "missing      data/coco/train2017",
            "missing      weights/resnet18.pth",
            "missing      weights/resnet56-4bfd9763.th",
            "writable     .",
        ],
    );
    assert_eq!(names(&here.path("")), ["data"]);
    let alone = text(&here.run_program(&["doctor"]));
    assert!(alone.lines().count() < 20 && !alone.contains("missing"), "{alone}");
    assert_ended(&here.run_program(&["doctor", "nosuch"]), 2, &["nosuch"]);
}
