//! Detections in the files of other programs, byte for byte.

use std::fs;
use std::path::Path;

use ckd_det::config::ClassifyConfig;
use ckd_det::data::{CategoryId, CategoryMap};
use ckd_det::eval::Detection;
use ckd_det::export::results::{About, ImageNamesBelow, ImageResults, ResultsError, ResultsFormat};
use serde_json::Value;

use crate::classify;
use crate::support::colours;
use crate::support::tiny::{Folder, Tiny, assert_ended, names};

fn categories(names: [&str; 2]) -> CategoryMap {
    CategoryMap::new(vec![(CategoryId(3), names[0].to_owned()), (CategoryId(7), names[1].to_owned())])
        .unwrap()
}

/// Writes two boxes on an image in a folder, whose name needs escaping, and none on another.
fn write(format: ResultsFormat, classes: [&str; 2], to: &Path) -> Result<(), ResultsError> {
    let categories = categories(classes);
    let images = ["set/one/ä b.jpg", "set/two.png"];
    let names = ImageNamesBelow::of(&images);
    let about = About { categories: &categories, model: "m", names: &names, image_url: None };
    let mut writer = format.writer(to, &about)?;
    let found = |category_id, bbox, score| Detection { image_id: 4, category_id, bbox, score };
    let two = [found(3, [50.0, 25.0, 100.0, 50.0], 0.5), found(7, [0.0, 0.0, 25.0, 12.5], 0.25)];
    let shown = |index: usize, image_id, size, detections| ImageResults {
        index,
        image_id,
        file_name: Some(images[index]),
        size,
        detections,
    };
    writer.add(&shown(0, 4, (200, 100), &two))?;
    writer.add(&shown(1, 9, (10, 20), &[]))?;
    writer.finish()
}

const CLASSES: [&str; 2] = ["a \"b\" & <c>", "Käfer"];

/// Content of the file that `format` writes.
fn written(format: ResultsFormat) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep").join(format.file_name());
    write(format, CLASSES, &path).unwrap();
    fs::read_to_string(path).unwrap()
}

#[test]
fn coco_results_are_an_array_with_a_line_a_box() {
    assert_eq!(
        written(ResultsFormat::Coco),
        r#"[{"image_id":4,"file_name":"set/one/ä b.jpg","category_id":3,"category":"a \"b\" & <c>","bbox":[50.0,25.0,100.0,50.0],"score":0.5}
,{"image_id":4,"file_name":"set/one/ä b.jpg","category_id":7,"category":"Käfer","bbox":[0.0,0.0,25.0,12.5],"score":0.25}
]
"#
    );
}

#[test]
fn yolo_has_a_file_an_image_with_centres_sides_and_scores_as_shares() {
    let folder = tempfile::tempdir().unwrap();
    write(ResultsFormat::Yolo, CLASSES, folder.path()).unwrap();
    let text = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(
        text("labels/one/ä b.txt"),
        "0 0.500000 0.500000 0.500000 0.500000 0.500000\n1 0.062500 0.062500 0.125000 0.125000 0.250000\n"
    );
    assert_eq!(text("labels/two.txt"), "");
    assert_eq!(text("classes.txt"), "a \"b\" & <c>\nKäfer\n");
    let broken = write(ResultsFormat::Yolo, ["a\nb", "c"], folder.path()).unwrap_err().to_string();
    assert!(broken.contains("\"a\\nb\" has a line break"), "{broken}");
}

#[test]
fn label_studio_gets_tasks_with_boxes_in_percent_and_a_configuration_with_the_labels() {
    assert_eq!(
        written(ResultsFormat::LabelStudio),
        concat!(
            r#"[{"data":{"image":"/data/local-files/?d=set/one/%C3%A4%20b.jpg"},"predictions":[{"model_version":"m","score":0.375,"#,
            r#""result":[{"id":"box1","type":"rectanglelabels","from_name":"label","to_name":"image","original_width":200,"#,
            r#""original_height":100,"image_rotation":0,"value":{"x":25.0,"y":25.0,"width":50.0,"height":50.0,"rotation":0,"#,
            r#""rectanglelabels":["a \"b\" & <c>"]},"score":0.5},{"id":"box2","type":"rectanglelabels","from_name":"label","#,
            r#""to_name":"image","original_width":200,"original_height":100,"image_rotation":0,"value":{"x":0.0,"y":0.0,"#,
            r#""width":12.5,"height":12.5,"rotation":0,"rectanglelabels":["Käfer"]},"score":0.25}]}]}"#,
            "\n",
            r#",{"data":{"image":"/data/local-files/?d=set/two.png"},"predictions":[{"model_version":"m","score":0.0,"result":[]}]}"#,
            "\n]\n"
        )
    );
    let folder = tempfile::tempdir().unwrap();
    write(ResultsFormat::LabelStudio, ["a \"b\" & <c>\t", "\u{7}"], &folder.path().join("tasks.json"))
        .unwrap();
    assert_eq!(
        fs::read_to_string(folder.path().join("tasks.xml")).unwrap(),
        "<View>\n  <Image name=\"image\" value=\"$image\"/>\n  <RectangleLabels name=\"label\" toName=\"image\">\n    \
         <Label value=\"a &quot;b&quot; &amp; &lt;c&gt;&#9;\"/>\n    <Label value=\"\u{fffd}\"/>\n  \
         </RectangleLabels>\n</View>\n"
    );
}

#[test]
fn fiftyone_gets_a_coco_set_with_scores() {
    assert_eq!(
        written(ResultsFormat::FiftyOne),
        r#"{"info":{"description":"detections of m"},
"categories":[{"id":3,"name":"a \"b\" & <c>"},{"id":7,"name":"Käfer"}],
"annotations":[
{"id":1,"image_id":4,"category_id":3,"bbox":[50.0,25.0,100.0,50.0],"area":5000.0,"iscrowd":0,"score":0.5},
{"id":2,"image_id":4,"category_id":7,"bbox":[0.0,0.0,25.0,12.5],"area":312.5,"iscrowd":0,"score":0.25}],
"images":[
{"id":4,"file_name":"one/ä b.jpg","width":200,"height":100},
{"id":9,"file_name":"two.png","width":10,"height":20}]}
"#
    );
}

#[test]
fn results_that_are_not_finished_leave_the_earlier_file_and_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let (categories, names_of) = (categories(CLASSES), ImageNamesBelow::of(&["a.png"]));
    let about = About { categories: &categories, model: "m", names: &names_of, image_url: None };
    for format in [ResultsFormat::Coco, ResultsFormat::LabelStudio, ResultsFormat::FiftyOne] {
        let path = folder.path().join(format.file_name());
        fs::write(&path, "earlier").unwrap();
        let mut writer = format.writer(&path, &about).unwrap();
        let detections = [Detection { image_id: 0, category_id: 3, bbox: [0.0, 0.0, 1.0, 1.0], score: 0.5 }];
        let image =
            ImageResults { index: 0, image_id: 0, file_name: None, size: (2, 2), detections: &detections };
        writer.add(&image).unwrap();
        drop(writer);
        assert_eq!(fs::read_to_string(&path).unwrap(), "earlier");
    }
    assert_eq!(names(folder.path()).len(), 3);
}

#[test]
fn predict_and_eval_write_the_same_boxes_in_every_format() {
    let tiny = Tiny::new();
    assert_ended(&tiny.run_program(&["train", "plain.toml", "--quiet"]), 0, &[]);
    let predict = |args: &[&str]| {
        tiny.run_program(&[&["predict", "--no-pictures", "--score", "0", "data/val"], args].concat())
    };
    let output = predict(&["--format", "yolo,label-studio,fiftyone", "--json", "found.json"]);
    assert_ended(
        &output,
        0,
        &["-> found.json\n", "-> predictions/yolo (images are named below ", "data/val)"],
    );
    let kept = ["fiftyone.json", "label-studio.json", "label-studio.xml", "yolo"];
    assert_eq!(names(&tiny.path("predictions")), kept);
    let rows = tiny.json("found.json");
    let rows = rows.as_array().unwrap();
    assert!(!rows.is_empty());
    for number in 1..=4 {
        let file = format!("data/val/00000{number}.png");
        let own: Vec<_> = rows.iter().filter(|row| row["file_name"] == file.as_str()).collect();
        let lines = tiny.text(&format!("predictions/yolo/labels/00000{number}.txt"));
        assert_eq!(lines.lines().count(), own.len());
        for (line, row) in lines.lines().zip(own) {
            let numbers: Vec<f64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
            let [x, y, w, h]: [f64; 4] = serde_json::from_value(row["bbox"].clone()).unwrap();
            let wanted = [(x + w / 2.0) / 64.0, (y + h / 2.0) / 64.0, w / 64.0, h / 64.0];
            let apart = numbers[1..5].iter().zip(wanted).map(|(got, wanted)| (got - wanted).abs());
            assert!(apart.fold(0.0, f64::max) <= 5.1e-7, "{line}\n{row}");
            assert_eq!(numbers[0] + 1.0, row["category_id"].as_f64().unwrap());
        }
    }
    let fiftyone = tiny.json("predictions/fiftyone.json");
    assert_eq!(fiftyone["annotations"].as_array().unwrap().len(), rows.len());
    assert_eq!(fiftyone["images"].as_array().unwrap().len(), 4);
    assert_eq!(tiny.json("predictions/label-studio.json").as_array().unwrap().len(), 4);

    let eval =
        |format, to| tiny.run_program(&["eval", "--run", "runs/plain", "--save", to, "--format", format]);
    for (format, to) in [("yolo", "yolo"), ("fiftyone", "fiftyone.json"), ("label-studio", "tasks.json")] {
        assert_ended(&eval(format, to), 0, &["on 4 images"]);
    }
    for name in names(&tiny.path("yolo/labels")) {
        let both = ["yolo", "predictions/yolo"].map(|folder| tiny.text(&format!("{folder}/labels/{name}")));
        assert_eq!(both[0], both[1], "{name}");
    }
    assert_eq!(tiny.json("fiftyone.json")["categories"], fiftyone["categories"]);

    fs::create_dir(tiny.path("copies")).unwrap();
    fs::copy(tiny.path("data/val/000001.png"), tiny.path("copies/a.png")).unwrap();
    fs::copy(tiny.path("data/val/000001.png"), tiny.path("copies/a.jpg")).unwrap();
    let twice = ["predict", "copies", "--format", "yolo", "--out", "none"];
    assert_ended(
        &tiny.run_program(&twice),
        2,
        &["copies/a.jpg and copies/a.png would both have the label file a.txt"],
    );
    assert!(!tiny.path("none").exists());
}

#[test]
fn eval_writes_what_a_classifier_says_of_each_image() {
    let small = Folder::<ClassifyConfig>::empty();
    colours::write(&small.path("data"));
    small.write("plain.toml", classify::BASE);
    let train = ["train", "plain.toml", "--quiet", "--set", "schedule.epochs=1"];
    assert_ended(&small.run_program(&train), 0, &[]);
    let output = small.run_program(&["eval", "--json", "--save", "found.json"]);
    assert_ended(&output, 0, &[]);
    let accuracy: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let rows: Vec<Value> = serde_json::from_slice(&fs::read(small.path("found.json")).unwrap()).unwrap();
    assert_eq!(rows.len(), 20);
    let is_right = |row: &&Value| row["guesses"][0]["class"] == row["label"];
    assert_eq!(rows.iter().filter(is_right).count() as f64 / 20.0, accuracy["top1"].as_f64().unwrap());
    let has_label =
        |row: &&Value| row["guesses"].as_array().unwrap().iter().any(|guess| guess["class"] == row["label"]);
    assert_eq!(rows.iter().filter(has_label).count() as f64 / 20.0, accuracy["top5"].as_f64().unwrap());
    let places: Vec<u64> = rows.iter().filter_map(|row| row["image_id"].as_u64()).collect();
    assert_eq!(places, (0..20).collect::<Vec<_>>());

    // Results alone on standard output, words beside it.
    let output = small.run_program(&["eval", "--max-images", "3", "--save", "-"]);
    assert_ended(&output, 0, &["on 3 images"]);
    assert_eq!(serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap(), rows[..3]);
    let boxes = ["eval", "--save", "found.txt", "--format", "yolo"];
    assert_ended(
        &small.run_program(&boxes),
        2,
        &["--format is for detectors", "runs/plain/last.safetensors"],
    );
    assert_ended(&small.run_program(&["eval", "--save", "runs"]), 2, &["runs", "folder"]);
}
