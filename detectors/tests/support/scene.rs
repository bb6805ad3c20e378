//! What a golden case of a detector shows: images, ground truth, and the numbers of its settings.
#![allow(missing_docs, unreachable_pub)]

use candle_core::Tensor;
use ckd_detectors::DetectorConfig;
use ckd_detectors::images::{Images, Target};
use ckd_kernels::Value;
use ckd_kernels::resize::resize_bilinear;

use crate::golden::Case;
use crate::support::{padded, values};

/// The images and the ground truth of a detector's case, resized as torchvision does.
pub struct Scene {
    pub images: Images,
    /// (height, width) of the images before.
    pub originals: Vec<(usize, usize)>,
    pub targets: Vec<Target>,
}

impl Scene {
    /// `first_label` is the golden label of our class 0: 1 where label 0 is the background.
    pub fn of(case: &Case, first_label: i64) -> Self {
        let config = &case.attrs["config"];
        let side = |key: &str| config[key].as_f64().expect("a side in pixels");
        let (mut images, mut originals, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for image in (0..).take_while(|image| case.has(&format!("image{image}"))) {
            let (pixels, shape) = case.f32(&format!("image{image}"));
            let (h, w) = (shape[1], shape[2]);
            let (short, long) = (h.min(w) as f64, h.max(w) as f64);
            let scale = (side("min_size") / short).min(side("max_size") / long);
            let size = ((h as f64 * scale) as usize, (w as f64 * scale) as usize);
            let x = Tensor::from_vec(pixels, (1, 3, h, w), crate::support::device()).expect("an image");
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
                ..Target::default()
            });
            originals.push((h, w));
        }
        Self { images: padded(&images), originals, targets }
    }
}

/// `config` with the numbers of a case.
pub fn faster_rcnn(case: &Case, mut config: DetectorConfig) -> DetectorConfig {
    let (count, number) = settings(case);
    let (rpn, roi) = (&mut config.settings.rpn, &mut config.settings.roi);
    rpn.pre_nms_top_n_train = count("rpn_pre_nms_top_n_train");
    rpn.post_nms_top_n_train = count("rpn_post_nms_top_n_train");
    rpn.pre_nms_top_n_test = count("rpn_pre_nms_top_n_test");
    rpn.post_nms_top_n_test = count("rpn_post_nms_top_n_test");
    rpn.batch_per_image = count("rpn_batch_size_per_image");
    roi.batch_per_image = count("box_batch_size_per_image");
    roi.positive_fraction = number("box_positive_fraction");
    roi.score_threshold = number("box_score_thresh");
    roi.nms_threshold = number("box_nms_thresh");
    roi.detections_per_image = count("box_detections_per_img");
    config
}

/// `config` with the numbers of a case.
pub fn retinanet(case: &Case, mut config: DetectorConfig) -> DetectorConfig {
    let (count, number) = settings(case);
    let retina = &mut config.settings.retina;
    retina.score_threshold = number("score_thresh");
    retina.topk_candidates = count("topk_candidates");
    retina.nms_threshold = number("nms_thresh");
    retina.detections_per_image = count("detections_per_img");
    config
}

/// `config` with the numbers of a case.
pub fn fcos(case: &Case, mut config: DetectorConfig) -> DetectorConfig {
    let (count, number) = settings(case);
    let fcos = &mut config.settings.fcos;
    fcos.score_threshold = number("score_thresh");
    fcos.topk_candidates = count("topk_candidates");
    fcos.nms_threshold = number("nms_thresh");
    fcos.detections_per_image = count("detections_per_img");
    config
}

/// Reads counts and numbers of a detector's settings.
fn settings<'a>(case: &Case<'a>) -> (impl Fn(&str) -> usize + 'a, impl Fn(&str) -> f64 + 'a) {
    let config = &case.attrs["config"];
    let count = |key: &str| config[key].as_u64().unwrap_or_else(|| panic!("no count {key}")) as usize;
    let number = |key: &str| config[key].as_f64().unwrap_or_else(|| panic!("no number {key}"));
    (count, number)
}
