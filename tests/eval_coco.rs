//! COCO box metrics against the numbers of pycocotools, and against hostile input.

use std::fs;
use std::path::{Path, PathBuf};

use ckd_det::data::Instances;
use ckd_det::eval::{
    BoxMetrics, Categories, Detection, EvalError, GroundTruth, Options, Results, STAT_NAMES, evaluate,
    read_detections,
};
use serde_json::{Value, json};

use crate::support::real;

/// Both sides add up the same f64 numbers in another order.
const TOLERANCE: f64 = 1e-12;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/coco_eval")
}

fn read(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

fn assert_near(what: &str, got: f64, want: &Value) {
    let want = want.as_f64().unwrap_or_else(|| panic!("{what}: no expected number"));
    assert!((got - want).abs() <= TOLERANCE, "{what}: {got}, pycocotools has {want}");
}

fn score(gt: &Value, results: &Value, options: &Options) -> BoxMetrics {
    let detections: Vec<Detection> = serde_json::from_value(results.clone()).unwrap();
    evaluate(&GroundTruth::from_json(gt).unwrap(), &detections, options).unwrap()
}

/// One image, one class, one box; detections as given.
fn simple(detections: &[Detection]) -> Result<BoxMetrics, EvalError> {
    let truth = GroundTruth::from_json(&simple_gt()).unwrap();
    evaluate(&truth, detections, &Options::default())
}

fn simple_gt() -> Value {
    json!({
        "images": [{"id": 1}, {"id": 5}],
        "categories": [{"id": 3, "name": "cell"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 40, 40], "area": 1600, "iscrowd": 0}],
    })
}

fn found(image_id: u64, category_id: u64, score: f64) -> Detection {
    Detection { image_id, category_id, bbox: [0.0, 0.0, 40.0, 40.0], score }
}

fn check_case(case: &Value) {
    let name = case["name"].as_str().unwrap();
    let asked = &case["options"];
    let options = Options {
        max_dets: match asked.get("max_dets") {
            Some(limits) => serde_json::from_value(limits.clone()).unwrap(),
            None => Options::default().max_dets,
        },
        categories: match asked.get("pooled") {
            Some(Value::Bool(true)) => Categories::Pooled,
            _ => Categories::Separate,
        },
        image_ids: asked.get("image_ids").map(|ids| serde_json::from_value(ids.clone()).unwrap()),
    };
    let metrics = score(&case["gt"], &case["results"], &options);
    let expected = &case["expected"];
    for (row, stat) in STAT_NAMES.into_iter().enumerate() {
        assert_near(&format!("{name}: {stat}"), metrics.stats[row], &expected["stats"][row]);
    }
    for (row, ap) in metrics.ap_per_iou.into_iter().enumerate() {
        assert_near(&format!("{name}: AP at IoU row {row}"), ap, &expected["ap_per_iou"][row]);
    }
    let classes = expected["per_class"].as_array().unwrap();
    assert_eq!(metrics.per_class.len(), classes.len(), "{name}");
    for (class, want) in metrics.per_class.iter().zip(classes) {
        assert_eq!(want["category_id"], class.category_id, "{name}");
        assert_near(&format!("{name}: AP of {}", class.name), class.ap, &want["ap"]);
        assert_near(&format!("{name}: AP50 of {}", class.name), class.ap50, &want["ap50"]);
        assert_near(&format!("{name}: AR100 of {}", class.name), class.ar100, &want["ar100"]);
    }
}

#[test]
fn crowds_area_edges_limits_ties_and_empty_cases_score_as_in_pycocotools() {
    let cases = read(&golden().join("cases.json"));
    assert!(cases.as_array().unwrap().len() >= 15);
    cases.as_array().unwrap().iter().for_each(check_case);
}

/// The wider sweep: a file of cases that `tools/golden/coco_eval_cases.py --random` made.
#[test]
#[ignore = "needs CKD_DET_EVAL_CASES"]
fn random_scenes_score_as_in_pycocotools() {
    let path = std::env::var_os("CKD_DET_EVAL_CASES").expect("CKD_DET_EVAL_CASES names a file of cases");
    read(Path::new(&path)).as_array().unwrap().iter().for_each(check_case);
}

fn check_pair(folder: &Path, name: &str) {
    let truth = GroundTruth::load(&folder.join(format!("{name}_gt.json"))).unwrap();
    let detections = read_detections(&folder.join(format!("{name}_results.json"))).unwrap();
    let expected = read(&folder.join(format!("{name}_expected.json")));
    let metrics = evaluate(&truth, &detections, &Options::default()).unwrap();
    let pooled = Options { categories: Categories::Pooled, ..Options::default() };
    let agnostic = evaluate(&truth, &detections, &pooled).unwrap();
    let keys = [
        "AP", "AP50", "AP75", "APsmall", "APmedium", "APlarge", "AR1", "AR10", "AR100", "ARsmall",
        "ARmedium", "ARlarge",
    ];
    for (row, key) in keys.into_iter().enumerate() {
        assert_near(&format!("{name}: {key}"), metrics.stats[row], &expected["stats"][key]);
        let want = &expected["class_agnostic_stats"][key];
        assert_near(&format!("{name}: {key}, classes pooled"), agnostic.stats[row], want);
    }
    for (row, ap) in metrics.ap_per_iou.into_iter().enumerate() {
        assert_near(&format!("{name}: AP row {row}"), ap, &expected["ap_by_iou_050_to_095"][row]);
    }
    let classes = expected["per_category"].as_object().unwrap();
    assert!(!classes.is_empty());
    for class in &metrics.per_class {
        match classes.get(&class.category_id.to_string()) {
            Some(want) => {
                assert_near(&format!("{name}: AP of {}", class.name), class.ap, &want["AP"]);
                assert_near(&format!("{name}: AP50 of {}", class.name), class.ap50, &want["AP50"]);
                assert_near(&format!("{name}: AR100 of {}", class.name), class.ar100, &want["AR100"]);
            }
            None => assert_eq!(class.ap, -1.0, "{name}: {} has no expected numbers", class.name),
        }
    }
    assert!(agnostic.per_class.is_empty());
}

#[test]
fn real_coco_results_score_as_in_pycocotools() {
    check_pair(&golden(), "fakebbox54");
}

#[test]
#[ignore = "needs CKD_DET_DATA"]
fn jittered_coco_boxes_score_as_in_pycocotools() {
    let file = real::file("cocoapi_eval/jitter81_gt.json");
    let folder = file.parent().expect("a folder");
    check_pair(folder, "jitter81");
    check_pair(folder, "fakebbox54");
}

#[test]
fn annotation_ids_say_nothing_even_0_or_none() {
    let want = simple(&[found(1, 3, 0.5)]).unwrap();
    assert_near("AP", want.stats[0], &json!(1));
    let mut gt = simple_gt();
    gt["annotations"][0]["id"] = json!(0);
    assert_eq!(score(&gt, &json!([found(1, 3, 0.5)]), &Options::default()), want);
    gt["annotations"][0].as_object_mut().unwrap().remove("id");
    assert_eq!(score(&gt, &json!([found(1, 3, 0.5)]), &Options::default()), want);
}

#[test]
fn a_box_without_area_counts_as_width_times_height_and_without_iscrowd_as_one_object() {
    let mut gt = simple_gt();
    gt["annotations"][0].as_object_mut().unwrap().retain(|key, _| key != "area" && key != "iscrowd");
    assert_eq!(
        score(&gt, &json!([found(1, 3, 0.5)]), &Options::default()),
        simple(&[found(1, 3, 0.5)]).unwrap()
    );
}

#[test]
fn ids_written_as_floats_and_flags_as_booleans_are_read() {
    let mut gt = simple_gt();
    gt["images"][0]["id"] = json!(1.0);
    gt["annotations"][0]["iscrowd"] = json!(false);
    let metrics = score(&gt, &json!([found(1, 3, 0.5)]), &Options::default());
    assert_near("AP", metrics.stats[0], &json!(1));
}

#[test]
fn a_data_set_that_lists_an_id_twice_is_refused() {
    for what in ["images", "categories"] {
        let mut gt = simple_gt();
        let first = gt[what][0].clone();
        gt[what].as_array_mut().unwrap().push(first);
        let error = GroundTruth::from_json(&gt).expect_err(what).to_string();
        assert!(error.ends_with("twice"), "{error}");
    }
}

#[test]
fn an_annotation_that_is_listed_twice_counts_once_and_is_reported() {
    let mut gt = simple_gt();
    let first = gt["annotations"][0].clone();
    gt["annotations"].as_array_mut().unwrap().push(first);
    let metrics = score(&gt, &json!([found(1, 3, 0.5)]), &Options::default());
    let once = simple(&[found(1, 3, 0.5)]).unwrap();
    assert_eq!((metrics.stats, metrics.left_out.repeated_annotations), (once.stats, 1));
    assert!(metrics.to_string().contains("not counted: 1 annotations that the ground truth lists a second"));
}

#[test]
fn an_annotation_id_that_two_boxes_share_is_two_boxes() {
    let mut gt = simple_gt();
    let mut other = gt["annotations"][0].clone();
    other["bbox"] = json!([60, 60, 40, 40]);
    gt["annotations"].as_array_mut().unwrap().push(other);
    let metrics = score(&gt, &json!([found(1, 3, 0.5)]), &Options::default());
    assert_near("AR100: one of two is found", metrics.stats[8], &json!(0.5));
}

#[test]
fn a_detection_on_an_unknown_image_is_an_error_that_names_it() {
    let error = simple(&[found(1, 3, 0.5), found(77, 3, 0.5)]).unwrap_err();
    assert!(matches!(error, EvalError::UnknownImage { index: 1, image_id: 77 }), "{error}");
    assert!(error.to_string().contains("image 77"), "{error}");
    let options = Options { image_ids: Some(vec![5, 6]), ..Options::default() };
    let truth = GroundTruth::from_json(&simple_gt()).unwrap();
    let error = evaluate(&truth, &[], &options).unwrap_err();
    assert!(matches!(error, EvalError::UnknownSubsetImage { image_id: 6 }), "{error}");
}

#[test]
fn a_score_or_box_that_is_not_a_number_is_an_error() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let error = simple(&[found(5, 3, bad)]).unwrap_err();
        assert!(
            matches!(error, EvalError::NotFinite { index: 0, image_id: 5, what: "score", .. }),
            "{error}"
        );
        let mut detection = found(5, 3, 0.5);
        detection.bbox[2] = bad;
        let error = simple(&[detection]).unwrap_err();
        assert!(matches!(error, EvalError::NotFinite { what: "bbox", .. }), "{error}");
    }
}

#[test]
fn what_does_not_count_is_reported() {
    let mut gt = simple_gt();
    for (id, image, category) in [(2, 1, 4), (3, 9, 3), (4, 9, 4)] {
        gt["annotations"].as_array_mut().unwrap().push(
            json!({"id": id, "image_id": image, "category_id": category, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}),
        );
    }
    let metrics = score(&gt, &json!([found(1, 3, 0.5), found(1, 99, 0.9)]), &Options::default());
    assert_near("AP", metrics.stats[0], &json!(1));
    assert_eq!(metrics.left_out.detections_of_unlisted_category, 1);
    assert_eq!(metrics.left_out.annotations_of_unlisted_category, 1);
    assert_eq!(metrics.left_out.annotations_of_unlisted_image, 2);
    assert!(metrics.to_string().contains("not counted: 1 detections of categories"), "{metrics}");
}

#[test]
fn scoring_no_image_at_all_measures_nothing() {
    let truth = GroundTruth::from_json(&simple_gt()).unwrap();
    let options = Options { image_ids: Some(Vec::new()), ..Options::default() };
    assert_eq!(evaluate(&truth, &[found(1, 3, 0.5)], &options).unwrap().stats, [-1.0; 12]);
}

#[test]
fn the_summary_reads_as_pycocotools_prints_it() {
    let printed = simple(&[found(1, 3, 0.5)]).unwrap().to_string();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 12);
    assert_eq!(lines[0], " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 1.000");
    assert_eq!(lines[1], " Average Precision  (AP) @[ IoU=0.50      | area=   all | maxDets=100 ] = 1.000");
    assert_eq!(lines[6], " Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets=  1 ] = 1.000");
    assert_eq!(lines[9], " Average Recall     (AR) @[ IoU=0.50:0.95 | area= small | maxDets=100 ] = -1.000");
}

#[test]
fn the_metrics_serialise_with_their_twelve_numbers_first() {
    let text = serde_json::to_string(&simple(&[found(1, 3, 0.5)]).unwrap()).unwrap();
    assert!(text.starts_with(r#"{"stats":["#), "{text}");
    let stats = &serde_json::from_str::<Value>(&text).unwrap()["stats"];
    for (row, want) in [1, 1, 1, -1, 1, -1, 1, 1, 1, -1, 1, -1].into_iter().enumerate() {
        assert_near(STAT_NAMES[row], stats[row].as_f64().unwrap(), &json!(want));
    }
}

#[test]
fn a_results_file_that_is_not_one_is_refused_with_the_row_and_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    let good = r#"{"image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4], "score": 1, "id": 7}"#;
    let row = |text: &str| format!("[{good},\n {text}]");
    for (text, fragments) in [
        (String::new(), vec!["not a COCO results file", "EOF"]),
        ("{}".into(), vec!["not a COCO results file", "expected a list of detections"]),
        (r#"{"annotations": []}"#.into(), vec!["not a COCO results file", "map"]),
        (format!("[{good}] x"), vec!["not a COCO results file", "trailing"]),
        (row("3"), vec!["detection 1", "line 2"]),
        (row("null"), vec!["detection 1", "null"]),
        (row("{}"), vec!["detection 1", "missing field `category_id`"]),
        (
            row(r#"{"category_id": 3, "bbox": [0,0,4,4], "score": 1}"#),
            vec!["detection 1", "missing field `image_id`"],
        ),
        (
            row(r#"{"image_id": 1, "bbox": [0,0,4,4], "score": 1}"#),
            vec!["detection 1", "missing field `category_id`"],
        ),
        (
            row(r#"{"image_id": 1, "category_id": 3, "score": 1}"#),
            vec!["detection 1", "missing field `bbox`"],
        ),
        (
            row(r#"{"image_id": 1, "category_id": 3, "bbox": [0,0,4,4]}"#),
            vec!["detection 1", "missing field `score`"],
        ),
        (row(&good.replace("[0, 0, 4, 4]", "[0, 0, 4]")), vec!["detection 1", "length 3", "4 numbers"]),
        (row(&good.replace("[0, 0, 4, 4]", "[0, 0, 4, 4, 4]")), vec!["detection 1", "length 5", "4 numbers"]),
        (row(&good.replace("[0, 0, 4, 4]", "7")), vec!["detection 1", "4 numbers"]),
        (row(&good.replace("[0, 0, 4, 4]", "[0, 0, null, 4]")), vec!["detection 1", "null"]),
        (row(&good.replace("\"score\": 1", "\"score\": \"high\"")), vec!["detection 1", "\"high\""]),
        (row(&good.replace("\"score\": 1", "\"score\": NaN")), vec!["detection 1"]),
        (
            row(&good.replace("\"image_id\": 1", "\"image_id\": -1")),
            vec!["detection 1", "-1", "whole number"],
        ),
        (
            row(&good.replace("\"image_id\": 1", "\"image_id\": 1.5")),
            vec!["detection 1", "1.5", "whole number"],
        ),
        (row(&good.replace("\"image_id\": 1", "\"image_id\": \"one\"")), vec!["detection 1", "whole number"]),
        (format!("[{good}"), vec!["results.json", "EOF"]),
        ("[".repeat(100_000), vec!["results.json"]),
    ] {
        fs::write(&path, &text).unwrap();
        let error = read_detections(&path).unwrap_err().to_string();
        for fragment in fragments {
            assert!(error.contains(fragment), "{error} lacks {fragment:?}");
        }
        assert!(error.contains("results.json"), "{error}");
    }
    fs::write(&path, format!("[{good}]")).unwrap();
    assert_eq!(
        read_detections(&path).unwrap(),
        [Detection { image_id: 1, category_id: 3, bbox: [0.0, 0.0, 4.0, 4.0], score: 1.0 }]
    );
    fs::write(&path, " [ ] ").unwrap();
    assert_eq!(read_detections(&path).unwrap(), []);
    assert!(matches!(read_detections(folder.path()), Err(EvalError::Read { .. })));
}

#[test]
fn an_annotation_file_that_is_not_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gt.json");
    for (text, fragment) in [
        ("[]", "expected an object with images"),
        (r#"[{"image_id": 1}]"#, "expected an object with images"),
        ("", "expected an object with images"),
        ("{}", "missing field `images`"),
        (r#"{"images": [], "annotations": []}"#, "missing field `categories`"),
        (r#"{"images": [{}], "annotations": [], "categories": []}"#, "missing field `id`"),
        (
            r#"{"images": [], "annotations": [{"image_id": 1, "category_id": 1}], "categories": []}"#,
            "missing field `bbox`",
        ),
        (
            r#"{"images": [], "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1,2,3,4], "iscrowd": 2}], "categories": []}"#,
            "expected 0, 1, true or false",
        ),
    ] {
        fs::write(&path, text).unwrap();
        let error = GroundTruth::load(&path).expect_err(text).to_string();
        assert!(error.contains(fragment) && error.contains("gt.json"), "{error} lacks {fragment:?}");
    }
    assert!(matches!(GroundTruth::load(&folder.path().join("none")), Err(EvalError::Read { .. })));
}

#[test]
fn crowded_images_are_measured_with_more_than_100_detections() {
    let tiny = crate::support::tiny::Tiny::new();
    let boxes: Vec<[u32; 4]> = (0..300).map(|box_| [box_ % 20 * 4, box_ / 20 * 4, 3, 3]).collect();
    let rows = |score: bool| -> Vec<Value> {
        let row = |(id, bbox): (usize, &[u32; 4])| {
            let mut row =
                json!({"id": id + 1, "image_id": 1, "category_id": 1, "bbox": bbox, "area": 9, "iscrowd": 0});
            if score {
                row["score"] = json!(1.0 - id as f64 / 1000.0);
            }
            row
        };
        boxes.iter().enumerate().map(row).collect()
    };
    let gt =
        json!({"images": [{"id": 1}], "categories": [{"id": 1, "name": "cell"}], "annotations": rows(false)});
    tiny.write("gt.json", &gt.to_string());
    tiny.write("dt.json", &Value::from(rows(true)).to_string());
    let eval = |more: &[&str]| {
        let args = [["eval", "--gt", "gt.json", "--dt", "dt.json", "--json"].as_slice(), more].concat();
        let output = tiny.run_program(&args);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["stats"][0].as_f64().unwrap()
    };
    assert!(eval(&[]) < 0.35);
    assert_eq!(eval(&["--max-dets", "1,10,300"]), 1.0);
    assert_eq!(eval(&["--max-dets", "300"]), 1.0);
    let output = tiny.run_program(&["eval", "--gt", "gt.json", "--dt", "dt.json", "--max-dets", "10,300"]);
    crate::support::tiny::assert_ended(&output, 2, &["three numbers"]);
}

#[test]
fn rows_that_name_a_file_are_on_the_image_of_that_name() {
    let mut truth = Instances::of_classes(["cell"]);
    let boxes = [[10.0, 10.0, 20.0, 20.0], [40.0, 30.0, 25.0, 15.0]];
    for (name, bbox) in ["val/b.png", "val/a.png"].into_iter().zip(boxes) {
        truth.push_image(name, (96, 64), [(0, bbox)]);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dt.json");
    // Numbered by place on a command line, where a.png came first.
    let row = |id: u64, name: Value, bbox: [f64; 4]| json!({"image_id": id, "file_name": name, "category_id": 1, "bbox": bbox, "score": 0.9});
    let ap = |rows: Value| -> Result<f64, EvalError> {
        fs::write(&path, rows.to_string()).unwrap();
        let detections = Results::read(&path)?.on(&truth)?;
        Ok(evaluate(&GroundTruth::of(&truth)?, &detections, &Options::default())?.stats[0])
    };
    let named = json!([row(0, json!("/data/val/a.png"), boxes[1]), row(1, json!("b.png"), boxes[0])]);
    assert_eq!(ap(named).unwrap(), 1.0);
    // Without a name, or with something else in its place, the id counts.
    assert_eq!(ap(json!([row(2, Value::Null, boxes[1]), row(1, json!(7), boxes[0])])).unwrap(), 1.0);
    let unknown =
        ap(json!([row(1, json!("a.png"), boxes[0]), row(1, json!("c.png"), boxes[0])])).unwrap_err();
    assert!(matches!(unknown, EvalError::UnknownFile { index: 1, .. }), "{unknown}");
    let mut other = row(1, Value::Null, boxes[0]);
    other["category_id"] = json!(5);
    let unknown = ap(json!([other])).unwrap_err();
    assert!(matches!(unknown, EvalError::UnknownCategories { count: 1, first: 5 }), "{unknown}");
    assert_eq!(ap(json!([])).unwrap(), 0.0);
}
