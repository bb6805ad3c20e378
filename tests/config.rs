//! Configurations as a user meets them: names, layers, `--set`, errors, and the `config` verb.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use ckd_det::config::{
    AnchorCorners, Config, ConfigError, Document, Experiment, Length, Loaded, NormKind, Resize, RoiAlign,
    list,
};
use ckd_det::distill::{Distill, RowsAt};
use tempfile::TempDir;

/// A complete configuration with nothing to spare.
const SMALL: &str = r#"
[detector]
architecture = "faster_rcnn"

[data]
kind = "coco"
root = "data"

[student]
backbone = "resnet18"

[optim]
lr = 0.01

[schedule]
steps = 10
milestones = [5]
"#;

/// What makes [`SMALL`] distil.
const TEACHER: &str = r#"
[teacher]
backbone = "resnet50"
weights = "teacher.pth"

[[distill]]
method = "ckd"
at = "roi_logits"

[[distill]]
method = "rcka"
levels = ["p2", "p3"]
"#;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a new folder");
        fs::write(path, text).expect("a new file");
    }
    folder
}

fn load_in(folder: &TempDir, name: &str, sets: &[&str]) -> Result<Loaded<Config>, ConfigError> {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    Config::load(folder.path().join(name), &sets)
}

fn load(text: &str, sets: &[&str]) -> Result<Loaded<Config>, ConfigError> {
    load_in(&folder(&[("x.toml", text)]), "x.toml", sets)
}

/// The error with the temporary folder's name left out.
fn error_in(folder: &TempDir, name: &str, sets: &[&str]) -> String {
    let error = load_in(folder, name, sets).expect_err("the configuration is wrong").to_string();
    error.replace(&format!("{}/", folder.path().display()), "")
}

fn error(text: &str, sets: &[&str]) -> String {
    error_in(&folder(&[("x.toml", text)]), "x.toml", sets)
}

#[track_caller]
fn assert_mentions(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "not mentioned: {part}\n{message}");
    }
}

#[test]
fn every_config_of_the_repository_loads_and_its_resolved_form_loads_to_the_same() {
    let all = list();
    assert!(all.iter().any(|listed| listed.name == "quickstart"));
    for listed in all {
        let loaded =
            Experiment::load(&listed.name, &[]).unwrap_or_else(|error| panic!("{}: {error}", listed.name));
        let document = loaded.resolved_toml();
        let file = listed.name.rsplit('/').next().unwrap();
        assert_mentions(&document, &[&format!("name = \"{file}\"")]);
        let again = folder(&[("again.toml", &document)]);
        let reloaded = Experiment::load(again.path().join("again.toml"), &[]);
        let reloaded = reloaded.unwrap_or_else(|error| panic!("{error}")).resolved_toml();
        let body = |document: &str| document.split_once('\n').expect("lines").1.to_owned();
        assert_eq!(body(&reloaded), body(&document), "{}", listed.name);
        assert!(!listed.summary.is_empty(), "{} opens with a comment that sums it up", listed.name);
    }
}

#[test]
fn defaults_are_torchvisions() {
    let config = load(SMALL, &[]).expect("a complete configuration").config;
    assert_eq!(config.run.name, "x");
    assert_eq!(config.detector.fpn_channels, 256);
    assert_eq!(
        (config.detector.rpn.pre_nms_top_n_train, config.detector.rpn.post_nms_top_n_test),
        (2000, 1000)
    );
    assert_eq!((config.detector.roi.batch_per_image, config.detector.roi.positive_fraction), (512, 0.25));
    assert_eq!((config.detector.retina.detections_per_image, config.detector.retina.focal_gamma), (300, 2.0));
    assert_eq!(
        (config.input.short_side_px.as_slice(), config.input.eval_short_side()),
        ([800].as_slice(), 800)
    );
    assert_eq!(config.normalization.mean, [0.485, 0.456, 0.406]);
    assert_eq!((config.student.network.width, config.student.network.norm), (None, NormKind::FrozenBn));
    assert_eq!(config.student.network.stem_channels(), 64);
    let mobilenet = load(SMALL, &["student.backbone=mobilenet_v2"]).expect("valid").config;
    assert_eq!(mobilenet.student.network.stem_channels(), 32);
    assert_eq!((config.run.optim.norm_decay(), config.run.optim.bias_decay()), (1e-4, 1e-4));
    assert_eq!(config.run.schedule.length(), Length::Steps(10));
}

#[test]
fn stages_freeze_by_default_only_where_there_are_weights_to_keep() {
    let frozen = |sets: &[&str]| load(SMALL, sets).expect("valid").config.student.frozen_stages();
    assert_eq!(frozen(&[]), 0);
    assert_eq!(frozen(&["student.init=r18.pth"]), 2);
    assert_eq!(frozen(&["student.init=r18.pth", "student.freeze_at=0"]), 0);
}

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
fn tables_merge_deeply_and_arrays_are_replaced() {
    let files = folder(&[
        ("base/b.toml", &format!("{SMALL}{TEACHER}")),
        (
            "x.toml",
            "extends = \"base/b.toml\"\n[schedule]\nmilestones = [7, 9]\n[[distill]]\nmethod = \"ckd\"\nat = \"roi_logits\"\nweight = 3\n",
        ),
    ]);
    let config = load_in(&files, "x.toml", &[]).expect("valid").config;
    assert_eq!(config.run.name, "x");
    assert_eq!(config.run.schedule.steps, Some(10));
    assert_eq!(config.run.schedule.milestones, [7.0, 9.0]);
    let [Distill::Ckd(ckd)] = config.distill.as_slice() else { panic!("{:?}", config.distill) };
    assert_eq!((ckd.place.at, ckd.weight), (RowsAt::RoiLogits, 3.0));
}

#[test]
fn an_error_in_a_base_names_the_base() {
    let files = folder(&[
        ("base/b.toml", &SMALL.replace("steps = 10", "steps = true")),
        ("x.toml", "extends = \"base/b\"\n[optim]\nlr = 1.0\n"),
    ]);
    assert_mentions(
        &error_in(&files, "x.toml", &[]),
        &["wrong type for \"schedule.steps\"", "--> base/b.toml:16:9", "steps = true"],
    );
    assert!(load_in(&files, "x.toml", &["schedule.steps=3"]).is_ok(), "a layer above can mend it");
}

#[test]
fn bases_that_run_in_a_circle_or_do_not_exist_are_errors() {
    let files = folder(&[
        ("a.toml", "extends = \"b.toml\"\n"),
        ("b.toml", "# b\nextends = \"./a.toml\"\n"),
        ("self.toml", "extends = \"self.toml\"\n"),
        ("lost.toml", "extends = \"nowhere.toml\"\n"),
        ("typo.toml", "extends = \"coco_r101_r19.toml\"\n"),
        ("number.toml", "extends = 3\n"),
    ]);
    assert_mentions(
        &error_in(&files, "a.toml", &[]),
        &["runs in a circle", "b.toml:2:11", "a.toml -> b.toml -> ./a.toml"],
    );
    assert_mentions(&error_in(&files, "self.toml", &[]), &["runs in a circle"]);
    assert_mentions(
        &error_in(&files, "lost.toml", &[]),
        &["there is no configuration \"nowhere.toml\"", "looked for nowhere.toml"],
    );
    assert_mentions(&error_in(&files, "typo.toml", &[]), &["did you mean \"coco_r101_r18\"?"]);
    assert_mentions(&error_in(&files, "number.toml", &[]), &["wrong type for \"extends\""]);
}

#[test]
fn a_user_config_can_extend_an_embedded_one_from_any_folder() {
    let files = folder(&[("mine.toml", "extends = \"quickstart.toml\"\n[student]\nwidth = 24\n")]);
    let loaded = load_in(&files, "mine.toml", &[]).expect("valid");
    assert_eq!((loaded.config.run.name.as_str(), loaded.config.student.network.width), ("mine", Some(24)));
    assert_eq!(
        loaded.teacher_experiment.expect("quickstart trains its teacher").config.run.name,
        "quickstart_teacher"
    );
}

#[test]
fn set_values_are_toml_or_else_text() {
    let text = format!("{SMALL}{TEACHER}");
    let sets = [
        "student.backbone=resnet34",
        " student . width = 32 ",
        "teacher.weights=weights/a b.pth",
        "name=7",
        "distill.0.weight=0",
        "distill.1.levels=[\"p3\"]",
        "eval={ batch_size = 3 }",
        "data.root=/data=x",
    ];
    let config = load(&text, &sets).expect("valid").config;
    assert_eq!(
        (config.student.network.backbone.name(), config.student.network.width),
        ("resnet34", Some(32))
    );
    let teacher = config.teacher.expect("as given");
    assert_eq!(teacher.weights.as_deref(), Some(Path::new("weights/a b.pth")));
    assert_eq!(config.run.name, "7");
    assert!(config.distill[0].is_off() && !config.distill[1].is_off());
    assert_eq!((config.run.eval.batch_size, config.run.eval.max_images), (3, None));
    assert_eq!(config.data.root, Path::new("/data=x"));
    assert!(load(&text, &["distill=[]"]).expect("valid").config.distill.is_empty());
    let last = load(&text, &["seed=1", "seed=2"]).expect("valid").config;
    assert_eq!(last.run.seed, 2, "the last one counts");
}

#[test]
fn a_set_that_makes_no_sense_is_shown_as_typed() {
    let text = format!("{SMALL}{TEACHER}");
    for (set, parts) in [
        ("", ["KEY=VALUE", "--> --set"]),
        ("seed", ["KEY=VALUE", "--> --set"]),
        ("=3", ["KEY=VALUE", "--> --set"]),
        ("optim..lr=3", ["KEY=VALUE", "optim..lr=3"]),
        ("distill.2.weight=0", ["the array has 2", "distill.2.weight=0"]),
        ("distill.first.weight=0", ["the array has 2", "distill.first.weight=0"]),
        ("seed.x=3", ["what stands before it is an integer", "seed.x=3"]),
        ("distill.1.levels=[p2]", ["need quotes", "distill.1.levels=[p2]"]),
        ("extends=other.toml", ["unknown key \"extends\"", "extends=other.toml"]),
    ] {
        let text = if set == "seed.x=3" { format!("seed = 1\n{text}") } else { text.clone() };
        assert_mentions(&error(&text, &[set]), &parts);
    }
}

#[test]
fn choosing_epochs_replaces_steps_and_what_was_in_steps() {
    let sets = ["schedule.milestones=[3]", "schedule.epochs=4"];
    let schedule = load(SMALL, &sets).expect("valid").config.run.schedule;
    assert_eq!((schedule.length(), schedule.milestones.as_slice()), (Length::Epochs(4), [3.0].as_slice()));
    // The milestones in steps would mean nothing in epochs.
    assert_mentions(&error(SMALL, &["schedule.epochs=4"]), &["\"schedule.milestones\" is empty"]);
    let both = SMALL.replace("steps = 10", "steps = 10\nepochs = 2");
    assert_mentions(
        &error(&both, &[]),
        &["\"schedule.epochs\" and schedule.steps are both given", "x.toml:17:10"],
    );
    let text = format!("{SMALL}{TEACHER}");
    let teacher = load(&text, &["teacher.weights=b.pth"]).expect("valid").config.teacher.expect("as given");
    assert_eq!((teacher.weights.as_deref(), teacher.train), (Some(Path::new("b.pth")), None));
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
fn distillation_needs_a_teacher_with_weights() {
    let without = format!("{SMALL}{TEACHER}").replace("weights = \"teacher.pth\"", "");
    assert_mentions(
        &error(&without, &[]),
        &["\"teacher.weights\" is missing", "allow_random_weights = true"],
    );
    assert!(load(&without, &["teacher.allow_random_weights=true"]).is_ok());
    assert!(load(&without, &["distill=[]"]).is_ok(), "an unused teacher needs no weights");
    let nobody = format!("{SMALL}[[distill]]\nmethod = \"rcka\"\nlevels = [\"p2\"]\n");
    assert_mentions(&error(&nobody, &[]), &["there is no teacher to learn from", "[teacher]"]);
    let both = format!("{SMALL}{TEACHER}").replace("weights = ", "train = \"t.toml\"\nweights = ");
    assert_mentions(&error(&both, &[]), &["\"teacher.train\" and teacher.weights are both given"]);
}

#[test]
fn the_teacher_must_be_what_its_own_config_trains() {
    let text = format!("{SMALL}{TEACHER}").replace("weights = \"teacher.pth\"", "train = \"t.toml\"");
    let trained = SMALL.replace("resnet18", "resnet50").replace("\"data\"", "\"elsewhere\"");
    let files = folder(&[("x.toml", &text), ("t.toml", &trained)]);
    let loaded = load_in(&files, "x.toml", &["output=here"]).expect("they agree");
    let teacher = loaded.teacher_experiment.as_deref().expect("teacher.train names it");
    assert_eq!((teacher.config.run.name.as_str(), &teacher.config.data), ("t", &loaded.config.data));
    assert_eq!(teacher.config.run.output, Path::new("here"));
    for (set, part) in [
        ("teacher.backbone=resnet34", "\"teacher.backbone\" is resnet34"),
        ("teacher.width=32", "\"teacher.width\" is 32"),
        ("detector.fpn_channels=64", "\"teacher.fpn_channels\" is 64"),
        ("normalization.mean=[0,0,0]", "\"teacher.normalization\""),
    ] {
        assert_mentions(&error_in(&files, "x.toml", &[set]), &[part, "t.toml trains a teacher with"]);
    }
    let circle = folder(&[("x.toml", &text), ("t.toml", &text.replace("t.toml", "x.toml"))]);
    assert_mentions(&error_in(&circle, "x.toml", &[]), &["`teacher.train` runs in a circle"]);
}

#[test]
fn a_teacher_is_trained_by_its_students_file_under_the_keys_of_a_table() {
    let train = "train = { schedule = { epochs = 3, kind = \"cosine\" }, input = { flip_probability = 0.0 }, student = { init = \"trunk.pth\" } }";
    let text = format!("seed = 4\n{SMALL}{TEACHER}[train]\ncompare_alone = true\n")
        .replace("weights = \"teacher.pth\"", &format!("width = 32\nresize = \"pil_bilinear\"\n{train}"));
    let files = folder(&[("x.toml", &text), ("trunk.pth", "weights")]);
    let loaded =
        load_in(&files, "x.toml", &["optim.lr=0.5", "name=other", "data.root=there"]).expect("valid");
    let teacher = loaded.teacher_experiment.as_deref().expect("teacher.train gives it");
    let own = &teacher.config;
    // Its network is [teacher]'s, its settings are the student's but for the table's.
    assert_eq!((own.student.network.backbone.name(), own.student.network.width), ("resnet50", Some(32)));
    assert_eq!((own.run.schedule.length(), own.input.flip_probability), (Length::Epochs(3), 0.0));
    assert_eq!((own.run.optim.lr, own.data.root.as_path()), (0.5, Path::new("there")));
    assert_eq!(own.input.resize, Resize::PilBilinear);
    assert!(own.teacher.is_none() && own.distill.is_empty() && !own.run.train.compare_alone);
    // Runs of other names and seeds have the same teacher.
    assert_eq!((own.run.name.as_str(), own.run.seed), ("x_teacher", 0));
    // Its resolved form, wherever it is read, is the same experiment.
    let elsewhere = folder(&[("config.toml", &loaded.resolved_toml())]);
    let again = load_in(&elsewhere, "config.toml", &[]).expect("a resolved configuration loads");
    assert_eq!(again.resolved(), loaded.resolved());
    let again = again.teacher_experiment.expect("it is trained from there too");
    assert_eq!(again.resolved(), teacher.resolved());
    assert!(again.config.student.init.as_ref().is_some_and(|init| init.is_absolute()));
}

#[test]
fn a_table_of_a_teacher_refuses_what_is_not_its_own() {
    let error = |table: &str| {
        let text =
            format!("{SMALL}{TEACHER}").replace("weights = \"teacher.pth\"", &format!("train = {table}"));
        error_in(&folder(&[("x.toml", &text)]), "x.toml", &[])
    };
    for (table, parts) in [
        ("{ data = { root = \"other\" } }", ["\"teacher.train.data\" cannot be given", "student's data"]),
        ("{ extends = \"y.toml\" }", ["\"teacher.train.extends\" cannot be given", "the keys themselves"]),
        ("{ schedule = { epoch = 3 } }", ["unknown key \"epoch\"", "did you mean \"epochs\"?"]),
        ("{ student = { width = 32 } }", ["\"teacher.width\" is 64", "leave out"]),
        ("3", ["wrong type for \"teacher.train\"", "expected a string"]),
    ] {
        assert_mentions(&error(table), &parts);
    }
}

#[test]
fn the_teachers_detector_is_the_students_but_for_what_it_says() {
    let text = format!("{SMALL}{TEACHER}");
    let sets = [
        "detector.rpn.nms_threshold=0.6",
        "teacher.detector.anchor_corners=exact",
        "teacher.detector.roi.align=aligned",
        "teacher.resize=pil_bilinear",
    ];
    let loaded = load(&text, &sets).expect("valid");
    let (config, teachers) = (&loaded.config, loaded.config.teacher_detector());
    let mut expected = config.detector.clone();
    (expected.anchor_corners, expected.roi.align) = (AnchorCorners::Exact, RoiAlign::Aligned);
    assert_eq!(*teachers, expected);
    assert_eq!((config.detector.rpn.nms_threshold, config.detector.roi.align), (0.6, RoiAlign::Legacy));
    assert_eq!((config.input.resize, config.teacher_resize()), (Resize::Bilinear, Resize::PilBilinear));
    assert_eq!(&load(&loaded.resolved_toml(), &[]).expect("resolved").config, config);

    let plain =
        load(&text, &["detector.roi.align=aligned", "input.resize=pil_bilinear"]).expect("valid").config;
    assert_eq!(plain.teacher_detector(), &plain.detector);
    assert_eq!(plain.teacher_resize(), Resize::PilBilinear);
    for (set, parts) in [
        (
            "teacher.detector.architecture=retinanet",
            ["\"teacher.detector.architecture\"", "student is a faster_rcnn"],
        ),
        ("teacher.detector.roi.pool_size=0", ["\"teacher.detector.roi.pool_size\" is 0", "1 or more"]),
        ("teacher.detector.rois=1", ["unknown key \"rois\" in [teacher.detector]", "\"roi\""]),
        ("teacher.detector=1", ["wrong type for \"teacher.detector\"", "expected a table"]),
    ] {
        assert_mentions(&error(&text, &[set]), &parts);
    }
    let retina = ["detector.architecture=retinanet", "distill=[]", "teacher.detector.aspect_ratios=[1]"];
    assert_mentions(&error(&text, &retina), &["makes 3 anchors a cell, the student has 9"]);
}

#[test]
fn paths_are_found_from_here_or_beside_the_config_and_survive_resolving() {
    // Not `data`, which an experiment may have made here.
    let text = format!("{SMALL}{TEACHER}").replace("weights = \"teacher.pth\"", "train = \"t.toml\"");
    let text = text.replace("\"data\"", "\"pictures\"");
    let files = folder(&[
        ("x.toml", &text),
        ("t.toml", &SMALL.replace("resnet18", "resnet50")),
        ("pictures/readme", ""),
    ]);
    let loaded = load_in(&files, "x.toml", &[]).expect("valid");
    let beside = files.path().join("pictures");
    assert_eq!(loaded.places(Path::new("pictures")), [Path::new("pictures"), &beside]);
    assert_eq!(loaded.resolve(Path::new("pictures")), beside);
    assert_eq!(loaded.resolve(Path::new("Cargo.toml")), Path::new("Cargo.toml"), "here comes first");
    assert_eq!(loaded.resolve(Path::new("nowhere")), Path::new("nowhere"));
    assert_eq!(loaded.places(Path::new("/absolute")), [Path::new("/absolute")]);

    let elsewhere = folder(&[("run/config.toml", &loaded.resolved_toml())]);
    let again = load_in(&elsewhere, "run/config.toml", &[]).expect("it needs no other folder");
    assert_eq!(again.resolve(&again.config.data.root), beside);
    assert_eq!(again.config.run.name, "x");
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

#[test]
fn every_key_is_explained() {
    let keys = Config::keys();
    for key in &keys {
        assert!(!key.documentation.is_empty() && !key.takes.is_empty(), "{key:?}");
    }
    let default =
        |path: &str| keys.iter().find(|key| key.path == path).and_then(|key| key.default.as_deref());
    assert_eq!(default("detector.rpn.nms_threshold"), Some("0.7"));
    assert_eq!(default("student.norm"), Some("\"frozen_bn\""));
    assert_eq!(default("distill.N.weight_inter"), Some("0.0"));
    assert_eq!(default("optim.lr"), None);
}

fn ckd_det(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ckd-det"))
        .args(args)
        .current_dir(folder)
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[test]
fn config_show_prints_a_config_that_shows_the_same_again() {
    let here = folder(&[]);
    let args = ["config", "show", "coco_r101_r18.toml", "--set", "student.backbone=resnet34"];
    let shown = ckd_det(here.path(), &args);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    let document = text(&shown.stdout);
    assert_mentions(&document, &["# resolved from embedded:coco_r101_r18.toml", "backbone = \"resnet34\""]);
    fs::write(here.path().join("mine.toml"), &document).expect("a new file");
    let again = ckd_det(here.path(), &["config", "show", "mine"]);
    assert_eq!(
        text(&again.stdout).split_once('\n').expect("lines").1,
        document.split_once('\n').expect("lines").1
    );
}

#[test]
fn config_check_reports_every_wrong_file_and_exits_with_2() {
    let here = folder(&[("a.toml", "sead = 1\n"), ("b.toml", "[data]\nkind = \"cocoa\"\n")]);
    let checked = ckd_det(here.path(), &["config", "check", "a.toml", "quickstart", "b.toml"]);
    assert_eq!(checked.status.code(), Some(2));
    assert_mentions(&text(&checked.stdout), &["ok  quickstart (embedded:quickstart.toml)"]);
    assert_mentions(
        &text(&checked.stderr),
        &[
            "--> a.toml:1:1",
            "did you mean \"seed\"?",
            "did you mean \"coco\"?",
            "2 of 3 configurations cannot be used",
        ],
    );
    let all = ckd_det(here.path(), &["config", "check", "--all", "--quiet"]);
    assert_eq!((all.status.code(), text(&all.stdout).as_str()), (Some(0), ""), "{}", text(&all.stderr));
}

#[test]
fn a_file_in_configs_hides_the_embedded_one() {
    let here =
        folder(&[("configs/quickstart.toml", SMALL), ("configs/own.toml", &format!("# My own\n{SMALL}"))]);
    let listed = text(&ckd_det(here.path(), &["config", "list"]).stdout);
    assert_mentions(&listed, &["(configs/quickstart.toml)", "My own (configs/own.toml)"]);
    let from_files = listed.lines().filter(|line| line.ends_with(')') && line.contains("(configs/"));
    assert_eq!(from_files.count(), 2, "those of the program have no path: {listed}");
    let shown = ckd_det(here.path(), &["config", "show", "quickstart"]);
    assert_mentions(&text(&shown.stdout), &["# resolved from configs/quickstart.toml", "root = \"data\""]);
}
