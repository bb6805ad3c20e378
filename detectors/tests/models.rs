//! Whole networks against torchvision's own numbers, in every golden root: trunks, a training step, and
//! the two detectors with their losses, gradients, proposals and detections.
//!
//! All tolerances are the golden ones. Not covered here: `trunk/mobilenet_v2`, a trunk that this crate does
//! not have yet; `the_golden_models_are_all_covered` fails when any other case is left out.

#[path = "../../tests/support/golden.rs"]
mod golden;
mod support;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use ckd_detectors::backbone::{ResNet, ResNetConfig, ResNetDepth};
use ckd_detectors::faster_rcnn::{FasterRcnn, FasterRcnnConfig};
use ckd_detectors::images::{Images, Target};
use ckd_detectors::nn::{ConvNorm, Linear, Mode, NormKind};
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::postprocess::{Detections, RetinaPostprocess};
use ckd_detectors::retinanet::{RetinaNet, RetinaNetConfig};
use ckd_detectors::rpn::Rpn;
use ckd_detectors::{Losses, Result};
use ckd_kernels::elementwise::weighted_sum;
use ckd_kernels::linear::Activation;
use ckd_kernels::losses::softmax_cross_entropy;
use ckd_kernels::pool::{global_avg_pool, max_pool2d};
use ckd_kernels::resize::resize_bilinear;
use ckd_kernels::{Gradients, Value};
use golden::{Case, Golden, roots};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use support::{fill, padded, values};

type Weights = Vec<(String, Vec<usize>, Vec<f32>)>;

#[test]
fn trunks_are_torchvisions() {
    for depth in ResNetDepth::ALL {
        each_model(&format!("trunk/{}", depth.name()), |case, weights| {
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
fn a_training_step_of_resnet18_is_torchvisions() {
    each_model("train_step/resnet18", |case, weights| {
        let trunk = Classifier::new(ResNetDepth::ResNet18, NormKind::Bn, weights)?;
        let maps = trunk.body.forward(&input(case), Mode::Train)?;
        let labels: Vec<u32> = case.i64("labels").0.into_iter().map(|label| label as u32).collect();
        let loss = softmax_cross_entropy(&trunk.logits(&maps[3])?, &labels, labels.len() as f64)?;
        let mut report = Report::of(case);
        report.close("loss", &[loss.item()?]);
        report.gradients(&loss.backward()?);
        let statistic = |name: &str| values(trunk.params.get(name).expect("a statistic").value.tensor());
        report.close("new_bn1_running_mean", &statistic("bn1.running_mean"));
        report.close("new_bn1_running_var", &statistic("bn1.running_var"));
        report.close(
            "new_layer4_1_bn2_running_var_first16",
            &statistic("layer4.1.bn2.running_var")[..16],
        );
        report.finish();
        Ok(())
    });
}

#[test]
fn faster_rcnn_is_torchvisions() {
    for depth in [ResNetDepth::ResNet18, ResNetDepth::ResNet50] {
        each_model(&format!("detector/fasterrcnn_{}_fpn", depth.name()), |case, weights| {
            let config = faster_rcnn_of(case, depth);
            let detector = FasterRcnn::new(Builder::new(0, &Device::Cpu), &config)?;
            fill(detector.params(), weights);
            let scene = Scene::of(case, 1);
            let mut report = Report::of(case);

            let pyramid = detector.pyramid(&scene.images, Mode::Train)?;
            let random = &mut ChaCha8Rng::seed_from_u64(0);
            let pass = detector.train(&scene.images, &pyramid, &scene.targets, random)?;
            report.losses_and_gradients(&pass.losses)?;

            let pyramid = detector.pyramid(&scene.images, Mode::Inference)?;
            report.pyramid(["0", "1", "2", "3", "pool"], &pyramid);
            report.proposal_head(&config, &scene.images, &pyramid, weights)?;
            for (image, boxes) in detector.proposals(&scene.images, &pyramid)?.iter().enumerate() {
                report.close(&format!("proposals_image{image}"), boxes.as_flattened());
            }
            report.detections(&scene, detector.detect(&scene.images)?, 1)?;
            report.finish();
            Ok(())
        });
    }
}

#[test]
fn retinanet_is_torchvisions() {
    for depth in [ResNetDepth::ResNet18, ResNetDepth::ResNet50] {
        each_model(&format!("detector/retinanet_{}_fpn", depth.name()), |case, weights| {
            let detector = RetinaNet::new(Builder::new(0, &Device::Cpu), &retinanet_of(case, depth))?;
            fill(detector.params(), weights);
            let scene = Scene::of(case, 0);
            let mut report = Report::of(case);

            let pyramid = detector.pyramid(&scene.images, Mode::Train)?;
            let pass = detector.train(&scene.images, &pyramid, &scene.targets)?;
            report.losses_and_gradients(&pass.losses)?;

            let pyramid = detector.pyramid(&scene.images, Mode::Inference)?;
            report.pyramid(["0", "1", "2", "p6", "p7"], &pyramid);
            let output = detector.forward(&scene.images, &pyramid)?;
            report.summary("cls_logits_summary", output.logits.tensor());
            report.summary("bbox_regression_summary", output.deltas.tensor());
            report.detections(&scene, detector.detect(&scene.images)?, 0)?;
            report.finish();
            Ok(())
        });
    }
}

#[test]
fn the_golden_models_are_all_covered() {
    let mut tested: Vec<String> =
        ResNetDepth::ALL.iter().map(|depth| format!("trunk/{}", depth.name())).collect();
    tested.push("train_step/resnet18".into());
    for detector in ["fasterrcnn", "retinanet"] {
        tested.extend(["resnet18", "resnet50"].map(|depth| format!("detector/{detector}_{depth}_fpn")));
    }
    let later = ["trunk/mobilenet_v2"];
    for root in roots() {
        let golden = Golden::open(&root);
        for prefix in ["trunk/", "train_step/", "detector/"] {
            for case in golden.cases_with_prefix(prefix) {
                let known = tested.iter().any(|name| name == case.name) || later.contains(&case.name);
                assert!(known, "no test for {} of {}", case.name, root.display());
            }
        }
    }
}

/// A trunk with its classification layer.
struct Classifier {
    body: ResNet,
    /// The trunk's first layer once more: the trunk shows its stages, not its stem.
    stem: ConvNorm,
    fc: Linear,
    params: ParamStore,
}

impl Classifier {
    fn new(depth: ResNetDepth, norm: NormKind, weights: &Weights) -> Result<Self> {
        let builder = Builder::new(0, &Device::Cpu);
        let config = ResNetConfig { depth, width: 64, norm, freeze_at: 0 };
        let body = ResNet::new(&builder, config)?;
        let fc = Linear::new(&builder.within("fc"), body.channels()[3], 1000)?;
        let params = builder.finish();
        fill(&params, weights);

        let builder = Builder::new(0, &Device::Cpu);
        let stem = ConvNorm::new(&builder, ("conv1", "bn1"), (3, 64, 7, 2), norm)?;
        fill(&builder.finish(), &part(weights, |name| name.starts_with("conv1.") || name.starts_with("bn1.")));
        Ok(Self { body, stem, fc, params })
    }

    fn pooled_stem(&self, x: &Value) -> Result<Value> {
        let stem = self.stem.forward(x, Mode::Inference, None, Activation::Relu)?;
        Ok(max_pool2d(&stem, 3, 2, 1)?)
    }

    fn logits(&self, last: &Value) -> Result<Value> {
        let pooled = global_avg_pool(last)?;
        let (n, c) = (last.dims()[0], last.dims()[1]);
        self.fc.forward(&ckd_kernels::elementwise::reshape(&pooled, &[n, c])?, Activation::Identity)
    }
}

/// The images and the ground truth of a detector's case, resized as torchvision does.
struct Scene {
    images: Images,
    originals: Vec<(usize, usize)>,
    targets: Vec<Target>,
}

impl Scene {
    /// `first_label` is the golden label of our class 0: 1 where label 0 is the background.
    fn of(case: &Case, first_label: i64) -> Self {
        let config = &case.attrs["config"];
        let side = |key: &str| config[key].as_f64().expect("a side in pixels") as f32;
        let (mut images, mut originals, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for image in 0..2 {
            let (pixels, shape) = case.f32(&format!("image{image}"));
            let (h, w) = (shape[1], shape[2]);
            let (short, long) = (h.min(w) as f32, h.max(w) as f32);
            let scale = f64::from((side("min_size") / short).min(side("max_size") / long));
            let size = ((h as f64 * scale) as usize, (w as f64 * scale) as usize);
            let x = Tensor::from_vec(pixels, (1, 3, h, w), &Device::Cpu).expect("an image");
            let resized = resize_bilinear(&Value::constant(x), size).expect("a size");
            images.push((values(resized.tensor()), size.0, size.1));

            let (down, across) = (size.0 as f32 / h as f32, size.1 as f32 / w as f32);
            let boxes = case.boxes(&format!("gt{image}_boxes"));
            let labels = case.i64(&format!("gt{image}_labels")).0;
            targets.push(Target {
                boxes: boxes
                    .iter()
                    .map(|b| [b[0] * across, b[1] * down, b[2] * across, b[3] * down])
                    .collect(),
                labels: labels.into_iter().map(|label| (label - first_label) as u32).collect(),
                ignored: Vec::new(),
            });
            originals.push((h, w));
        }
        Self { images: padded(&images), originals, targets }
    }
}

fn faster_rcnn_of(case: &Case, depth: ResNetDepth) -> FasterRcnnConfig {
    let mut config = support::faster_rcnn(depth, 4);
    let (count, number) = settings(case);
    config.rpn.train.pre_nms_top_n = count("rpn_pre_nms_top_n_train");
    config.rpn.train.post_nms_top_n = count("rpn_post_nms_top_n_train");
    config.rpn.inference.pre_nms_top_n = count("rpn_pre_nms_top_n_test");
    config.rpn.inference.post_nms_top_n = count("rpn_post_nms_top_n_test");
    config.rpn.sample.per_image = count("rpn_batch_size_per_image");
    config.roi.sample.per_image = count("box_batch_size_per_image");
    config.roi.sample.positive_fraction = number("box_positive_fraction");
    config.roi.postprocess.score_threshold = number("box_score_thresh");
    config.roi.postprocess.nms_threshold = number("box_nms_thresh");
    config.roi.postprocess.detections_per_image = count("box_detections_per_img");
    config
}

fn retinanet_of(case: &Case, depth: ResNetDepth) -> RetinaNetConfig {
    let mut config = support::retinanet(depth, 5);
    let (count, number) = settings(case);
    config.postprocess = RetinaPostprocess {
        score_threshold: number("score_thresh"),
        topk_candidates: count("topk_candidates"),
        nms_threshold: number("nms_thresh"),
        detections_per_image: count("detections_per_img"),
    };
    config
}

/// Reads counts and numbers of a detector's settings.
fn settings<'a>(case: &Case<'a>) -> (impl Fn(&str) -> usize + 'a, impl Fn(&str) -> f64 + 'a) {
    let config = &case.attrs["config"];
    let count = |key: &str| config[key].as_u64().unwrap_or_else(|| panic!("no count {key}")) as usize;
    let number = |key: &str| config[key].as_f64().unwrap_or_else(|| panic!("no number {key}"));
    (count, number)
}

/// What differs, collected: one failure names everything.
struct Report<'a> {
    case: &'a Case<'a>,
    wrong: Vec<String>,
    seen: BTreeMap<String, ()>,
}

impl<'a> Report<'a> {
    fn of(case: &'a Case<'a>) -> Self {
        Self { case, wrong: Vec::new(), seen: BTreeMap::new() }
    }

    fn close(&mut self, key: &str, got: &[f32]) {
        self.seen.insert(key.to_owned(), ());
        let (want, atol) = (self.case.f32(key).0, self.case.atol(key));
        if got.len() != want.len() {
            self.wrong.push(format!("{key}: {} values, golden {}", got.len(), want.len()));
            return;
        }
        let off = |i: usize| (f64::from(got[i]) - f64::from(want[i])).abs();
        let far: Vec<usize> = (0..want.len()).filter(|&i| off(i).is_nan() || off(i) > atol).collect();
        if let Some(worst) = far.iter().copied().max_by(|&a, &b| off(a).total_cmp(&off(b))) {
            self.wrong.push(format!(
                "{key}: {} of {} values differ by more than {atol:.1e}; worst [{worst}] = {:?}, golden {:?}",
                far.len(),
                want.len(),
                got[worst],
                want[worst]
            ));
        }
    }

    fn exact(&mut self, key: &str, got: &[i64]) {
        self.seen.insert(key.to_owned(), ());
        let want = self.case.i64(key).0;
        if got != want {
            self.wrong.push(format!("{key}: {got:?}, golden {want:?}"));
        }
    }

    /// Mean, population standard deviation and the first 16 elements.
    fn summary(&mut self, key: &str, tensor: &Tensor) {
        self.summary_of(key, &values(tensor));
    }

    fn summary_of(&mut self, key: &str, values: &[f32]) {
        let mean_of = |f: &dyn Fn(f64) -> f64| {
            values.iter().map(|&v| f(f64::from(v))).sum::<f64>() / values.len() as f64
        };
        let mean = mean_of(&|v| v);
        let deviation = mean_of(&|v| (v - mean).powi(2)).sqrt();
        let mut summary = vec![mean as f32, deviation as f32];
        summary.extend_from_slice(&values[..16]);
        self.close(key, &summary);
    }

    fn pyramid(&mut self, names: [&str; 5], pyramid: &[Value]) {
        assert_eq!(pyramid.len(), names.len(), "levels");
        for (name, level) in names.iter().zip(pyramid) {
            self.summary(&format!("fpn:{name}_summary"), level.tensor());
        }
    }

    fn losses_and_gradients(&mut self, losses: &Losses) -> Result<()> {
        for (name, loss) in losses {
            self.close(&format!("loss:{name}"), &[loss.item()?]);
        }
        let terms: Vec<(&Value, f64)> = losses.iter().map(|(_, loss)| (loss, 1.0)).collect();
        self.gradients(&weighted_sum(&terms)?.backward()?);
        Ok(())
    }

    /// Every gradient that the golden case speaks of, and the norm of all.
    fn gradients(&mut self, gradients: &Gradients) {
        let norm = |sum: f64| [sum.sqrt() as f32];
        let squares = |values: &[f32]| values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
        let mut all = 0.0;
        for (name, gradient) in gradients {
            let gradient = values(gradient);
            all += squares(&gradient);
            if self.case.has(&format!("gradnorm:{name}")) {
                self.close(&format!("gradnorm:{name}"), &norm(squares(&gradient)));
                self.close(&format!("gradfirst8:{name}"), &gradient[..gradient.len().min(8)]);
            }
        }
        if self.case.has("gradnorm_all") {
            self.close("gradnorm_all", &norm(all));
        }
    }

    /// The maps of the proposal head, from a head of its own: the detector shows proposals only.
    fn proposal_head(
        &mut self,
        config: &FasterRcnnConfig,
        images: &Images,
        pyramid: &[Value],
        weights: &Weights,
    ) -> Result<()> {
        let builder = Builder::new(0, &Device::Cpu);
        let rpn = Rpn::new(&builder.within("rpn"), config.fpn_channels, config.anchors.clone(), config.rpn)?;
        fill(&builder.finish(), &part(weights, |name| name.starts_with("rpn.")));
        let output = rpn.forward(images, pyramid)?;
        let (objectness, deltas) = (values(output.objectness.tensor()), values(output.deltas.tensor()));
        let mut first = 0;
        for (level, map) in pyramid.iter().enumerate() {
            let place = Place { images: images.sizes.len(), anchors: output.anchors.len(), first };
            let (h, w) = (map.dims()[2], map.dims()[3]);
            self.summary_of(&format!("rpn_objectness{level}_summary"), &place.map(&objectness, 1, h, w));
            self.summary_of(&format!("rpn_deltas{level}_summary"), &place.map(&deltas, 4, h, w));
            first += output.per_level[level];
        }
        Ok(())
    }

    /// Detections in pixels of the original images.
    fn detections(&mut self, scene: &Scene, found: Vec<Detections>, first_label: i64) -> Result<()> {
        for (image, found) in found.into_iter().enumerate() {
            let found = found.resized(scene.images.sizes[image], scene.originals[image])?;
            self.close(&format!("det{image}_boxes"), found.boxes.as_flattened());
            self.close(&format!("det{image}_scores"), &found.scores);
            let labels: Vec<i64> = found.labels.iter().map(|&label| i64::from(label) + first_label).collect();
            self.exact(&format!("det{image}_labels"), &labels);
        }
        Ok(())
    }

    fn finish(mut self) {
        for key in self.case.outputs().into_iter().filter(|key| self.case.has(key)) {
            if !self.seen.contains_key(key) {
                self.wrong.push(format!("{key}: the network gave no such value"));
            }
        }
        assert!(self.wrong.is_empty(), "{}:\n  {}", self.case.name, self.wrong.join("\n  "));
    }
}

/// Where the anchors of a level lie among the rows of a head's output.
struct Place {
    images: usize,
    anchors: usize,
    first: usize,
}

impl Place {
    /// Rows (N·A, width) of a level as the map (N, A·width, H, W) that they came from, three anchors a cell.
    fn map(&self, rows: &[f32], width: usize, h: usize, w: usize) -> Vec<f32> {
        const PER_CELL: usize = 3;
        let mut map = Vec::with_capacity(self.images * PER_CELL * width * h * w);
        for image in 0..self.images {
            for channel in 0..PER_CELL * width {
                for cell in 0..h * w {
                    let anchor = self.first + cell * PER_CELL + channel / width;
                    map.push(rows[(image * self.anchors + anchor) * width + channel % width]);
                }
            }
        }
        map
    }
}

/// Runs `test` on the case called `name` of every root, with the weights of its network.
fn each_model(name: &str, test: impl Fn(&Case, &Weights) -> Result<()>) {
    for root in roots() {
        let golden = Golden::open(&root);
        let case = golden.case(name);
        test(&case, &golden.weights(&case)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

fn input(case: &Case) -> Value {
    let (x, shape) = case.f32("x");
    Value::constant(Tensor::from_vec(x, shape, &Device::Cpu).expect("as many values as the shape says"))
}

fn part(weights: &Weights, wanted: impl Fn(&str) -> bool) -> Weights {
    weights.iter().filter(|(name, ..)| wanted(name)).cloned().collect()
}
