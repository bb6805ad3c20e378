//! The teacher in its student's file.

use std::path::Path;

use ckd_det::config::{AnchorCorners, Length, Resize, RoiAlign};

use super::{SMALL, TEACHER, assert_mentions, error, error_in, folder, load, load_in};

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
