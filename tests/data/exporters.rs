//! Annotations as real exporters write them: one reader for training, checking and evaluation.

use std::fs;
use std::path::Path;

use ckd_det::data::{Dataset, FindingKind, ImagePolicy, Instances, InstancesError, LoadReport, coco};
use ckd_det::eval::{Detection, GroundTruth, Options, evaluate};
use image::RgbImage;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Two images of 96x64 with a red and a blue box each, as a well-behaved exporter writes them.
fn plain() -> Value {
    let image = |id: u64| json!({"id": id, "file_name": format!("{id}.png"), "width": 96, "height": 64});
    let annotation = |id: u64, image: u64, category: u64, bbox: [u64; 4]| {
        json!({"id": id, "image_id": image, "category_id": category, "bbox": bbox, "area": 900, "iscrowd": 0,
               "segmentation": []})
    };
    json!({
        "images": [image(1), image(2)],
        "annotations": [
            annotation(1, 1, 1, [10, 10, 30, 30]), annotation(2, 1, 2, [50, 20, 30, 30]),
            annotation(3, 2, 1, [10, 10, 30, 30]), annotation(4, 2, 2, [50, 20, 30, 30]),
        ],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
    })
}

/// The plain file with every annotation changed.
fn with_annotations(change: impl Fn(usize, &mut serde_json::Map<String, Value>)) -> Value {
    let mut file = plain();
    let annotations = file["annotations"].as_array_mut().unwrap();
    annotations.iter_mut().enumerate().for_each(|(place, row)| change(place, row.as_object_mut().unwrap()));
    file
}

/// Loads a text with the images 1.png and 2.png beside it.
fn load(text: &[u8]) -> Result<(Instances, Dataset, LoadReport), InstancesError> {
    let folder = tempfile::tempdir().unwrap();
    for name in ["1.png", "2.png"] {
        RgbImage::new(96, 64).save(folder.path().join(name)).unwrap();
    }
    let file = folder.path().join("instances.json");
    fs::write(&file, text).unwrap();
    let instances = coco::read(&file)?;
    let (dataset, report) = Dataset::new(&instances, folder.path(), &ImagePolicy::default())?;
    Ok((instances, dataset, report))
}

/// What every spelling of the plain file must give: its four boxes, to train on and to measure by.
fn is_the_plain_set(text: &[u8], findings: &[(FindingKind, usize)]) {
    let (instances, dataset, report) = load(text).unwrap();
    let (wanted, wanted_dataset, _) = load(plain().to_string().as_bytes()).unwrap();
    let sizes: Vec<_> = dataset.images.iter().map(|image| (image.width, image.height)).collect();
    assert_eq!(sizes, [(96, 64), (96, 64)]);
    for image in 0..2 {
        let boxes = |set: &Dataset| {
            let all = set.annotations(image).iter();
            all.map(|kept| (kept.bbox, kept.category, kept.area, kept.crowd)).collect::<Vec<_>>()
        };
        assert_eq!(boxes(&dataset), boxes(&wanted_dataset));
    }
    let found: Vec<_> = report.findings.iter().map(|finding| (finding.kind, finding.count)).collect();
    assert_eq!(found, findings, "{report}");
    let all: Vec<Detection> = wanted
        .annotations
        .iter()
        .map(|row| Detection {
            image_id: row.image_id,
            category_id: row.category_id,
            bbox: row.bbox,
            score: 0.9,
        })
        .collect();
    let metrics = evaluate(&GroundTruth::of(&instances).unwrap(), &all, &Options::default()).unwrap();
    assert_eq!((metrics.stats[0], metrics.stats[8]), (1.0, 1.0));
}

fn error_of(text: &[u8]) -> String {
    load(text).unwrap_err().to_string()
}

#[test]
fn ids_and_sizes_may_be_floats() {
    let mut file = with_annotations(|place, row| {
        row["id"] = json!(place as f64 + 1.0);
        row["category_id"] = json!(row["category_id"].as_f64());
        row["image_id"] = json!(row["image_id"].as_f64());
    });
    file["images"][0]["width"] = json!(96.0);
    file["images"][1]["id"] = json!(2.0);
    file["categories"][0]["id"] = json!(1.0);
    is_the_plain_set(file.to_string().as_bytes(), &[]);
    for bad in [json!(1.5), json!(-1), json!("one"), json!(""), json!([1])] {
        let file = with_annotations(|_, row| row["image_id"] = bad.clone());
        assert!(error_of(file.to_string().as_bytes()).contains("an id (a whole number, 0 or more)"), "{bad}");
    }
    let mut file = plain();
    file["images"][0]["width"] = json!(96.5);
    assert!(error_of(file.to_string().as_bytes()).contains("a whole number of pixels"));
}

#[test]
fn annotations_without_an_id_are_numbered() {
    for missing in [None, Some(Value::Null)] {
        let file = with_annotations(|_, row| match &missing {
            Some(null) => row["id"] = null.clone(),
            None => drop(row.remove("id")),
        });
        is_the_plain_set(file.to_string().as_bytes(), &[(FindingKind::NoId, 4)]);
        let (instances, ..) = load(file.to_string().as_bytes()).unwrap();
        assert_eq!(instances.annotations.iter().map(|row| row.id).collect::<Vec<_>>(), [1, 2, 3, 4]);
    }
}

#[test]
fn ids_that_are_unique_per_image_only_or_all_0_cost_no_box() {
    let per_image = with_annotations(|place, row| row["id"] = json!(place % 2 + 1));
    is_the_plain_set(per_image.to_string().as_bytes(), &[(FindingKind::SharedId, 2)]);
    let (instances, ..) = load(per_image.to_string().as_bytes()).unwrap();
    assert_eq!(instances.annotations.iter().map(|row| row.id).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let all_0 = with_annotations(|_, row| row["id"] = json!(0));
    is_the_plain_set(all_0.to_string().as_bytes(), &[(FindingKind::SharedId, 3)]);
}

#[test]
fn an_annotation_that_is_listed_twice_is_dropped_and_counted() {
    let mut file = plain();
    let rows = file["annotations"].as_array_mut().unwrap();
    rows.extend([rows[0].clone(), rows[3].clone(), rows[0].clone()]);
    is_the_plain_set(file.to_string().as_bytes(), &[(FindingKind::RepeatedAnnotation, 3)]);
}

#[test]
fn missing_and_senseless_sizes_are_taken_from_the_files() {
    for size in [None, Some(json!(-1)), Some(Value::Null), Some(json!(0)), Some(json!(-1.0))] {
        let mut file = plain();
        for image in file["images"].as_array_mut().unwrap() {
            match &size {
                Some(size) => (image["width"], image["height"]) = (size.clone(), size.clone()),
                None => image.as_object_mut().unwrap().retain(|key, _| key == "id" || key == "file_name"),
            }
        }
        is_the_plain_set(file.to_string().as_bytes(), &[(FindingKind::SizeFromFile, 2)]);
    }
}

#[test]
fn flags_may_be_floats_null_or_booleans() {
    for flag in [json!(0.0), Value::Null, json!(false)] {
        let file = with_annotations(|_, row| row["iscrowd"] = flag.clone());
        is_the_plain_set(file.to_string().as_bytes(), &[]);
    }
    for flag in [json!(1.0), json!(true), json!(1)] {
        let file = with_annotations(|_, row| row["iscrowd"] = flag.clone());
        let (.., report) = load(file.to_string().as_bytes()).unwrap();
        assert_eq!((report.count_of(FindingKind::Crowd), report.positives), (4, 0));
    }
    let file = with_annotations(|_, row| row["iscrowd"] = json!(0.5));
    assert!(error_of(file.to_string().as_bytes()).contains("0, 1, true or false"));
}

#[test]
fn numbers_that_are_written_as_texts_are_read() {
    let text = plain().to_string().replace("\"image_id\":1", "\"image_id\":\"1\"");
    let text = text.replace("\"width\":96", "\"width\":\"96\"").replace("\"iscrowd\":0", "\"iscrowd\":\"0\"");
    assert!(text.contains("\"1\"") && text.contains("\"96\"") && text.contains("\"0\""), "{text}");
    is_the_plain_set(text.as_bytes(), &[]);
    let word = plain().to_string().replace("\"image_id\":1", "\"image_id\":\"one\"");
    assert!(error_of(word.as_bytes()).contains("an id (a whole number"));
}

#[test]
fn a_path_with_backslashes_is_named_with_what_to_write_instead() {
    let single = plain().to_string().replace("1.png", "a\\1.png");
    let error = error_of(single.as_bytes());
    assert!(
        error.contains("a single backslash stands in a text (line 1, column ") && error.contains("write /"),
        "{error}"
    );
    let double = plain().to_string().replace("1.png", "a\\\\1.png");
    assert!(error_of(double.as_bytes()).contains("a path is written with /, not with backslashes"));
}

#[test]
fn a_byte_order_mark_is_skipped_and_utf_16_is_named() {
    let text = plain().to_string();
    is_the_plain_set(&[b"\xef\xbb\xbf", text.as_bytes()].concat(), &[]);
    assert!(error_of(b"\xff\xfe{\0").contains("save it as UTF-8"));
}

#[test]
fn a_polygon_or_mask_without_a_box_gives_its_box() {
    let polygon = |row: &serde_json::Map<String, Value>| {
        let [x, y, w, h]: [u64; 4] = serde_json::from_value(row["bbox"].clone()).unwrap();
        json!([[x, y, x + w, y, x + w, y + h, x, y + h]])
    };
    for empty in [None, Some(json!([])), Some(Value::Null)] {
        let file = with_annotations(|_, row| {
            row["segmentation"] = polygon(row);
            match &empty {
                Some(empty) => row["bbox"] = empty.clone(),
                None => drop(row.remove("bbox")),
            }
        });
        is_the_plain_set(file.to_string().as_bytes(), &[(FindingKind::BoxFromSegmentation, 4)]);
    }
    let bare = with_annotations(|_, row| drop(row.remove("bbox")));
    assert!(error_of(bare.to_string().as_bytes()).contains("annotation 1: missing field `bbox`"));
}

#[test]
fn a_nan_in_the_file_is_named_with_its_key_and_place() {
    let text = plain().to_string().replace("\"area\":900", "\"area\":NaN");
    let error = error_of(text.as_bytes());
    for part in ["NaN stands at \"area\"", "line 1, column", "json.dump", "instances.json"] {
        assert!(error.contains(part), "{error}");
    }
    let column = text.find("NaN").unwrap() + 1;
    assert!(error.contains(&format!("column {column})")), "{error}");
    let text = plain().to_string().replace("10,10,30,30", "10,\n-Infinity,30,30");
    assert!(error_of(text.as_bytes()).contains("-Infinity stands at \"\" (line 2, column 1)"));
}

#[test]
fn a_negative_area_is_the_boxs_and_is_counted() {
    let file = with_annotations(|place, row| {
        if place == 2 {
            row["area"] = json!(-5);
        }
    });
    is_the_plain_set(file.to_string().as_bytes(), &[(FindingKind::NegativeArea, 1)]);
}

#[test]
fn names_and_files_that_come_twice_are_kept_and_counted() {
    let mut file = plain();
    file["categories"][1]["name"] = json!("red");
    is_the_plain_set(file.to_string().as_bytes(), &[(FindingKind::SharedName, 1)]);
    let mut file = plain();
    file["images"][1]["file_name"] = json!("1.png");
    is_the_plain_set(file.to_string().as_bytes(), &[(FindingKind::SharedFile, 1)]);
}

#[test]
fn boxes_in_fractions_of_the_image_are_reported() {
    let file = with_annotations(|_, row| row["bbox"] = json!([0.1, 0.2, 0.3, 0.4]));
    let (.., report) = load(file.to_string().as_bytes()).unwrap();
    assert_eq!(report.count_of(FindingKind::Fractions), 4);
    assert!(report.to_string().contains("COCO's are in pixels"), "{report}");
}

#[test]
fn an_image_without_a_file_name_can_be_measured_on_but_not_loaded() {
    let mut file = plain();
    file["images"][0].as_object_mut().unwrap().remove("file_name");
    let text = file.to_string();
    assert!(error_of(text.as_bytes()).contains("image 1 has no file_name"));
    GroundTruth::of(&coco::parse(text.as_bytes(), Path::new("gt.json")).unwrap()).unwrap();
}

/// Any JSON, rich in the words of COCO files.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2i64..5).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[0-9a-z.]{0,6}".prop_map(Value::from),
    ];
    let keys = [
        "images",
        "annotations",
        "categories",
        "id",
        "image_id",
        "category_id",
        "bbox",
        "segmentation",
        "area",
        "iscrowd",
        "ignore",
        "file_name",
        "width",
        "height",
        "name",
        "counts",
        "size",
    ];
    leaf.prop_recursive(5, 60, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            proptest::collection::vec((proptest::sample::select(keys.to_vec()), inner), 0..12)
                .prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

/// An annotation file whose rows are nearly right.
fn nearly_coco() -> impl Strategy<Value = Value> {
    let row = proptest::collection::vec(any_json(), 9).prop_flat_map(|odd| {
        proptest::collection::vec(0u8..12, 9).prop_map(move |choice| {
            let keys = ["id", "image_id", "category_id", "bbox", "segmentation", "area", "iscrowd", "ignore"];
            let right = [
                json!(1),
                json!(1),
                json!(1),
                json!([1, 2, 3, 4]),
                json!([[0, 0, 5, 0, 5, 5]]),
                json!(9),
                json!(0),
                json!(0),
            ];
            let pick = |place: usize| match choice[place] {
                0 => None,
                1 => Some(odd[place].clone()),
                _ => Some(right[place].clone()),
            };
            let pairs =
                keys.iter().enumerate().filter_map(|(place, key)| Some(((*key).to_owned(), pick(place)?)));
            Value::Object(pairs.collect())
        })
    });
    proptest::collection::vec(row, 0..5).prop_map(|rows| {
        let mut file = plain();
        file["annotations"] = Value::from(rows);
        file
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_json_makes_the_reader_panic(value in prop_oneof![any_json(), nearly_coco()]) {
        let text = value.to_string();
        if let Ok(instances) = coco::parse(text.as_bytes(), Path::new("any.json")) {
            let ids: std::collections::BTreeSet<u64> = instances.annotations.iter().map(|row| row.id).collect();
            prop_assert_eq!(ids.len(), instances.annotations.len(), "ids are unique once they are read");
            let _ = GroundTruth::of(&instances);
            let again = coco::parse(&coco::to_json(&instances), Path::new("again.json")).unwrap();
            prop_assert_eq!(again.annotations.len(), instances.annotations.len());
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = coco::parse(&bytes, Path::new("any.json"));
        let _ = coco::parse(&[b"{", bytes.as_slice()].concat(), Path::new("any.json"));
    }
}
