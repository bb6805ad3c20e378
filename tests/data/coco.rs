//! The policies for what is odd in a COCO file.

use std::fs;
use std::path::{Path, PathBuf};

use ckd_det::data::report::Finding;
use ckd_det::data::{
    CategoryId, ClassIndex, Dataset, FindingKind, ImagePolicy, InstancesError, LoadReport, coco,
};
use image::RgbImage;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with `instances.json` and the images `a.jpg`, `b.jpg`.
fn folder(annotations: &Value) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for (name, width, height) in [("a.jpg", 100, 50), ("b.jpg", 50, 100)] {
        RgbImage::new(width, height).save(folder.path().join(name)).unwrap();
    }
    let file = folder.path().join("instances.json");
    fs::write(&file, annotations.to_string()).unwrap();
    (folder, file)
}

fn instances(annotations: &Value) -> Value {
    json!({
        "info": {"year": 2017},
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 100, "height": 50, "license": 3},
            {"id": 3, "file_name": "b.jpg", "width": 50, "height": 100},
        ],
        "categories": [
            {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
            {"id": 1, "name": "person"},
            {"id": 13, "name": "stop sign"},
        ],
        "annotations": annotations,
    })
}

fn annotation(id: u64, bbox: &Value) -> Value {
    json!({"id": id, "image_id": 7, "category_id": 1, "bbox": bbox, "area": 5.5, "iscrowd": 0,
           "segmentation": {"counts": "abc", "size": [50, 100]}})
}

fn with(mut annotation: Value, key: &str, value: Value) -> Value {
    annotation[key] = value;
    annotation
}

fn load(annotations: &Value) -> Result<(Dataset, LoadReport), InstancesError> {
    let (folder, file) = folder(&instances(annotations));
    Dataset::load(&file, folder.path(), &ImagePolicy::default())
}

fn finding(report: &LoadReport, kind: FindingKind) -> Option<Finding> {
    report.findings.iter().find(|finding| finding.kind == kind).cloned()
}

fn error_of(file: &Value) -> String {
    let (folder, path) = folder(file);
    Dataset::load(&path, folder.path(), &ImagePolicy::default()).unwrap_err().to_string()
}

#[test]
fn category_gaps_are_mapped_in_the_order_of_the_ids() {
    let (dataset, report) = load(&json!([])).unwrap();
    let categories = &dataset.categories;
    let all: Vec<_> = categories.iter().map(|(id, name)| (id.0, name)).collect();
    assert_eq!(all, [(1, "person"), (13, "stop sign"), (90, "toothbrush")]);
    assert_eq!(categories.class(CategoryId(90)), Some(ClassIndex(2)));
    assert_eq!(categories.class(CategoryId(2)), None);
    assert_eq!(categories.id(ClassIndex(1)), Some(CategoryId(13)));
    assert_eq!(categories.id(ClassIndex(3)), None);
    let gaps = finding(&report, FindingKind::CategoryGap).unwrap();
    assert_eq!((gaps.count, gaps.first), (2, vec![1, 13]));
}

#[test]
fn boxes_stay_as_they_are_in_the_file_and_are_clipped_for_training() {
    let (dataset, report) = load(&json!([annotation(1, &json!([90.5, -10, 20, 30]))])).unwrap();
    let kept = &dataset.annotations(0)[0];
    assert_eq!(kept.bbox, [90.5, -10.0, 20.0, 30.0]);
    assert_eq!(kept.clipped(100, 50), Some([90.5, 0.0, 100.0, 20.0]));
    assert_eq!(kept.area, 5.5);
    assert_eq!(report.count_of(FindingKind::Clipped), 1);
    assert!(dataset.annotations(1).is_empty());
    assert_eq!((report.positives, report.images_without_positives), (1, 1));
}

#[test]
fn a_crowd_box_is_never_a_positive_and_neither_is_an_ignored_one() {
    let boxes = json!([
        with(annotation(1, &json!([0, 0, 10, 10])), "iscrowd", json!(1)),
        with(annotation(2, &json!([0, 0, 10, 10])), "ignore", json!(true)),
        annotation(3, &json!([0, 0, 10, 10])),
    ]);
    let (dataset, report) = load(&boxes).unwrap();
    let positives: Vec<bool> = dataset.annotations(0).iter().map(|kept| kept.is_positive()).collect();
    assert_eq!(positives, [false, false, true]);
    assert_eq!(finding(&report, FindingKind::Crowd).unwrap().first, [1]);
    assert_eq!(finding(&report, FindingKind::Ignored).unwrap().first, [2]);
    assert!(report.to_string().contains("1 crowd boxes kept aside"), "{report}");
}

#[test]
fn boxes_without_a_size_or_outside_are_dropped_and_named() {
    let boxes = json!([
        annotation(1, &json!([5, 5, 0, 10])),
        annotation(2, &json!([5, 5, 10, -3])),
        annotation(3, &json!([5, 5, 1e-9, 10])),
        annotation(4, &json!([100, 5, 10, 10])),
        annotation(5, &json!([-20, 5, 10, 10])),
        annotation(6, &json!([1e300, 5, 10, 10])),
        annotation(7, &json!([99, 49, 1, 1])),
    ]);
    let (dataset, report) = load(&boxes).unwrap();
    assert_eq!(dataset.annotations(0).iter().map(|kept| kept.id).collect::<Vec<_>>(), [7]);
    assert_eq!(finding(&report, FindingKind::NoSize).unwrap().first, [1, 2, 3]);
    assert_eq!(finding(&report, FindingKind::Outside).unwrap().first, [4, 5, 6]);
}

#[test]
fn repeated_and_orphaned_annotations_are_dropped_and_counted() {
    let widths = [10, 20, 10];
    let mut boxes = widths.map(|width| annotation(1, &json!([0, 0, width, 10]))).to_vec();
    boxes.extend((10..18).map(|id| with(annotation(id, &json!([0, 0, 9, 9])), "image_id", json!(99))));
    let (dataset, report) = load(&json!(boxes)).unwrap();
    assert_eq!(dataset.annotations(0).len(), 2, "an id with another box is another box");
    let widths: Vec<f64> = dataset.annotations(0).iter().map(|kept| kept.bbox[2]).collect();
    assert_eq!(widths, [10.0, 20.0]);
    assert_eq!(finding(&report, FindingKind::RepeatedAnnotation).unwrap().first, [1]);
    assert_eq!(finding(&report, FindingKind::SharedId).unwrap().first, [1]);
    let orphans = finding(&report, FindingKind::UnknownImage).unwrap();
    assert_eq!((orphans.count, orphans.first), (8, vec![10, 11, 12, 13, 14]));
    assert!(report.to_string().contains("10, 11, 12, 13, 14, ..."), "{report}");
}

#[test]
fn an_unknown_category_is_an_error_that_names_it() {
    let boxes = json!([with(annotation(4, &json!([0, 0, 9, 9])), "category_id", json!(2))]);
    let error = load(&boxes).unwrap_err().to_string();
    assert!(error.contains("annotation 4 has category_id 2"), "{error}");
}

#[test]
fn a_file_that_contradicts_itself_is_refused() {
    let change = |key: &str, value: Value| with(instances(&json!([])), key, value);
    let image = |id: u64, width: u64| json!({"id": id, "file_name": "a.jpg", "width": width, "height": 50});
    let cases = [
        (change("categories", json!([])), "`categories` is empty"),
        (change("categories", json!([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}])), "lists id 1 twice"),
        (change("images", json!([])), "`images` is empty"),
        (change("images", json!([image(1, 100), image(1, 100)])), "lists id 1 twice"),
        (change("images", json!([image(1, 9)])), "a.jpg is 100x50 pixels but the annotations say 9x50"),
    ];
    for (file, expected) in cases {
        let error = error_of(&file);
        assert!(error.contains(expected) && error.contains("instances.json"), "{error}");
    }
}

#[test]
fn what_is_no_coco_file_is_refused_with_the_place() {
    for (text, expected) in [
        ("", "EOF"),
        ("[1, 2", "column"),
        (r#"{"images": []}"#, "missing field `annotations`"),
        (r#"{"images": [{"id": -1}]}"#, "column"),
        (r#"{"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3]}]}"#, "column"),
        (
            r#"{"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, NaN]}]}"#,
            "column",
        ),
        (r#"{"annotations": [{"id": 1, "iscrowd": 7}]}"#, "expected 0, 1, true or false"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("instances.json");
        fs::write(&file, text).unwrap();
        let error = Dataset::load(&file, folder.path(), &ImagePolicy::default()).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("instances.json"), "{text}: {error}");
    }
    let absent = Path::new("absent/instances.json");
    let error = Dataset::load(absent, Path::new("."), &ImagePolicy::default()).unwrap_err().to_string();
    assert!(error.contains("absent/instances.json"), "{error}");
}

#[test]
fn missing_images_are_an_error_or_skipped_as_chosen() {
    let boxes = json!([
        annotation(1, &json!([0, 0, 9, 9])),
        with(annotation(2, &json!([0, 0, 9, 9])), "image_id", json!(3)),
    ]);
    let (folder, file) = folder(&instances(&boxes));
    fs::remove_file(folder.path().join("a.jpg")).unwrap();
    let error = Dataset::load(&file, folder.path(), &ImagePolicy::default()).unwrap_err().to_string();
    assert!(error.contains("1 of the 2 images") && error.contains("a.jpg"), "{error}");

    let (dataset, report) = Dataset::load(&file, folder.path(), &ImagePolicy::skip(0.5)).unwrap();
    assert_eq!(dataset.images.len(), 1);
    assert_eq!(dataset.annotations(0)[0].id, 2);
    assert_eq!(finding(&report, FindingKind::MissingImage).unwrap().first, [7]);
    assert_eq!(report.count_of(FindingKind::UnknownImage), 0, "its annotations are no orphans");

    fs::remove_file(folder.path().join("b.jpg")).unwrap();
    let nothing_left = Dataset::load(&file, folder.path(), &ImagePolicy::skip(0.5));
    assert!(matches!(nothing_left, Err(InstancesError::MissingImages { count: 2, .. })));
}

#[test]
fn what_is_written_reads_back() {
    let boxes = json!([
        with(annotation(1, &json!([0.25, 0, 9, 9])), "ignore", json!(1)),
        with(annotation(2, &json!([0, 0, 9, 9])), "iscrowd", json!(1)),
    ]);
    let (_folder, file) = folder(&instances(&boxes));
    let read = coco::read(&file).unwrap();
    let text = String::from_utf8(coco::to_json(&read)).unwrap();
    assert!(text.contains(r#""iscrowd":1"#) && text.contains(r#""iscrowd":0,"ignore":1"#), "{text}");
    fs::write(&file, &text).unwrap();
    assert_eq!(coco::read(&file).unwrap(), read);
}
