//! RetinaNet as a graph: `ckd_detectors::retinanet` in inference.

use ckd_detectors::DetectorConfig;
use ckd_detectors::fpn::ExtraLevels;
use ckd_detectors::postprocess::Clip;

use super::boxes::{self, Confident, Scored};
use super::graph::{Edge, Side};
use super::input::Prepared;
use super::layers::{Layers, Then};
use super::model::Outputs;
use super::proto::Element;
use super::trunk::{pyramid, trunk};
use crate::export::error::Result;

pub(super) fn write(
    layers: &mut Layers,
    config: &DetectorConfig,
    input: &Prepared,
    categories: &[u64],
    outputs: Outputs,
) -> Result<()> {
    let classes = config.classes;
    let maps = trunk(layers, &config.backbone, &input.pixels, "backbone.body.")?;
    let levels = pyramid(layers, &maps[1..], ExtraLevels::P6P7(config.settings.retina.p6_from))?;
    let logits = head(layers, &levels, "classification_head", "cls_logits", classes)?;
    let deltas = head(layers, &levels, "regression_head", "bbox_reg", 4)?;
    let graph = &mut layers.graph;
    let anchors = boxes::anchors(graph, config, &levels, &input.sizes)?;
    if outputs == Outputs::Raw {
        let [logits, deltas] =
            [&logits, &deltas].map(|parts| graph.concat(&parts.iter().collect::<Vec<_>>(), 1));
        let anchors = graph.concat(&anchors.iter().collect::<Vec<_>>(), 0);
        let (n, a, four) = (Side::Named("images"), Side::Named("anchors"), Side::Fixed(4));
        let doc = "one logit for each class in the order of `ckd_det.categories`, before the sigmoid";
        graph.output(&logits, "logits", Element::F32, &[n, a, Side::Fixed(classes)], doc);
        graph.output(&deltas, "deltas", Element::F32, &[n, a, four], "dx, dy, dw, dh of each anchor");
        graph.output(&anchors, "anchors", Element::F32, &[a, four], "x1, y1, x2, y2; levels fine to coarse");
        return Ok(());
    }
    let postprocess = &config.settings.retina;
    let (mut all_boxes, mut all_scores, mut all_labels) = (Vec::new(), Vec::new(), Vec::new());
    for ((logits, deltas), anchors) in logits.iter().zip(&deltas).zip(&anchors) {
        let scores = graph.op("Sigmoid", &[logits]);
        let limits = (postprocess.score_threshold, postprocess.topk_candidates);
        let Confident { scores, anchors: anchor, labels } = boxes::confident(graph, &scores, classes, limits);
        all_labels.push(labels);
        let deltas = boxes::rows_of(graph, deltas, &anchor);
        let anchors = graph.op("Gather", &[anchors, &anchor]);
        let decoded = boxes::decode(graph, &deltas, &anchors, [1.0; 4]);
        all_boxes.push(match postprocess.clip {
            Clip::BeforeNms => boxes::clip(graph, &decoded, &input.sizes, 3),
            Clip::AfterNms => decoded,
        });
        all_scores.push(scores);
    }
    let mut all = |parts: &[Edge]| graph.concat(&parts.iter().collect::<Vec<_>>(), 1);
    let candidates = Scored { boxes: all(&all_boxes), scores: all(&all_scores) };
    let labels = all(&all_labels);
    let limits = (postprocess.nms_threshold, postprocess.detections_per_image);
    let (mut found, places) = boxes::suppress_in_groups(graph, &candidates, (&labels, classes), limits);
    if postprocess.clip == Clip::AfterNms {
        found.boxes = boxes::clip(graph, &found.boxes, &input.sizes, 3);
        found.scores = boxes::without_empty(graph, &found.boxes, &found.scores);
    }
    let labels = boxes::rows_of(graph, &labels, &places);
    boxes::output_detections(graph, &found, &labels, categories, input.original.as_ref());
    Ok(())
}

/// Outputs of a head for each level, (N, A_l, width).
fn head(layers: &mut Layers, levels: &[Edge], head: &str, last: &str, width: usize) -> Result<Vec<Edge>> {
    let convs = layers.count(|i| format!("head.{head}.conv.{i}.0.weight"));
    let mut outputs = Vec::new();
    for level in levels {
        let mut x = level.clone();
        for i in 0..convs {
            let names = (format!("head.{head}.conv.{i}.0"), format!("head.{head}.conv.{i}.1"));
            x = match layers.has(&format!("{}.weight", names.1)) {
                true => layers.conv_norm(&x, (&names.0, &names.1), 1, None, Then::Relu)?,
                false => layers.conv(&x, &names.0, 1, Then::Relu)?,
            };
        }
        let x = layers.conv(&x, &format!("head.{head}.{last}"), 1, Then::Nothing)?;
        outputs.push(boxes::per_anchor(&mut layers.graph, &x, width));
    }
    Ok(outputs)
}
