//! `ckd-det compare`: gains with intervals, forms of the table, checks before the first run.

use ckd_det::config::CohortConfig;
use ckd_det::data::Instances;
use ckd_det::engine::comparison::{Difference, Entry, Format, Run};
use ckd_det::eval::{
    Detection, GroundTruth, Matches, Options, RESAMPLES, bootstrap, bootstrap_hits, evaluate, matches,
};
use serde_json::Value;

use crate::support::colours;
use crate::support::tiny::{Folder, Tiny, assert_ended};
use crate::{classify, cohort};

fn text(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Boxes of two classes on `images` images, and detections of them: every so many is a miss, a wrong place, another
/// class or a box of a crowd.
fn set(images: &[u32]) -> (Instances, Vec<Detection>, Vec<Detection>) {
    let mut instances = Instances::of_classes(["cat", "dog"]);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for (copy, &image) in images.iter().enumerate() {
        let place = |index: u32| [f64::from(20 + 60 * index), f64::from(10 + 7 * image), 40.0, 36.0];
        let class = |index: u32| (image + index) % 2;
        let boxes = (0..1 + image % 4).map(|index| (class(index), place(index)));
        let image_id = instances.push_image(&format!("{image}-{copy}.jpg"), (400, 300), boxes);
        if image % 5 == 3 {
            instances.annotations.last_mut().expect("a box").iscrowd = true;
        }
        for index in 0..2 + image % 3 {
            let [x, y, width, height] = place(index);
            let kind = (3 * image + index) % 7;
            let category_id = 1 + u64::from((class(index) + u32::from(kind == 5)) % 2);
            // No two images have a score in common.
            let score = 0.9 - 0.1 * f64::from(index) - 0.013 * f64::from(kind) - 0.0001 * f64::from(image);
            let shifted =
                |by: f64| Detection { image_id, category_id, bbox: [x + by, y, width, height], score };
            first.push(shifted(if kind == 2 { 25.0 } else { 3.0 * f64::from(kind) }));
            if kind != 4 {
                second.push(shifted(f64::from(kind)));
            }
        }
    }
    (instances, first, second)
}

fn matched(images: &[u32]) -> (f64, Matches, Matches) {
    let (instances, first, second) = set(images);
    let truth = GroundTruth::of(&instances).unwrap();
    let ap = evaluate(&truth, &first, &Options::default()).unwrap().stats[0];
    let of = |found: &[Detection]| matches(&truth, found, &Options::default()).unwrap();
    (ap, of(&first), of(&second))
}

#[test]
fn an_image_that_counts_so_many_times_is_so_many_copies_of_it() {
    let images: Vec<u32> = (0..12).collect();
    let (ap, first, _) = matched(&images);
    assert!((0.05..0.95).contains(&ap), "{ap}: easy or hopeless, and so no test");
    assert!((first.ap(&[1; 12]).unwrap() - ap).abs() < 1e-12);
    for counts in [[2, 0, 1, 3, 0, 0, 1, 1, 2, 0, 1, 1], [0, 5, 0, 0, 0, 0, 0, 2, 0, 0, 4, 1], [3; 12]] {
        let copies: Vec<u32> =
            images.iter().flat_map(|&image| vec![image; counts[image as usize] as usize]).collect();
        let (copied, ..) = matched(&copies);
        let got = first.ap(&counts).unwrap();
        assert!((got - copied).abs() < 1e-12, "{counts:?}: {got}, the evaluator has {copied}");
    }
    assert_eq!(first.ap(&[0; 12]), None);
}

#[test]
fn a_difference_has_an_interval_that_depends_on_its_seed_alone() {
    let images: Vec<u32> = (0..40).collect();
    let (_, first, second) = matched(&images);
    let pair = [(first.clone(), second.clone())];
    let found = bootstrap(&pair, 7).unwrap();
    let [low, high] = found.interval;
    assert_eq!(found.difference, second.ap(&[1; 40]).unwrap() - first.ap(&[1; 40]).unwrap());
    assert!(low < found.difference && found.difference < high && high - low < 0.3, "{found:?}");
    assert_eq!(found.resamples, RESAMPLES);
    // pycocotools' AP, and its bootstrap with copies of the images (tools/golden/bootstrap.py).
    let near =
        |got: f64, want: f64, tolerance: f64| assert!((got - want).abs() <= tolerance, "{got}, {want}");
    near(first.ap(&[1; 40]).unwrap(), 0.18586662076753832, 1e-12);
    near(second.ap(&[1; 40]).unwrap(), 0.4559514825986648, 1e-12);
    near(low, 0.19493471, 0.02);
    near(high, 0.34345101, 0.02);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    assert_eq!(pool.install(|| bootstrap(&pair, 7)), Some(found));
    assert_ne!(bootstrap(&pair, 8).unwrap().interval, found.interval);
    let equal = bootstrap(&[(first.clone(), first.clone())], 7).unwrap();
    assert_eq!((equal.difference, equal.interval, equal.better), (0.0, [0.0; 2], 0.0));
    let turned = bootstrap(&[(second, first.clone())], 7).unwrap();
    assert!((turned.interval[0] + high).abs() < 1e-12 && (turned.interval[1] + low).abs() < 1e-12);
    let (_, other, _) = matched(&images[1..]);
    assert_eq!(bootstrap(&[(first, other)], 7), None, "other images");
}

#[test]
fn a_gain_in_top_1_has_numpys_interval() {
    let of =
        |is: &dyn Fn(u32) -> bool| (0..400).map(|image| f64::from(u8::from(is(image)))).collect::<Vec<f64>>();
    let pair = |seed: u32| (of(&|i| (7 * i + seed) % 5 < 3), of(&|i| (11 * i + 2 * seed) % 8 < 5));
    let pairs: Vec<_> = (0..3).map(pair).collect();
    let found = bootstrap_hits(&pairs, 0).unwrap();
    assert!((found.difference - 0.025).abs() < 1e-12 && found.resamples == RESAMPLES, "{found:?}");
    // By tools/golden/bootstrap.py with 200,000 resamples; an end of 1,000 is off by 0.0014 (one deviation).
    for (got, want) in found.interval.into_iter().zip([-0.00666667, 0.05583333]) {
        assert!((got - want).abs() < 0.006, "{found:?}");
    }
    assert!((found.better - 0.9405).abs() < 0.03, "{found:?}");
    let turned: Vec<_> = pairs.iter().map(|(first, second)| (second.clone(), first.clone())).collect();
    let turned = bootstrap_hits(&turned, 0).unwrap();
    assert!((turned.interval[0] + found.interval[1]).abs() < 1e-12);
    assert_eq!(bootstrap_hits(&[(vec![1.0], vec![1.0, 0.0])], 0), None, "other images");
    assert_eq!((bootstrap_hits(&[], 0), bootstrap_hits(&[(Vec::new(), Vec::new())], 0)), (None, None));
}

fn seeded(name: &str, values: &[(u64, f64)]) -> Entry {
    let run =
        |&(seed, value)| Run { seed, steps: 1, last: vec![("AP", value)], best: None, folder: String::new() };
    Entry::new(name.to_owned(), None, values.iter().map(run).collect())
}

#[test]
fn a_gain_is_that_of_the_seeds_that_both_have() {
    let first = seeded("alone", &[(0, 20.0), (1, 30.0), (2, 10.0)]);
    assert_eq!(first.metrics[0].deviation, Some(10.0));
    let gain = seeded("ckd", &[(2, 13.0), (0, 21.0), (7, 90.0)]).gain_over(&first).unwrap();
    assert_eq!((gain.mean, gain.deviation), (2.0, Some(2f64.sqrt())));
    assert_eq!(seeded("ckd", &[(7, 90.0)]).gain_over(&first), None);
    // Less than nothing stands for nothing to measure by.
    assert_eq!(seeded("ckd", &[(0, -100.0)]).gain_over(&first), None);
}

fn entry(name: &str, values: &[f64]) -> Entry {
    let run =
        |(seed, &value)| Run { seed, steps: 1, last: vec![("AP", value)], best: None, folder: String::new() };
    Entry::new(name.to_owned(), None, (0..).zip(values).map(run).collect())
}

fn entries() -> Vec<Entry> {
    let mut entries = vec![entry("alone, small", &[60.0, 62.0, 64.0]), entry("ckd<r18>", &[65.5])];
    let gain = entries[1].gain_over(&entries[0]).unwrap();
    entries[1].difference = Some(Difference { interval: Some([-0.25, 10.5]), better: Some(0.9), ..gain });
    entries
}

#[test]
fn the_table_has_means_sample_deviations_and_an_interval() {
    let mut entries = entries();
    let [table, markdown] = [Format::Table, Format::Markdown].map(|format| format.of(&entries));
    let heading = "AP over alone, small [95 % over images]";
    let want = format!("| configuration | runs | AP | {heading} |\n|---|---:|---:|---:|\n");
    assert!(markdown.starts_with(&want), "{markdown}");
    assert!(markdown.contains("| alone, small | 3 | 62.00 ± 2.00 | - |\n"), "{markdown}");
    assert!(markdown.ends_with("| ckd<r18> | 1 | 65.50 | +5.50 [-0.25, +10.50] |\n"), "{markdown}");
    let widths: Vec<usize> = table.lines().map(|line| line.chars().count()).collect();
    assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
    assert!(table.contains("+5.50 [-0.25, +10.50]"), "{table}");
    entries[1].difference = None;
    let plain = Format::Markdown.of(&entries);
    assert!(plain.starts_with("| configuration | runs | AP |\n|---|---:|---:|\n"), "{plain}");
}

#[test]
fn csv_has_full_digits_and_quoted_names_and_a_page_escapes_them() {
    let entries = entries();
    let csv = Format::Csv.of(&entries);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[1], "\"alone, small\",,0 1 2,AP,62,2,,,,,");
    assert_eq!(lines[2], "ckd<r18>,,0,AP,65.5,,5.5,,-0.25,10.5,\"alone, small\"");
    let page = Format::Html.of(&entries);
    assert!(page.contains("ckd&lt;r18&gt;") && !page.contains("<r18>"), "{page}");
    assert!(page.contains("paired bootstrap") && !page.contains("http"), "{page}");
    let json: serde_json::Value = serde_json::from_str(&Format::Json.of(&entries)).unwrap();
    assert_eq!(json[1]["difference"]["interval"][1], 10.5);
}

#[test]
fn detectors_are_compared_with_an_interval_over_images_in_any_form() {
    let tiny = Tiny::new();
    tiny.write("wider.toml", "extends = \"plain.toml\"\n[student]\nwidth = 16\n");
    let args = [
        "compare",
        "plain.toml",
        "wider.toml",
        "--seeds",
        "0",
        "--set",
        "schedule.steps=4",
        "--out",
        "table",
    ];
    let compare = |more: &[&str]| tiny.run_program(&[&args[..], more].concat());
    // Nothing is trained where a later run could not be.
    let two = ["compare", "plain.toml", "plain.toml", "--seeds", "0"];
    assert_ended(
        &tiny.run_program(&two),
        2,
        &["plain with seed 0 and plain with seed 0", "runs/plain_seed0"],
    );
    let again = ["compare", "plain.toml", "--seeds", "3,3"];
    assert_ended(&tiny.run_program(&again), 2, &["plain with seed 3 and plain with seed 3"]);
    tiny.write("lost.toml", "extends = \"plain.toml\"\n[student]\ninit = \"nosuch.pth\"\n");
    let lost = ["compare", "plain.toml", "lost.toml", "--seeds", "0"];
    assert_ended(&tiny.run_program(&lost), 3, &["error: lost_seed0: ", "student.init = \"nosuch.pth\""]);
    assert_ended(&compare(&["--format", "excel"]), 2, &["excel", "markdown", "csv", "html"]);
    assert!(!tiny.path("runs").exists());

    let output = compare(&["--format", "csv"]);
    assert_ended(&output, 0, &["written to table/compare.json"]);
    let csv = text(&output);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 1 + 2 * 2, "AP and AP50 of two configurations: {csv}");
    assert!(
        lines[0].starts_with("configuration,of,seeds,metric,mean") && lines[3].starts_with("wider,,0,AP,")
    );

    let entries = tiny.json("table/compare.json");
    let difference = &entries[1]["difference"];
    let value = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("no number in {difference}"));
    let ap = |entry: usize| value(&entries[entry]["runs"][0]["last"][0][1]);
    assert!((value(&difference["mean"]) - (ap(1) - ap(0))).abs() < 1e-9, "{difference}");
    let [low, high] = [0, 1].map(|bound| value(&difference["interval"][bound]));
    assert!(low <= high && (-100.0..=100.0).contains(&low), "{difference}");
    assert_eq!((&difference["from"], &difference["metric"]), (&Value::from("plain"), &Value::from("AP")));
    // What was kept is what was measured.
    let kept = "runs/wider_seed0/val_detections.json";
    let (val, dt) = ("data/annotations/instances_val.json", tiny.path(kept));
    let scored = tiny.run_program(&["eval", "--gt", val, "--dt", &dt.display().to_string(), "--json"]);
    let scored: Value = serde_json::from_slice(&scored.stdout).expect("JSON alone");
    assert!((100.0 * value(&scored["stats"][0]) - ap(1)).abs() < 1e-9);

    // Typed again, nothing is trained; the forms tell the same.
    let page = text(&compare(&["--format", "html"]));
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("95 % over images"), "{page}");
    assert_ended(&compare(&["--format", "table"]), 0, &["configuration", "wider", "AP over plain"]);
    let piped = tiny.run_program(&[&args[..args.len() - 1], &["-", "--quiet"]].concat());
    assert_eq!(serde_json::from_slice::<Value>(&piped.stdout).expect("JSON alone"), entries);
}

#[test]
fn a_warm_start_tells_the_gain_of_a_method_from_that_of_more_training() {
    let tiny = Tiny::new();
    let args = ["compare", "plain.toml", "distilled.toml", "--warm-start", "--seeds", "0", "--out", "table"];
    let steps = ["--set", "schedule.steps=2", "--warm-set", "schedule.steps=3"];
    let compare = |more: &[&str]| tiny.run_program(&[&args[..], &steps, more].concat());
    // Nothing is trained that could not be compared.
    let turned = ["compare", "distilled.toml", "plain.toml", "--warm-start", "--seeds", "0"];
    assert_ended(&tiny.run_program(&turned), 2, &["--warm-start", "must be the student alone"]);
    tiny.write("longer.toml", "extends = \"distilled.toml\"\n[student]\nwidth = 16\n");
    let other = ["compare", "plain.toml", "longer.toml", "--warm-start", "--seeds", "0"];
    assert_ended(&tiny.run_program(&other), 2, &["longer", "student.width is 16 here and", "--warm-set"]);
    assert_ended(&tiny.run_program(&["compare", "plain.toml", "--warm-set", "seed=1"]), 2, &["--warm-start"]);
    assert!(!tiny.path("runs").exists());

    let told = compare(&[]);
    assert_ended(&told, 0, &["AP gained", "over plain |", "over plain_warm |"]);
    let entries = tiny.json("table/compare.json");
    let of = |index: usize| (&entries[index]["name"], &entries[index]["difference"]["from"]);
    let text = Value::from;
    assert_eq!(entries.as_array().map(Vec::len), Some(3));
    assert_eq!(of(0), (&text("plain"), &Value::Null));
    assert_eq!(of(1), (&text("plain_warm"), &text("plain")));
    assert_eq!(of(2), (&text("distilled_warm"), &text("plain_warm")));
    assert_eq!((&entries[0]["runs"][0]["steps"], &entries[2]["runs"][0]["steps"]), (&2.into(), &3.into()));
    for run in ["plain_warm_seed0", "distilled_warm_seed0"] {
        let config = tiny.text(&format!("runs/{run}/config.toml"));
        assert!(
            config.contains("plain_seed0/last.safetensors") && config.contains("freeze_at = 0"),
            "{config}"
        );
    }
    // Typed again, nothing is trained.
    let trained = tiny.text("runs/distilled_warm_seed0/log.jsonl");
    assert_ended(&compare(&["--jobs", "1"]), 0, &["over plain_warm |"]);
    assert_eq!(tiny.text("runs/distilled_warm_seed0/log.jsonl"), trained);
}

#[test]
fn cohorts_and_classifiers_are_compared_by_the_share_of_networks_that_are_right() {
    let small = Folder::<CohortConfig>::empty();
    colours::write(&small.path("data"));
    small.write("alone.toml", &classify::BASE.replace("epochs = 3", "epochs = 1"));
    small.write("two.toml", cohort::BASE);
    let third = "[[peer]]\nnetwork = \"resnet14\"\n\n[cohort]\n";
    small.write("three.toml", &cohort::BASE.replace("[cohort]\n", third));
    let compare = ["compare", "alone.toml", "two.toml", "three.toml", "--seeds", "0,1", "--out", "table"];
    let heading = "top-1 over alone [95 % over images]";
    assert_ended(&small.run_program(&compare), 0, &["two (mean of 2 peers)", heading]);
    let table: Value = serde_json::from_str(&small.text("table/compare.json")).unwrap();
    for (place, networks) in [(1, 2), (2, 3)] {
        let difference = &table[place]["difference"];
        let [mean, low, high] = ["/mean", "/interval/0", "/interval/1"]
            .map(|at| difference.pointer(at).and_then(Value::as_f64).unwrap());
        assert!(low <= mean + 1e-9 && mean <= high + 1e-9 && low < high, "{difference}");
        let run = table[place]["runs"][0]["folder"].as_str().unwrap();
        let hits = small.text(&format!("{run}/val_hits.txt"));
        assert_eq!(hits.lines().map(str::len).collect::<Vec<_>>(), vec![20; networks]);
        let share = 100.0 * hits.matches('1').count() as f64 / (20 * networks) as f64;
        let top1 = table[place]["runs"][0]["last"][0][1].as_f64().unwrap();
        assert!((share - top1).abs() < 1e-9, "{share} {top1}");
    }
    let page = small.text("table/report.html");
    for run in ["alone_seed0", "two_seed1", "three_seed1"] {
        assert!(page.contains(&format!("</span>{run}</td>")), "{run} is on the page: {page}");
    }
    assert!(page.contains(heading) && !page.contains("http"), "{page}");
    // A page of its own has a curve of each network.
    let page = small.text("runs/three_seed0/report.html");
    assert!(["peer0", "peer2"].iter().all(|peer| page.contains(&format!("{peer} of three_seed0"))), "{page}");
}
