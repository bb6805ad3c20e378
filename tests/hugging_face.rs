//! Networks as model repositories of the Hugging Face Hub: content, and use from the folder.

use std::fs;

use ckd_det::config::Config;
use ckd_det::data::Instances;
use ckd_det::export::student::Student;
use serde_json::{Value, json};

use crate::support::tiny::{Folder, Tiny, assert_ended, assert_same_tensors, names};

/// The head of a model card, and the rest.
fn card(text: &str) -> (String, String) {
    let (head, rest) = text.strip_prefix("---\n").unwrap().split_once("---\n").unwrap();
    (head.to_owned(), rest.to_owned())
}

#[test]
fn a_detector_is_a_repository_that_the_program_reads_back() {
    let tiny = Tiny::new();
    assert_ended(&tiny.run_program(&["train", "plain.toml", "--quiet"]), 0, &[]);
    let export = |more: &[&str]| {
        tiny.run_program(&[&["export", "--run", "runs/plain", "--format", "hf"], more].concat())
    };
    assert_ended(&export(&["--out", "hub"]), 0, &["hub: ", "3 classes"]);
    let files = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"];
    assert_eq!(names(&tiny.path("hub")), files);
    assert_same_tensors(&tiny.path("runs/plain/last.safetensors"), &tiny.path("hub/model.safetensors"));

    let config = tiny.json("hub/config.json");
    let categories = tiny.json("data/annotations/instances_val.json")["categories"].clone();
    assert_eq!(config["model_type"], "ckd-det");
    assert_eq!((&config["detector"], &config["backbone"]), (&"faster_rcnn".into(), &"resnet18".into()));
    for (place, category) in categories.as_array().unwrap().iter().enumerate() {
        assert_eq!(config["id2label"][place.to_string()], category["name"]);
        assert_eq!(config["label2id"][category["name"].as_str().unwrap()], place);
        assert_eq!(config["category_ids"][place], category["id"]);
    }
    assert_eq!(config["num_labels"], 3);
    assert_eq!(config["ckd_det.postprocess"]["architecture"], "faster_rcnn");
    assert!(config["ckd_det.config"].as_str().is_some_and(|toml| toml.contains("[detector]")));
    assert_eq!(
        tiny.json("hub/preprocessor_config.json"),
        json!({
            "do_resize": true, "size": { "shortest_edge": 64, "longest_edge": 64 }, "resample": 2,
            "interpolation": "bilinear, half-pixel centres, no antialiasing", "do_rescale": true,
            "rescale_factor": 1.0 / 255.0, "do_normalize": true, "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225], "do_pad": true, "size_divisor": 32,
        })
    );
    let (head, rest) = card(&tiny.text("hub/README.md"));
    let outcome = tiny.json("runs/plain/outcome.json");
    let ap: f64 = format!("{:.4}", outcome["row"]["stats"][0].as_f64().unwrap()).parse().unwrap();
    assert_eq!(
        head,
        format!(
            "library_name: ckd-det\npipeline_tag: object-detection\ntags:\n- \"faster_rcnn\"\n- \"resnet18\"\n\
             metrics:\n- mean_average_precision\nmodel-index:\n- name: \"plain\"\n  results:\n  - task:\n      \
             type: object-detection\n    dataset:\n      type: \"synth\"\n      name: \"data\"\n      \
             split: validation\n    metrics:\n    - type: mean_average_precision\n      \
             name: AP (COCO, IoU .50 to .95)\n      value: {ap}\n"
        )
    );
    assert!(!head.contains("license") && rest.contains("add `license:`"), "{rest}");

    let stats = |weights: &str| -> Value {
        let output = tiny.run_program(&["eval", "--coco-val", "--json", "--weights", weights]);
        assert_ended(&output, 0, &[]);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["stats"].clone()
    };
    assert_eq!(stats("hub"), outcome["row"]["stats"]);
    let predict = ["predict", "--weights", "hub", "--no-pictures", "data/val"];
    assert_ended(&tiny.run_program(&predict), 0, &["detections -> "]);
    assert_ended(&tiny.run_program(&["export", "--weights", "hub", "--out", "again.safetensors"]), 0, &[]);
    assert_same_tensors(&tiny.path("hub/model.safetensors"), &tiny.path("again.safetensors"));
    assert_eq!(Student::open(tiny.path("hub")).unwrap().categories().len(), 3);
    let taught = ["train", "distilled.toml", "--set", "teacher.weights=hub", "--set", "teacher.width=8"];
    assert_ended(&tiny.run_program(&[&taught[..], &["--quiet"]].concat()), 0, &["AP "]);

    assert_ended(&export(&["--out", "-"]), 2, &["--format hf writes a folder"]);
    fs::remove_file(tiny.path("hub/model.safetensors")).unwrap();
    let output = tiny.run_program(&["eval", "--coco-val", "--weights", "hub"]);
    assert_ended(&output, 1, &["hub", "a folder without model.safetensors", "--run"]);
}

#[test]
fn a_card_quotes_what_a_user_named_and_is_read_by_yaml() {
    let here = Folder::<Config>::empty();
    let mut set = Instances::of_classes(["a: \"b\"", "c\\d # e", "ü\u{85}`|"]);
    set.push_image("x.png", (64, 64), [(0, [4.0, 4.0, 30.0, 30.0])]);
    here.write("gt.json", &String::from_utf8(ckd_det::data::coco::to_json(&set)).unwrap());
    image::RgbImage::new(64, 64).save(here.path("x.png")).unwrap();
    here.write(
        "a.toml",
        "name = \"odd\"\n[detector]\narchitecture = \"retinanet\"\nfpn_channels = 16\n\
         anchor_sizes = [[8.0], [16.0], [32.0], [64.0], [128.0]]\n[detector.retina]\nhead_convs = 1\n\
         [input]\nshort_side_px = [64]\nlong_side_px = 64\n[data]\nkind = \"coco\"\nroot = \".\"\n\
         train_images = \".\"\nval_images = \".\"\ntrain_annotations = \"gt.json\"\nval_annotations = \"gt.json\"\n\
         [student]\nbackbone = \"resnet18\"\nwidth = 8\nnorm = \"bn\"\n[optim]\nlr = 0.001\n[schedule]\nsteps = 1\nkind = \"constant\"\n\
         [train]\nbatch_size = 1\n",
    );
    assert_ended(&here.run_program(&["train", "a.toml", "--quiet"]), 0, &[]);
    let run = format!("runs/{}", names(&here.path("runs"))[0]);
    assert_ended(&here.run_program(&["export", "--run", &run, "--format", "hf", "--out", "hub"]), 0, &[]);
    let (head, rest) = card(&here.text("hub/README.md"));
    assert!(head.contains("- name: \"odd\"\n"), "{head}");
    assert!(rest.contains("0 \"a: \\\"b\\\"\"\n1 \"c\\\\d # e\"\n2 \"ü\\u0085`|\"\n"), "{rest}");
    assert_eq!(here.json("hub/config.json")["id2label"]["2"], "ü\u{85}`|");
}
