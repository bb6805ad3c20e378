//! Weights of other programs: their names, their conventions, and `ckd-det weights` as a user types it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::support::tiny::{Tiny, assert_ended, assert_mentions};
use crate::support::torch_file::{ArrayBytes, TorchFile, numpy_pickle};
use candle_core::{DType, Device, Tensor};
use ckd_det::config::{Config, Document, Resize};
use ckd_det::engine::detect::build;
use ckd_det::weights::agree::{self, Role};
use ckd_det::weights::file::write_safetensors;
use ckd_det::weights::recognise::{Kind, Recognised};
use ckd_det::weights::{ModelCard, WeightsFile, classes, load};
use serde_json::Value;

type Tensors = BTreeMap<String, Tensor>;

/// The tensors of an untrained student, with norms that are not all alike.
fn weights(tiny: &Tiny, config: &str, sets: &[&str], classes: usize) -> Tensors {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    let config = Config::load(tiny.path(config), &sets).expect("valid").config;
    let detector = build::student(&config, classes, &Device::Cpu).expect("a network");
    let tensors = detector.params().snapshot().unwrap();
    (1..)
        .zip(tensors)
        .map(|(number, (name, tensor))| {
            let changes = name.contains("bn") || name.ends_with("bias");
            (name, if changes { (tensor + f64::from(number) / 1024.0).unwrap() } else { tensor })
        })
        .collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn read(path: &Path) -> WeightsFile {
    WeightsFile::read(path).unwrap_or_else(|error| panic!("{error}"))
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

#[track_caller]
fn assert_same(ours: &Tensors, expected: &Tensors) {
    assert_eq!(ours.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, tensor) in expected {
        assert_eq!(ours[name].dims(), tensor.dims(), "{name}");
        assert_eq!(values(&ours[name]), values(tensor), "{name}");
    }
}

/// What Detectron2 and MMDetection both do otherwise: the background last and without a box.
fn background_last(name: &str, tensor: &Tensor) -> Tensor {
    let rows = tensor.dims().first().copied().unwrap_or(0);
    let part = |from: usize, count: usize| tensor.narrow(0, from, count).unwrap();
    if name.contains("cls_score") {
        Tensor::cat(&[part(1, rows - 1), part(0, 1)], 0).unwrap()
    } else if name.contains("box_predictor.bbox_pred") {
        part(4, rows - 4)
    } else {
        tensor.clone()
    }
}

/// What comes back: no box for the background.
fn without_background_box(tensors: &Tensors) -> Tensors {
    let mut tensors = tensors.clone();
    for part in ["weight", "bias"] {
        let tensor = tensors.get_mut(&format!("roi_heads.box_predictor.bbox_pred.{part}")).unwrap();
        let mut shape = tensor.dims().to_vec();
        shape[0] = 4;
        let classes = tensor.narrow(0, 4, tensor.dims()[0] - 4).unwrap();
        *tensor = Tensor::cat(&[zeros(&shape), classes], 0).unwrap();
    }
    tensors
}

/// Detectron2's name for a tensor of ours, of a ResNet.
fn detectron2_name(name: &str) -> String {
    let mut theirs = name
        .replace("backbone.body.conv1.", "backbone.bottom_up.stem.conv1.")
        .replace("backbone.body.bn1.", "backbone.bottom_up.stem.conv1.norm.")
        .replace("backbone.body.", "backbone.bottom_up.")
        .replace("downsample.0.", "shortcut.")
        .replace("downsample.1.", "shortcut.norm.")
        .replace("rpn.head.conv.0.0.", "proposal_generator.rpn_head.conv.")
        .replace("rpn.head.cls_logits", "proposal_generator.rpn_head.objectness_logits")
        .replace("rpn.head.bbox_pred", "proposal_generator.rpn_head.anchor_deltas")
        .replace("box_head.fc6", "box_head.fc1")
        .replace("box_head.fc7", "box_head.fc2");
    for number in 1..=4 {
        theirs = theirs
            .replace(&format!("layer{number}."), &format!("res{}.", number + 1))
            .replace(&format!(".bn{number}."), &format!(".conv{number}.norm."))
            .replace(&format!("fpn.inner_blocks.{}.0.", number - 1), &format!("fpn_lateral{}.", number + 1))
            .replace(&format!("fpn.layer_blocks.{}.0.", number - 1), &format!("fpn_output{}.", number + 1));
    }
    theirs
}

fn bgr(tensor: &Tensor) -> Tensor {
    tensor.index_select(&Tensor::new(&[2_u32, 1, 0], &Device::Cpu).unwrap(), 1).unwrap()
}

/// A Faster R-CNN as Detectron2 writes it.
fn detectron2(tensors: &Tensors) -> Tensors {
    let mut theirs: Tensors = tensors
        .iter()
        .map(|(name, tensor)| {
            let tensor = if name == "backbone.body.conv1.weight" { bgr(tensor) } else { tensor.clone() };
            (detectron2_name(name), background_last(name, &tensor))
        })
        .collect();
    theirs.insert("proposal_generator.anchor_generator.cell_anchors.0".to_owned(), zeros(&[3, 4]));
    let mean = Tensor::new(&[103.53_f32, 116.28, 123.675], &Device::Cpu).unwrap();
    theirs.insert("pixel_mean".to_owned(), mean.reshape((3, 1, 1)).unwrap());
    theirs.insert("pixel_std".to_owned(), Tensor::ones((3, 1, 1), DType::F32, &Device::Cpu).unwrap());
    theirs
}

#[test]
fn a_detectron2_pickle_becomes_our_network_with_its_own_view_of_images() {
    let tiny = Tiny::new();
    let tensors = weights(&tiny, "plain.toml", &[], 4);
    let pickle = numpy_pickle(&detectron2(&tensors), "Detectron2 Model Zoo", ArrayBytes::Encoded);
    fs::write(tiny.path("model.pkl"), pickle).unwrap();
    let output = tiny.run_program(&[
        "weights",
        "import",
        "model.pkl",
        "--out",
        "model.safetensors",
        "--arch",
        "fasterrcnn_resnet18_fpn",
    ]);
    assert_ended(&output, 0, &["faster_rcnn_resnet18_fpn", "it does not name its 4 classes"]);
    let imported = read(&tiny.path("model.safetensors"));
    assert_same(&imported.tensors, &without_background_box(&tensors));
    let card = ModelCard::of(&imported).unwrap();
    assert_eq!(card.config.normalization.mean, [123.675, 116.28, 103.53].map(|mean| mean / 255.0));
    assert_eq!(card.config.normalization.std, [1.0 / 255.0; 3]);
    assert_eq!(card.config.input.resize, Resize::PilBilinear);
    assert_eq!(card.config.detector.anchor_corners.to_string(), "exact");
    assert_eq!(card.config.detector.roi.align.to_string(), "aligned");
    assert_eq!(card.config.detector.roi.sampling_ratio, 0);
    assert_eq!((card.config.student.network.width, card.config.detector.fpn_channels), (Some(8), 16));
    assert_eq!(card.provenance["imported_format"], "pickle of numpy arrays, names of Detectron2");
    assert_eq!(card.categories.len(), 4);
    // The file and its import are one network.
    assert_ended(&tiny.run_program(&["weights", "diff", "model.pkl", "model.safetensors"]), 0, &["equal: "]);
}

#[test]
fn an_mmdetection_checkpoint_becomes_our_network() {
    let tiny = Tiny::new();
    let tensors = weights(&tiny, "plain.toml", &[], 80);
    let theirs: Tensors = tensors
        .iter()
        .map(|(name, tensor)| {
            let mut theirs = name
                .replace("backbone.body.", "backbone.")
                .replace("rpn.head.conv.0.0.", "rpn_head.rpn_conv.")
                .replace("rpn.head.cls_logits", "rpn_head.rpn_cls")
                .replace("rpn.head.bbox_pred", "rpn_head.rpn_reg")
                .replace("roi_heads.box_head.fc6", "roi_head.bbox_head.shared_fcs.0")
                .replace("roi_heads.box_head.fc7", "roi_head.bbox_head.shared_fcs.1")
                .replace("roi_heads.box_predictor.cls_score", "roi_head.bbox_head.fc_cls")
                .replace("roi_heads.box_predictor.bbox_pred", "roi_head.bbox_head.fc_reg");
            for level in 0..4 {
                theirs = theirs
                    .replace(
                        &format!("backbone.fpn.inner_blocks.{level}.0"),
                        &format!("neck.lateral_convs.{level}.conv"),
                    )
                    .replace(
                        &format!("backbone.fpn.layer_blocks.{level}.0"),
                        &format!("neck.fpn_convs.{level}.conv"),
                    );
            }
            (theirs, background_last(name, tensor))
        })
        .collect();
    let path = tiny.path("epoch_12.pth");
    fs::write(&path, TorchFile { under: Some("state_dict"), ..TorchFile::of(&theirs) }.bytes()).unwrap();
    let output = tiny.run_program(&["weights", "import", "epoch_12.pth", "--out", "out.safetensors"]);
    assert_ended(&output, 0, &["style \"pytorch\"", "its classes are COCO's"]);
    let imported = read(&tiny.path("out.safetensors"));
    assert_same(&imported.tensors, &without_background_box(&tensors));
    let card = ModelCard::of(&imported).unwrap();
    assert_eq!(card.config.normalization.mean, [0.485, 0.456, 0.406]);
    assert_eq!(card.categories, classes::coco());
}

#[test]
fn names_of_older_torchvision_versions_are_understood() {
    let tiny = Tiny::new();
    let tensors = weights(&tiny, "plain.toml", &[], 3);
    let older = |name: &str| {
        let name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.");
        let in_fpn = name.starts_with("backbone.fpn.");
        if in_fpn { name.replacen(".0.weight", ".weight", 1).replacen(".0.bias", ".bias", 1) } else { name }
    };
    let theirs: Tensors = tensors.iter().map(|(name, tensor)| (older(name), tensor.clone())).collect();
    assert!(
        theirs.contains_key("backbone.fpn.inner_blocks.0.weight")
            && theirs.contains_key("rpn.head.conv.bias")
    );
    fs::write(tiny.path("old.pth"), TorchFile::of(&theirs).legacy_bytes()).unwrap();
    assert_same(&read(&tiny.path("old.pth")).tensors, &tensors);

    let tensors = weights(&tiny, "retina_plain.toml", &["detector.retina.head_convs=3"], 3);
    let older = |name: &str| {
        let mut name = name.to_owned();
        for at in 0..3 {
            name = name.replace(&format!("head.conv.{at}.0."), &format!("head.conv.{}.", 2 * at));
        }
        name
    };
    let theirs: Tensors = tensors.iter().map(|(name, tensor)| (older(name), tensor.clone())).collect();
    assert!(theirs.contains_key("head.regression_head.conv.4.weight"));
    fs::write(tiny.path("old.pth"), TorchFile::of(&theirs).bytes()).unwrap();
    let file = read(&tiny.path("old.pth"));
    assert_same(&file.tensors, &tensors);
    let recognised = Recognised::of(&file).unwrap();
    assert_eq!(
        (recognised.name.as_str(), recognised.kind),
        ("retinanet_resnet18_fpn", Kind::Detector { classes: 3 })
    );
}

#[test]
fn an_fcos_keeps_its_names_and_is_told_by_its_centerness() {
    let tiny = Tiny::new();
    let tensors = weights(&tiny, "fcos_plain.toml", &["detector.fcos.head_convs=3"], 3);
    assert!(tensors.contains_key("head.regression_head.conv.6.weight"));
    fs::write(tiny.path("fcos.pth"), TorchFile::of(&tensors).bytes()).unwrap();
    let file = read(&tiny.path("fcos.pth"));
    assert_same(&file.tensors, &tensors);
    let recognised = Recognised::of(&file).unwrap();
    assert_eq!(
        (recognised.name.as_str(), recognised.kind),
        ("fcos_resnet18_fpn", Kind::Detector { classes: 3 })
    );
    let output = tiny.run_program(&["weights", "import", "fcos.pth", "--out", "out.safetensors"]);
    assert_ended(&output, 0, &[]);
    let config = ModelCard::of(&read(&tiny.path("out.safetensors"))).unwrap().config;
    assert_eq!((config.detector.architecture.word(), config.detector.fcos.head_convs), ("fcos", 3));
}

/// torchvision's two Faster R-CNNs on MobileNetV3-Large have the same tensors.
#[test]
fn a_mobilenet_v3_is_imported_for_the_images_that_its_name_says() {
    let tiny = Tiny::new();
    let base = tiny.text("base.toml").replace("anchor_sizes", "# anchor_sizes");
    tiny.write("base.toml", &base);
    let sets = ["student.backbone=mobilenet_v3_large", "student.width=8", "student.norm=frozen_bn"];
    let tensors = weights(&tiny, "plain.toml", &sets, 3);
    assert_eq!(tensors["rpn.head.cls_logits.weight"].dims()[0], 15);
    let names = [
        ("mine.pth", "", 800, 1000),
        ("fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth", "", 800, 1000),
        ("fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth", "", 320, 150),
        ("mine.pth", "fasterrcnn_mobilenet_v3_large_320_fpn", 320, 150),
    ];
    for (name, arch, side, proposals) in names {
        fs::write(tiny.path(name), TorchFile::of(&tensors).bytes()).unwrap();
        let mut command = vec!["weights", "import", name, "--out", "out.safetensors"];
        if !arch.is_empty() {
            command.extend(["--arch", arch]);
        }
        assert_ended(&tiny.run_program(&command), 0, &["faster_rcnn_mobilenet_v3_large_"]);
        let file = read(&tiny.path("out.safetensors"));
        assert_same(&file.tensors, &tensors);
        let config = ModelCard::of(&file).unwrap().config;
        let rpn = &config.detector.rpn;
        assert_eq!((config.input.eval_short_side(), rpn.pre_nms_top_n_test), (side, proposals), "{name}");
        assert_eq!((rpn.post_nms_top_n_test, rpn.score_threshold), (proposals, 0.05), "{name}");
    }
}

#[test]
fn a_resnet_with_a_block_too_many_is_not_taken_for_a_smaller_one() {
    let tiny = Tiny::new();
    let mut tensors = weights(&tiny, "plain.toml", &[], 3);
    let block: Vec<(String, Tensor)> = tensors
        .iter()
        .filter(|(name, _)| name.contains("layer4.1."))
        .map(|(name, tensor)| (name.replace("layer4.1.", "layer4.2."), tensor.clone()))
        .collect();
    assert!(!block.is_empty());
    tensors.extend(block);
    fs::write(tiny.path("deep.pth"), TorchFile::of(&tensors).bytes()).unwrap();
    let output = tiny.run_program(&["weights", "import", "deep.pth", "--out", "out.safetensors"]);
    assert_ended(&output, 1, &["all convolutions of resnet18, but layer4.2.conv1.weight", "left over"]);
    assert!(!tiny.path("out.safetensors").exists());
}

#[test]
fn slots_for_every_coco_id_become_the_classes_of_the_data() {
    let tiny = Tiny::new();
    let faster = weights(&tiny, "plain.toml", &[], 90);
    let three_sizes = "detector.anchor_sizes=[[8.0, 9.0, 10.0], [16.0, 18.0, 20.0], [32.0, 36.0, 40.0], \
                       [64.0, 72.0, 80.0], [128.0, 144.0, 160.0]]";
    let retina = weights(&tiny, "retina_plain.toml", &[three_sizes], 91);
    let fcos = weights(&tiny, "fcos_plain.toml", &[], 91);
    for (name, tensors) in [("faster.pth", &faster), ("retina.pth", &retina), ("fcos.pth", &fcos)] {
        fs::write(tiny.path(name), TorchFile::of(tensors).bytes()).unwrap();
        let output = tiny.run_program(&["weights", "import", name, "--out", "out.safetensors"]);
        assert_ended(&output, 0, &["its classes are COCO's; --categories names others"]);
        assert_eq!(ModelCard::of(&read(&tiny.path("out.safetensors"))).unwrap().categories, classes::coco());
    }
    tiny.write(
        "two.json",
        r#"{"images": [], "annotations": [], "categories": [{"id": 13, "name": "stop sign"}, {"id": 1, "name": "person"}]}"#,
    );
    let import = |source: &str, categories: &str| {
        tiny.run_program(&[
            "weights",
            "import",
            source,
            "--out",
            "two.safetensors",
            "--categories",
            categories,
        ])
    };
    assert_ended(&import("faster.pth", "two.json"), 0, &[]);
    let imported = read(&tiny.path("two.safetensors"));
    let bias = |tensors: &Tensors, layer: &str| values(&tensors[&format!("{layer}.bias")]);
    let all = bias(&faster, "roi_heads.box_predictor.cls_score");
    assert_eq!(bias(&imported.tensors, "roi_heads.box_predictor.cls_score"), [all[0], all[1], all[13]]);
    let all = bias(&faster, "roi_heads.box_predictor.bbox_pred");
    let chosen = [&all[..8], &all[52..56]].concat();
    assert_eq!(bias(&imported.tensors, "roi_heads.box_predictor.bbox_pred"), chosen);

    assert_ended(&import("retina.pth", "two.json"), 0, &[]);
    let all = bias(&retina, "head.classification_head.cls_logits");
    let anchors = all.len() / 91;
    let chosen: Vec<f32> =
        (0..anchors).flat_map(|anchor| [all[91 * anchor + 1], all[91 * anchor + 13]]).collect();
    let imported = read(&tiny.path("two.safetensors"));
    assert_eq!(bias(&imported.tensors, "head.classification_head.cls_logits"), chosen);

    tiny.write(
        "cells.json",
        r#"{"images": [], "annotations": [], "categories": [{"id": 1, "name": "RBC"}]}"#,
    );
    assert_ended(&import("faster.pth", "cells.json"), 1, &["\"RBC\" (id 1) is \"person\" there"]);
    tiny.write(
        "sofa.json",
        r#"{"images": [], "annotations": [], "categories": [{"id": 12, "name": "sofa"}]}"#,
    );
    assert_ended(&import("faster.pth", "sofa.json"), 1, &["\"sofa\" (id 12) is none of COCO's"]);
    // The same for a teacher that the configuration names.
    let file = read(&tiny.path("faster.pth")).for_categories(&classes::coco()).unwrap();
    assert_eq!(file.tensors["roi_heads.box_predictor.cls_score.weight"].dims()[0], 81);
}

#[test]
fn an_import_is_strict_and_a_part_says_what_it_leaves_out() {
    let tiny = Tiny::new();
    let mut tensors = weights(&tiny, "plain.toml", &[], 3);
    tensors.insert("roi_heads.mask_head.mask_fcn1.weight".to_owned(), zeros(&[2]));
    let write = |tensors: &Tensors| fs::write(tiny.path("mask.pth"), TorchFile::of(tensors).bytes()).unwrap();
    let import = |more: &[&str]| {
        let _ = fs::remove_file(tiny.path("out.safetensors"));
        tiny.run_program(
            &[["weights", "import", "mask.pth", "--out", "out.safetensors"].as_slice(), more].concat(),
        )
    };
    write(&tensors);
    assert_ended(&import(&[]), 1, &["1 unexpected in the file:\n    roi_heads.mask_head.mask_fcn1.weight"]);
    assert!(!tiny.path("out.safetensors").exists());
    assert_ended(
        &import(&["--partial", "detector"]),
        0,
        &["left out 1 tensor:\n  roi_heads.mask_head.mask_fcn1.weight"],
    );
    assert_eq!(ModelCard::of(&read(&tiny.path("out.safetensors"))).unwrap().categories.len(), 3);

    let output = import(&["--partial", "head"]);
    assert_ended(
        &output,
        0,
        &["left out 5 tensors", "roi_heads.box_predictor.cls_score.bias", "student.init"],
    );
    let without_head = read(&tiny.path("out.safetensors"));
    assert!(without_head.tensors.contains_key("roi_heads.box_head.fc7.weight"));
    assert!(ModelCard::of(&without_head).is_err(), "it is no detector by itself");

    assert_ended(
        &import(&["--partial", "backbone"]),
        0,
        &["left out ", "rpn.head.conv.0.0.weight", "student.init"],
    );
    let trunk = read(&tiny.path("out.safetensors"));
    assert!(trunk.tensors.keys().all(|name| name.starts_with("backbone.body.")));
    let config = Config::load(tiny.path("retina_plain.toml"), &[]).unwrap().config;
    let student = build::student(&config, 7, &Device::Cpu).unwrap();
    load::init(student.params(), &trunk).unwrap();

    tensors.remove("backbone.body.layer2.0.conv1.weight").unwrap();
    tensors.insert("rpn.head.bbox_pred.bias".to_owned(), zeros(&[8]));
    write(&tensors);
    for part in [&[][..], &["--partial", "detector"]] {
        assert_ended(&import(part), 1, &["blocks, which is none of resnet18"]);
    }
    tensors.remove("roi_heads.mask_head.mask_fcn1.weight");
    tensors.insert("backbone.body.layer2.0.conv1.weight".to_owned(), zeros(&[16, 8, 3, 3]));
    tensors.remove("backbone.body.layer2.0.bn1.bias").unwrap();
    write(&tensors);
    assert_ended(
        &import(&[]),
        1,
        &[
            "1 missing from the file:\n    backbone.body.layer2.0.bn1.bias",
            "1 of another shape:\n    rpn.head.bbox_pred.bias: [12] in the network, [8] in the file",
        ],
    );
    assert!(!tiny.path("out.safetensors").exists());
}

#[test]
fn a_file_of_another_architecture_or_of_none_is_refused() {
    let tiny = Tiny::new();
    fs::write(tiny.path("a.pth"), TorchFile::of(&weights(&tiny, "plain.toml", &[], 3)).bytes()).unwrap();
    let import = |source: &str, more: &[&str]| {
        tiny.run_program(
            &[["weights", "import", source, "--out", "out.safetensors"].as_slice(), more].concat(),
        )
    };
    assert_ended(
        &import("a.pth", &["--arch", "retinanet_resnet50_fpn"]),
        2,
        &["is faster_rcnn_resnet18_fpn, not"],
    );
    assert_ended(&import("none.pth", &[]), 3, &["there is no file none.pth"]);
    assert_ended(&import("a.pth", &["--set", "student.stride_inn=1x1"]), 1, &["stride_inn"]);
    assert_ended(&import("a.pth", &["--partial", "neck"]), 2, &["choose from backbone, head, detector"]);
    let unknown = BTreeMap::from([("encoder.weight".to_owned(), zeros(&[1]))]);
    fs::write(tiny.path("b.pth"), TorchFile::of(&unknown).bytes()).unwrap();
    assert_ended(&import("b.pth", &[]), 1, &["encoder.weight", "no network that is known here"]);
    let output = tiny.run_program(&["weights", "inspect", "b.pth"]);
    assert_ended(&output, 0, &["torch zip file", "not known", "encoder.weight"]);
    assert!(!tiny.path("out.safetensors").exists());
}

#[test]
fn a_name_longer_than_any_column_is_shown_and_does_not_end_the_program() {
    let tiny = Tiny::new();
    let long = "name.".repeat(14_000);
    let tensors = Tensors::from([(long.clone(), zeros(&[2])), ("short".to_owned(), zeros(&[3]))]);
    write_safetensors(&tiny.path("long.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    let output = tiny.run_program(&["weights", "inspect", "long.safetensors"]);
    assert_ended(&output, 0, &[&long, "short", "[3]"]);
}

#[test]
fn inspect_and_diff_tell_what_there_is_and_what_differs() {
    let tiny = Tiny::new();
    let tensors = weights(&tiny, "plain.toml", &[], 3);
    let pickle = numpy_pickle(&detectron2(&tensors), "Detectron2 Model Zoo", ArrayBytes::Bytes);
    fs::write(tiny.path("model.pkl"), pickle).unwrap();
    let output = tiny.run_program(&["weights", "inspect", "model.pkl", "--json"]);
    assert_ended(&output, 0, &[]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["architecture"], "faster_rcnn_resnet18_fpn");
    assert_eq!((&report["names"], &report["classes"]), (&Value::from("Detectron2"), &Value::from(3)));
    let first = report["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .find(|tensor| tensor["name"] == "backbone.bottom_up.stem.conv1.weight")
        .unwrap();
    assert_eq!(first["ours"], "backbone.body.conv1.weight");
    assert_eq!(first["shape"], serde_json::json!([8, 3, 7, 7]));
    assert_ended(
        &tiny.run_program(&["weights", "inspect", "model.pkl"]),
        0,
        &["f32", "not used", "[8, 3, 7, 7]"],
    );

    let mut other = tensors.clone();
    other.remove("rpn.head.bbox_pred.bias");
    other.insert("extra".to_owned(), zeros(&[1]));
    other.insert("roi_heads.box_head.fc7.bias".to_owned(), zeros(&[3]));
    let changed = (&tensors["backbone.body.bn1.bias"] + 0.5).unwrap();
    other.insert("backbone.body.bn1.bias".to_owned(), changed);
    for (name, tensors) in [("a.safetensors", &tensors), ("b.safetensors", &other)] {
        write_safetensors(&tiny.path(name), tensors, &BTreeMap::new()).unwrap();
    }
    assert_ended(&tiny.run_program(&["weights", "diff", "a.safetensors", "a.safetensors"]), 0, &[]);
    let output = tiny.run_program(&["weights", "diff", "a.safetensors", "b.safetensors"]);
    assert_ended(
        &output,
        1,
        &[
            "only in a.safetensors: 1 tensor\n  rpn.head.bbox_pred.bias",
            "only in b.safetensors: 1 tensor\n  extra",
            "roi_heads.box_head.fc7.bias: [32] and [3]",
            "5.000e-1   backbone.body.bn1.bias",
            "differ",
        ],
    );
}

#[test]
fn a_teacher_trained_by_other_conventions_than_the_configuration_has_is_refused() {
    let tiny = Tiny::new();
    let tensors = weights(&tiny, "teacher.toml", &[], 3);
    let pickle = numpy_pickle(&detectron2(&tensors), "Detectron2 Model Zoo", ArrayBytes::Encoded);
    fs::write(tiny.path("teacher.pkl"), pickle).unwrap();
    let weights = format!("teacher.weights={}", tiny.path("teacher.pkl").display());
    // The tiny experiment has anchors of its own, which no file of Detectron2 tells.
    let base =
        tiny.text("base.toml").replace("anchor_sizes = [[8.0], [16.0], [32.0], [64.0], [128.0]]\n", "");
    tiny.write("base.toml", &base);
    let distilled = tiny.text("distilled.toml").replace("train = \"teacher.toml\"\n", "");
    tiny.write("distilled.toml", &distilled);
    let error = tiny.train("distilled.toml", &[&weights]).unwrap_err().to_string();
    assert_mentions(
        &error,
        &[
            "teacher.pkl was trained as another network than [teacher] describes",
            "teacher.resize = \"pil_bilinear\" (now \"bilinear\")",
            "teacher.normalization.std = [0.003921569, 0.003921569, 0.003921569]",
            "teacher.detector.anchor_corners = \"exact\" (now \"rounded\")",
            "teacher.detector.roi.align = \"aligned\"",
            "teacher.detector.roi.sampling_ratio = 0 (now 2)",
        ],
    );
    assert!(!error.contains("fpn_channels") && !error.contains("backbone"), "{error}");

    // Where it begins a student, only what the trunk sees matters.
    let file = read(&tiny.path("teacher.pkl"));
    let config = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        Config::load(tiny.path("teacher.toml"), &sets).unwrap().config
    };
    let error = agree::check(&file, &config(&[]), Role::StudentInit).unwrap_err().to_string();
    assert_mentions(&error, &["[student]", "normalization.std"]);
    assert!(!error.contains("anchor"), "{error}");
    let std = "normalization.std=[0.003921569, 0.003921569, 0.003921569]";
    agree::check(&file, &config(&[std]), Role::StudentInit).unwrap();
}

/// A ResNet detector with frozen norms whose variances are near the epsilon, as torchvision publishes its first ones.
fn published(tiny: &Tiny) -> Tensors {
    let mut tensors = weights(tiny, "plain.toml", &["student.norm=frozen_bn"], 3);
    for (name, tensor) in &mut tensors {
        if name.ends_with(".running_var") {
            let variances = (0..tensor.elem_count()).map(|channel| 10f32.powi(-3 - channel as i32 % 6));
            *tensor = Tensor::from_iter(variances, &Device::Cpu).unwrap();
        }
    }
    tensors
}

#[test]
fn torchvisions_first_detectors_are_used_without_an_epsilon_as_they_were_trained() {
    let tiny = Tiny::new();
    let tensors = published(&tiny);
    let (named, renamed) = ("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", "mine.pth");
    for name in [named, renamed] {
        fs::write(tiny.path(name), TorchFile::of(&tensors).bytes()).unwrap();
    }
    let import = |source: &str, more: &[&str]| {
        let output = tiny.run_program(
            &[["weights", "import", source, "--out", "out.safetensors"].as_slice(), more].concat(),
        );
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_ended(&output, 0, &[]);
        (read(&tiny.path("out.safetensors")), said)
    };
    let (as_trained, said) = import(named, &[]);
    assert_mentions(
        &said,
        &["batch norms have epsilon 0 (it is torchvision's FasterRCNN_ResNet50_FPN_Weights.COCO_V1)"],
    );
    assert!(!said.contains("epsilon 1e-5, as torchvision builds them"), "{said}");
    let provenance = ModelCard::of(&as_trained).unwrap().provenance;
    assert!(provenance["batch_norm_epsilon"].contains("COCO_V1"), "{provenance:?}");
    for (name, tensor) in &tensors {
        let (ours, theirs) = (values(&as_trained.tensors[name]), values(tensor));
        let norm = name.strip_suffix(".weight").and_then(|norm| tensors.get(&format!("{norm}.running_var")));
        let Some(variances) = norm else {
            assert_eq!(ours, theirs, "{name}");
            continue;
        };
        for ((ours, theirs), variance) in ours.iter().zip(theirs).zip(values(variances)) {
            // What a channel is multiplied with: here with 1e-5, there without.
            let here = f64::from(*ours) / (f64::from(variance) + 1e-5).sqrt();
            let there = f64::from(theirs) / f64::from(variance).sqrt();
            assert!((here / there - 1.0).abs() < 1e-6, "{name}: {here} and {there}");
        }
    }
    // What it is called once it is ours does not matter.
    fs::copy(tiny.path("out.safetensors"), tiny.path("b-258fb6c6.safetensors")).unwrap();
    assert_same(&read(&tiny.path("b-258fb6c6.safetensors")).tensors, &as_trained.tensors);
    // The same as a teacher that a configuration names, and to `inspect`.
    assert_same(&read(&tiny.path(named)).tensors, &as_trained.tensors);
    let output = tiny.run_program(&["weights", "inspect", named]);
    assert_ended(&output, 0, &["batch norms   batch norms have epsilon 0"]);

    let (other, said) = import(renamed, &[]);
    assert_mentions(&said, &["epsilon 1e-5, as torchvision builds them (--batch-norm-eps names another)"]);
    assert_same(&other.tensors, &tensors);
    let (told, said) = import(renamed, &["--batch-norm-eps", "0"]);
    assert_mentions(&said, &["batch norms have epsilon 0 (--batch-norm-eps)"]);
    assert_same(&told.tensors, &as_trained.tensors);
    let (undone, _) = import(named, &["--batch-norm-eps", "1e-5"]);
    for (name, tensor) in &tensors {
        for (ours, theirs) in values(&undone.tensors[name]).iter().zip(values(tensor)) {
            assert!((ours - theirs).abs() <= 1e-6 * theirs.abs(), "{name}: {ours} and {theirs}");
        }
    }
}

#[test]
fn an_epsilon_that_a_norm_cannot_have_had_is_refused() {
    let tiny = Tiny::new();
    let mut tensors = published(&tiny);
    let dead = "backbone.body.layer2.0.bn1";
    tensors.insert(format!("{dead}.running_var"), zeros(&[16]));
    fs::write(tiny.path("a.pth"), TorchFile::of(&tensors).bytes()).unwrap();
    let import = |epsilon: &str| {
        let epsilon = format!("--batch-norm-eps={epsilon}");
        tiny.run_program(&["weights", "import", "a.pth", "--out", "out.safetensors", &epsilon])
    };
    assert_ended(
        &import("0"),
        1,
        &["the variance of channel 0 of", dead, "is 0", "trained with another one"],
    );
    for wrong in ["-1", "nan", "1e5", "x"] {
        assert_ended(&import(wrong), 2, &["--batch-norm-eps"]);
    }
    assert!(!tiny.path("out.safetensors").exists());
    assert_ended(&import("0.001"), 0, &[]);
}
