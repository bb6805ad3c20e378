//! Errors of configurations: where, what, and what to do.

use std::fs;

use ckd_det::config::{Config, Document};

use super::{SMALL, TEACHER, assert_mentions, error, error_in, folder, load};

#[test]
fn an_unknown_key_is_named_with_file_line_column_and_the_key_that_was_meant() {
    let text = SMALL.replace("lr = 0.01", "lr = 0.01\nmomentun = 0.8");
    let expected = "\
error: unknown key \"momentun\" in [optim]
  --> x.toml:14:1
   |
14 | momentun = 0.8
   | ^^^^^^^^
   |
   = help: did you mean \"momentum\"?";
    assert_eq!(error(&text, &[]), expected);
}

#[test]
fn an_unknown_key_like_no_other_is_answered_with_those_there_are() {
    assert_mentions(
        &error(SMALL, &["eval.zzzzz=1"]),
        &["unknown key \"zzzzz\" in [eval]", "batch_size, max_images"],
    );
}

#[test]
fn unknown_keys_are_found_in_distill_entries_and_networks_too() {
    let text = format!("{SMALL}{TEACHER}").replace("levels =", "weigth = 1.0\nlevels =");
    assert_mentions(
        &error(&text, &[]),
        &["unknown key \"weigth\" in [distill.1]", "did you mean \"weight\"?"],
    );
    let text = SMALL.replace("backbone =", "backbon =");
    let message = error(&text, &[]);
    assert_mentions(&message, &["missing key \"student.backbone\"", "did you mean \"backbone\"?"]);
}

/// Inputs of a size that took seconds or overflowed the stack.
#[test]
fn hostile_texts_are_refused_in_little_time_and_space() {
    let unknown: String = (0..20_000).map(|at| format!("nothing{at} = {at}\n")).collect();
    let message = error(&format!("{unknown}{SMALL}"), &[]);
    assert_mentions(&message, &["unknown key \"nothing0\"", "and 19980 more"]);
    let deep = "a.".repeat(5_000);
    assert_mentions(&error(SMALL, &[&format!("{deep}a=1")]), &["a --set takes KEY=VALUE"]);
    for text in [format!("{deep}a = 1\n{SMALL}"), format!("a = {}\n{SMALL}", "[".repeat(50_000))] {
        assert!(load(&text, &[]).is_err());
    }
    let files: Vec<(String, String)> =
        (0..1_500).map(|at| (format!("c{at}.toml"), format!("extends = \"c{}.toml\"\n", at + 1))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert_mentions(&error_in(&folder(&files), "c0.toml", &[]), &["more than 32 files extend one another"]);
}

#[test]
fn a_path_of_windows_in_double_quotes_is_told_how_it_is_written() {
    for path in ["C:\\data", "C:\\users\\me"] {
        let message = error(&format!("output = \"{path}\"\n{SMALL}"), &[]);
        assert_mentions(
            &message,
            &["x.toml:1:", "a backslash in double quotes begins an escape", "single quotes"],
        );
    }
    assert_mentions(
        &error(SMALL, &["output=\"C:\\data\""]),
        &["a backslash in double quotes begins an escape"],
    );
}

#[test]
fn control_characters_in_a_text_are_not_sent_to_the_terminal() {
    let message = error(&format!("\"\\u001b[31mred\\u0007\" = 1\n{SMALL}"), &[]);
    assert_mentions(&message, &["unknown key \"\\u001b[31mred\\u0007\""]);
    assert!(!message.contains(['\u{1b}', '\u{7}']));
}

#[test]
fn a_wrong_type_is_shown_at_the_value() {
    let text = SMALL.replace("lr = 0.01", "lr = \"fast\"");
    let message = error(&text, &[]);
    assert_mentions(
        &message,
        &["wrong type for \"optim.lr\"", "--> x.toml:13:6", "expected a finite number, found a string"],
    );
    for (set, part) in [
        ("seed=-1", "out of range for \"seed\""),
        ("seed=1.5", "found a number"),
        ("optim.lr=inf", "expected a finite number"),
        ("optim.lr=nan", "expected a finite number"),
        ("normalization.std=[1e300, 1.0, 1.0]", "expected a finite number"),
        ("input.short_side_px=800", "found an integer"),
        ("input.short_side_px=[800, 4294967296]", "out of range for \"input.short_side_px.1\""),
        ("normalization.mean=[0.5, 0.5]", "an array of 3 numbers"),
        ("optim=3", "expected a table"),
        ("data.group_by_aspect=1", "expected true or false"),
        ("data.root=", "is an empty path"),
        ("data.root= \u{a0} ", "is an empty path"),
        ("student.backbone=resnet19", "did you mean \"resnet18\"?"),
        (
            "student.backbone=vgg",
            "choose from resnet18, resnet34, resnet50, resnet101, resnet152, resnext50_32x4d, resnext101_32x8d, \
             resnext101_64x4d, mobilenet_v1, mobilenet_v2, mobilenet_v3_large",
        ),
    ] {
        assert_mentions(&error(SMALL, &[set]), &[part, "--> --set:1:"]);
    }
}

#[test]
fn every_missing_key_is_named_at_once() {
    let message = error("[optim]\nmomentum = 0.5\n", &[]);
    assert_mentions(
        &message,
        &[
            "missing key \"detector.architecture\"",
            "missing key \"data.kind\"",
            "missing key \"data.root\"",
            "missing key \"student.backbone\"",
            "missing key \"optim.lr\"",
            "--> x.toml:1:1",
        ],
    );
    assert_mentions(&error("", &[]), &["missing key \"optim.lr\"", "--> x.toml"]);
}

#[test]
fn a_syntax_error_is_located() {
    assert_mentions(&error("[optim\nlr = 1\n", &[]), &["--> x.toml:1"]);
    assert_mentions(&error("seed = 1\nseed = 2\n", &[]), &["duplicate key", "--> x.toml:2:1"]);
    assert_mentions(&error("seed = 99999999999999999999\n", &[]), &["64 bits", "--> x.toml:1:8"]);
}

#[test]
fn values_that_do_not_fit_are_named_with_what_to_do() {
    let text = format!("{SMALL}{TEACHER}");
    for (set, parts) in [
        ("name=a/b", ["\"name\" cannot name a folder", "OUTPUT/NAME"]),
        ("name=..", ["\"name\" cannot name a folder", "OUTPUT/NAME"]),
        (
            "detector.architecture=retinanet",
            ["\"distill.0.at\" is \"roi_logits\"", "set at = \"anchor_logits\""],
        ),
        ("detector.architecture=retinanet", ["\"distill.1.levels.0\" is \"p2\"", "p3, p4, p5, p6, p7"]),
        ("distill.1.levels=[]", ["\"distill.1.levels\" is empty", "p2, p3, p4, p5, p6"]),
        ("distill.1.levels=[\"p2\",\"p2\"]", ["names \"p2\" a second time", "once"]),
        ("distill.0.weight=-1", ["\"distill.0.weight\" is negative: -1", "0 or more"]),
        ("distill.0.temperature=0", ["\"distill.0.temperature\" is 0", "above 0"]),
        ("distill.1.patch=0", ["\"distill.1.patch\" is 0", "1 or more"]),
        ("train.batch_size=0", ["\"train.batch_size\" is 0", "1 or more"]),
        ("schedule.milestones=[5,5]", ["is not ascending", "in order"]),
        ("schedule.milestones=[9,5]", ["is not ascending", "in order"]),
        ("schedule.milestones=[0,5]", ["is not ascending", "in order"]),
        ("schedule.steps=0", ["\"schedule.steps\" is 0", "1 or more"]),
        ("optim.lr=0", ["\"optim.lr\" is 0", "above 0"]),
        ("optim.momentum=1", ["\"optim.momentum\" is 1", "below 1"]),
        ("optim.weight_decay_bias=-1", ["\"optim.weight_decay_bias\" is negative", "0 or more"]),
        ("detector.roi.positive_fraction=1.5", ["\"detector.roi.positive_fraction\" is 1.5", "0 to 1"]),
        ("detector.rpn.bg_iou=0.9", ["\"detector.rpn.bg_iou\" is above fg_iou", "overlap less"]),
        ("detector.anchor_sizes=[[32.0]]", ["has 1 levels, faster_rcnn has 5", "p2, p3, p4, p5, p6"]),
        ("detector.anchor_sizes=[]", ["has 0 levels, faster_rcnn has 5", "p2, p3, p4, p5, p6"]),
        (
            "student.backbone=mobilenet_v3_large",
            [
                "\"distill.1.levels.0\" is \"p2\", which faster_rcnn on mobilenet_v3_large with the strides of resnet",
                "choose from p5",
            ],
        ),
        (
            "teacher.backbone=mobilenet_v3_large",
            ["\"distill.1.levels.0\" is \"p2\"", "with the strides of mobilenet_v3_large"],
        ),
        ("detector.anchor_sizes=[[1],[1],[1],[1],[1,2]]", ["differs in the number of sizes", "as many"]),
        ("detector.aspect_ratios=[]", ["\"detector.aspect_ratios\"", "at least one"]),
        ("input.short_side_px=[]", ["\"input.short_side_px\"", "at least one"]),
        ("input.long_side_px=100", ["\"input.long_side_px\" is 100", "short side 800"]),
        ("normalization.std=[1,0,1]", ["\"normalization.std\"", "above 0"]),
        ("data.kind=synth", ["\"data.synth\" is missing", "[data.synth]"]),
        ("student.freeze_at=2", ["would freeze random weights", "freeze_at = 0"]),
        ("student.freeze_at=6", ["\"student.freeze_at\" is 6", "5 stages"]),
        ("student.stride_in=1x1", ["\"student.stride_in\" is \"1x1\", but resnet18", "leave it out"]),
        ("detector.rpn.min_size=1e300", ["\"detector.rpn.min_size\" is 1e300", "a side in pixels"]),
        ("detector.rpn.head_convs=0", ["\"detector.rpn.head_convs\" is 0", "1 or more"]),
        (
            "detector.fcos.center_sampling_radius=0",
            ["\"detector.fcos.center_sampling_radius\" is 0", "above 0"],
        ),
        ("eval.max_images=0", ["\"eval.max_images\" is 0", "1 or more"]),
    ] {
        assert_mentions(&error(&text, &[set]), &parts);
    }
    assert_mentions(
        &error(SMALL, &["train.compare_alone=true"]),
        &["\"train.compare_alone\" needs a [[distill]]"],
    );
}

#[test]
fn damaged_files_are_errors_never_panics() {
    let text = format!("{SMALL}{TEACHER}");
    let files = folder(&[]);
    let path = files.path().join("x.toml");
    for cut in (0..text.len()).step_by(3) {
        for insert in ["", "=", "[[", "\"", "é\u{0}", "[distill]\n"] {
            let damaged = format!("{}{insert}{}", &text[..cut], &text[(cut + 1).min(text.len())..]);
            fs::write(&path, damaged).expect("a new file");
            if let Err(error) = Config::load(&path, &[]) {
                assert!(!error.to_string().is_empty());
            }
        }
    }
    fs::write(&path, [0xff, 0xfe, 0x00]).expect("a new file");
    let error = Config::load(&path, &[]).expect_err("not text").to_string();
    assert_mentions(&error, &["cannot read the configuration", "UTF-8"]);
    assert!(Config::load(files.path(), &[]).is_err(), "a folder is no configuration");
}
