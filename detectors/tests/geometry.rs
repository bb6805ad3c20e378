//! The geometry of Faster R-CNN and RetinaNet against torchvision's own values, in every golden root.

use crate::golden;
use crate::golden::{Case, each_case};
use ckd_detectors::anchors::AnchorGenerator;
use ckd_detectors::box_coder::{BoxCoder, LARGEST_LOG_RATIO};
use ckd_detectors::boxes::{Xyxy, iou_matrix, resize};
use ckd_detectors::level_mapper::LevelMapper;
use ckd_detectors::matcher::{Match, Matcher};
use ckd_detectors::nms::{batched_nms, nms};
use ckd_detectors::postprocess::RetinaLevel;
use ckd_detectors::proposals::ProposalFilter;
use ckd_detectors::retinanet::RetinaSettings;
use ckd_detectors::roi_heads::RoiConfig;
use serde_json::Value;

#[test]
fn the_golden_generator_gives_its_check_values() {
    golden::check_generator();
}

#[test]
fn anchors_are_torchvisions() {
    each_case("anchors/", |case| {
        let sizes: Vec<Vec<f32>> = list(&case.attrs["sizes"]).iter().map(numbers).collect();
        let generator = AnchorGenerator::new(&sizes, &numbers(&case.attrs["aspect_ratios"])).expect("valid");
        let preset = if case.name.contains("retinanet") {
            AnchorGenerator::retinanet()
        } else {
            AnchorGenerator::faster_rcnn_fpn()
        };
        assert_eq!(generator, preset, "{}", case.name);

        let feature_hw: Vec<_> = list(&case.attrs["feature_sizes"]).iter().map(pair).collect();
        let anchors = generator.generate(pair(&case.attrs["image"]), &feature_hw).expect("sizes fit");
        assert_eq!(anchors.len(), case.attr_usize("count"), "{}", case.name);
        assert_eq!(generator.counts(&feature_hw).expect("sizes fit").iter().sum::<usize>(), anchors.len());

        for key in case.outputs() {
            let chosen: Vec<Xyxy> = match key {
                "anchors" => anchors.clone(),
                "first64" => anchors[..64].to_vec(),
                "last64" => anchors[anchors.len() - 64..].to_vec(),
                "every_997th" => anchors.iter().step_by(997).copied().collect(),
                "column_sums" => {
                    let sum = |k: usize| anchors.iter().map(|b| f64::from(b[k])).sum::<f64>() as f32;
                    vec![[sum(0), sum(1), sum(2), sum(3)]]
                }
                other => panic!("{}: unknown output {other}", case.name),
            };
            case.check_close(key, chosen.as_flattened());
        }
    });
}

#[test]
fn box_targets_are_torchvisions() {
    each_case("box_encode/", |case| {
        let coder = coder(case);
        let (reference, proposals) = (case.boxes("reference"), case.boxes("proposals"));
        let targets: Vec<f32> =
            reference.iter().zip(&proposals).flat_map(|(gt, proposal)| coder.encode(gt, proposal)).collect();
        case.check_close("targets", &targets);
    });
}

#[test]
fn decoded_boxes_are_torchvisions() {
    each_case("box_decode/", |case| {
        assert_eq!(LARGEST_LOG_RATIO, case.attr_f64("clamp") as f32);
        let coder = coder(case);
        let (deltas, shape) = case.f32("deltas");
        let mut decoded = Vec::new();
        for (row, proposal) in deltas.chunks_exact(shape[1]).zip(case.boxes("proposals")) {
            for class in row.as_chunks::<4>().0 {
                decoded.extend(coder.decode(class, &proposal));
            }
        }
        case.check_close("boxes", &decoded);
    });
}

#[test]
fn matches_are_torchvisions() {
    each_case("matcher/", |case| {
        let (gt, anchors) = (case.boxes("gt"), case.boxes("anchors"));
        let (want_iou, _) = case.f32("iou");
        for (got, want) in iou_matrix(&gt, &anchors).iter().zip(want_iou) {
            assert!((got - want).abs() <= 1e-6, "{}: IoU {got}, golden {want}", case.name);
        }
        let mut matcher = Matcher::new(case.attr_f64("high"), case.attr_f64("low")).expect("valid");
        if case.attrs["allow_low_quality"] == true {
            matcher = matcher.with_low_quality_matches();
        }
        let matches: Vec<i64> = matcher
            .match_boxes(&gt, &[], &anchors)
            .iter()
            .map(|m| match m {
                Match::Gt(gt) => i64::from(*gt),
                Match::Background => -1,
                Match::Between => -2,
            })
            .collect();
        case.check_exact("matches", &matches);
    });
}

#[test]
fn suppression_is_torchvisions() {
    each_case("nms/", |case| {
        let kept = nms(&case.boxes("boxes"), &case.f32("scores").0, case.attr_f64("iou_threshold"));
        case.check_exact("keep", &integers(&kept.expect("lengths fit")));
    });
    each_case("batched_nms/", |case| {
        let classes: Vec<u32> =
            case.i64("classes").0.iter().map(|&c| u32::try_from(c).expect("class")).collect();
        let threshold = case.attr_f64("iou_threshold");
        let kept = batched_nms(&case.boxes("boxes"), &case.f32("scores").0, &classes, threshold);
        case.check_exact("keep", &integers(&kept.expect("lengths fit")));
    });
}

#[test]
fn proposals_are_torchvisions() {
    each_case("rpn_filter_proposals", |case| {
        let filter = ProposalFilter {
            pre_nms_top_n: case.attr_usize("pre_nms_top_n"),
            post_nms_top_n: case.attr_usize("post_nms_top_n"),
            nms_threshold: case.attr_f64("nms_thresh"),
            score_threshold: case.attr_f64("score_thresh"),
            min_size: case.attr_f64("min_size"),
        };
        let (objectness, shape) = case.f32("objectness");
        let (boxes, levels) = (case.boxes("proposals"), case.attr_usizes("anchors_per_level"));
        let images = objectness.chunks_exact(shape[1]).zip(boxes.chunks_exact(shape[1]));
        for (image, (objectness, boxes)) in images.enumerate() {
            let image_hw = pair(&case.attrs["image_shapes"][image]);
            // Deltas of zero leave an anchor where it is.
            let deltas = vec![0.0; 4 * boxes.len()];
            let proposals =
                filter.propose(objectness, &deltas, boxes, &levels, image_hw).expect("lengths fit");
            case.check_close(&format!("boxes{image}"), proposals.boxes.as_flattened());
            case.check_close(&format!("scores{image}"), &proposals.scores);
        }
    });
}

#[test]
fn rois_are_pooled_from_torchvisions_levels() {
    each_case("fpn_level_mapper", |case| {
        let mapper = LevelMapper::new(case.attr_usize("k_min") as u32, case.attr_usize("k_max") as u32);
        assert_eq!(mapper, LevelMapper::P2_TO_P5);
        let levels: Vec<usize> = case.boxes("boxes").iter().map(|roi| mapper.level(roi)).collect();
        case.check_exact("level", &integers(&levels));
    });
}

#[test]
fn faster_rcnn_detections_are_torchvisions() {
    each_case("roi_postprocess", |case| {
        let postprocess = RoiConfig {
            score_threshold: case.attr_f64("score_thresh"),
            nms_threshold: case.attr_f64("nms_thresh"),
            detections_per_image: case.attr_usize("detections_per_img"),
            ..RoiConfig::default()
        };
        let columns = case.attr_usize("num_classes_with_background");
        let (mut logits, mut regression) =
            (&case.f32("class_logits").0[..], &case.f32("box_regression").0[..]);
        for (image, shape) in list(&case.attrs["image_shapes"]).iter().enumerate() {
            let proposals = case.boxes(&format!("proposals{image}"));
            let (these_logits, rest) = logits.split_at(columns * proposals.len());
            logits = rest;
            let (these_deltas, rest) = regression.split_at(4 * columns * proposals.len());
            regression = rest;
            let found = postprocess
                .detect(these_logits, these_deltas, &proposals, &BoxCoder::PROPOSALS, pair(shape))
                .expect("lengths fit");
            let labels: Vec<i64> = found.labels.iter().map(|&label| i64::from(label) + 1).collect();
            case.check_exact(&format!("labels{image}"), &labels);
            case.check_close(&format!("scores{image}"), &found.scores);
            case.check_close(&format!("boxes{image}"), found.boxes.as_flattened());
        }
    });
}

#[test]
fn retinanet_detections_are_torchvisions() {
    each_case("retinanet_postprocess", |case| {
        let postprocess = RetinaSettings {
            score_threshold: case.attr_f64("score_thresh"),
            topk_candidates: case.attr_usize("topk_candidates"),
            nms_threshold: case.attr_f64("nms_thresh"),
            detections_per_image: case.attr_usize("detections_per_img"),
            ..RetinaSettings::default()
        };
        let levels: Vec<_> = (0..)
            .take_while(|k| case.has(&format!("anchors{k}")))
            .map(|k| {
                let logits = case.f32(&format!("cls_logits{k}")).0;
                (logits, case.f32(&format!("bbox_regression{k}")).0, case.boxes(&format!("anchors{k}")))
            })
            .collect();
        let levels: Vec<_> = levels
            .iter()
            .map(|(class_logits, box_regression, anchors)| RetinaLevel {
                class_logits,
                box_regression,
                anchors,
            })
            .collect();
        let found = postprocess.detect(&levels, pair(&case.attrs["image_shape"])).expect("lengths fit");
        let labels: Vec<i64> = found.labels.iter().map(|&label| i64::from(label)).collect();
        case.check_exact("labels", &labels);
        case.check_close("scores", &found.scores);
        case.check_close("boxes", found.boxes.as_flattened());
    });
}

#[test]
fn boxes_move_with_the_resized_image_as_torchvisions() {
    each_case("transform_batch", |case| {
        for image in (0..).take_while(|image| case.has(&format!("image{image}"))) {
            let (_, shape) = case.f32(&format!("image{image}"));
            let mut boxes = case.boxes(&format!("boxes{image}"));
            let to = pair(&case.attrs["image_sizes"][image]);
            resize(&mut boxes, (shape[1], shape[2]), to).expect("sizes are positive");
            case.check_close(&format!("out_boxes{image}"), boxes.as_flattened());
        }
    });
}

fn coder(case: &Case<'_>) -> BoxCoder {
    BoxCoder::new(numbers(&case.attrs["weights"]).try_into().expect("four weights"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn numbers(value: &Value) -> Vec<f32> {
    list(value).iter().map(|n| n.as_f64().expect("a number") as f32).collect()
}

fn pair(value: &Value) -> (usize, usize) {
    let side = |k: usize| usize::try_from(value[k].as_u64().expect("a size")).expect("64-bit");
    (side(0), side(1))
}

fn integers(indices: &[usize]) -> Vec<i64> {
    indices.iter().map(|&i| i64::try_from(i).expect("small")).collect()
}
