//! Exports: every graph gives what its network gives, on any image; files are whole, and refused if they drift.

use std::collections::BTreeMap;
use std::fs;

use crate::support::tiny::{Tiny, assert_ended, names};
use candle_core::{Device, Tensor};
use ckd_det::config::{Config, Document};
use ckd_det::engine::detect::build;
use ckd_det::engine::detect::evaluate::detect_one;
use ckd_det::export::onnx::evaluate::Evaluator;
use ckd_det::export::onnx::{
    self, ClassifierGraph, DetectorGraph, InputRule, OnnxModel, Outputs, Precision, Preprocessing, Ranges,
};
use ckd_det::export::student::Student;
use ckd_det::export::verify::{Difference, RawDifference, graph_detections, graph_input};
use ckd_det::export::{self, DetectorExport, ExportError, Finding, Format, OnnxOptions, Storage};
use ckd_det::weights::{ModelCard, WeightsFile};
use ckd_detectors::backbone::BackboneConfig;
use ckd_detectors::classifier::{
    CifarResNetConfig, Network as _, TrunkClassifier, TrunkClassifierConfig, cifar_resnet,
};
use ckd_detectors::images::{Images, Normalization};
use ckd_detectors::init::Init;
use ckd_detectors::nn::{Mode, NormKind};
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::postprocess::Detections;
use ckd_detectors::taps::Tap;
use ckd_detectors::{Detector, DetectorConfig};
use ckd_kernels::Value;
use image::{Rgb, RgbImage};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CLASSES: usize = 3;

/// Ids with gaps, as COCO's.
const IDS: [u64; CLASSES] = [7, 1, 90];

/// A network with random weights that are far enough from their initial values to tell layers apart.
struct Network {
    config: Config,
    settings: DetectorConfig,
    detector: Detector,
}

impl Network {
    fn new(tiny: &Tiny, base: &str, sets: &[&str]) -> Self {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let config = Config::load(tiny.path(base), &sets).unwrap_or_else(|error| panic!("{error}")).config;
        let settings = build::student_settings(&config, CLASSES);
        let detector = build::frozen_student(&config, CLASSES, &Device::Cpu).expect("a valid network");
        shake(detector.params());
        Self { config, settings, detector }
    }

    fn graph(&self, precision: Precision, preprocessing: Preprocessing, outputs: Outputs) -> OnnxModel {
        let metadata = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let about = DetectorGraph {
            config: &self.settings,
            rule: InputRule::of(&self.config),
            categories: &IDS,
            metadata: &metadata,
            precision,
            preprocessing,
            outputs,
        };
        let model = onnx::detector(self.detector.params(), &about).unwrap_or_else(|error| panic!("{error}"));
        let read = OnnxModel::from_bytes(&model.to_bytes()).expect("what was written");
        assert_eq!(read, model);
        assert_eq!(read.metadata().collect::<Vec<_>>(), [("a", "b")]);
        read
    }

    fn student(&self, image: &RgbImage) -> Detections {
        detect_one(&self.detector, image, &self.config, &Device::Cpu).expect("detections")
    }

    fn found(&self, evaluator: &Evaluator, image: &RgbImage, preprocessing: Preprocessing) -> Detections {
        let (inputs, from) =
            graph_input(image, &InputRule::of(&self.config), preprocessing).expect("an input");
        let outputs = evaluator.run(&inputs).unwrap_or_else(|error| panic!("{error}"));
        let to = (image.height() as usize, image.width() as usize);
        graph_detections(&outputs, &IDS, (from, to)).expect("detections")
    }
}

/// Statistics, norms, biases and the last layers moved away from what networks begin with.
fn shake(params: &ParamStore) {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for (name, param) in params.iter() {
        let tensor = param.value.tensor();
        let last = ["cls_logits.weight", "bbox_pred.weight", "bbox_reg.weight"];
        let (factor, low, high) = match &**name {
            name if name.ends_with("running_var") => (0.0, 0.5, 1.5),
            name if name.ends_with("running_mean") => (0.0, -0.2, 0.2),
            name if name.ends_with("cls_score.weight") => (3.0, -0.05, 0.05),
            name if last.iter().any(|end| name.ends_with(end)) => (5.0, -0.02, 0.02),
            _ if tensor.rank() == 1 => (1.0, -0.1, 0.1),
            _ => (1.0, -1e-3, 1e-3),
        };
        let noise: Vec<f32> = (0..tensor.elem_count()).map(|_| random.random_range(low..high)).collect();
        let noise = Tensor::from_vec(noise, tensor.shape(), &Device::Cpu).expect("as many");
        let moved = ((tensor.contiguous().unwrap() * factor).unwrap() + noise).unwrap();
        params.set(name, &moved).expect("the same shape");
    }
}

/// Rectangles on a ground, so that networks have something to see.
fn picture(width: u32, height: u32) -> RgbImage {
    let mut random = ChaCha8Rng::seed_from_u64(u64::from(width * 1000 + height));
    let mut image = RgbImage::from_pixel(width, height, Rgb(random.random()));
    for _ in 0..6 {
        let colour = Rgb(random.random());
        let (x, y) = (random.random_range(0..width), random.random_range(0..height));
        for v in y..(y + height.div_ceil(3)).min(height) {
            for u in x..(x + width.div_ceil(3)).min(width) {
                image.put_pixel(u, v, colour);
            }
        }
    }
    image
}

const SIZES: [(u32, u32); 4] = [(64, 64), (120, 50), (37, 80), (3, 2)];

/// Checks a graph against its network on images of all shapes.
#[track_caller]
fn assert_is(network: &Network, preprocessing: Preprocessing) {
    let evaluator =
        Evaluator::new(&network.graph(Precision::Full, preprocessing, Outputs::Detections)).unwrap();
    let mut difference = Difference::default();
    for (width, height) in SIZES {
        let image = picture(width, height);
        difference.add(&network.student(&image), &network.found(&evaluator, &image, preprocessing));
    }
    assert!(difference.detections > 0, "{difference}");
    difference.check().unwrap_or_else(|error| panic!("{error}"));
    assert!(difference.box_px < 5e-3 && difference.score < 2e-5, "{difference}");
}

#[test]
fn every_faster_rcnn_is_its_graph() {
    let tiny = Tiny::new();
    let mobile = "detector.anchor_sizes=[[16.0,32.0],[24.0,48.0],[64.0,128.0]]";
    let two_stages: [&[&str]; 9] = [
        &[],
        &["student.norm=gn", "detector.roi.score_threshold=0.0"],
        &["student.backbone=mobilenet_v2", "student.width=16"],
        &["student.backbone=mobilenet_v1"],
        &["student.backbone=mobilenet_v3_large", "student.width=8", mobile],
        &["student.backbone=mobilenet_v3_large", "student.width=4", mobile, "detector.anchor_corners=exact"],
        &["student.backbone=resnet50", "student.stride_in=1x1", "detector.anchor_corners=exact"],
        &["student.fpn_norm=bn", "detector.roi.head=four_conv_fc", "detector.rpn.head_convs=2"],
        &["student.backbone=resnet34", "detector.roi.align=aligned", "detector.roi.sampling_ratio=0"],
    ];
    for sets in two_stages {
        eprintln!("{sets:?}");
        assert_is(&Network::new(&tiny, "plain.toml", sets), Preprocessing::Outside);
    }
}

#[test]
fn every_retinanet_is_its_graph() {
    let tiny = Tiny::new();
    let one_stage: [&[&str]; 4] = [
        &["detector.retina.topk_candidates=50"],
        &["student.backbone=mobilenet_v3_large", "student.width=8"],
        &["detector.retina.head_norm=gn", "detector.retina.p6_from=c5", "detector.retina.head_convs=2"],
        &["detector.retina.clip=after_nms", "student.fpn_norm=gn", "detector.anchor_corners=exact"],
    ];
    for sets in one_stage {
        eprintln!("{sets:?}");
        assert_is(&Network::new(&tiny, "retina_plain.toml", sets), Preprocessing::Outside);
    }
}

#[test]
fn every_fcos_is_its_graph() {
    let tiny = Tiny::new();
    let points: [&[&str]; 3] = [
        &["detector.fcos.topk_candidates=50"],
        &["detector.fcos.p6_from=c5", "detector.fcos.head_convs=2", "student.norm=gn"],
        &["student.fpn_norm=gn", "detector.anchor_corners=exact", "detector.fcos.nms_threshold=0.3"],
    ];
    for sets in points {
        eprintln!("{sets:?}");
        assert_is(&Network::new(&tiny, "fcos_plain.toml", sets), Preprocessing::Outside);
    }
}

#[test]
fn photographs_are_resized_in_the_graph_as_the_program_does() {
    let tiny = Tiny::new();
    for base in ["plain.toml", "retina_plain.toml", "fcos_plain.toml"] {
        let sets = ["input.short_side_px=[40]", "input.long_side_px=70", "normalization.mean=[0.1,0.2,0.3]"];
        assert_is(&Network::new(&tiny, base, &sets), Preprocessing::Inside);
    }
}

#[test]
fn a_batch_is_detected_in_one_go_and_each_box_names_its_image() {
    let tiny = Tiny::new();
    for base in ["plain.toml", "retina_plain.toml", "fcos_plain.toml"] {
        let network = Network::new(&tiny, base, &[]);
        let (h, w) = (64, 96);
        let sizes = [(64, 90), (33, 96), (10, 20)];
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut pixels = vec![0f32; sizes.len() * 3 * h * w];
        for (i, value) in pixels.iter_mut().enumerate() {
            let (x, y, image) = (i % w, i / w % h, i / (3 * h * w));
            if y < sizes[image].0 && x < sizes[image].1 {
                *value = random.random();
            }
        }
        let pixels = Tensor::from_vec(pixels, (sizes.len(), 3, h, w), &Device::Cpu).unwrap();
        let images = Images { pixels: pixels.clone(), sizes: sizes.to_vec() };
        let expected = network.detector.detect(&images).unwrap();

        let own: Vec<i64> = sizes.iter().flat_map(|&(h, w)| [h as i64, w as i64]).collect();
        let own = Tensor::from_vec(own, (sizes.len(), 2), &Device::Cpu).unwrap();
        let graph = network.graph(Precision::Full, Preprocessing::Outside, Outputs::Detections);
        let outputs = Evaluator::new(&graph).unwrap().run(&[("images", pixels), ("sizes", own)]).unwrap();
        let all = graph_detections(&outputs, &IDS, ((h, w), (h, w))).unwrap();
        let of: Vec<i64> = outputs["image"].to_vec1().unwrap();
        assert!(of.is_sorted());
        for (number, expected) in expected.iter().enumerate() {
            let rows: Vec<usize> = (0..of.len()).filter(|&row| of[row] == number as i64).collect();
            let found = Detections {
                boxes: rows.iter().map(|&row| all.boxes[row]).collect(),
                scores: rows.iter().map(|&row| all.scores[row]).collect(),
                labels: rows.iter().map(|&row| all.labels[row]).collect(),
            };
            assert!(found.scores.is_sorted_by(|a, b| a >= b), "best first");
            let mut difference = Difference::default();
            difference.add(expected, &found);
            assert!(difference.detections > 3 && difference.unmatched <= 1, "{base} {number}: {difference}");
            difference.check().unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn where_nothing_is_found_the_lists_are_empty() {
    let tiny = Tiny::new();
    let nothing: [(&str, &[&str]); 4] = [
        ("plain.toml", &["detector.roi.score_threshold=1.0"]),
        ("plain.toml", &["detector.rpn.min_size=1000.0"]),
        ("retina_plain.toml", &["detector.retina.score_threshold=1.0"]),
        ("fcos_plain.toml", &["detector.fcos.score_threshold=1.0"]),
    ];
    for (base, sets) in nothing {
        let network = Network::new(&tiny, base, sets);
        let graph = network.graph(Precision::Full, Preprocessing::Outside, Outputs::Detections);
        let evaluator = Evaluator::new(&graph).unwrap();
        let (inputs, _) =
            graph_input(&picture(50, 40), &InputRule::of(&network.config), Preprocessing::Outside).unwrap();
        let outputs = evaluator.run(&inputs).unwrap_or_else(|error| panic!("{sets:?}: {error}"));
        assert_eq!(outputs["boxes"].dims(), [0, 4], "{sets:?}");
        for list in ["scores", "labels", "image"] {
            assert_eq!(outputs[list].dims(), [0], "{sets:?}");
        }
        assert!(network.student(&picture(50, 40)).is_empty());
    }
}

#[test]
fn raw_graphs_give_what_the_heads_say() {
    let tiny = Tiny::new();
    for base in ["plain.toml", "retina_plain.toml", "fcos_plain.toml"] {
        let network = Network::new(&tiny, base, &[]);
        let graph = network.graph(Precision::Full, Preprocessing::Outside, Outputs::Raw);
        let evaluator = Evaluator::new(&graph).unwrap();
        let rule = InputRule::of(&network.config);
        let mut difference = RawDifference::default();
        difference.add_heads(&network.detector, &evaluator, &picture(80, 45), &rule).unwrap();
        let RawDifference { most, largest } = difference;
        assert!(largest > 0.1 && most <= 1e-4 * largest, "{base}: {most} of {largest}");
    }
}

/// Whoever has no non-maximum suppression in the graph chooses proposals elsewhere and asks the box head.
#[test]
fn a_box_head_says_of_proposals_what_the_detector_says() {
    let tiny = Tiny::new();
    let rule = |network: &Network| InputRule::of(&network.config);
    for sets in [&[][..], &["detector.roi.head=\"four_conv_fc\""]] {
        let network = Network::new(&tiny, "plain.toml", sets);
        let graph = network.graph(Precision::Full, Preprocessing::Outside, Outputs::BoxHead);
        let mut difference = RawDifference::default();
        let evaluator = Evaluator::new(&graph).unwrap();
        difference.add_box_head(&network.detector, &evaluator, &picture(80, 45), &rule(&network)).unwrap();
        let RawDifference { most, largest } = difference;
        assert!(largest > 0.1 && most <= 1e-4 * largest, "{sets:?}: {most} of {largest}");
    }
}

#[test]
fn smaller_files_detect_nearly_the_same() {
    let tiny = Tiny::new();
    for base in ["plain.toml", "retina_plain.toml", "fcos_plain.toml"] {
        let network = Network::new(&tiny, base, &[]);
        let graph = |precision| network.graph(precision, Preprocessing::Outside, Outputs::Detections);
        let full = graph(Precision::Full);
        let pictures: Vec<RgbImage> = SIZES[..3].iter().map(|&(w, h)| picture(w, h)).collect();
        let int8 = graph(Precision::Int8);
        let mut ranges = Ranges::default();
        for picture in &pictures {
            let (inputs, _) =
                graph_input(picture, &InputRule::of(&network.config), Preprocessing::Outside).unwrap();
            ranges.observe(&Evaluator::new(&int8).unwrap(), &inputs).unwrap();
        }
        let activations = int8.with_activations_in_8_bits(&ranges);
        assert_ne!(activations, int8);
        // What graph and constants take beside the weights is a good part of so small a network.
        let size = |model: &OnnxModel| model.to_bytes().len();
        let half = graph(Precision::Half);
        assert!(size(&half) < size(&full) && size(&int8) < size(&half), "{} {}", size(&half), size(&int8));
        for (smaller, apart) in [(half, 2e-3), (int8, 0.05), (activations, 0.12)] {
            let evaluator = Evaluator::new(&smaller).unwrap();
            for picture in &pictures {
                let own = network.student(picture);
                let theirs = network.found(&evaluator, picture, Preprocessing::Outside);
                // Lists differ at their ends; the best detection is there.
                let difference = (own.scores[0] - theirs.scores[0]).abs();
                assert!(difference <= apart, "{base}: {} {}", own.scores[0], theirs.scores[0]);
            }
        }
    }
}

#[test]
fn a_layer_that_the_graph_has_no_place_for_is_an_error_that_names_it() {
    let tiny = Tiny::new();
    let network = Network::new(&tiny, "plain.toml", &[]);
    let builder = Builder::new(0, &Device::Cpu);
    builder.within("roi_heads.mask_head").weight("weight", &[2, 2], Init::Constant(0.0)).unwrap();
    let detector = Detector::new(builder, &network.settings).unwrap();
    let metadata = BTreeMap::new();
    let about = DetectorGraph {
        config: &network.settings,
        rule: InputRule::of(&network.config),
        categories: &IDS,
        metadata: &metadata,
        precision: Precision::Full,
        preprocessing: Preprocessing::Outside,
        outputs: Outputs::Detections,
    };
    let error = onnx::detector(detector.params(), &about).expect_err("a forgotten layer").to_string();
    assert!(error.contains("roi_heads.mask_head.weight"), "{error}");
}

#[test]
fn classifiers_are_their_graphs() {
    let (n, h, w) = (2, 37, 40);
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let pixels: Vec<f32> = (0..n * 3 * h * w).map(|_| random.random()).collect();
    let pixels = Tensor::from_vec(pixels, (n, 3, h, w), &Device::Cpu).unwrap();
    let normalization = Normalization { mean: [0.4, 0.5, 0.6], std: [0.2, 0.3, 0.25] };
    let input = Value::constant(
        ckd_kernels::input::normalize(&pixels, &[(h, w); 2], &normalization.mean, &normalization.std)
            .unwrap()
            .tensor()
            .clone(),
    );
    let check = |params: &ParamStore, name: &str, expected: &dyn Fn() -> Tensor| {
        shake(params);
        let model = onnx::classifier(
            params,
            &ClassifierGraph {
                normalization,
                side_px: h,
                metadata: &BTreeMap::new(),
                precision: Precision::Full,
                preprocessing: Preprocessing::Outside,
            },
        )
        .unwrap();
        let outputs = Evaluator::new(&model).unwrap().run(&[("images", pixels.clone())]).unwrap();
        let (own, theirs) =
            (expected().to_vec2::<f32>().unwrap(), outputs["logits"].to_vec2::<f32>().unwrap());
        for (own, theirs) in own.iter().flatten().zip(theirs.iter().flatten()) {
            assert!((own - theirs).abs() <= 1e-4 * own.abs().max(1.0), "{name}: {own} {theirs}");
        }
        assert_eq!(outputs["embedding"].dim(0).unwrap(), n);
    };
    let cifar = CifarResNetConfig::option_a(8, 5);
    let cifar = cifar_resnet(Builder::new(1, &Device::Cpu), cifar).unwrap();
    check(cifar.params(), "CIFAR ResNet", &|| {
        let taps = cifar.forward(&input, Mode::Inference).unwrap();
        taps.get(Tap::Logits).unwrap().tensor().clone()
    });
    let backbone = BackboneConfig::new("resnet18".parse().unwrap()).with_stem_channels(8);
    let backbone = BackboneConfig { norm: NormKind::Bn, ..backbone };
    let resnet = TrunkClassifierConfig { backbone, classes: 5 };
    let resnet = TrunkClassifier::new(Builder::new(1, &Device::Cpu), resnet).unwrap();
    check(resnet.params(), "ResNet", &|| {
        let taps = resnet.forward(&input, Mode::Inference).unwrap();
        taps.get(Tap::Logits).unwrap().tensor().clone()
    });
}

#[test]
fn what_is_no_graph_is_an_error_and_no_panic() {
    let tiny = Tiny::new();
    let bytes = Network::new(&tiny, "retina_plain.toml", &[])
        .graph(Precision::Full, Preprocessing::Outside, Outputs::Detections)
        .to_bytes();
    assert!(OnnxModel::from_bytes(b"this is no graph").is_err());
    for end in [0, 10, bytes.len() / 2] {
        let read = OnnxModel::from_bytes(&bytes[..end]);
        assert!(read.is_err() || Evaluator::new(&read.unwrap()).and_then(|e| e.run(&[])).is_err(), "{end}");
    }
    let evaluator = Evaluator::new(&OnnxModel::from_bytes(&bytes).unwrap()).unwrap();
    let error = evaluator.run(&[]).expect_err("no inputs").to_string();
    assert!(error.contains("images"), "{error}");
    let wrong = Tensor::zeros((1, 4, 8, 8), candle_core::DType::F32, &Device::Cpu).unwrap();
    let sizes = Tensor::new(&[[8i64, 8]], &Device::Cpu).unwrap();
    assert!(evaluator.run(&[("images", wrong), ("sizes", sizes)]).is_err());
}

#[test]
fn the_verb_writes_every_format_and_leaves_nothing_of_what_it_refuses() {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &["schedule.steps=1"]).unwrap_or_else(|error| panic!("{error}"));
    let export = |args: &[&str]| {
        tiny.run_program(&[["export", "--weights", "runs/plain/last.safetensors"].as_slice(), args].concat())
    };
    let compared = ["compared on 4 images", "beside the student", "student", "onnx f32", "MiB", "AP"];
    assert_ended(&export(&["--out", "out/student.onnx"]), 0, &compared);
    let smaller: [(&[&str], &str); 3] = [
        (&["--half"], "onnx f16"),
        (&["--int8"], "onnx int8 weights"),
        (&["--int8", "activations", "--images", "2"], "ranges of activations from 2 images of "),
    ];
    for (options, row) in smaller {
        let args = [["--out", "out/small.onnx", "--max-ap-loss", "100"].as_slice(), options].concat();
        assert_ended(&export(&args), 0, &["onnx f32", row]);
    }
    let sizes =
        ["out/student.onnx", "out/small.onnx"].map(|name| fs::metadata(tiny.path(name)).unwrap().len());
    assert!(sizes[1] < sizes[0], "{sizes:?}");
    assert_ended(
        &export(&["--out", "out/inside.onnx", "--with-preprocess", "--images", "1"]),
        0,
        &["1 images"],
    );
    let raw = ["raw outputs differ", "the box head's outputs differ", "raw.box_head.onnx: ", "raw.onnx: "];
    assert_ended(&export(&["--out", "out/raw.onnx", "--raw", "--images", "1"]), 0, &raw);
    assert_ended(&export(&["--out", "-", "--format", "onnx", "--raw"]), 1, &["two graphs"]);
    assert_ended(&export(&["--out", "out/s.pth"]), 0, &["3 classes"]);
    assert_ended(&export(&["--out", "out/s.bin", "--format", "torchvision"]), 0, &["3 classes"]);
    assert_eq!(fs::read(tiny.path("out/s.bin")).unwrap(), fs::read(tiny.path("out/s.pth")).unwrap());
    // The .pth is the detector: it goes on as weights that need a configuration.
    let written = names(&tiny.path("out"));

    assert_ended(&export(&["--out", "out/none.bin"]), 2, &["does not tell the format", "--format"]);
    assert_ended(&export(&["--out", "out/none.pth", "--half"]), 2, &["--half is for ONNX"]);
    assert_ended(&export(&["--out", "out/none.onnx", "--half", "--int8"]), 2, &["--half", "--int8"]);
    let refused = ["--out", "out/none.onnx", "--int8", "--max-ap-loss=-1000", "--images", "1"];
    assert_ended(&export(&refused), 1, &["nothing was written", "--max-ap-loss"]);
    let elsewhere = export(&["--out", "out/none.onnx", "--images", "2", "--data-root", "nowhere"]);
    assert!([0, 3].contains(&elsewhere.status.code().unwrap()), "a synthetic set is made where it is named");
    let _ = fs::remove_file(tiny.path("out/none.onnx"));
    assert_eq!(names(&tiny.path("out")), written, "nothing else, no half-written file");
}

#[test]
fn the_library_exports_with_the_proof_of_the_verb() {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &["schedule.steps=1"]).unwrap_or_else(|error| panic!("{error}"));
    let (weights, out) = (tiny.path("runs/plain/last.safetensors"), tiny.path("out/student.onnx"));
    let mut options = OnnxOptions::default();
    options.images = Some(2);
    let mut findings = Vec::new();
    let format = Format::Onnx(options.clone());
    export::write(&weights, &out, &format, |finding| findings.push(finding.clone())).unwrap();
    assert!(
        matches!(
            findings.as_slice(),
            [
                Finding::ComparedOn(_),
                Finding::Graph { .. },
                Finding::Size { bytes: None, .. },
                Finding::Size { bytes: Some(_), .. },
                Finding::Written { classes: 3, .. },
            ]
        ),
        "{findings:?}"
    );
    // Smaller storage that loses more than it may is not written.
    (options.storage, options.max_loss) = (Storage::Int8Weights, -1000.0);
    let refused = tiny.path("out/refused.onnx");
    let error = export::write(&weights, &refused, &Format::Onnx(options), |_| {}).unwrap_err();
    assert!(matches!(error, ExportError::Loss { limit: -1000.0, .. }), "{error}");
    assert_eq!(names(&tiny.path("out")), ["student.onnx"]);
}

#[test]
fn raw_outputs_that_are_no_numbers_are_no_proof() {
    let tiny = Tiny::new();
    tiny.train("retina_plain.toml", &["schedule.steps=1"]).unwrap_or_else(|error| panic!("{error}"));
    let file = WeightsFile::read(&tiny.path("runs/retina_plain/last.safetensors")).unwrap();
    let card = ModelCard::of(&file).unwrap();
    let detector = build::frozen_student(&card.config, CLASSES, &Device::Cpu).unwrap();
    let (name, param) = detector.params().iter().find(|(name, _)| name.ends_with("conv1.weight")).unwrap();
    let nan = (param.value.tensor() * f64::NAN).unwrap();
    detector.params().set(name, &nan).unwrap();
    let export = DetectorExport::new(detector, card.config.clone(), card, &file.hash, None);
    let mut options = OnnxOptions::default();
    (options.outputs, options.images) = (Outputs::Raw, Some(1));
    let error = export.onnx(&options, &mut |_| {}).unwrap_err();
    assert!(matches!(error, ExportError::Drift { .. }), "{error}");
}

#[test]
fn a_student_is_opened_and_used_in_two_lines() {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &["schedule.steps=1"]).unwrap_or_else(|error| panic!("{error}"));
    let weights = tiny.path("runs/plain/last.safetensors");
    let student = Student::open(&weights).unwrap();
    let objects = student.detect(&picture(64, 48)).unwrap();
    assert!(objects.is_sorted_by(|a, b| a.score >= b.score));
    assert!(objects.iter().all(|object| (1..=3).contains(&object.category.id)));
    assert!(Student::open(tiny.path("base.toml")).is_err());

    // The same image in other types; two images at once.
    let image = picture(64, 48);
    let array = ndarray::ArrayView3::from_shape((48, 64, 3), image.as_raw()).unwrap();
    assert_eq!(student.detect(&array).unwrap(), objects);
    assert_eq!(student.detect(&image::DynamicImage::from(image.clone())).unwrap(), objects);
    assert_eq!(objects.boxes().dim(), (objects.len(), 4));
    assert!(
        objects.boxes().rows().into_iter().zip(&objects).all(|(row, object)| row.to_vec() == object.xyxy)
    );
    assert_eq!(objects.category_ids().len(), objects.scores().len());
    let together = student.detect_batch(&[&image, &image]).unwrap();
    assert_eq!(together.iter().map(|objects| objects.len()).collect::<Vec<_>>(), [objects.len(); 2]);
    assert!(student.detect_batch::<RgbImage>(&[]).unwrap().is_empty());
    assert!(student.detect(&array.permuted_axes([2, 0, 1])).is_err());

    // Everything that the detector gives is in the results, boxes of 0.5 and more are drawn.
    let image = "data/val/000001.png";
    let predict = ["predict", "--weights", "runs/plain/last.safetensors", image, "--json", "all.json"];
    assert_ended(&tiny.run_program(&predict), 0, &["objects"]);
    let all = tiny.json("all.json").as_array().unwrap().len();
    let own = student.detect(&image::open(tiny.path(image)).unwrap().into_rgb8()).unwrap();
    assert_eq!(all, own.len());
    assert!(all > 0);
    let zero = [predict.as_slice(), &["--score", "0", "--no-pictures"]].concat();
    assert_ended(&tiny.run_program(&zero), 0, &[]);
    assert_eq!(tiny.json("all.json").as_array().unwrap().len(), all);
    let timed = ["predict", "--weights", "runs/plain/last.safetensors", image, "--benchmark"];
    assert_ended(&tiny.run_program(&timed), 0, &["cold start", "median of   10 images", "peak memory"]);
}
