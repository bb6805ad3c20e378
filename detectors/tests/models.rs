//! Whole networks against torchvision's own numbers: trunks, a training step, and
//! the two detectors with their losses, gradients, proposals and detections.
//!
//! All tolerances are the golden ones. `the_golden_models_are_all_covered` fails when a case is left out.

use crate::golden::{self, Case};
use crate::support;
use crate::support::report::Report;
use crate::support::scene::{self, Scene};
use crate::support::{Weights, fill, part, values};
use candle_core::Tensor;
use ckd_detectors::Result;
use ckd_detectors::backbone::{BackboneConfig, Trunk};
use ckd_detectors::faster_rcnn::FasterRcnn;
use ckd_detectors::nn::{ConvNorm, Linear, Mode, NormKind};
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::retinanet::RetinaNet;
use ckd_kernels::Value;
use ckd_kernels::elementwise::reshape;
use ckd_kernels::linear::Activation;
use ckd_kernels::losses::softmax_cross_entropy;
use ckd_kernels::pool::{global_avg_pool, max_pool2d};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

#[test]
fn trunks_are_torchvisions() {
    for depth in support::RESNETS {
        golden_model(&format!("trunk/{depth}"), |case, weights| {
            let trunk = Classifier::new(depth, NormKind::Bn, weights)?;
            let x = input(case);
            let mut report = Report::of(case);
            report.summary("stem_summary", trunk.pooled_stem(&x)?.tensor());
            let maps = trunk.body.forward(&x, Mode::Inference)?;
            for (map, stage) in maps.iter().zip(1..) {
                report.summary(&format!("layer{stage}_summary"), map.tensor());
                if case.has(&format!("layer{stage}")) {
                    report.close(&format!("layer{stage}"), &values(map.tensor()));
                }
            }
            let logits = values(trunk.logits(&maps[3])?.tensor());
            report.close("logits_first32", &logits[..32]);
            report.finish();
            Ok(())
        });
    }
}

#[test]
fn mobilenet_v2_is_torchvisions() {
    golden_model("trunk/mobilenet_v2", |case, weights| {
        let builder = Builder::new(0, crate::support::device());
        let config = BackboneConfig { norm: NormKind::Bn, ..support::backbone("mobilenet_v2") };
        let trunk = Trunk::new(&builder.within("features"), &config)?;
        Linear::new(&builder.within("classifier").within(1), trunk.channels()[3], 1000)?;
        let params = builder.finish();
        assert_eq!(params.weight_count(), 3_504_872, "torchvision's number of weights");
        fill(&params, weights);

        let x = input(case);
        let mut report = Report::of(case);
        for (index, map) in support::layers(&trunk, &x)? {
            if [0, 1, 3, 6, 13, 17, 18].contains(&index) {
                report.summary(&format!("features{index}_summary"), map.tensor());
            }
        }
        report.finish();
        Ok(())
    });
}

#[test]
fn a_training_step_of_resnet18_is_torchvisions() {
    golden_model("train_step/resnet18", |case, weights| {
        let trunk = Classifier::new("resnet18", NormKind::Bn, weights)?;
        let maps = trunk.body.forward(&input(case), Mode::Train)?;
        let labels: Vec<u32> = case.i64("labels").0.into_iter().map(|label| label as u32).collect();
        let loss = softmax_cross_entropy(&trunk.logits(&maps[3])?, &labels, labels.len() as f64)?;
        let mut report = Report::of(case);
        report.close("loss", &[loss.item()?]);
        report.gradients(&loss.backward()?);
        let statistic = |name: &str| values(trunk.params.get(name).expect("a statistic").value.tensor());
        report.close("new_bn1_running_mean", &statistic("bn1.running_mean"));
        report.close("new_bn1_running_var", &statistic("bn1.running_var"));
        report.close("new_layer4_1_bn2_running_var_first16", &statistic("layer4.1.bn2.running_var")[..16]);
        report.finish();
        Ok(())
    });
}

#[test]
fn faster_rcnn_is_torchvisions() {
    for depth in ["resnet18", "resnet50"] {
        golden_model(&format!("detector/fasterrcnn_{depth}_fpn"), |case, weights| {
            let config = scene::faster_rcnn(case, support::faster_rcnn(depth, 4));
            let detector = FasterRcnn::new(Builder::new(0, crate::support::device()), &config)?;
            fill(detector.params(), weights);
            let scene = Scene::of(case, 1);
            let mut report = Report::of(case);

            let pyramid = detector.pyramid(&scene.images, Mode::Train)?;
            let random = &mut ChaCha8Rng::seed_from_u64(0);
            let pass = detector.train(&scene.images, &pyramid, &scene.targets, random)?;
            report.losses_and_gradients(&pass.losses)?;

            let pyramid = detector.pyramid(&scene.images, Mode::Inference)?;
            report.pyramid(&["0", "1", "2", "3", "pool"], &pyramid);
            report.proposal_head(&config, &scene.images, &pyramid, weights)?;
            for (image, boxes) in detector.proposals(&scene.images, &pyramid)?.iter().enumerate() {
                report.close(&format!("proposals_image{image}"), boxes.as_flattened());
            }
            report.detections(&scene.images.sizes, &scene.originals, detector.detect(&scene.images)?, 1)?;
            report.finish();
            Ok(())
        });
    }
}

#[test]
fn retinanet_is_torchvisions() {
    for depth in ["resnet18", "resnet50"] {
        golden_model(&format!("detector/retinanet_{depth}_fpn"), |case, weights| {
            let detector = RetinaNet::new(
                Builder::new(0, crate::support::device()),
                &scene::retinanet(case, support::retinanet(depth, 5)),
            )?;
            fill(detector.params(), weights);
            let scene = Scene::of(case, 0);
            let mut report = Report::of(case);

            let pyramid = detector.pyramid(&scene.images, Mode::Train)?;
            let pass = detector.train(&scene.images, &pyramid, &scene.targets)?;
            report.losses_and_gradients(&pass.losses)?;

            let pyramid = detector.pyramid(&scene.images, Mode::Inference)?;
            report.pyramid(&["0", "1", "2", "p6", "p7"], &pyramid);
            let output = detector.forward(&scene.images, &pyramid, Mode::Inference)?;
            report.summary("cls_logits_summary", output.logits.tensor());
            report.summary("bbox_regression_summary", output.deltas.tensor());
            report.detections(&scene.images.sizes, &scene.originals, detector.detect(&scene.images)?, 0)?;
            report.finish();
            Ok(())
        });
    }
}

#[test]
fn the_golden_models_are_all_covered() {
    let mut tested: Vec<String> = support::RESNETS.iter().map(|depth| format!("trunk/{depth}")).collect();
    tested.extend(["trunk/mobilenet_v2", "train_step/resnet18"].map(String::from));
    for detector in ["fasterrcnn", "retinanet"] {
        tested.extend(["resnet18", "resnet50"].map(|depth| format!("detector/{detector}_{depth}_fpn")));
    }
    for prefix in ["trunk/", "train_step/", "detector/"] {
        for case in golden::repository().cases_with_prefix(prefix) {
            assert!(tested.iter().any(|name| name == case.name), "no test for {}", case.name);
        }
    }
}

/// A trunk with its classification layer.
struct Classifier {
    body: Trunk,
    /// The trunk's first layer once more: the trunk shows its stages, not its stem.
    stem: ConvNorm,
    fc: Linear,
    params: ParamStore,
}

impl Classifier {
    fn new(depth: &str, norm: NormKind, weights: &Weights) -> Result<Self> {
        let builder = Builder::new(0, crate::support::device());
        let config = BackboneConfig { norm, ..support::backbone(depth) };
        let body = Trunk::new(&builder, &config)?;
        let fc = Linear::new(&builder.within("fc"), body.channels()[3], 1000)?;
        let params = builder.finish();
        fill(&params, weights);

        let builder = Builder::new(0, crate::support::device());
        let stem = ConvNorm::new(&builder, ("conv1", "bn1"), (3, 64, 7, 2), norm)?;
        fill(
            &builder.finish(),
            &part(weights, |name| name.starts_with("conv1.") || name.starts_with("bn1.")),
        );
        Ok(Self { body, stem, fc, params })
    }

    fn pooled_stem(&self, x: &Value) -> Result<Value> {
        let stem = self.stem.forward(x, Mode::Inference, None, Activation::Relu)?;
        Ok(max_pool2d(&stem, 3, 2, 1)?)
    }

    fn logits(&self, last: &Value) -> Result<Value> {
        let pooled = global_avg_pool(last)?;
        let (n, c) = (last.dims()[0], last.dims()[1]);
        self.fc.forward(&reshape(&pooled, &[n, c])?, Activation::Identity)
    }
}

/// Runs `test` on the case called `name`, with the weights of its network.
fn golden_model(name: &str, test: impl Fn(&Case, &Weights) -> Result<()>) {
    let golden = golden::repository();
    let case = golden.case(name);
    test(&case, &golden.weights(&case)).unwrap_or_else(|error| panic!("{name}: {error}"));
}

fn input(case: &Case) -> Value {
    let (x, shape) = case.f32("x");
    Value::constant(
        Tensor::from_vec(x, shape, crate::support::device()).expect("as many values as the shape says"),
    )
}
