//! Detections made where the tests run, box by box beside those that the host makes of the same numbers.

use candle_core::{DType, Tensor};
use ckd_detectors::anchors::AnchorGenerator;
use ckd_detectors::box_coder::BoxCoder;
use ckd_detectors::boxes::Xyxy;
use ckd_detectors::fcos::{Fcos, PointLevel, PointOutput};
use ckd_detectors::images::Images;
use ckd_detectors::param::Builder;
use ckd_detectors::postprocess::{Clip, Detections, RetinaLevel};
use ckd_detectors::retinanet::{RetinaNet, RetinaOutput};
use ckd_detectors::roi_heads::{RoiConfig, RoiHeads, RoiOutput};
use ckd_kernels::Value;

use crate::golden;
use crate::support::{device, tiny_fcos, tiny_retinanet};

/// Padded (height, width), and the maps of levels P3 to P7.
const PADDED: (usize, usize) = (160, 224);
const MAPS: [(usize, usize); 5] = [(20, 28), (10, 14), (5, 7), (3, 4), (2, 2)];
/// True (height, width) of the images.
const SIZES: [(usize, usize); 2] = [(160, 224), (150, 201)];
const CLASSES: usize = 3;

/// Random numbers with many ties, and numbers that are none.
fn numbers(count: usize, stream: u64, scale: f64, steps: f32) -> Vec<f32> {
    let hostile = |(i, x): (usize, f32)| match i % 1009 {
        7 => f32::NAN,
        8 => f32::INFINITY,
        9 => f32::NEG_INFINITY,
        10 => 1e38,
        _ => (x * steps).round() / steps,
    };
    golden::tensor(stream, count, scale, 0.0).into_iter().enumerate().map(hostile).collect()
}

fn rows(values: &[f32], width: usize) -> Value {
    let shape = (values.len() / width, width);
    Value::constant(Tensor::from_slice(values, shape, device()).expect("rows"))
}

fn images() -> Images {
    let pixels = Tensor::zeros((SIZES.len(), 3, PADDED.0, PADDED.1), DType::F32, device()).expect("pixels");
    Images { pixels, sizes: SIZES.to_vec() }
}

fn bits(found: &Detections) -> Vec<([u32; 4], u32, u32)> {
    let boxes = found.boxes.iter().zip(&found.scores).zip(&found.labels);
    boxes.map(|((b, score), &label)| (b.map(f32::to_bits), score.to_bits(), label)).collect()
}

/// Compares with the host's; `most` is the limit of an image.
fn assert_same(about: &str, found: &[Detections], want: &[Detections], most: usize) {
    assert_eq!(found.len(), want.len(), "{about}");
    for (image, (found, want)) in found.iter().zip(want).enumerate() {
        assert!(!want.is_empty() && want.len() <= most, "{about}: {}", want.len());
        let (found, want) = (bits(found), bits(want));
        let first = found.iter().zip(&want).position(|(found, want)| found != want);
        assert!(
            found == want,
            "{about}, image {image}: {} boxes, want {}, the first other one {first:?}",
            found.len(),
            want.len()
        );
    }
}

/// Parts of all rows of an image: one a level.
fn levels<'a>(
    all: &'a [f32],
    per_level: &'a [usize],
    image: usize,
    width: usize,
) -> impl Iterator<Item = &'a [f32]> {
    let of_image: usize = per_level.iter().sum();
    let mut from = image * of_image;
    per_level.iter().map(move |&count| {
        from += count;
        &all[width * (from - count)..width * from]
    })
}

fn anchors_of<'a>(anchors: &'a [Xyxy], per_level: &'a [usize]) -> impl Iterator<Item = &'a [Xyxy]> {
    let mut from = 0;
    per_level.iter().map(move |&count| {
        from += count;
        &anchors[from - count..from]
    })
}

#[test]
fn retinanets_detections_are_the_hosts_box_by_box_in_its_order() {
    let anchors = AnchorGenerator::retinanet();
    let per_level = anchors.counts(&MAPS).expect("five levels");
    let all = anchors.generate(PADDED, &MAPS).expect("five levels");
    let count = SIZES.len() * all.len();
    let (logits, deltas) = (numbers(count * CLASSES, 21, 4.0, 8.0), numbers(4 * count, 22, 0.4, 64.0));
    let output = RetinaOutput {
        logits: rows(&logits, CLASSES),
        deltas: rows(&deltas, 4),
        anchors: all.clone(),
        per_level: per_level.clone(),
        grids: anchors.grids(PADDED, &MAPS).expect("five levels"),
    };
    // More boxes than a GPU sorts at once, limits that cut, more of a level than a GPU keeps.
    for (topk_candidates, detections_per_image, nms_threshold, score_threshold, clip) in [
        (1000, 300, 0.5, 0.05, Clip::BeforeNms),
        (1000, 2500, 0.9, 0.0, Clip::BeforeNms),
        (1000, 500, 0.1, 0.5, Clip::AfterNms),
        (65, 1, 0.5, 0.3, Clip::AfterNms),
        (3000, 100, 0.5, 0.05, Clip::BeforeNms),
        (300, 100, 0.0, 0.9, Clip::BeforeNms),
    ] {
        let mut config = tiny_retinanet(CLASSES);
        let settings = &mut config.settings.retina;
        (settings.topk_candidates, settings.detections_per_image) = (topk_candidates, detections_per_image);
        (settings.nms_threshold, settings.score_threshold) = (nms_threshold, score_threshold);
        settings.clip = clip;
        let net = RetinaNet::new(Builder::new(0, device()), &config).expect("a network");
        let found = net.detections(&output, &images()).expect("outputs fit");
        let settings = &config.settings.retina;
        let want: Vec<Detections> = (0..SIZES.len())
            .map(|image| {
                let values = levels(&logits, &per_level, image, CLASSES);
                let parts = values.zip(levels(&deltas, &per_level, image, 4));
                let parts: Vec<_> = parts
                    .zip(anchors_of(&all, &per_level))
                    .map(|((class_logits, box_regression), anchors)| RetinaLevel {
                        class_logits,
                        box_regression,
                        anchors,
                    })
                    .collect();
                settings.detect(&parts, SIZES[image]).expect("lengths fit")
            })
            .collect();
        assert_same(&format!("{settings:?}"), &found, &want, detections_per_image);
    }
}

#[test]
fn fcoss_detections_are_the_hosts_box_by_box_in_its_order() {
    let anchors = AnchorGenerator::fcos();
    let per_level = anchors.counts(&MAPS).expect("five levels");
    let all = anchors.generate(PADDED, &MAPS).expect("five levels");
    let count = SIZES.len() * all.len();
    let (logits, centers) = (numbers(count * CLASSES, 31, 4.0, 8.0), numbers(count, 32, 4.0, 8.0));
    let distances = numbers(4 * count, 33, 3.0, 64.0);
    let output = PointOutput {
        logits: rows(&logits, CLASSES),
        distances: rows(&distances, 4),
        centerness: rows(&centers, 1),
        anchors: all.clone(),
        per_level: per_level.clone(),
        grids: anchors.grids(PADDED, &MAPS).expect("five levels"),
    };
    for (topk_candidates, detections_per_image, nms_threshold, score_threshold) in
        [(1000, 100, 0.6, 0.2), (50, 10, 0.3, 0.0), (2049, 100, 0.6, 0.2)]
    {
        let mut config = tiny_fcos(CLASSES);
        let settings = &mut config.settings.fcos;
        (settings.topk_candidates, settings.detections_per_image) = (topk_candidates, detections_per_image);
        (settings.nms_threshold, settings.score_threshold) = (nms_threshold, score_threshold);
        let net = Fcos::new(Builder::new(0, device()), &config).expect("a network");
        let found = net.detections(&output, &images()).expect("outputs fit");
        let settings = &config.settings.fcos;
        let want: Vec<Detections> = (0..SIZES.len())
            .map(|image| {
                let of = |all, width| levels(all, &per_level, image, width);
                let parts = of(&logits, CLASSES).zip(of(&centers, 1)).zip(of(&distances, 4));
                let parts: Vec<_> = parts
                    .zip(anchors_of(&all, &per_level))
                    .map(|(((class_logits, centerness), distances), anchors)| PointLevel {
                        class_logits,
                        centerness,
                        distances,
                        anchors,
                    })
                    .collect();
                settings.detect(&parts, SIZES[image]).expect("lengths fit")
            })
            .collect();
        assert_same(&format!("{settings:?}"), &found, &want, detections_per_image);
    }
}

#[test]
fn the_second_stages_detections_are_the_hosts_box_by_box_in_its_order() {
    let columns = CLASSES + 1;
    let square = |i: usize| {
        let (x, y) = ((i * 37 % 181) as f32, (i * 53 % 127) as f32);
        [x, y, x + 8.0 + (i % 40) as f32, y + 6.0 + (i % 31) as f32]
    };
    // The second image has no regions in one case, and is without detections then.
    for (counts, detections_per_image, nms_threshold, score_threshold) in [
        ([1000, 700], 100, 0.5, 0.05),
        ([1000, 700], 3000, 0.9, 0.0),
        ([300, 1], 1, 0.5, 0.05),
        ([64, 65], 50, 0.0, 0.6),
        ([9, 0], 100, 0.5, 0.05),
    ] {
        let boxes: Vec<Vec<Xyxy>> =
            counts.iter().map(|&count| (0..count).map(|i| square(i + count)).collect()).collect();
        let count: usize = counts.iter().sum();
        let (logits, deltas) =
            (numbers(count * columns, 41, 3.0, 4.0), numbers(4 * count * columns, 42, 1.5, 64.0));
        let output = RoiOutput { logits: rows(&logits, columns), deltas: rows(&deltas, 4 * columns) };
        let config = RoiConfig {
            detections_per_image,
            nms_threshold,
            score_threshold,
            head_width: 8,
            ..RoiConfig::default()
        };
        let heads = RoiHeads::new(&Builder::new(0, device()), (4, CLASSES), &[4, 8], &config).expect("heads");
        let found = heads.detections(&output, &boxes, &images()).expect("outputs fit");
        let mut from = 0;
        let want: Vec<Detections> = boxes
            .iter()
            .zip(SIZES)
            .map(|(boxes, size)| {
                let rows = from..from + boxes.len();
                from = rows.end;
                let logits = &logits[columns * rows.start..columns * rows.end];
                let deltas = &deltas[4 * columns * rows.start..4 * columns * rows.end];
                config.detect(logits, deltas, boxes, &BoxCoder::PROPOSALS, size).expect("lengths fit")
            })
            .collect();
        let some = counts.iter().filter(|count| **count > 0).count();
        assert!(found[some..].iter().all(Detections::is_empty));
        assert_same(&format!("{counts:?}"), &found[..some], &want[..some], detections_per_image);
    }
}
