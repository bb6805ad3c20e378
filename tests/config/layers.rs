//! Layers of a configuration: bases, `--set`, paths.

use std::path::Path;

use ckd_det::config::Length;
use ckd_det::distill::{Distill, RowsAt};

use super::{SMALL, TEACHER, assert_mentions, error, error_in, folder, load, load_in};

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
