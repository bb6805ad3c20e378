//! The program as a user types it: `train`, `eval`, `predict`, `export`, `doctor`, help; results, files, messages, exit codes.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::support::real;
use crate::support::tiny::{Tiny, assert_ended, assert_mentions, metadata, names, tensors};
use serde_json::Value;

/// The twelve numbers that `eval ... --json` prints.
#[track_caller]
fn stats(output: &Output) -> Value {
    assert_ended(output, 0, &[]);
    let printed: Value = serde_json::from_slice(&output.stdout).expect("one JSON object and nothing else");
    assert_eq!(printed["stats"].as_array().map(Vec::len), Some(12), "{printed}");
    printed["stats"].clone()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with a trained `runs/distilled` (and `runs/teacher`), compared with the student alone.
fn trained() -> Tiny {
    let tiny = Tiny::new();
    let sets = ["--set", "train.compare_alone=true", "--set", "optim.clip_grad_norm=10.0"];
    let output = tiny.run_program(&[["train", "distilled.toml"].as_slice(), &sets].concat());
    assert_ended(
        &output,
        0,
        &["teacher", "student alone", "student distilled", "difference", "runs/distilled"],
    );
    tiny
}

#[test]
fn without_coco_and_weights_everything_missing_is_named_before_anything_is_loaded() {
    let tiny = Tiny::new();
    let empty = tempfile::tempdir().expect("a temporary folder");
    let output = tiny.program(&["train", "coco_r101_r18.toml"]).current_dir(&empty).output().unwrap();
    let here = |path: &str| empty.path().canonicalize().unwrap().join(path).display().to_string();
    assert_ended(
        &output,
        3,
        &[
            "training images: data/coco/train2017",
            "validation annotations: data/coco/annotations/instances_val2017.json",
            &here("data/coco"),
            "https://cocodataset.org/#download",
            "--set data.root=FOLDER",
            "teacher.weights = \"weights/faster_rcnn_r101_fpn.pth\"",
            &here("weights/faster_rcnn_r101_fpn.pth"),
            "--set teacher.train=EXPERIMENT.toml",
            "student.init = \"weights/resnet18.pth\"",
            "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        ],
    );
    assert!(output.stdout.is_empty());
    assert!(names(empty.path()).is_empty(), "nothing was made");
}

#[test]
fn where_only_weights_are_missing_only_weights_are_named() {
    let tiny = Tiny::new();
    for path in ["train2017", "val2017", "annotations"] {
        fs::create_dir_all(tiny.path("coco").join(path)).unwrap();
    }
    // Not even JSON: they would be an error as soon as they are read.
    tiny.write("coco/annotations/instances_train2017.json", "-");
    tiny.write("coco/annotations/instances_val2017.json", "-");
    let output = tiny.run_program(&["train", "coco_r101_r18.toml", "--set", "data.root=coco"]);
    assert_ended(&output, 3, &["teacher.weights", "student.init"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("data that"));
}

#[test]
fn an_unknown_configuration_or_key_is_bad_usage() {
    let tiny = Tiny::new();
    let output = tiny.run_program(&["train", "coco_r101_r81.toml"]);
    assert_ended(&output, 2, &["no configuration", "did you mean \"coco_r101_r18\""]);
    let output = tiny.run_program(&["train", "plain.toml", "--set", "optim.lerning_rate=1"]);
    assert_ended(&output, 2, &["unknown key \"lerning_rate\"", "--set"]);
    assert!(!tiny.path("runs").exists());
}

#[test]
fn a_loss_that_is_not_finite_ends_with_4() {
    let tiny = Tiny::new();
    let sets = ["--set", "optim.lr=1e30", "--set", "schedule.warmup_steps=0"];
    let output = tiny.run_program(&[["train", "plain.toml"].as_slice(), &sets].concat());
    assert_ended(&output, 4, &["error: after step ", "loss_", "optim.lr"]);
}

#[test]
fn a_teacher_of_other_classes_and_a_foreign_checkpoint_end_with_2() {
    let tiny = Tiny::new();
    assert_ended(&tiny.run_program(&["train", "teacher.toml", "--set", "data.synth.classes=2"]), 0, &[]);
    fs::rename(tiny.path("data"), tiny.path("data2")).unwrap();
    let weights = "teacher.weights=runs/teacher/last.safetensors";
    let output = tiny.run_program(&["train", "distilled.toml", "--set", weights]);
    assert_ended(&output, 2, &["2 classes", "3 classes", "runs/teacher/last.safetensors"]);
    let sets = ["--set", "data.root=data2", "--set", "data.synth.classes=2", "--set", "schedule.steps=3"];
    let output = tiny.run_program(&[["train", "teacher.toml", "--resume"].as_slice(), &sets].concat());
    assert_ended(&output, 2, &["data.root: was \"data\", now \"data2\"", "schedule.steps: was 2, now 3"]);
}

#[test]
fn an_earlier_run_is_kept_and_the_user_is_told() {
    let tiny = Tiny::new();
    let train = ["train", "plain.toml", "--set", "schedule.steps=1"];
    assert_ended(&tiny.run_program(&train), 0, &["everything is in runs/plain"]);
    assert_ended(&tiny.run_program(&train), 0, &["the earlier run is kept as runs/plain.1"]);
}

#[test]
fn quiet_prints_the_result_and_nothing_else() {
    let tiny = Tiny::new();
    let train = ["train", "plain.toml", "--quiet", "--set", "schedule.steps=1"];
    for _ in 0..2 {
        let output = tiny.run_program(&train);
        assert_ended(&output, 0, &[]);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let lines: Vec<String> = text(&output).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("AP ") && lines[1].starts_with("everything is in"), "{lines:?}");
    }
}

#[test]
fn eval_finds_the_numbers_of_training_again_however_the_detector_is_named() {
    let tiny = trained();
    let expected = tiny.json("runs/distilled/outcome.json")["row"]["stats"].clone();
    let eval = |args: &[&str]| {
        stats(&tiny.run_program(&[["eval", "--coco-val", "--json"].as_slice(), args].concat()))
    };
    assert_eq!(eval(&[]), expected, "the latest run");
    assert_eq!(eval(&["--run", "runs/distilled"]), expected);
    assert_eq!(eval(&["--weights", "runs/distilled/last.safetensors"]), expected);
    assert_ended(&tiny.run_program(&["export", "--out", "student.safetensors"]), 0, &["student.safetensors"]);
    assert_eq!(eval(&["--weights", "student.safetensors"]), expected);
    assert_eq!(eval(&["--data-root", "data", "--weights", "student.safetensors"]), expected);
    let alone = tiny.json("runs/distilled/alone/outcome.json")["row"]["stats"].clone();
    assert_eq!(eval(&["--run", "runs/distilled/alone"]), alone);

    for eval in [&["eval"][..], &["eval", "--coco-val"]] {
        let output = tiny.run_program(eval);
        assert_ended(
            &output,
            0,
            &["runs/distilled/last.safetensors on 4 images", "AP by class:", "ms an image"],
        );
    }
    let output = tiny.run_program(&["eval", "--coco-val", "--max-images", "2"]);
    assert_ended(&output, 0, &["on 2 images"]);
    assert_ended(&tiny.run_program(&["eval", "--coco-val", "--max-images", "0"]), 2, &["--max-images"]);
    let lines = text(&tiny.run_program(&["eval", "--coco-val", "--summary", "pycocotools"]));
    assert!(lines.starts_with(" Average Precision  (AP)") && lines.lines().count() == 12, "{lines}");
}

#[test]
fn saved_detections_score_as_the_detector_did() {
    let tiny = trained();
    let output =
        tiny.run_program(&["eval", "--run", "runs/distilled", "--json", "--save", "out/results.json"]);
    let truth = "data/annotations/instances_val.json";
    let scored = tiny.run_program(&["eval", "--gt", truth, "--dt", "out/results.json", "--json"]);
    assert_eq!(stats(&scored), stats(&output));
    let output = tiny.run_program(&["eval", "--gt", truth, "--dt", "out/results.json"]);
    assert_ended(&output, 0, &["Average Precision"]);
    let output = tiny.run_program(&["eval", "--gt", "out/results.json", "--dt", truth]);
    assert_ended(&output, 1, &["out/results.json is not a COCO annotation file"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr).matches("expected an object").count(), 1, "said once");
    let both = ["eval", "--gt", truth, "--dt", "out/results.json", "--save", "again.json"];
    assert_ended(&tiny.run_program(&both), 2, &["--save", "--gt"]);
}

#[test]
fn the_summary_of_a_results_file_is_pycocotools_to_the_byte() {
    let tiny = Tiny::empty();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/coco_eval");
    let text = |name: &str| fs::read_to_string(golden.join(name)).unwrap();
    let cases: Value = serde_json::from_str(&text("cases.json")).unwrap();
    let crowded = cases.as_array().unwrap().iter().find(|case| case["name"] == "a crowded scene").unwrap();
    for (name, content) in [
        ("fakebbox54", [text("fakebbox54_gt.json"), text("fakebbox54_results.json")]),
        ("crowded", [crowded["gt"].to_string(), crowded["results"].to_string()]),
    ] {
        tiny.write("gt.json", &content[0]);
        tiny.write("dt.json", &content[1]);
        let eval = ["eval", "--gt", "gt.json", "--dt", "dt.json", "--summary", "pycocotools"];
        let output = tiny.run_program(&eval);
        assert_ended(&output, 0, &[]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), text(&format!("{name}_summary.txt")), "{name}");
        assert_ended(&tiny.run_program(&[&eval[..], &["--max-dets", "5"]].concat()), 2, &["--max-dets"]);
    }
}

#[test]
fn eval_on_data_of_other_classes_is_refused() {
    let tiny = trained();
    let synth =
        ["data", "synth", "--out", "other", "--images-train", "1", "--images-val", "2", "--size", "64"];
    assert_ended(&tiny.run_program(&[synth.as_slice(), &["--classes", "2"]].concat()), 0, &[]);
    // The weights' own data is drawn; ask for the other as any COCO data.
    tiny.write(
        "coco.toml",
        "extends = \"base.toml\"\n[data]\nkind = \"coco\"\nroot = \"other\"\ntrain_images = \"train\"\n\
         train_annotations = \"annotations/instances_train.json\"\nval_images = \"val\"\n\
         val_annotations = \"annotations/instances_val.json\"\n",
    );
    let base = tiny.text("base.toml");
    let (data, synth) = (base.find("[data.synth]").unwrap(), base.find("[student]").unwrap());
    tiny.write("base.toml", &[&base[..data], &base[synth..]].concat());
    let weights = ["--weights", "runs/distilled/last.safetensors", "--config", "coco.toml"];
    let output = tiny.run_program(&[["eval", "--coco-val"].as_slice(), &weights].concat());
    assert_ended(
        &output,
        2,
        &["3 classes (", "2 classes (", "other/annotations/instances_val.json", "class 3"],
    );
}

#[test]
fn without_a_finished_run_eval_says_what_to_name() {
    let tiny = Tiny::new();
    assert_ended(&tiny.run_program(&["eval", "--coco-val"]), 3, &["no finished run", "--run", "--weights"]);
    fs::create_dir_all(tiny.path("runs/half")).unwrap();
    let output = tiny.run_program(&["eval", "--coco-val", "--run", "runs/half"]);
    assert_ended(&output, 3, &["runs/half/last.safetensors", "no finished run", "--resume"]);
    let output = tiny.run_program(&["eval", "--coco-val", "--weights", "none.safetensors"]);
    assert_ended(&output, 3, &["none.safetensors"]);
    assert_ended(&tiny.run_program(&["eval"]), 3, &["no finished run", "--run", "--weights"]);
}

#[test]
fn weights_that_say_nothing_of_themselves_need_the_experiments_name() {
    let tiny = trained();
    let output = tiny.run_program(&["eval", "--coco-val", "--json"]);
    write_without_header(&tiny.path("runs/distilled/last.safetensors"), &tiny.path("bare.safetensors"));
    let bare = ["eval", "--coco-val", "--json", "--weights", "bare.safetensors"];
    assert_ended(&tiny.run_program(&bare), 1, &["bare.safetensors", "does not say", "--config"]);
    let named = tiny.run_program(&[bare.as_slice(), &["--config", "plain.toml"]].concat());
    assert_eq!(stats(&named), stats(&output));
    let output =
        tiny.run_program(&["predict", "x.png", "--weights", "bare.safetensors", "--config", "plain.toml"]);
    assert_ended(&output, 2, &["do not name their classes"]);
}

/// The tensors of a weights file alone, as another program would write them.
fn write_without_header(from: &Path, to: &Path) {
    let tensors = tensors(from);
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name.as_str(), view.expect("f32"))
    });
    fs::write(to, safetensors::serialize(views, None).expect("tensors")).expect("a new file");
}

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

#[test]
fn data_check_writes_a_corrected_copy_and_finds_training_images_in_the_evaluation() {
    let tiny = Tiny::new();
    let synth = ["data", "synth", "--out", "set", "--images-train", "4", "--images-val", "3", "--size", "64"];
    assert_ended(&tiny.run_program(&synth), 0, &[]);
    fs::copy(tiny.path("set/train/000002.png"), tiny.path("set/val/000001.png")).unwrap();
    fs::write(tiny.path("set/val/000003.png"), b"no image").unwrap();
    let (train, val) = ("set/annotations/instances_train.json", "set/annotations/instances_val.json");
    let check = ["data", "check", "--annotations", val, "--images", "set/val"];
    let output = tiny.run_program(&check);
    assert_ended(
        &output,
        1,
        &["1 images with broken files", "000003.png is none of", "1 of 3 images cannot be used"],
    );
    let against = ["--against", train, "--against-images", "set/train", "--fix", "fixed.json"];
    let output = tiny.run_program(&[check.as_slice(), &against].concat());
    assert_ended(
        &output,
        0,
        &["1 images with the content of a training image: image 1", "fixed.json: 2 images"],
    );
    let output = tiny.run_program(&[
        "data",
        "check",
        "--annotations",
        "fixed.json",
        "--images",
        "set/val",
        "--decode",
    ]);
    assert_ended(&output, 0, &["all 2 images decode"]);
    let onto_itself = tiny.run_program(&[check.as_slice(), &["--fix", val]].concat());
    assert_ended(&onto_itself, 2, &["name a new file"]);
}

#[test]
fn an_export_is_the_student_with_all_that_another_program_needs() {
    let tiny = trained();
    let export = ["export", "--run", "runs/distilled", "--out", "out/student.safetensors"];
    assert_ended(&tiny.run_program(&export), 0, &["out/student.safetensors", "3 classes"]);
    let (exported, run) =
        (tiny.path("out/student.safetensors"), tiny.path("runs/distilled/last.safetensors"));
    assert_eq!(tensors(&exported), tensors(&run));
    assert!(
        tensors(&exported)
            .keys()
            .all(|name| { ["backbone.", "rpn.", "roi_heads."].iter().any(|part| name.starts_with(part)) })
    );
    let header = metadata(&exported);
    let entry = |key: &str| -> Value { serde_json::from_str(&header[key]).unwrap() };
    assert_eq!(header["format"], "pt");
    let categories = tiny.json("data/annotations/instances_val.json")["categories"].clone();
    for (ours, theirs) in
        entry("ckd_det.categories").as_array().unwrap().iter().zip(categories.as_array().unwrap())
    {
        assert_eq!((&ours["id"], &ours["name"]), (&theirs["id"], &theirs["name"]));
    }
    let input = entry("ckd_det.input");
    assert_eq!((input["short_side_px"].as_u64(), input["long_side_px"].as_u64()), (Some(64), Some(64)));
    assert_eq!(input["channels"], "RGB");
    let mean: Vec<f64> = serde_json::from_value(input["mean"].clone()).unwrap();
    assert!((mean[0] - 0.485).abs() < 1e-6 && input["std"].as_array().map(Vec::len) == Some(3));
    let config = &header["ckd_det.config"];
    assert!(!config.contains("[teacher]") && !config.contains("[[distill]]"), "{config}");
    let hash = blake3::hash(&fs::read(&run).unwrap()).to_hex().to_string();
    assert_eq!(entry("ckd_det.provenance")["exported_from_blake3"], hash.as_str());
}

#[test]
fn paths_beside_the_configuration_are_found_again_from_elsewhere() {
    let tiny = Tiny::new();
    let synth = ["data", "synth", "--out", "set", "--images-train", "4", "--images-val", "2", "--size", "64"];
    assert_ended(&tiny.run_program(&[synth.as_slice(), &["--classes", "3"]].concat()), 0, &[]);
    let base = tiny.text("base.toml");
    let (data, student) = (base.find("[data]").unwrap(), base.find("[student]").unwrap());
    let coco = "[data]\nkind = \"coco\"\nroot = \"set\"\ntrain_images = \"train\"\nval_images = \"val\"\n\
                train_annotations = \"annotations/instances_train.json\"\n\
                val_annotations = \"annotations/instances_val.json\"\n\n";
    tiny.write("coco.toml", &[&base[..data], coco, &base[student..]].concat());
    let elsewhere = tempfile::tempdir().unwrap();
    let config = tiny.path("coco.toml").display().to_string();
    let run = |args: &[&str]| tiny.program(args).current_dir(&elsewhere).output().unwrap();
    assert_ended(&run(&["train", &config, "--set", "schedule.steps=1"]), 0, &["AP "]);
    let evaluated = run(&["eval", "--coco-val", "--json"]);
    let outcome = fs::read(elsewhere.path().join("runs/coco/outcome.json")).unwrap();
    let outcome: Value = serde_json::from_slice(&outcome).unwrap();
    assert_eq!(stats(&evaluated), outcome["row"]["stats"]);
    fs::rename(tiny.path("set"), elsewhere.path().join("moved")).unwrap();
    assert_ended(&run(&["eval", "--coco-val"]), 3, &["validation images", "--data-root"]);
    assert_eq!(
        stats(&run(&["eval", "--coco-val", "--json", "--data-root", "moved"])),
        outcome["row"]["stats"]
    );
}

#[test]
#[ignore = "needs CKD_DET_DATA"]
fn genuine_coco_images_go_through_training_and_evaluation() {
    let tiny = Tiny::new();
    let root = format!("data.root={}", real::unpacked("coco_mini", &tiny.path(".")).display());
    let mut args = vec!["train", "coco_mini.toml", "--set", &root];
    for set in [
        "teacher.width=8",
        "student.width=8",
        "detector.fpn_channels=16",
        "detector.roi.head_width=32",
        "input.short_side_px=[200]",
        "input.eval_short_side_px=200",
        "input.long_side_px=333",
        "schedule.steps=2",
        "eval.max_images=3",
        "distill.1.patch=4",
    ] {
        args.extend(["--set", set]);
    }
    let output = tiny.run_program(&args);
    assert_ended(&output, 0, &["AP "]);
    let outcome = tiny.json("runs/coco_mini/outcome.json");
    assert_eq!(outcome["per_class"].as_array().map(Vec::len), Some(80));
    let classes =
        &tensors(&tiny.path("runs/coco_mini/last.safetensors"))["roi_heads.box_predictor.cls_score.weight"];
    assert_eq!(classes.0, [81, 32]);
    let header = metadata(&tiny.path("runs/coco_mini/last.safetensors"));
    let categories: Value = serde_json::from_str(&header["ckd_det.categories"]).unwrap();
    let ids: Vec<u64> = categories.as_array().unwrap().iter().filter_map(|c| c["id"].as_u64()).collect();
    assert_eq!((ids.len(), ids[0], ids[11], ids[79]), (80, 1, 13, 90), "COCO's ids with their gaps");
    assert_eq!(stats(&tiny.run_program(&["eval", "--coco-val", "--json"])), outcome["row"]["stats"]);
    let saved = ["eval", "--coco-val", "--max-images", "1", "--save", "detections.json"];
    assert_ended(&tiny.run_program(&saved), 0, &["on 1 images"]);
    for detection in tiny.json("detections.json").as_array().unwrap() {
        assert!(ids.contains(&detection["category_id"].as_u64().unwrap()));
    }
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_valid() {
    let here = Tiny::empty();
    for (args, part) in [
        (&["config", "show", "quickstrat"][..], "did you mean \"quickstart\"?"),
        (&["config", "show", "configs/nothing.toml"], "looked for configs/nothing.toml"),
        (&["config", "show"], "required"),
        (&["confog"], "config"),
        (&["--device", "gpu", "doctor"], "cuda:N"),
        (&["--threads", "0", "doctor"], "--threads"),
    ] {
        let output = here.run_program(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_mentions(&errors(&output), &[part]);
    }
    if !cfg!(feature = "cuda") {
        let output = here.run_program(&["doctor", "--device", "cuda:0"]);
        assert_ended(&output, 2, &[]);
        assert_mentions(&errors(&output), &["built without CUDA", "--features cuda"]);
    }
}

#[test]
fn configurations_and_keys_are_found_by_a_word() {
    let here = Tiny::empty();
    let lines = |args: &[&str]| -> Vec<String> {
        let output = here.run_program(args);
        assert_ended(&output, 0, &[]);
        text(&output).lines().map(str::to_owned).collect()
    };
    let (all, some) = (lines(&["config", "list"]), lines(&["config", "list", "MobileNet"]));
    assert!(!some.is_empty() && some.len() < all.len() / 4, "{} of {}", some.len(), all.len());
    let (listed, headings): (Vec<_>, Vec<_>) =
        some.iter().filter(|line| !line.is_empty()).partition(|line| line.starts_with("  "));
    assert!(listed.iter().all(|line| line.to_lowercase().contains("mobilenet")), "{some:?}");
    assert_eq!(headings, ["bccd", "cifar100", "coco"], "{some:?}");
    let (all, some) = (lines(&["config", "keys"]), lines(&["config", "keys", "milestones"]));
    assert!(!some.is_empty() && some.len() < all.len() / 20, "{} of {}", some.len(), all.len());
    assert!(some.iter().any(|line| line.starts_with("  milestones = []")), "{some:?}");
    let reference = lines(&["config", "keys", "--reference"]).join("\n");
    let written = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIGURATION.md")).unwrap();
    let advice = "docs/CONFIGURATION.md is stale: write `ckd-det config keys --reference` into it";
    assert!(written.trim_end() == reference.trim_end(), "{advice}");
    let section = lines(&["config", "keys", "detector.rpn"]);
    assert_eq!(section[0], "[detector.rpn]   # task = \"detect\"");
    assert!(section[1..].iter().all(|line| line.starts_with("  ")), "{section:?}");
    let methods = lines(&["config", "keys", "distill"]);
    assert!(methods.iter().any(|line| line.starts_with("[[distill]] method = \"review_kd\"")), "{methods:?}");
    assert_ended(
        &here.run_program(&["config", "list", "nosuchword"]),
        2,
        &["no configuration has \"nosuchword\""],
    );
    assert_ended(&here.run_program(&["config", "keys", "nosuchword"]), 2, &["no key has"]);
}

#[test]
fn a_key_is_explained_by_its_path_its_last_part_or_a_place_in_an_array() {
    let here = Tiny::empty();
    let explain = |key: &str| here.run_program(&["config", "explain", key]);
    assert_ended(
        &explain("optim.lr"),
        0,
        &[
            "optim.lr: a finite number",
            "default: required",
            "\"detect\", \"classify\", \"cohort\", \"pretrain\"",
            "below [optim]",
        ],
    );
    assert_ended(&explain("warmup_factor"), 0, &["schedule.warmup_factor: ", "default: 0.001"]);
    assert_ended(
        &explain("distill.0.negatives"),
        0,
        &["of method = \"ckd\"", "--set distill.0.negatives=VALUE", "below [[distill]]"],
    );
    assert_ended(&explain("detector"), 0, &["detector: a table", "its keys: ckd-det config keys detector"]);
    assert_ended(&explain("optim.lrr"), 2, &["there is no key \"optim.lrr\"", "did you mean \"optim.lr\"?"]);
}

#[test]
fn two_configurations_differ_in_the_keys_that_are_shown() {
    let here = Tiny::new();
    let diff = |args: &[&str]| here.run_program(&[&["config", "diff"], args].concat());
    assert_ended(&diff(&["plain.toml", "plain.toml"]), 0, &["no key differs"]);
    let set = diff(&["plain.toml", "plain.toml", "--set", "optim.lr=0.5", "--set", "train.spike_factor=4"]);
    assert_ended(&set, 0, &["optim.lr", "0.02", "0.5", "train.spike_factor  not given", "4.0"]);
    assert_eq!(text(&set).lines().count(), 3, "{}", text(&set));
    // The teacher's own training counts too.
    here.write("long.toml", &here.text("teacher.toml").replace("steps = 2", "steps = 9"));
    let other = diff(&["distilled.toml", "distilled.toml", "--set", "teacher.train=long.toml"]);
    assert_ended(&other, 0, &["teacher.train.schedule.steps", "teacher.train.name"]);
    assert_ended(&diff(&["plain.toml", "nowhere.toml"]), 2, &["there is no configuration \"nowhere.toml\""]);
}

#[test]
fn missing_data_and_weights_end_with_3_whatever_the_verb() {
    let tiny = Tiny::new();
    let synth = ["data", "synth", "--out", "set", "--images-train", "2", "--images-val", "2", "--size", "64"];
    assert_ended(&tiny.run_program(&synth), 0, &[]);
    let val = "set/annotations/instances_val.json";
    fs::create_dir(tiny.path("some")).unwrap();
    fs::copy(tiny.path("set/val/000001.png"), tiny.path("some/000001.png")).unwrap();
    let base = tiny.text("base.toml");
    let (data, student) = (base.find("[data]").unwrap(), base.find("[student]").unwrap());
    let coco = "[data]\nkind = \"coco\"\nroot = \".\"\ntrain_images = \"some\"\nval_images = \"set/val\"\n\
                train_annotations = \"set/annotations/instances_val.json\"\n\
                val_annotations = \"set/annotations/instances_val.json\"\n\n";
    tiny.write("coco.toml", &[&base[..data], coco, &base[student..]].concat());
    tiny.write("folder.toml", "task = \"classify\"\n[data]\nkind = \"folder\"\nroot = \"nosuch\"\n[student]\n\
                               network = \"resnet8\"\n[optim]\nlr = 0.1\n[schedule]\nsteps = 1\nkind = \"cosine\"\n");
    let cases: [&[&str]; 38] = [
        &["train", "coco.toml", "--set", "data.root=nosuch"],
        &["train", "coco.toml"],
        &["train", "coco.toml", "--dry-run"],
        &["train", "folder.toml"],
        &["train", "folder.toml", "--set", "data.kind=cifar10"],
        &["train", "plain.toml", "--set", "student.init=nosuch.pth"],
        &["compare", "coco.toml", "--seeds", "0", "--set", "data.root=nosuch"],
        &["compare", "folder.toml", "--seeds", "0"],
        &["eval", "--coco-val"],
        &["eval", "--coco-val", "--run", "nosuch"],
        &["eval", "--coco-val", "--weights", "nosuch.safetensors"],
        &["eval", "--coco-val", "--data-root", "nosuch"],
        &["eval", "--run", "nosuch"],
        &["eval", "--weights", "nosuch.safetensors", "--config", "folder.toml"],
        &["eval", "--gt", "nosuch.json", "--dt", "nosuch.json"],
        &["eval", "--gt", val, "--dt", "nosuch.json"],
        &["predict", "nosuch.jpg"],
        &["predict", "set/val"],
        &["predict", "--weights", "nosuch.safetensors", "set/val"],
        &["predict", "nosuch/*.jpg"],
        &["predict", "--annotations", "nosuch.json", "set/val"],
        &["export"],
        &["export", "--run", "nosuch"],
        &["export", "--weights", "nosuch.safetensors"],
        &["weights", "import", "nosuch.pth", "--out", "x.safetensors"],
        &["weights", "inspect", "nosuch.pth"],
        &["weights", "diff", "nosuch.pth", "nosuch.pth"],
        &["data", "check", "--annotations", "nosuch.json", "--images", "set/val"],
        &["data", "check", "--annotations", val, "--images", "nosuch"],
        &["data", "check", "--annotations", val, "--images", "some"],
        &["data", "check", "--annotations", val, "--images", "set/val", "--against", "nosuch.json"],
        &["data", "check", "--format", "yolo", "--root", "nosuch", "--split", "val"],
        &["data", "check", "--format", "voc", "--root", "nosuch", "--split", "val"],
        &["data", "check", "--format", "folder", "--root", "nosuch"],
        &["data", "check", "--format", "cifar10", "--root", "nosuch"],
        &["data", "convert", "--from", "voc", "--root", "nosuch", "--split", "val", "--out", "x.json"],
        &[
            "data",
            "convert",
            "--from",
            "coco",
            "--annotations",
            "nosuch.json",
            "--images",
            ".",
            "--out",
            "x.json",
        ],
        &[
            "data",
            "convert",
            "--from",
            "coco",
            "--annotations",
            val,
            "--images",
            "some",
            "--to",
            "voc",
            "--split",
            "val",
            "--out",
            "x",
        ],
    ];
    for args in cases {
        let output = tiny.run_program(args);
        assert_eq!(output.status.code(), Some(3), "{args:?}\n{}{}", text(&output), errors(&output));
        assert!(errors(&output).contains("error: "), "{args:?}");
    }
    assert!(
        !tiny.path("x.safetensors").exists()
            && !tiny.path("x.json").exists()
            && !tiny.path("predictions").exists()
    );
    // Weights that are there, and an image that is not.
    assert_ended(&tiny.run_program(&["train", "plain.toml", "--set", "schedule.steps=1"]), 0, &[]);
    assert_ended(
        &tiny.run_program(&["predict", "nosuch.jpg", "--no-pictures"]),
        3,
        &["1 of the 1 images", "nosuch.jpg"],
    );
    assert_ended(&tiny.run_program(&["predict", "nosuch.jpg", "--benchmark"]), 3, &["nosuch.jpg"]);
    // A configuration is none of these.
    for verb in
        [["compare", "nosuch.toml"].as_slice(), &["train", "nosuch.toml"], &["bench", "step", "nosuch.toml"]]
    {
        assert_ended(&tiny.run_program(verb), 2, &["there is no configuration \"nosuch.toml\""]);
    }
}

#[test]
fn data_check_counts_labelled_images_and_names_those_that_cannot_be_used() {
    let tiny = Tiny::empty();
    let pixels =
        |seed: u8| image::RgbImage::from_fn(8, 8, |x, y| image::Rgb([x as u8 * 9, y as u8 * 9, seed]));
    for (number, file) in
        ["train/ant/a.png", "train/ant/b.png", "train/bee/c.png", "val/ant/d.png", "val/bee/e.png"]
            .into_iter()
            .enumerate()
    {
        let path = tiny.path("set").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        pixels(number as u8).save(&path).unwrap();
    }
    let check = |more: &[&str]| {
        tiny.run_program(
            &[["data", "check", "--format", "folder", "--root", "set"].as_slice(), more].concat(),
        )
    };
    let good = check(&["--decode"]);
    assert_ended(&good, 0, &["set train: 3 images, 2 classes, 0 cannot be used", "set val: 2 images"]);
    assert_mentions(&text(&good), &["    0       2  ant", "    1       1  bee"]);
    assert_ended(&check(&["--split", "val"]), 0, &["set val: 2 images"]);
    fs::copy(tiny.path("set/train/ant/a.png"), tiny.path("set/val/bee/e.png")).unwrap();
    assert_ended(
        &check(&[]),
        0,
        &["1 held-out images have the content of a training image, first: set/val/bee/e.png"],
    );
    fs::write(tiny.path("set/train/ant/b.png"), "no image").unwrap();
    assert_ended(
        &check(&[]),
        1,
        &["3 images, 2 classes, 1 cannot be used", "b.png", "1 of 5 images cannot be used"],
    );
    fs::remove_dir_all(tiny.path("set/val/bee")).unwrap();
    assert_ended(&check(&[]), 2, &["\"bee\" is among the training images only"]);
    assert_ended(&check(&["--fix", "x.json"]), 2, &["--fix is for data sets with boxes"]);

    fs::create_dir(tiny.path("cifar")).unwrap();
    let rows: Vec<u8> = [3u8, 3, 9].iter().flat_map(|&label| [label].into_iter().chain([7; 3072])).collect();
    fs::write(tiny.path("cifar/data_batch_1.bin"), &rows).unwrap();
    fs::write(tiny.path("cifar/test_batch.bin"), &rows[..3073]).unwrap();
    let cifar = ["data", "check", "--format", "cifar10", "--root", "cifar", "--decode"];
    assert_ended(
        &tiny.run_program(&cifar),
        0,
        &["cifar train: 3 images, 10 classes", "    3       2  class 3", "cifar val: 1 images"],
    );
    fs::write(tiny.path("cifar/test_batch.bin"), &rows[..3000]).unwrap();
    assert_ended(
        &tiny.run_program(&cifar),
        1,
        &["test_batch.bin: it has 3000 bytes, which are no rows of 3073"],
    );
}

#[test]
fn help_shows_examples_and_exit_codes() {
    let here = Tiny::empty();
    let help = here.run_program(&["--help"]);
    assert_ended(&help, 0, &[]);
    assert_mentions(
        &text(&help),
        &["Examples:", "Exit codes:", "130  interrupted", "--device <cpu|cuda[:N]>"],
    );
    let script = here.run_program(&["completions", "bash"]);
    assert_mentions(&text(&script), &["complete -F", "doctor"]);
}

#[test]
fn a_shell_completes_names_of_configurations_methods_and_keys() {
    let here = Tiny::empty();
    let script = |shell: &str| text(&here.run_program(&["completions", shell]));
    here.write("completed.bash", &script("bash"));
    let completed = |line: &[&str]| -> Vec<String> {
        let [.., before, word] = line else { panic!("a line has two words") };
        let ask = format!(
            "source completed.bash; COMP_WORDS=({}); COMP_CWORD={}; _ckd_det_completed ckd-det '{word}' '{before}'; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            line.join(" "),
            line.len() - 1
        );
        let mut bash = std::process::Command::new("bash");
        let output = bash.args(["--norc", "-c", &ask]).current_dir(here.path("")).output().expect("bash");
        text(&output).lines().map(str::to_owned).collect()
    };
    let names = completed(&["ckd-det", "train", "coco_r101_r1"]);
    assert!(names.contains(&"coco_r101_r18".to_owned()), "{names:?}");
    assert!(names.iter().all(|name| name.starts_with("coco_r101_r1")), "{names:?}");
    assert!(completed(&["ckd-det", "train", "--set", "optim.l"]).contains(&"optim.lr=".to_owned()));
    assert_eq!(completed(&["ckd-det", "methods", "review"]), ["review_kd"]);
    assert!(completed(&["ckd-det", "config", "explain", "train.pat"]).contains(&"train.patience".to_owned()));
    assert!(completed(&["ckd-det", "comp"]).contains(&"compare".to_owned()));
    let zsh = script("zsh");
    assert_mentions(&zsh, &["#compdef ckd-det", ":_ckd_det_configurations'", ":_ckd_det_assignments'"]);
    assert_mentions(&script("fish"), &["optim.lr=", "coco_r101_r18"]);
    script("powershell");
}

#[test]
fn doctor_tells_what_is_missing_and_leaves_nothing_behind() {
    let here = Tiny::empty();
    fs::create_dir_all(here.path("data/coco/val2017")).expect("a new folder");
    let report = here.run_program(&["doctor", "coco_r101_r18", "cifar10_r56_r20", "--threads", "1"]);
    assert_ended(&report, 0, &[]);
    assert!(!text(&report).contains("problem"), "{}", text(&report));
    assert_mentions(
        &text(&report),
        &[
            concat!("ckd-det      ", env!("CARGO_PKG_VERSION")),
            "candle-core  0.11.1",
            "computing with 1 threads",
            "found        data/coco/val2017",
            "missing      data/coco/train2017",
            "missing      weights/resnet18.pth",
            "missing      weights/resnet56-4bfd9763.th",
            "writable     .",
        ],
    );
    assert_eq!(names(&here.path("")), ["data"]);
    let alone = text(&here.run_program(&["doctor"]));
    assert!(alone.lines().count() < 20 && !alone.contains("missing"), "{alone}");
    assert_ended(&here.run_program(&["doctor", "nosuch"]), 2, &["nosuch"]);
}
