//! Pseudo-labels: which detections become labels, the file that says so, and training on it beside real labels.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ckd_det::data::draws::Draws;
use ckd_det::data::unlabelled::{Weighting, joined};
use ckd_det::data::{CategoryId, CategoryMap, Dataset, ImagePolicy, Instances, LoadReport, coco};
use ckd_det::engine::detect::jitter::{COPIES, copies, uncertainty};
use ckd_det::eval::Detection;
use ckd_det::export::pseudo_labels::{Candidate, LabelFile, LabelRules, Use};
use ckd_kernels::Value;
use ckd_kernels::elementwise::rows;
use ckd_kernels::losses::{Divisor, softmax_cross_entropy};
use serde_json::json;

use crate::distill::support::{check_case, each_next_case, labels};
use crate::support::tiny::{Tiny, assert_ended, assert_mentions, assert_same_tensors, log};

fn rules(thresholds: &[f64]) -> LabelRules {
    LabelRules {
        thresholds: thresholds.iter().map(|&score| (score, "given")).collect(),
        ignore_above: 0.3,
        min_side_px: 0.01,
        max_uncertainty: None,
        best_of_each: false,
        keep_empty: false,
    }
}

#[test]
fn labels_are_those_that_pytorch_keeps() {
    each_next_case("pseudo/per_class_threshold", |case| {
        let scores = case.f32("scores").0;
        let found: Vec<Candidate> = case
            .boxes("boxes")
            .into_iter()
            .zip(scores.iter().zip(labels(case, "labels")))
            .map(|([x1, y1, x2, y2], (&score, class))| Candidate {
                class: class as usize,
                score: score.into(),
                sides: [f64::from(x2 - x1), f64::from(y2 - y1)],
                uncertainty: 0.0,
            })
            .collect();
        let thresholds: Vec<f64> = case.f32("thresholds").0.into_iter().map(f64::from).collect();
        let rules = LabelRules { min_side_px: case.attr_f64("min_side"), ..rules(&thresholds) };
        let kept: Vec<i64> = rules.uses(&found).iter().map(|used| i64::from(*used == Use::Label)).collect();
        case.check_exact("keep", &kept);
    });
    each_next_case("pseudo/stac_floor", |case| {
        let of =
            |&score: &f32| Candidate { class: 0, score: score.into(), sides: [9.0, 9.0], uncertainty: 0.0 };
        let found: Vec<Candidate> = case.f32("scores").0.iter().map(of).collect();
        // The released rule is in f32, as scores are.
        let threshold = f64::from(case.attr_f64("tau") as f32);
        let rules = LabelRules { best_of_each: true, ..rules(&[threshold]) };
        let kept: Vec<i64> = rules.uses(&found).iter().map(|used| i64::from(*used == Use::Label)).collect();
        case.check_exact("keep", &kept);
    });
}

#[test]
fn weighted_rows_of_a_class_loss_equal_pytorch() {
    each_next_case("pseudo/soft_background", |case| {
        let (weights, classes) = (case.f32("weights").0, labels(case, "labels"));
        let divisor = f64::from(weights.iter().sum::<f32>()).max(1.0);
        // A weight of 0 is a row that is not there.
        let counted: Vec<u32> = (0..).zip(&weights).filter(|(_, w)| **w > 0.0).map(|(row, _)| row).collect();
        let parts: Vec<(usize, f64)> =
            counted.iter().map(|&row| (1, divisor / f64::from(weights[row as usize]))).collect();
        let of_rows: Vec<u32> = counted.iter().map(|&row| classes[row as usize]).collect();
        check_case(case, "loss", &["logits"], |leaves: &[Value]| {
            let logits = rows(&leaves[0], &counted)?;
            Ok(softmax_cross_entropy(&logits, &of_rows, Divisor::Parts(&parts))?)
        });
    });
}

fn categories() -> CategoryMap {
    CategoryMap::new(vec![(CategoryId(3), "cat".to_owned()), (CategoryId(7), "dog".to_owned())]).unwrap()
}

fn found(category_id: u64, bbox: [f64; 4], score: f64) -> Detection {
    Detection { image_id: 0, category_id, bbox, score }
}

#[test]
fn a_file_of_labels_tells_who_labelled_how_and_how_much() {
    let categories = categories();
    let mut file =
        LabelFile::new(rules(&[0.7, 0.5]), &categories, ("teacher.safetensors", "abc"), Path::new("photos"));
    let bbox = [1.0, 2.0, 30.0, 40.0];
    let mixed = [found(3, bbox, 0.9), found(3, bbox, 0.7), found(7, bbox, 0.6), found(7, bbox, 0.3)];
    file.add((0, "a.jpg"), (100, 80), &mixed, &[]);
    file.add((1, "b.jpg"), (100, 80), &[found(3, bbox, 0.6), found(3, [1.0, 2.0, 0.01, 9.0], 0.99)], &[]);
    file.add((2, "c.jpg"), (100, 80), &[], &[]);
    let text = coco::to_json(&file.finish());
    let written: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let of = |key: &str| -> Vec<serde_json::Value> {
        written["annotations"].as_array().unwrap().iter().map(|row| row[key].clone()).collect()
    };
    assert_eq!(of("score"), [json!(0.9), json!(0.7), json!(0.6)]);
    assert_eq!(of("ignore"), [json!(null), json!(1), json!(null)], "0.7 is not above 0.7");
    assert_eq!(written["images"].as_array().unwrap().len(), 1, "images without labels are dropped");
    let record = &written["pseudo_labels"];
    assert_eq!(record["teacher"], "teacher.safetensors");
    assert_eq!((&record["images"], &record["without_labels"]), (&json!(3), &json!(2)));
    assert_eq!(
        record["classes"],
        json!([
            { "id": 3, "name": "cat", "threshold": 0.7, "chosen_by": "given", "labels": 1, "ignored": 1 },
            { "id": 7, "name": "dog", "threshold": 0.5, "chosen_by": "given", "labels": 1, "ignored": 0 },
        ])
    );
    // The reader gives back what was written.
    let read = coco::parse(&text, Path::new("p.json")).unwrap();
    assert_eq!(coco::to_json(&read), text);

    let all = LabelRules { best_of_each: true, keep_empty: true, ..rules(&[0.7, 0.5]) };
    let mut file = LabelFile::new(all, &categories, ("t", "abc"), Path::new("photos"));
    file.add((0, "a.jpg"), (100, 80), &[found(3, bbox, 0.1), found(7, bbox, 0.05)], &[]);
    file.add((1, "b.jpg"), (100, 80), &[], &[]);
    let set = file.finish();
    assert_eq!((set.images.len(), set.annotations.len()), (2, 1));
}

#[test]
fn a_box_is_as_uncertain_as_pytorch_says_by_its_refined_copies() {
    each_next_case("pseudo/jitter_uncertainty", |case| {
        let refined = case.boxes("refined");
        let found = uncertainty(&refined, refined.len() / COPIES);
        case.check_close("uncertainty", &found.iter().map(|part| *part as f32).collect::<Vec<_>>());
        // A sure box is a label, one that is not is to be ignored or nothing, whatever it scores.
        let sure = LabelRules { max_uncertainty: Some(case.attr_f64("threshold")), ..rules(&[0.7]) };
        let of = |&uncertainty: &f64| Candidate { class: 0, score: 0.9, sides: [9.0, 9.0], uncertainty };
        let uses = sure.uses(&found.iter().map(of).collect::<Vec<_>>());
        case.check_exact(
            "reliable",
            &uses.iter().map(|used| i64::from(*used == Use::Label)).collect::<Vec<_>>(),
        );
        assert!(uses.iter().all(|used| matches!(used, Use::Label | Use::Ignored)));
    });
}

#[test]
fn copies_are_around_their_box_by_a_part_of_its_sides() {
    let boxes = vec![[10.0, 20.0, 110.0, 40.0]; 400];
    let noisy = copies(&boxes, &mut Draws::new(3, "noise", &[]));
    assert_eq!(noisy.len(), 4000);
    for (side, width) in [(0, 100.0), (1, 20.0), (2, 100.0), (3, 20.0)] {
        let moved: Vec<f64> = noisy.iter().map(|own| f64::from(own[side] - boxes[0][side]) / width).collect();
        let mean = moved.iter().sum::<f64>() / 4000.0;
        let deviation = (moved.iter().map(|by| (by - mean).powi(2)).sum::<f64>() / 3999.0).sqrt();
        assert!(mean.abs() < 0.004 && (deviation - 0.06).abs() < 0.003, "{side}: {mean} {deviation}");
    }
    // A head that leaves the copies where they are is as uncertain as they were noisy; one that finds the box again is not.
    let as_noisy = uncertainty(&noisy, boxes.len()).iter().sum::<f64>() / 400.0;
    assert!((as_noisy - 0.058).abs() < 0.004, "{as_noisy}");
    assert_eq!(uncertainty(&[boxes[0]; COPIES], 1), [0.0]);
    assert!(uncertainty(&[], 0).is_empty());
}

/// A set of images that are all one colour, each with a box of class `class`.
fn images(folder: &Path, colours: &[u8], names: [&str; 2], boxes: &[(u32, Option<f64>)]) -> Instances {
    fs::create_dir_all(folder).unwrap();
    let mut set = Instances::of_classes(names);
    for (colour, &(class, score)) in colours.iter().zip(boxes) {
        let name = format!("{colour}.png");
        image::RgbImage::from_pixel(40, 30, image::Rgb([*colour; 3])).save(folder.join(&name)).unwrap();
        set.push_image(&name, (40, 30), [(class, [2.0, 3.0, 20.0, 10.0])]);
        set.annotations.last_mut().unwrap().score = score;
    }
    set
}

fn opened(set: &Instances, folder: &Path) -> (Dataset, LoadReport) {
    Dataset::new(set, folder, &ImagePolicy::default()).unwrap()
}

#[test]
fn pseudo_labels_join_by_the_names_of_their_classes_and_weigh_what_they_scored() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let split = |name: &str, colours: &[u8], names, boxes: &[(u32, Option<f64>)]| {
        opened(&images(&at(name), colours, names, boxes), &at(name))
    };
    let real = |colours: &[u8], name: &str| split(name, colours, ["cat", "dog"], &[(0, None), (1, None)]).0;
    let (train, val) = (real(&[1, 2], "train"), real(&[3, 4], "val"));
    // The other order of classes, and a box that a person drew.
    let pseudo = || split("pseudo", &[5, 6], ["dog", "cat"], &[(0, Some(0.75)), (1, None)]);
    let join_by = |weighting, weight| {
        let (set, report) = pseudo();
        joined(&train, (set, &report), &val, (weighting, weight)).unwrap()
    };
    let join = |weighting| join_by(weighting, 1.0);
    let told = |set: &Dataset| -> Vec<(u64, u32, f32)> {
        let of = |image: usize| {
            let object = &set.annotations(image)[0];
            (set.images[image].id.0, object.category.0, object.weight)
        };
        (0..set.images.len()).map(of).collect()
    };
    let soft = join(Weighting::Soft);
    assert_eq!(told(&soft), [(1, 0, 1.0), (2, 1, 1.0), (3, 1, 0.75), (4, 0, 1.0)]);
    assert_eq!(told(&join(Weighting::Hard)), [(1, 0, 1.0), (2, 1, 1.0), (3, 1, 1.0), (4, 0, 1.0)]);
    assert_ne!(soft.blake3(), join(Weighting::Hard).blake3());
    let half = join_by(Weighting::Soft, 0.5);
    assert_eq!(told(&half), [(1, 0, 1.0), (2, 1, 1.0), (3, 1, 0.375), (4, 0, 0.5)]);
    let of_images: Vec<f32> = half.images.iter().map(|image| image.weight).collect();
    assert_eq!(of_images, [1.0, 1.0, 0.5, 0.5]);
    assert_ne!(soft.blake3(), half.blake3());
    assert_eq!(soft.pixels(2).unwrap().get_pixel(0, 0).0, [5; 3]);

    let refused = |set: (Dataset, LoadReport)| {
        joined(&train, (set.0, &set.1), &val, (Weighting::Soft, 1.0)).unwrap_err().to_string()
    };
    let leaked = refused(split("leaked", &[7, 3], ["cat", "dog"], &[(0, Some(0.9)), (1, Some(0.9))]));
    assert_mentions(&leaked, &["1 of its images are evaluation images", "3.png"]);
    let unknown = refused(split("unknown", &[8], ["cat", "cow"], &[(1, Some(0.9))]));
    assert_mentions(&unknown, &["class \"cow\"", "cat, dog"]);
}

/// The last two images of the training set of `tiny` as pseudo-labels of a score, and the rest as training set.
fn halves(tiny: &Tiny, score: f64) {
    let whole = coco::read(&tiny.path("data/annotations/instances_train.json")).unwrap();
    let last: Vec<u64> = whole.images.iter().rev().take(4).map(|image| image.id).collect();
    let part = |keep: &dyn Fn(u64) -> bool, score: Option<f64>| {
        let mut set = whole.clone();
        set.images.retain(|image| keep(image.id));
        set.annotations.retain(|row| keep(row.image_id));
        set.annotations.iter_mut().for_each(|row| row.score = score);
        set
    };
    let is_last = |id: u64| last.contains(&id);
    fs::write(tiny.path("few.json"), coco::to_json(&part(&|id| !is_last(id), None))).unwrap();
    fs::write(tiny.path("pseudo.json"), coco::to_json(&part(&is_last, Some(score)))).unwrap();
}

/// Keys that name the parts of the synthetic set as a COCO set.
const AS_COCO: [&str; 4] = [
    "data.kind=coco",
    "data.train_images=train",
    "data.val_images=val",
    "data.val_annotations=annotations/instances_val.json",
];

fn sets<'a>(own: &[&'a str]) -> Vec<&'a str> {
    AS_COCO.iter().copied().chain(own.iter().copied()).collect()
}

/// A folder with the synthetic set as a COCO set of two [`halves`].
fn in_halves() -> Tiny {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &["schedule.steps=1"]).unwrap();
    let base = tiny.text("base.toml");
    let start = base.find("[data.synth]").unwrap();
    let end = base.find("[student]").unwrap();
    tiny.write("base.toml", &format!("{}{}", &base[..start], &base[end..]));
    halves(&tiny, 0.5);
    tiny
}

/// The losses of a run's first step.
fn first_losses(tiny: &Tiny, name: &str) -> BTreeMap<String, f64> {
    let line = log(&tiny.path(&format!("runs/{name}"))).into_iter().find(|line| line["step"] == 1);
    serde_json::from_value(line.expect("a first step")["losses"].clone()).unwrap()
}

#[test]
fn pseudo_labels_of_weight_0_leave_the_losses_of_the_real_ones_and_others_count_by_their_weight() {
    let tiny = in_halves();
    let few = format!("data.train_annotations={}", tiny.path("few.json").display());
    let pseudo = format!("data.unlabelled.annotations={}", tiny.path("pseudo.json").display());
    let folder = format!("data.unlabelled.images={}", tiny.path("data/train").display());
    // All images in one batch, as they are. RetinaNet's losses are means over the images, and no norm mixes them.
    let fixed = [&*few, "schedule.steps=1", "input.flip_probability=0", "student.norm=frozen_bn"];
    let losses = |name: &str, own: &[&str]| {
        tiny.train("retina_plain.toml", &sets(&[&fixed, own, &[&format!("name={name}")]].concat())).unwrap();
        first_losses(&tiny, name)
    };
    let alone = losses("alone", &["train.batch_size=6"]);
    let [none, half, whole] = ["0", "0.5", "1"].map(|weight| {
        let weight = format!("data.unlabelled.weight={weight}");
        losses("with", &[&pseudo, &folder, "train.batch_size=10", &weight])
    });
    for (loss, alone) in &alone {
        assert!((10.0 * none[loss] - 6.0 * alone).abs() <= 1e-5 * alone, "{loss}: {alone} {}", none[loss]);
        assert!(whole[loss] > none[loss], "{loss}");
        let mean = 0.5 * (none[loss] + whole[loss]);
        assert!((half[loss] - mean).abs() <= 1e-5 * mean, "{loss}: {mean} {}", half[loss]);
    }
    let negative = tiny.train("retina_plain.toml", &sets(&[&few, &pseudo, "data.unlabelled.weight=-1"]));
    assert_mentions(&negative.map(drop).unwrap_err().to_string(), &["data.unlabelled.weight", "-1"]);
}

#[test]
fn hard_pseudo_labels_train_as_real_ones_do_and_soft_ones_less() {
    let tiny = in_halves();
    let whole = "data.train_annotations=annotations/instances_train.json";
    let few = format!("data.train_annotations={}", tiny.path("few.json").display());
    let pseudo = format!("data.unlabelled.annotations={}", tiny.path("pseudo.json").display());
    let folder = format!("data.unlabelled.images={}", tiny.path("data/train").display());
    let run = |name: &str, own: &[&str]| {
        let name = format!("name={name}");
        tiny.train("plain.toml", &sets(&[own, &[&*name]].concat())).unwrap();
    };
    let with = |weighting| [few.as_str(), &pseudo, &folder, weighting];
    run("real", &[whole]);
    run("hard", &with("data.unlabelled.weighting=hard"));
    run("soft", &with("data.unlabelled.weighting=soft"));
    run("few", &[&few]);
    let weights = |name: &str| tiny.path(&format!("runs/{name}/last.safetensors"));
    assert_same_tensors(&weights("real"), &weights("hard"));
    let (hard, soft) = (first_losses(&tiny, "hard"), first_losses(&tiny, "soft"));
    assert!(hard.iter().all(|(loss, value)| soft[loss] <= *value), "{hard:?} {soft:?}");
    assert!(hard.values().sum::<f64>() > soft.values().sum::<f64>());
    assert_ne!(fs::read(weights("few")).unwrap(), fs::read(weights("hard")).unwrap());

    // The evaluation images are no training images, and pseudo-labels are no truth.
    let leak =
        format!("data.unlabelled.annotations={}", tiny.path("data/annotations/instances_val.json").display());
    let val = format!("data.unlabelled.images={}", tiny.path("data/val").display());
    let refused = |own: &[&str]| tiny.train("plain.toml", &sets(own)).map(drop).unwrap_err().to_string();
    assert_mentions(&refused(&[&few, &leak, &val, "name=leak"]), &["4 of its images are evaluation images"]);
    let missing = refused(&[&few, "data.unlabelled.annotations=none.json", "name=none"]);
    assert_mentions(&missing, &["none.json", "ckd-det predict --run RUN --as-labels"]);
}

#[test]
fn predict_writes_labels_that_a_student_trains_on() {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &["name=teacher", "schedule.steps=12", "optim.lr=0.05"]).unwrap();
    let predict = |own: &[&str]| {
        let fixed =
            ["predict", "--run", "runs/teacher", "--no-pictures", "data/train", "--json", "found.json"];
        tiny.run_program(&[&fixed[..], own].concat())
    };
    assert_ended(
        &predict(&["--as-labels", "best.json", "--best-of-each", "--ignore-above", "1"]),
        0,
        &["labels of 10 of 10 images -> best.json", "score > 0.700 (given)"],
    );
    let mut scores: Vec<f64> = tiny
        .json("found.json")
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["score"].as_f64().unwrap())
        .collect();
    scores.sort_by(f64::total_cmp);
    let best = tiny.json("best.json");
    assert_eq!(best["images"].as_array().unwrap().len(), 10);
    assert!(best["annotations"].as_array().unwrap().iter().all(|row| row["ignore"].is_null()));
    assert_eq!(best["pseudo_labels"]["teacher"], "runs/teacher/last.safetensors");

    // Half of the boxes as labels, a quarter to be ignored, none of them from below.
    let (middle, low) = (scores[scores.len() / 2].to_string(), scores[scores.len() / 4].to_string());
    let output = predict(&["--as-labels", "half.json", "--label-score", &middle, "--ignore-above", &low]);
    assert_ended(&output, 0, &["-> half.json"]);
    let half = tiny.json("half.json");
    let rows = half["annotations"].as_array().unwrap();
    let (middle, low): (f64, f64) = (middle.parse().unwrap(), low.parse().unwrap());
    for row in rows {
        let (score, is_ignored) = (row["score"].as_f64().unwrap(), row["ignore"] == 1);
        assert!(score as f32 > low as f32 && is_ignored == (score as f32 <= middle as f32), "{row}");
    }
    let counted = |key: &str| -> u64 {
        let classes = half["pseudo_labels"]["classes"].as_array().unwrap();
        classes.iter().map(|class| class[key].as_u64().unwrap()).sum()
    };
    let ignored = rows.iter().filter(|row| row["ignore"] == 1).count() as u64;
    assert_eq!((counted("labels"), counted("ignored")), (rows.len() as u64 - ignored, ignored));

    // Of a box that is not sure enough nothing is learned; the others stay what they are.
    let by_box = |most: &str| {
        let scores = ["--as-labels", "sure.json", "--label-score", &middle.to_string(), "--ignore-above"];
        let output =
            predict(&[&scores[..], &[&low.to_string(), "--keep-empty", "--box-uncertainty", most]].concat());
        assert_ended(&output, 0, &["-> sure.json"]);
        let sure = tiny.json("sure.json");
        let uses = sure["annotations"].as_array().unwrap().iter().map(|row| row["ignore"] == 1);
        (uses.clone().filter(|is_ignored| !is_ignored).count() as u64, uses.count())
    };
    let (all, boxes) = by_box("1e9");
    assert_eq!(all, counted("labels"));
    assert_eq!(by_box("1e-9"), (0, boxes));
    tiny.train("retina_plain.toml", &["schedule.steps=1"]).unwrap();
    let retina =
        ["predict", "--run", "runs/retina_plain", "--no-pictures", "data/train", "--as-labels", "r.json"];
    let refused = tiny.run_program(&[&retina[..], &["--box-uncertainty", "0.02"]].concat());
    assert_ended(&refused, 2, &["asks the box head of a Faster R-CNN", "is a retinanet"]);

    // Thresholds from the labelled validation images: none of this detector's classes is ever so precise by chance.
    let output = predict(&["--as-labels", "sure.json", "--precision", "1", "--class-score", "nothing=0.5"]);
    assert_ended(&output, 2, &["\"nothing\" is no class of the detector"]);
    assert_ended(
        &predict(&["--as-labels", "sure.json", "--precision", "0.9", "--keep-empty"]),
        0,
        &["-> sure.json"],
    );
    let chosen = tiny.json("sure.json");
    for class in chosen["pseudo_labels"]["classes"].as_array().unwrap() {
        let expected = if class["chosen_by"] == "given" { 0.7 } else { class["threshold"].as_f64().unwrap() };
        assert!((class["threshold"].as_f64().unwrap() - expected).abs() < 1e-6, "{class}");
    }
    assert_ended(&predict(&["--label-score", "0.5"]), 2, &["--as-labels"]);

    // The student trains on them; the folder is the one that the file names.
    let config = "extends = \"plain.toml\"\n[data.unlabelled]\nannotations = \"best.json\"\n";
    tiny.write("student.toml", config);
    let output = tiny.run_program(&["train", "student.toml"]);
    assert_ended(&output, 0, &[]);
    let as_val = "data.val_annotations=../best.json";
    let sets: Vec<&str> = AS_COCO.iter().copied().filter(|set| !set.starts_with("data.val_ann")).collect();
    let base = tiny.text("base.toml");
    let (start, end) = (base.find("[data.synth]").unwrap(), base.find("[student]").unwrap());
    tiny.write("base.toml", &format!("{}{}", &base[..start], &base[end..]));
    let all = [&sets[..], &[as_val, "data.train_annotations=annotations/instances_train.json", "name=wrong"]]
        .concat();
    let refused = tiny.train("plain.toml", &all).map(drop).unwrap_err().to_string();
    assert_mentions(&refused, &["found by a detector", "data.unlabelled.annotations"]);
}
