//! FCOS as a graph: `ckd_detectors::fcos` in inference.

use ckd_detectors::DetectorConfig;
use ckd_detectors::fpn::ExtraLevels;

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
    let (classes, settings) = (config.classes, &config.settings.fcos);
    let maps = trunk(layers, &config.backbone, &input.pixels, "backbone.body.")?;
    let levels = pyramid(layers, &maps[1..], ExtraLevels::P6P7(settings.p6_from))?;
    let mut logits = Vec::new();
    let (mut distances, mut centerness) = (Vec::new(), Vec::new());
    for level in &levels {
        let hidden = tower(layers, level, "classification_head")?;
        logits.push(output(layers, &hidden, "classification_head.cls_logits", classes, Then::Nothing)?);
        let hidden = tower(layers, level, "regression_head")?;
        distances.push(output(layers, &hidden, "regression_head.bbox_reg", 4, Then::Relu)?);
        centerness.push(output(layers, &hidden, "regression_head.bbox_ctrness", 1, Then::Nothing)?);
    }
    let graph = &mut layers.graph;
    let anchors = boxes::anchors(graph, config, &levels, &input.sizes)?;
    if outputs == Outputs::Raw {
        let [logits, distances, centerness] = [&logits, &distances, &centerness]
            .map(|parts| graph.concat(&parts.iter().collect::<Vec<_>>(), 1));
        let anchors = graph.concat(&anchors.iter().collect::<Vec<_>>(), 0);
        let (n, a, four) = (Side::Named("images"), Side::Named("points"), Side::Fixed(4));
        let doc = "one logit for each class in the order of `ckd_det.categories`, before the sigmoid";
        graph.output(&logits, "logits", Element::F32, &[n, a, Side::Fixed(classes)], doc);
        let doc = "left, top, right, bottom from each point, in sides of its anchor";
        graph.output(&distances, "distances", Element::F32, &[n, a, four], doc);
        let doc = "one logit for each point, before the sigmoid";
        graph.output(&centerness, "centerness", Element::F32, &[n, a, Side::Fixed(1)], doc);
        let doc = "x1, y1, x2, y2 around each point; levels fine to coarse";
        graph.output(&anchors, "anchors", Element::F32, &[a, four], doc);
        return Ok(());
    }
    let (mut all_boxes, mut all_scores, mut all_labels) = (Vec::new(), Vec::new(), Vec::new());
    for (((logits, distances), centerness), anchors) in
        logits.iter().zip(&distances).zip(&centerness).zip(&anchors)
    {
        let [classes_there, central] = [logits, centerness].map(|logits| graph.op("Sigmoid", &[logits]));
        let product = graph.op("Mul", &[&classes_there, &central]);
        let scores = graph.op("Sqrt", &[&product]);
        let limits = (settings.score_threshold, settings.topk_candidates);
        let Confident { scores, anchors: point, labels } = boxes::confident(graph, &scores, classes, limits);
        let distances = boxes::rows_of(graph, distances, &point);
        let anchors = graph.op("Gather", &[anchors, &point]);
        let decoded = boxes::decode_points(graph, &distances, &anchors);
        all_boxes.push(boxes::clip(graph, &decoded, &input.sizes, 3));
        all_scores.push(scores);
        all_labels.push(labels);
    }
    let mut all = |parts: &[Edge]| graph.concat(&parts.iter().collect::<Vec<_>>(), 1);
    let candidates = Scored { boxes: all(&all_boxes), scores: all(&all_scores) };
    let labels = all(&all_labels);
    let limits = (settings.nms_threshold, settings.detections_per_image);
    let (found, places) = boxes::suppress_in_groups(graph, &candidates, (&labels, classes), limits);
    let labels = boxes::rows_of(graph, &labels, &places);
    boxes::output_detections(graph, &found, &labels, categories, input.original.as_ref());
    Ok(())
}

/// The convolutions of a head, each followed by a group norm.
fn tower(layers: &mut Layers, level: &Edge, head: &str) -> Result<Edge> {
    let layer = |place: usize| format!("head.{head}.conv.{place}");
    let convs = layers.count(|i| format!("{}.weight", layer(3 * i)));
    let mut x = level.clone();
    for i in 0..convs {
        let y = layers.conv(&x, &layer(3 * i), 1, Then::Nothing)?;
        let y = layers.group_norm(&y, &layer(3 * i + 1))?;
        x = layers.graph.op("Relu", &[&y]);
    }
    Ok(x)
}

/// An output of a head, (N, A_l, width).
fn output(layers: &mut Layers, x: &Edge, layer: &str, width: usize, then: Then) -> Result<Edge> {
    let map = layers.conv(x, &format!("head.{layer}"), 1, then)?;
    Ok(boxes::per_anchor(&mut layers.graph, &map, width))
}
