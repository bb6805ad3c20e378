//! A trained classifier in other formats.

use super::*;

#[test]
fn a_trained_classifier_is_exported_in_every_format_and_used_again() {
    let small = Small::new();
    small.train("distilled.toml", &[]).unwrap();
    let export = |args: &[&str]| {
        let run = ["export", "--run", "runs/distilled", "--data-root", "data", "--out"];
        small.run_program(&[run.as_slice(), args].concat())
    };
    let compared = ["compared on 20 held-out images", "200 logits differ by at most", "onnx f32", "top-1"];
    assert_ended(&export(&["out/c.onnx"]), 0, &compared);
    assert_ended(&export(&["out/half.onnx", "--half", "--max-ap-loss", "100"]), 0, &["onnx f16", "of 20"]);
    assert_ended(&export(&["out/int8.onnx", "--int8", "--max-ap-loss", "100"]), 0, &["onnx int8 weights"]);
    let quantised = ["out/qdq.onnx", "--int8", "activations", "--images", "9", "--max-ap-loss", "100"];
    let seen = "ranges of activations from 9 training images";
    assert_ended(&export(&quantised), 0, &["compared on 9 held-out images", seen, "onnx int8 "]);
    let inside = ["out/u8.onnx", "--with-preprocess", "--images", "5"];
    assert_ended(&export(&inside), 0, &["compared on 5 held-out images", "onnx f32"]);
    let bytes = |name: &str| fs::read(small.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let sizes = ["out/int8.onnx", "out/half.onnx", "out/c.onnx"].map(|name| bytes(name).len());
    assert!(sizes.is_sorted_by(|a, b| a < b), "{sizes:?}");

    // The .safetensors says all that is needed, and nothing of a teacher; it goes on like the run.
    assert_ended(&export(&["out/c.safetensors"]), 0, &["resnet8", "0.08 M parameters", "10 classes"]);
    let trained = small.path("runs/distilled/last.safetensors");
    assert_same_tensors(&trained, &small.path("out/c.safetensors"));
    let exported = WeightsFile::read(&small.path("out/c.safetensors")).unwrap();
    let card = ClassifierCard::of(&exported).unwrap().expect("a card");
    assert!(card.config.teacher.is_none() && card.config.distill.is_empty());
    assert_eq!(card.config.labelled.normalization, Some(card.config.labelled.data.kind.normalization()));
    assert_eq!(card.provenance["exported_from_blake3"], WeightsFile::read(&trained).unwrap().hash);
    let loaded = ClassifyConfig::load(small.path("distilled.toml"), &small.sets(&[])).unwrap();
    let images = learned_from(&loaded).unwrap().expect("it is there");
    assert_eq!(card.provenance["data_blake3"], images.blake3());
    let input: serde_json::Value = serde_json::from_str(&exported.metadata["ckd_det.input"]).unwrap();
    assert_eq!(input["mean"], serde_json::json!([0.4914, 0.4822, 0.4465]));
    assert_eq!(input["side_px"], 32);
    let graph = OnnxModel::from_bytes(&bytes("out/c.onnx")).unwrap();
    let texts: std::collections::BTreeMap<&str, &str> = graph.metadata().collect();
    assert_eq!(texts["ckd_det.input"], exported.metadata["ckd_det.input"]);
    assert_eq!(texts["ckd_det.classes"], exported.metadata["ckd_det.classes"]);
    let again =
        ["export", "--weights", "out/c.safetensors", "--data-root", "data", "--out", "out/again.onnx"];
    assert_ended(&small.run_program(&again), 0, &["compared on 20"]);

    // A repository of the Hub.
    assert_ended(&export(&["hub", "--format", "hf"]), 0, &["hub: resnet8"]);
    assert_same_tensors(&trained, &small.path("hub/model.safetensors"));
    let json = |name: &str| -> serde_json::Value { serde_json::from_slice(&bytes(name)).unwrap() };
    assert_eq!(json("hub/config.json")["id2label"]["9"], "class 9");
    let preprocessor = json("hub/preprocessor_config.json");
    assert_eq!(preprocessor["image_mean"], serde_json::json!([0.4914, 0.4822, 0.4465]));
    assert_eq!(preprocessor["size"], serde_json::json!({ "height": 32, "width": 32 }));
    let model_card = String::from_utf8(bytes("hub/README.md")).unwrap();
    for line in ["pipeline_tag: image-classification", "- accuracy", "- uoft-cs/cifar10"] {
        assert!(model_card.lines().any(|own| own == line), "{line}: {model_card}");
    }
    assert!(model_card.contains(&format!("value: {}", card.provenance["top1"].parse::<f64>().unwrap())));
    let hub = ["eval", "--weights", "hub", "--data-root", "data"];
    assert_ended(&small.run_program(&hub), 0, &["top-1"]);

    // The .pth is a state dict: nothing is said beside the tensors.
    assert_ended(&export(&["out/c.pth"]), 0, &["resnet8"]);
    let state = WeightsFile::read(&small.path("out/c.pth")).unwrap();
    assert!(state.metadata.is_empty() && state.tensors.keys().eq(exported.tensors.keys()));
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (name, tensor) in &exported.tensors {
        assert_eq!(values(&state.tensors[name]), values(tensor), "{name}");
    }

    let inspected = ["resnet8 of 10 classes", "10 (class 0, class 1", "provenance"];
    assert_ended(&small.run_program(&["weights", "inspect", "out/c.safetensors"]), 0, &inspected);
    let picture = image::RgbImage::from_pixel(50, 40, image::Rgb([200, 60, 30]));
    picture.save(small.path("red.png")).unwrap();
    let predict = ["predict", "--weights", "out/c.safetensors", "red.png", "--json", "guesses.json"];
    assert_ended(&small.run_program(&predict), 0, &["red.png: ", "1 images -> guesses.json"]);
    let guesses: serde_json::Value = serde_json::from_slice(&bytes("guesses.json")).unwrap();
    let guesses = guesses[0]["guesses"].as_array().expect("guesses");
    let probabilities: Vec<f64> = guesses.iter().filter_map(|guess| guess["probability"].as_f64()).collect();
    assert_eq!(probabilities.len(), 5);
    assert!(probabilities.is_sorted_by(|a, b| a >= b) && probabilities.iter().sum::<f64>() <= 1.0);
}

#[test]
fn a_classifiers_export_that_is_refused_leaves_no_file() {
    let small = Small::new();
    small.train("plain.toml", &["schedule.epochs=1", "train.eval_every=1"]).unwrap();
    let weights = "runs/plain/last.safetensors";
    let export = |args: &[&str]| {
        small.run_program(&[["export", "--weights", weights, "--out", "none.onnx"].as_slice(), args].concat())
    };
    let data = ["--data-root", "data"];
    let says = ["--raw is for detectors", "resnet8 of 10 classes"];
    assert_ended(&export(&[data.as_slice(), &["--raw"]].concat()), 2, &says);
    assert_ended(&export(&["--config", "plain.toml"]), 2, &["leave out --config"]);
    assert_ended(&export(&["--data-root", "nowhere"]), 3, &["there is no folder nowhere"]);
    let loss = export(&[data.as_slice(), &["--int8", "--max-ap-loss=-1000"]].concat());
    assert_ended(&loss, 1, &["nothing was written", "top-1", "--max-ap-loss"]);
    assert_ended(&export(&["--int8", "activations", "--images", "0"]), 2, &["--images"]);
    // Without training images the ranges come from held-out ones, but from no image that the graph is compared on.
    for batch in ["data_batch_1.bin", "data_batch_2.bin"] {
        fs::remove_file(small.path("data/cifar-10-batches-bin").join(batch)).unwrap();
    }
    let quantised = |images: &str| {
        export(&["--data-root", "data", "--int8", "activations", "--max-ap-loss", "100", "--images", images])
    };
    assert_ended(&quantised("20"), 2, &["other images than it is compared on"]);
    assert!(!small.path("none.onnx").exists());
    assert_ended(
        &quantised("15"),
        0,
        &["ranges of activations from 5 held-out images that are not compared on"],
    );
    fs::remove_file(small.path("none.onnx")).unwrap();
    let detector = small.run_program(&["eval", "--coco-val", "--weights", weights]);
    assert_ended(&detector, 2, &["is a classifier, resnet8 of 10 classes", "a detector is needed"]);
    let predict = small.run_program(&["predict", "--weights", weights, "x.png", "--benchmark"]);
    assert_ended(&predict, 2, &["--benchmark is for detectors"]);
    // A weight that is no number has no graph that equals it.
    let file = WeightsFile::read(&small.path(weights)).unwrap();
    let mut broken = file.tensors.clone();
    let bias = Tensor::new(&[f32::NAN; 10], &Device::Cpu).unwrap();
    broken.insert("fc.bias".to_owned(), bias);
    write_safetensors(&small.path("broken.safetensors"), &broken, &file.metadata).unwrap();
    let args = ["export", "--weights", "broken.safetensors", "--out", "none.onnx", "--data-root", "data"];
    assert_ended(&small.run_program(&args), 1, &[]);
    assert!(!small.path("none.onnx").exists(), "{:?}", names(&small.path("")));

    // Without data the graph is compared on noise, and it is said.
    fs::remove_dir_all(small.path("data")).unwrap();
    let ranges = export(&["--int8", "activations", "--images", "3"]);
    assert_ended(&ranges, 3, &["3 images of noise", "--data-root"]);
    assert!(!small.path("none.onnx").exists());
    assert_ended(&export(&["--images", "3"]), 0, &["note:", "3 images of noise", "30 logits differ"]);
}
