//! The detector's sections.

use super::{Check, Problem};
use crate::config::schema::{Architecture, Config, Detector, Retina, Roi, Rpn, Teacher};
use crate::config::section::join;

/// Checks the detector whose keys stand in `section`.
pub(super) fn check(section: &str, detector: &Detector, found: &mut Vec<Problem>) {
    let mut check = Check { section, found };
    check.at_least_one("fpn_channels", detector.fpn_channels);
    if let Some(sizes) = &detector.anchor_sizes {
        let levels = detector.architecture.levels();
        check.that(
            sizes.len() == levels.len(),
            "anchor_sizes",
            format!("has {} levels, {} has {}", sizes.len(), detector.architecture, levels.len()),
            format!("give one array for each of {}", levels.join(", ")),
        );
        let even = sizes.iter().all(|level| !level.is_empty() && level.len() == sizes[0].len());
        check.that(
            even,
            "anchor_sizes",
            "differs in the number of sizes between levels",
            "one head serves all levels: give every level as many sizes",
        );
        let positive = sizes.iter().flatten().all(|size| *size > 0.0);
        check.that(positive, "anchor_sizes", "has a size of 0 or less", "sizes are in pixels");
    }
    let ratios = &detector.aspect_ratios;
    check.that(
        !ratios.is_empty() && ratios.iter().all(|ratio| *ratio > 0.0),
        "aspect_ratios",
        "needs at least one number, all above 0",
        "torchvision's are [0.5, 1.0, 2.0]",
    );
    rpn(&join(section, "rpn"), &detector.rpn, found);
    roi(&join(section, "roi"), &detector.roi, found);
    retina(&join(section, "retina"), &detector.retina, found);
}

/// Checks what the teacher's detector has to itself.
pub(super) fn check_teacher(teacher: &Teacher, config: &Config, found: &mut Vec<Problem>) {
    let (Some(own), section) = (&teacher.detector, "teacher.detector") else { return };
    let (own, students) = (&own.0, &config.detector);
    Check { section, found }.that(
        own.architecture == students.architecture,
        "architecture",
        format!("is \"{}\", but the student is a {}", own.architecture, students.architecture),
        "teacher and student are compared level by level and region by region: remove it",
    );
    if own.architecture != students.architecture {
        return;
    }
    check(section, own, found);
    let per_cell = |detector: &Detector| {
        let sizes = detector.anchor_sizes.as_ref().and_then(|sizes| sizes.first());
        sizes.map_or(3, Vec::len) * detector.aspect_ratios.len()
    };
    Check { section, found }.that(
        own.architecture != Architecture::RetinaNet || per_cell(own) == per_cell(students),
        "anchor_sizes",
        format!("makes {} anchors a cell, the student has {}", per_cell(own), per_cell(students)),
        "the logits of the same anchors are compared: give both as many sizes and aspect ratios",
    );
}

fn rpn(section: &str, rpn: &Rpn, found: &mut Vec<Problem>) {
    let mut check = Check { section, found };
    for (key, count) in [
        ("pre_nms_top_n_train", rpn.pre_nms_top_n_train),
        ("pre_nms_top_n_test", rpn.pre_nms_top_n_test),
        ("post_nms_top_n_train", rpn.post_nms_top_n_train),
        ("post_nms_top_n_test", rpn.post_nms_top_n_test),
        ("batch_per_image", rpn.batch_per_image),
        ("head_convs", rpn.head_convs),
    ] {
        check.at_least_one(key, count);
    }
    check.iou_pair(rpn.fg_iou, rpn.bg_iou);
    check.fraction("nms_threshold", rpn.nms_threshold.into());
    check.fraction("positive_fraction", rpn.positive_fraction.into());
    check.fraction("score_threshold", rpn.score_threshold.into());
    check.not_negative("min_size", rpn.min_size.into());
}

fn roi(section: &str, roi: &Roi, found: &mut Vec<Problem>) {
    let mut check = Check { section, found };
    for (key, count) in [
        ("batch_per_image", roi.batch_per_image),
        ("detections_per_image", roi.detections_per_image),
        ("pool_size", roi.pool_size),
        ("head_width", roi.head_width),
    ] {
        check.at_least_one(key, count);
    }
    check.iou_pair(roi.fg_iou, roi.bg_iou);
    check.fraction("nms_threshold", roi.nms_threshold.into());
    check.fraction("positive_fraction", roi.positive_fraction.into());
    check.fraction("score_threshold", roi.score_threshold.into());
}

fn retina(section: &str, retina: &Retina, found: &mut Vec<Problem>) {
    let mut check = Check { section, found };
    check.at_least_one("detections_per_image", retina.detections_per_image);
    check.at_least_one("topk_candidates", retina.topk_candidates);
    check.iou_pair(retina.fg_iou, retina.bg_iou);
    check.fraction("nms_threshold", retina.nms_threshold.into());
    check.fraction("score_threshold", retina.score_threshold.into());
    check.fraction("focal_alpha", retina.focal_alpha.into());
    check.not_negative("focal_gamma", retina.focal_gamma.into());
}
