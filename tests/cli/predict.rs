//! `ckd-det predict`: pictures, results, images that cannot be read, folders, pixels that EXIF turns.

use std::fs;
use std::process::Output;

use serde_json::Value;

use super::{errors, stats, text, trained};
use crate::support::tiny::{assert_ended, assert_mentions, names};

#[test]
fn predict_draws_every_image_and_writes_coco_results() {
    let tiny = trained();
    let images = ["data/val/000001.png", "data/train/000001.png"];
    let output = tiny.run_program(&[["predict", "--score", "0"].as_slice(), &images].concat());
    assert_ended(&output, 0, &["data/val/000001.png: ", "detections -> predictions/results.json"]);
    assert_eq!(names(&tiny.path("predictions")), ["0001-000001.png", "0002-000001.png", "results.json"]);
    for (drawn, original) in
        [("predictions/0001-000001.png", images[0]), ("predictions/0002-000001.png", images[1])]
    {
        // Enlarged by a whole factor, over a line of text.
        let (width, height) = image::image_dimensions(tiny.path(drawn)).unwrap();
        assert!(width == 768 && height > 768, "{width} x {height}");
        let [drawn, original] =
            [drawn, original].map(|name| image::open(tiny.path(name)).unwrap().into_rgb8());
        let larger = image::imageops::resize(&original, 768, 768, image::imageops::FilterType::CatmullRom);
        let differ = larger.enumerate_pixels().filter(|(x, y, pixel)| drawn.get_pixel(*x, *y) != *pixel);
        assert!(differ.count() > 500, "boxes are drawn");
    }
    let results = tiny.json("predictions/results.json");
    let results = results.as_array().unwrap();
    assert!(!results.is_empty());
    let categories = tiny.json("data/annotations/instances_val.json")["categories"].clone();
    for result in results {
        assert!(images.contains(&result["file_name"].as_str().unwrap()));
        assert_eq!(result["file_name"], images[result["image_id"].as_u64().unwrap() as usize]);
        let known = categories.as_array().unwrap().iter();
        let category = known.clone().find(|category| category["id"] == result["category_id"]).unwrap();
        assert_eq!(category["name"], result["category"]);
        let [x, y, w, h]: [f64; 4] = serde_json::from_value(result["bbox"].clone()).unwrap();
        assert!(x >= 0.0 && y >= 0.0 && w >= 0.0 && h >= 0.0 && x + w <= 64.001 && y + h <= 64.001);
        assert!((0.0..=1.0).contains(&result["score"].as_f64().unwrap()));
    }
    let args =
        ["predict", images[0], "--score", "1", "--no-pictures", "--out", "none", "--json", "all/of/it.json"];
    assert_ended(&tiny.run_program(&args), 0, &["0 objects", "0 detections -> all/of/it.json"]);
    assert_eq!(tiny.json("all/of/it.json"), Value::Array(Vec::new()));
    assert!(!tiny.path("none").exists());
    assert_ended(&tiny.run_program(&["predict", images[0], "--score", "1.5"]), 2, &["a number from 0 to 1"]);
}

#[test]
fn an_unreadable_image_is_named_and_the_others_are_done() {
    let tiny = trained();
    tiny.write("text.jpg", "this is no image");
    fs::write(tiny.path("half.png"), &fs::read(tiny.path("data/val/000002.png")).unwrap()[..300]).unwrap();
    let images = ["text.jpg", "data/val/000001.png", "missing.jpg", "half.png", "data/val/000002.png"];
    let output = tiny.run_program(&[["predict"].as_slice(), &images].concat());
    let named = "3 of the 5 images could not be read and are not in predictions/results.json: text.jpg, missing.jpg, half.png";
    assert_ended(&output, 1, &["text.jpg is none of JPEG, PNG", "cannot read image missing.jpg", named]);
    assert_eq!(names(&tiny.path("predictions")), ["0002-000001.png", "0005-000002.png", "results.json"]);
    assert_mentions(&text(&output), &["data/val/000001.png: ", "data/val/000002.png: "]);
}

#[test]
fn folders_are_entered_where_that_is_asked_for_and_no_file_is_taken_twice() {
    let tiny = trained();
    let run =
        |more: &[&str]| tiny.run_program(&[&["predict", "--no-pictures", "--json", "-"], more].concat());
    assert_ended(
        &run(&["data"]),
        3,
        &["no image is in the folder data itself; --recursive takes the 14 images"],
    );
    let images = |output: &Output| String::from_utf8_lossy(&output.stderr).matches(" objects").count();
    let all = run(&["--recursive", "data", "data/val", "data/val/000001.png"]);
    assert_ended(&all, 0, &["data/val/000001.png: ", "data/train/000001.png: "]);
    assert_eq!(images(&all), 14);
    assert_eq!(images(&run(&["data/val", "data/v?l/*.png"])), 4);
}

#[test]
fn results_on_standard_output_are_one_array_with_a_line_for_each_box() {
    let tiny = trained();
    tiny.write("text.jpg", "this is no image");
    let run =
        |more: &[&str]| tiny.run_program(&[&["predict", "--no-pictures", "--json", "-"], more].concat());
    let output = run(&["--score", "0", "text.jpg", "data/val/000001.png"]);
    assert_ended(&output, 1, &["text.jpg is none of JPEG, PNG", "1 of the 2 images could not be read"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&printed).unwrap();
    assert!(!rows.is_empty() && printed.lines().count() == rows.len() + 1, "{printed}");
    let nothing = run(&["--score", "1", "data/val/000001.png"]);
    assert_eq!(String::from_utf8_lossy(&nothing.stdout), "[]\n");
}

#[test]
fn what_predict_writes_is_measured_as_eval_measures_the_same_images() {
    let tiny = trained();
    let (gt, weights) = ("data/annotations/instances_val.json", "runs/distilled/last.safetensors");
    let wanted = stats(&tiny.run_program(&["eval", "--coco-val", "--weights", weights, "--json"]));
    // The order on the command line is not that of the annotations, and ids are numbered by place.
    let backwards = ["4", "2", "3", "1"].map(|number| format!("data/val/00000{number}.png"));
    let backwards: Vec<&str> = backwards.iter().map(String::as_str).collect();
    let ways: [(&[&str], &[&str]); 4] = [
        (&backwards, &[]),
        (&backwards, &["--annotations", gt]),
        (&["data/val"], &[]),
        (&["data/v?l/*.png"], &["--annotations", gt]),
    ];
    for (images, more) in ways {
        let predict = ["predict", "--weights", weights, "--json", "dt.json", "--no-pictures"];
        assert_ended(
            &tiny.run_program(&[predict.as_slice(), images, more].concat()),
            0,
            &["detections -> dt.json"],
        );
        let got = stats(&tiny.run_program(&["eval", "--gt", gt, "--dt", "dt.json", "--json"]));
        assert_eq!(got, wanted, "{images:?} {more:?}");
    }
    let listed = tiny.json(gt)["images"].clone();
    let mut rows = tiny.json("dt.json");
    for row in rows.as_array_mut().unwrap() {
        let image = listed.as_array().unwrap().iter().find(|image| image["id"] == row["image_id"]).unwrap();
        assert!(row["file_name"].as_str().unwrap().ends_with(image["file_name"].as_str().unwrap()));
        row["file_name"] = "elsewhere.png".into();
    }
    tiny.write("dt.json", &rows.to_string());
    let output = tiny.run_program(&["eval", "--gt", gt, "--dt", "dt.json"]);
    assert_ended(&output, 1, &["on the file \"elsewhere.png\"", "predict --annotations"]);
    for row in rows.as_array_mut().unwrap() {
        row.as_object_mut().unwrap().remove("file_name");
        row["category_id"] = 77.into();
    }
    tiny.write("dt.json", &rows.to_string());
    let output = tiny.run_program(&["eval", "--gt", gt, "--dt", "dt.json"]);
    assert_ended(&output, 1, &["of a category that the ground truth lists", "category_id 77"]);
    let train = ["predict", "--weights", weights, "--annotations", gt, "data/train/000009.png"];
    assert_ended(&tiny.run_program(&train), 1, &["data/train/000009.png is the name of no one image"]);
    assert_ended(
        &tiny.run_program(&["predict", "data/annotations"]),
        3,
        &["no image is in the folder data/annotations"],
    );
    assert_ended(&tiny.run_program(&["predict", "none/*.jpg"]), 3, &["no file fits the pattern none/*.jpg"]);
}

#[test]
fn a_turned_photograph_is_predicted_on_the_pixels_that_were_annotated() {
    let tiny = trained();
    let photograph = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images/orientation_6.jpg");
    fs::copy(photograph, tiny.path("a.jpg")).unwrap();
    // Stored as 16 x 8 pixels, to be shown as 8 x 16; the box lies on the stored ones.
    tiny.write(
        "gt.json",
        r#"{"images": [{"id": 7, "file_name": "a.jpg", "width": 16, "height": 8}], "categories": [{"id": 1, "name": "a"}],
            "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [9, 1, 6, 6], "area": 36, "iscrowd": 0}]}"#,
    );
    let drawn = |args: &[&str]| {
        assert_ended(
            &tiny.run_program(&[["predict", "a.jpg"].as_slice(), args].concat()),
            0,
            &["0001-a.png"],
        );
        let (width, height) = image::image_dimensions(tiny.path("predictions/0001-a.png")).unwrap();
        if width > height { "lying" } else { "upright" }
    };
    assert_eq!(drawn(&[]), "upright", "as a person sees it");
    assert_eq!(drawn(&["--annotations", "gt.json"]), "lying");
    // A box that fits the upright picture alone: a phone's export.
    tiny.write("gt.json", &tiny.text("gt.json").replace("[9, 1, 6, 6]", "[1, 9, 6, 6]"));
    assert_eq!(drawn(&["--annotations", "gt.json"]), "upright", "as training and evaluation take it");
    // Another detector beside it.
    let args = ["predict", "a.jpg", "--beside", "runs/teacher/last.safetensors"];
    assert_ended(&tiny.run_program(&args), 0, &["0001-a.png"]);
    assert_eq!(image::image_dimensions(tiny.path("predictions/0001-a.png")).unwrap().0, 2 * 488 + 8);
    // Who looked at the other side up, and says so nowhere, is told.
    tiny.write("dt.json", r#"[{"image_id": 7, "category_id": 1, "bbox": [1, 9, 6, 6], "score": 0.5}]"#);
    let eval = ["eval", "--gt", "gt.json", "--dt", "dt.json"];
    assert_ended(
        &tiny.run_program(&eval),
        0,
        &["1 of the 1 detections reach outside their images", "EXIF turns", "predict --annotations"],
    );
    // What other programs write: a file's name alone, a byte order mark, numbers that are none.
    tiny.write(
        "dt.json",
        r#"[{"file_name": "a.jpg", "category_id": 1, "bbox": [1, 9, 6, 6], "score": 0.5}]"#,
    );
    assert_ended(&tiny.run_program(&eval), 0, &["Average Precision"]);
    tiny.write("dt.json", r#"[{"category_id": 1, "bbox": [1, 9, 6, 6], "score": 0.5}]"#);
    assert_ended(&tiny.run_program(&eval), 1, &["detection 0", "missing field `image_id`"]);
    tiny.write(
        "dt.json",
        "\u{feff}[{\"image_id\": 7, \"category_id\": 1, \"bbox\": [9, 1, 6, 6], \"score\": 0.5}]",
    );
    assert!(errors(&tiny.run_program(&eval)).is_empty());
    tiny.write("dt.json", "[{\"image_id\": 7, \"category_id\": 1, \"bbox\": [9, 1, 6, 6], \"score\": NaN}]");
    assert_ended(&tiny.run_program(&eval), 1, &["detection 0", "NaN stands at \"score\""]);
}
