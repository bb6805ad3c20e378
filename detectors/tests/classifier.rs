//! Classifiers against PyTorch: names, published sizes, forward passes, a training step.

use crate::golden::{self, Case};
use crate::support::{self, Weights, fill, values};
use candle_core::Tensor;
use ckd_detectors::Result;
use ckd_detectors::backbone::BackboneConfig;
use ckd_detectors::classifier::{
    Architecture, Behind, CifarResNetConfig, Network, Staged, TrunkClassifier, TrunkClassifierConfig,
    cifar_resnet,
};
use ckd_detectors::nn::{Mode, NormKind};
use ckd_detectors::param::{Builder, ParamStore, Role};
use ckd_detectors::taps::{Tap, Taps};
use ckd_kernels::Value;
use ckd_kernels::elementwise::relu;
use ckd_kernels::losses::softmax_cross_entropy;

// ---- names and sizes ----

#[test]
fn cifar_resnets_have_the_published_number_of_weights() -> Result<()> {
    // The first four with 10 classes: the weights of akamaster/pytorch_resnet_cifar10.
    let published = [
        (20, 10, 269_722),
        (32, 10, 464_154),
        (44, 10, 658_586),
        (56, 10, 853_018),
        (20, 100, 275_572),
        (56, 100, 858_868),
    ];
    for (depth, classes, weights) in published {
        assert_eq!(
            cifar(depth, classes)?.params().weight_count(),
            weights,
            "ResNet-{depth}, {classes} classes"
        );
    }
    Ok(())
}

#[test]
fn imagenet_resnets_have_the_published_number_of_weights() -> Result<()> {
    let published = [11_689_512, 21_797_672, 25_557_032, 44_549_160];
    for (depth, weights) in support::RESNETS.into_iter().zip(published) {
        assert_eq!(imagenet(depth, 1000)?.params().weight_count(), weights, "{depth}");
    }
    Ok(())
}

/// The networks of RepDistiller with 100 classes, as shared/golden counts them: weights, and tensors without the
/// counters of batch norms. MCL's ResNet-110 of bottlenecks, as PyTorch counts it (`tools/golden/classifiers.py` has its definition).
#[test]
fn networks_for_cifar_have_the_published_number_of_weights_and_tensors() -> Result<()> {
    let published = [
        ("resnet8", 83_892, 47),
        ("resnet14", 181_108, 77),
        ("resnet20", 278_324, 107),
        ("resnet32", 472_756, 167),
        ("resnet44", 667_188, 227),
        ("resnet56", 861_620, 287),
        ("resnet110", 1_736_564, 557),
        ("resnet8x4", 1_233_540, 52),
        ("resnet32x4", 7_433_860, 172),
        ("resnet110_bottleneck", 1_170_868, 562),
        ("cifar_resnet50", 23_705_252, 267),
        ("wrn_16_1", 180_916, 69),
        ("wrn_16_2", 703_284, 70),
        ("wrn_40_1", 569_780, 189),
        ("wrn_40_2", 2_255_156, 190),
        ("vgg8", 3_965_028, 32),
        ("vgg11", 9_277_284, 50),
        ("vgg13", 9_462_180, 62),
        ("vgg16", 14_774_436, 80),
        ("vgg19", 20_086_692, 98),
        ("cifar_mobilenet_v2", 812_836, 267),
        ("shufflenet_v1", 949_258, 247),
        ("shufflenet_v2", 1_355_528, 282),
    ];
    for (name, weights, tensors) in published {
        let network = name.parse::<Architecture>()?.build(builder(), 100)?;
        assert_eq!(network.params().weight_count(), weights, "{name}");
        assert_eq!(network.params().iter().count(), tensors, "{name}");
    }
    Ok(())
}

/// torchvision's `num_params` of the weights.
#[test]
fn deeper_resnets_and_resnexts_have_the_published_number_of_weights() -> Result<()> {
    for (name, weights) in [
        ("resnet152", 60_192_808),
        ("resnext50_32x4d", 25_028_904),
        ("resnext101_32x8d", 88_791_336),
        ("resnext101_64x4d", 83_455_272),
    ] {
        let network = name.parse::<Architecture>()?.build(builder(), 1000)?;
        assert_eq!(network.params().weight_count(), weights, "{name}");
    }
    Ok(())
}

/// torchvision's MobileNetV2 and V3, and the MobileNetV1 of OFD and mdistiller.
#[test]
fn mobilenets_for_imagenet_have_the_published_number_of_weights() -> Result<()> {
    for (name, weights) in
        [("mobilenet_v1", 4_231_976), ("mobilenet_v2", 3_504_872), ("mobilenet_v3_large", 5_483_032)]
    {
        let network = name.parse::<Architecture>()?.build(builder(), 1000)?;
        assert_eq!(network.params().weight_count(), weights, "{name}");
    }
    Ok(())
}

#[test]
fn every_architecture_is_found_by_its_name_and_no_other_is() {
    for architecture in Architecture::ALL {
        assert_eq!(architecture.name().parse::<Architecture>().ok(), Some(*architecture));
    }
    let error = "resnet21".parse::<Architecture>().unwrap_err().to_string();
    assert!(error.contains("resnet20") && error.contains("resnet21"), "{error}");
}

#[test]
fn cifar_resnets_have_the_names_of_published_weights() -> Result<()> {
    let network = cifar(56, 10)?;
    let shape = |name: &str| network.params().get(name).map(|param| param.value.dims().to_vec());
    let mut expected = vec!["linear.weight".to_owned(), "linear.bias".to_owned()];
    let mut layer = |within: &str, number: usize| {
        expected.push(format!("{within}conv{number}.weight"));
        expected.extend(
            ["weight", "bias", "running_mean", "running_var"].map(|of| format!("{within}bn{number}.{of}")),
        );
    };
    layer("", 1);
    for stage in 1..=3 {
        for block in 0..9 {
            (1..=2).for_each(|number| layer(&format!("layer{stage}.{block}."), number));
        }
    }
    expected.sort();
    let names: Vec<&str> = network.params().iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, expected);
    assert_eq!(shape("conv1.weight"), Some(vec![16, 3, 3, 3]));
    assert_eq!(shape("layer2.0.conv1.weight"), Some(vec![32, 16, 3, 3]));
    assert_eq!(shape("layer3.8.bn2.running_var"), Some(vec![64]));
    assert_eq!(shape("linear.weight"), Some(vec![10, 64]));
    Ok(())
}

#[test]
fn a_depth_that_is_not_6n_plus_2_is_refused() {
    for depth in [0, 2, 7, 9, 18, 54] {
        let error = cifar(depth, 10).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("6n + 2") && error.contains(&depth.to_string()), "{error:?}");
    }
}

#[test]
fn no_classes_are_refused() {
    let errors = [cifar(20, 0).err(), imagenet("resnet18", 0).err()];
    for error in errors {
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("classes"), "{error:?}");
    }
}

// ---- forward ----

#[test]
fn every_stage_is_a_tap() -> Result<()> {
    let dims = |taps: &Taps| taps.iter().map(|(tap, value)| (tap, value.dims().to_vec())).collect::<Vec<_>>();
    let x = random_images(1, (2, 3, 32, 32));
    let taps = cifar(20, 7)?.forward(&x, Mode::Train)?;
    assert_eq!(
        dims(&taps),
        [
            (Tap::Backbone(1), vec![2, 16, 32, 32]),
            (Tap::Backbone(2), vec![2, 32, 16, 16]),
            (Tap::Backbone(3), vec![2, 64, 8, 8]),
            (Tap::Logits, vec![2, 7]),
            (Tap::Embedding, vec![2, 64]),
        ]
    );
    let x = random_images(1, (2, 3, 64, 96));
    let taps = imagenet("resnet50", 5)?.forward(&x, Mode::Inference)?;
    assert_eq!(
        dims(&taps),
        [
            (Tap::Backbone(1), vec![2, 256, 16, 24]),
            (Tap::Backbone(2), vec![2, 512, 8, 12]),
            (Tap::Backbone(3), vec![2, 1024, 4, 6]),
            (Tap::Backbone(4), vec![2, 2048, 2, 3]),
            (Tap::Logits, vec![2, 5]),
            (Tap::Embedding, vec![2, 2048]),
        ]
    );
    // The embedding is what the last linear layer sees.
    let mobile = "mobilenet_v3_large".parse::<Architecture>()?;
    let taps = mobile.build(builder(), 5)?.forward(&x, Mode::Inference)?;
    assert_eq!(
        dims(&taps),
        [
            (Tap::Backbone(1), vec![2, 24, 16, 24]),
            (Tap::Backbone(2), vec![2, 40, 8, 12]),
            (Tap::Backbone(3), vec![2, 112, 4, 6]),
            (Tap::Backbone(4), vec![2, 960, 2, 3]),
            (Tap::Logits, vec![2, 5]),
            (Tap::Embedding, vec![2, 1280]),
        ]
    );
    Ok(())
}

/// relu(stageN_before_relu) is stageN of a ResNet; of a wide one it is what its next norm makes of stageN.
#[test]
fn preactivations_are_what_the_last_relu_of_a_stage_sees() -> Result<()> {
    let x = random_images(1, (2, 3, 32, 32));
    for name in
        ["resnet20", "resnet8x4", "cifar_resnet50", "resnet110_bottleneck", "wrn_16_2", "shufflenet_v2"]
    {
        let network = name.parse::<Architecture>()?.build(builder(), 5)?;
        let (plain, found) = (network.forward(&x, Mode::Inference)?, network.with_preactivations(&x)?);
        for (tap, value) in plain.iter() {
            assert_eq!(
                values(found.require(tap).expect("the same taps").tensor()),
                values(value.tensor()),
                "{name}: {tap}"
            );
        }
        let before: Vec<(u8, &Value)> = found
            .iter()
            .filter_map(
                |(tap, map)| if let Tap::PreActivation(stage) = tap { Some((stage, map)) } else { None },
            )
            .collect();
        let stages = plain.iter().filter(|(tap, _)| matches!(tap, Tap::Backbone(_))).count();
        let is_known = name != "shufflenet_v2";
        assert_eq!(before.len(), if is_known { stages } else { 0 }, "{name}");
        for (stage, map) in before {
            let after = plain.require(Tap::Backbone(stage)).expect("a stage").tensor();
            assert!(values(map.tensor()).iter().any(|x| *x < 0.0), "{name}: stage{stage} below 0");
            if name.starts_with("wrn") {
                // Before any training a norm divides by the square root of 1 + its epsilon.
                let factor = (1.0f32 + 1e-5).sqrt().recip();
                let pairs = values(map.tensor()).into_iter().zip(values(after));
                assert!(pairs.into_iter().all(|(a, b)| (a - factor * b).abs() <= 1e-6 * b.abs()), "{name}");
            } else {
                assert_eq!(values(relu(map)?.tensor()), values(after), "{name}: stage{stage}");
            }
        }
    }
    Ok(())
}

#[test]
fn images_of_any_size_and_empty_batches_are_classified() -> Result<()> {
    let network = cifar(8, 4)?;
    for (n, h, w) in [(3, 9, 7), (2, 1, 1), (1, 5, 2), (0, 32, 32)] {
        for mode in [Mode::Train, Mode::Inference] {
            let taps = network.forward(&random_images(1, (n, 3, h, w)), mode)?;
            let logits = logits(&taps);
            assert_eq!(logits.dims(), [n, 4], "{h}x{w}");
            assert!(values(logits.tensor()).iter().all(|logit| logit.is_finite()), "{h}x{w}");
        }
    }
    assert!(network.forward(&random_images(1, (2, 4, 32, 32)), Mode::Inference).is_err());
    Ok(())
}

#[test]
fn a_frozen_network_keeps_no_graph_and_its_statistics() -> Result<()> {
    let frozen = cifar_resnet(builder().frozen(), CifarResNetConfig::option_a(8, 10))?;
    let before = frozen.params().snapshot()?;
    let taps = frozen.forward(&random_images(1, (2, 3, 32, 32)), Mode::Train)?;
    assert!(taps.iter().all(|(_, value)| !value.is_tracked()));
    assert!(frozen.params().iter().all(|(_, param)| param.role != Role::Trainable));
    for (name, tensor) in frozen.params().snapshot()? {
        assert_eq!(values(&tensor), values(&before[&name]), "{name}");
    }
    Ok(())
}

#[test]
fn classifiers_for_imagenet_are_torchvisions() -> Result<()> {
    for depth in support::RESNETS {
        golden_model(&format!("trunk/{depth}"), |case, weights| {
            let network = imagenet(depth, 1000)?;
            fill(network.params(), weights);
            let taps = network.forward(&input(case), Mode::Inference)?;
            case.check_close("logits_first32", &values(logits(&taps).tensor())[..32]);
            Ok(())
        })?;
    }
    Ok(())
}

/// ResNet-20 in PyTorch 2.15 (f64), weights and pixels as [`filled_cifar`] and [`cifar_images`] make them; two
/// images, ten classes. Tolerances: 20 times the error of PyTorch's own f32 run.
const CIFAR_LOGITS: [f64; 20] = [
    -0.133281007,
    0.105087462,
    -0.105171352,
    -0.080885504,
    0.064730907,
    -0.090299063,
    -0.033911810,
    -0.239214144,
    0.154158126,
    0.205077573,
    -0.132932214,
    0.111192974,
    -0.109391694,
    -0.092282861,
    0.059259814,
    -0.083493477,
    -0.031236705,
    -0.230750782,
    0.161973157,
    0.209444052,
];

#[test]
fn resnet20_is_pytorchs() -> Result<()> {
    let network = filled_cifar()?;
    let taps = network.forward(&cifar_images(), Mode::Inference)?;
    assert_close("logits", &values(logits(&taps).tensor()), &CIFAR_LOGITS, 1e-6);
    Ok(())
}

/// Every network for CIFAR, and the MobileNets, in PyTorch: `tools/golden/classifiers.py` has their definitions.
#[test]
fn every_network_is_pytorchs_in_inference_in_training_and_in_its_gradients() -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/classifiers.json");
    let text = std::fs::read_to_string(path).expect("the repository has golden values");
    let cases: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for (name, case) in cases.as_object().expect("a case a network") {
        let numbers = |key: &str| -> Vec<f64> {
            case[key].as_array().expect(key).iter().map(|value| value.as_f64().expect(key)).collect()
        };
        let tolerance = |key: &str| case[format!("{key}_tolerance")].as_f64().expect(key);
        let network = name.parse::<Architecture>()?.build(builder(), 10)?;
        assert_eq!(case["tensors"], network.params().iter().count(), "{name}");
        fill_by_rule(network.params())?;
        let side = case["side"].as_u64().expect("a side") as usize;
        let x = random_images(6999, (2, 3, side, side));

        let taps = network.forward(&x, Mode::Inference)?;
        let expected = numbers("inference");
        assert_close(
            &format!("{name} inference"),
            &values(logits(&taps).tensor()),
            &expected,
            tolerance("inference"),
        );
        let taps = network.forward(&x, Mode::Train)?;
        let expected = numbers("training");
        assert_close(
            &format!("{name} training"),
            &values(logits(&taps).tensor()),
            &expected,
            tolerance("training"),
        );

        if let Some(name) = case["statistic"].as_str() {
            let new = values(network.params().get(name).expect("a statistic").value.tensor());
            assert_close(name, &new, &numbers("new_statistic"), 1e-6);
        }
        let gradients = softmax_cross_entropy(logits(&taps), &[3, 7], 2.0)?.backward()?;
        assert_eq!(gradients.len(), network.params().trainable().count(), "{name}");
        let names = case["gradients"].as_array().expect("names").iter();
        let norms: Vec<f32> = names
            .map(|parameter| {
                let gradient = values(&gradients[parameter.as_str().expect("a name")]);
                gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt() as f32
            })
            .collect();
        // With two images a ReLU whose input rounds across 0 moves a norm by up to a thousandth.
        for (norm, expected) in norms.iter().zip(numbers("norms")) {
            let tolerance = tolerance("norms").max(1e-3 * expected);
            assert_close(&format!("{name} gradients"), &[*norm], &[expected], tolerance);
        }
    }
    Ok(())
}

// ---- a training step ----

#[test]
fn a_training_step_of_resnet20_is_pytorchs() -> Result<()> {
    let network = filled_cifar()?;
    let taps = network.forward(&cifar_images(), Mode::Train)?;
    let first = [
        -0.250394773,
        -0.558366800,
        -0.641490205,
        0.031825810,
        0.646138662,
        -1.188396438,
        -0.237775975,
        0.283010983,
        0.412980576,
        1.378144143,
    ];
    assert_close("logits", &values(logits(&taps).tensor())[..10], &first, 6e-6);
    let loss = softmax_cross_entropy(logits(&taps), &[3, 7], 2.0)?;
    assert_close("loss", &[loss.item()?], &[2.316956969], 1e-6);

    let gradients = loss.backward()?;
    assert_eq!(gradients.len(), network.params().trainable().count());
    // The norm, and the first two of each.
    let expected = [
        ("conv1.weight", [2.579731791, -0.147204437, 0.045529441]),
        ("bn1.bias", [0.241263726, 0.100830861, 0.088506037]),
        ("layer2.0.conv1.weight", [2.056634782, -0.006070929, -0.069150593]),
        ("layer3.0.bn2.weight", [0.104074593, 0.014711446, -0.016199476]),
        ("linear.weight", [7.741520280, 0.060661637, 0.059721860]),
    ];
    for (name, expected) in expected {
        let gradient = values(&gradients[name]);
        let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt() as f32;
        assert_close(name, &[norm, gradient[0], gradient[1]], &expected, 8e-6);
    }
    let statistic = |name: &str| values(network.params().get(name).expect("a statistic").value.tensor());
    let mean = [-0.042989218, -0.055313335, -0.010407327];
    let var = [1.167432064, 1.284904021, 1.179081799];
    assert_close("mean", &statistic("layer3.2.bn2.running_mean")[..3], &mean, 1e-6);
    assert_close("var", &statistic("layer3.2.bn2.running_var")[..3], &var, 3e-6);
    Ok(())
}

#[test]
fn a_training_step_of_resnet18_is_torchvisions() -> Result<()> {
    golden_model("train_step/resnet18", |case, weights| {
        let network = imagenet("resnet18", 1000)?;
        fill(network.params(), weights);
        let labels: Vec<u32> = case.i64("labels").0.into_iter().map(|label| label as u32).collect();
        let taps = network.forward(&input(case), Mode::Train)?;
        let loss = softmax_cross_entropy(logits(&taps), &labels, labels.len() as f64)?;
        case.check_close("loss", &[loss.item()?]);
        let gradients = loss.backward()?;
        assert_eq!(gradients.len(), network.params().trainable().count());
        for name in ["conv1.weight", "layer2.0.downsample.0.weight", "fc.weight", "fc.bias"] {
            case.check_close(&format!("gradfirst8:{name}"), &values(&gradients[name])[..8]);
        }
        Ok(())
    })
}

/// The gradient of a loss is its slope, (L(p + h d) - L(p - h d)) / 2h along the gradient itself, on maps of odd
/// sizes, whose halves are rounded up. Within 1%: the loss moves by 1e-3, a thousand times its rounding.
#[test]
fn the_gradient_is_the_slope_on_odd_sizes() -> Result<()> {
    let network = cifar(8, 4)?;
    let x = random_images(3, (3, 3, 11, 7));
    let loss = || -> Result<Value> {
        Ok(softmax_cross_entropy(logits(&network.forward(&x, Mode::Train)?), &[0, 3, 1], 3.0)?)
    };
    let gradients = loss()?.backward()?;
    for name in
        ["conv1.weight", "layer1.0.bn2.bias", "layer2.0.conv2.weight", "layer3.0.bn1.weight", "linear.bias"]
    {
        let (here, gradient) = (network.params().snapshot()?[name].clone(), &gradients[name]);
        let squares: f64 = values(gradient).iter().map(|&g| f64::from(g).powi(2)).sum();
        let step = 1e-3 / squares;
        let at = |factor: f64| -> Result<f64> {
            network.params().set(name, &(&here + (gradient * factor)?)?)?;
            Ok(f64::from(loss()?.item()?))
        };
        let slope = (at(step)? - at(-step)?) / (2.0 * step);
        network.params().set(name, &here)?;
        assert!((slope / squares - 1.0).abs() < 0.01, "{name}: slope {slope}, squared gradient {squares}");
    }
    Ok(())
}

// ---- networks and inputs ----

fn builder() -> Builder {
    Builder::new(1, crate::support::device())
}

fn cifar(depth: usize, classes: usize) -> Result<Staged> {
    cifar_resnet(builder(), CifarResNetConfig::option_a(depth, classes))
}

fn imagenet(depth: &str, classes: usize) -> Result<TrunkClassifier> {
    let backbone = BackboneConfig { norm: NormKind::Bn, ..support::backbone(depth) };
    TrunkClassifier::new(builder(), TrunkClassifierConfig { backbone, classes })
}

fn logits(taps: &Taps) -> &Value {
    taps.get(Tap::Logits).expect("a classifier has logits")
}

/// ResNet-20 with 10 classes, filled by the rule of the golden models (`README.md` there) from stream 7000 on.
fn filled_cifar() -> Result<Staged> {
    let network = cifar(20, 10)?;
    fill_by_rule(network.params())?;
    Ok(network)
}

fn fill_by_rule(params: &ParamStore) -> Result<()> {
    for (stream, (name, param)) in (7000..).zip(params.iter()) {
        let shape = param.value.dims();
        let count: usize = shape.iter().product();
        let fan_in: usize = shape.iter().skip(1).product();
        let rule = |v: f64| match (name.rsplit('.').next(), shape.len()) {
            (Some("running_mean"), _) => 0.1 * v,
            (Some("running_var"), _) => 1.0 + 0.5 * v.abs(),
            (Some("weight"), 1) => 1.0 + 0.1 * v,
            (_, 1) => 0.1 * v,
            _ => v / (fan_in as f64).sqrt(),
        };
        let values: Vec<f32> = (0..count as u64).map(|i| rule(golden::value(stream, i)) as f32).collect();
        params.set(name, &Tensor::from_vec(values, shape, crate::support::device())?)?;
    }
    Ok(())
}

/// Two images, stream 6999.
fn cifar_images() -> Value {
    random_images(6999, (2, 3, 32, 32))
}

fn random_images(stream: u64, (n, c, h, w): (usize, usize, usize, usize)) -> Value {
    let pixels = golden::tensor(stream, n * c * h * w, 1.0, 0.0);
    Value::constant(
        Tensor::from_vec(pixels, (n, c, h, w), crate::support::device()).expect("as many as the shape says"),
    )
}

fn input(case: &Case) -> Value {
    let (x, shape) = case.f32("x");
    Value::constant(
        Tensor::from_vec(x, shape, crate::support::device()).expect("as many values as the shape says"),
    )
}

/// Runs `test` on the case called `name` of the repository's golden values.
fn golden_model(name: &str, test: impl Fn(&Case, &Weights) -> Result<()>) -> Result<()> {
    let golden = golden::repository();
    let case = golden.case(name);
    test(&case, &golden.weights(&case))
}

#[track_caller]
fn assert_close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(*got) - expected).abs() <= tolerance, "{what}[{i}]: {got}, expected {expected}");
    }
}

// ---- branches ----

#[test]
fn a_branch_with_the_networks_weights_is_the_networks_end() -> Result<()> {
    let mut checked = 0;
    for architecture in Architecture::ALL.iter().filter(|network| network.has_branches()) {
        // The large ones are made of the same parts.
        if ["resnet110", "resnet110_a", "resnet110_bottleneck", "resnet101"].contains(&architecture.name()) {
            continue;
        }
        let network = architecture.build(Builder::new(1, crate::support::device()), 7)?;
        let x = Tensor::arange(0f32, 3.0 * 32.0 * 32.0, crate::support::device())?.affine(1e-3, -1.0)?;
        let x = Value::constant(x.reshape((1, 3, 32, 32))?.sin()?);
        let whole = network.forward(&x, Mode::Inference)?;
        for stage in 1..architecture.stages() {
            let builder = Builder::new(2, crate::support::device());
            let branch = architecture.branch(&builder, 7, Behind { stage, blocks: None })?;
            let params = builder.finish();
            for (name, _) in params.iter() {
                params.set(name, network.params().get(name).expect(name).value.tensor())?;
            }
            let map = whole.require(Tap::Backbone(stage as u8)).expect("a stage");
            let end = branch.forward(map, Mode::Inference)?;
            for tap in [Tap::Embedding, Tap::Logits] {
                let of = |taps: &Taps| values(taps.require(tap).expect("a tap").tensor());
                assert_eq!(of(&end), of(&whole), "{architecture}, {tap} behind stage {stage}");
            }
            checked += 1;
        }
    }
    assert!(checked >= 50, "{checked} branches");
    Ok(())
}

#[test]
fn branches_are_as_deep_as_asked_and_only_where_there_are_stages_behind() -> Result<()> {
    let of = |name: &str, stage: usize, blocks: Option<usize>| -> Result<usize> {
        let builder = Builder::new(1, crate::support::device());
        name.parse::<Architecture>()?.branch(&builder, 10, Behind { stage, blocks })?;
        Ok(builder.finish().iter().filter(|(name, _)| name.ends_with("conv1.weight")).count())
    };
    assert_eq!(of("resnet34", 2, None)?, 6 + 3);
    assert_eq!(of("resnet34", 2, Some(1))?, 2);
    assert_eq!(of("wrn_40_2", 1, None)?, 12);
    for (name, stage, blocks) in
        [("resnet8", 3, None), ("resnet8", 0, None), ("vgg8", 1, None), ("resnet8", 1, Some(0))]
    {
        assert!(of(name, stage, blocks).is_err(), "{name} behind {stage}");
    }
    Ok(())
}
