//! Faster R-CNN as a graph: `ckd_detectors::faster_rcnn` in inference.

use ckd_detectors::DetectorConfig;
use ckd_detectors::fpn::ExtraLevels;
use ckd_detectors::level_mapper::LevelMapper;
use ckd_detectors::pyramid::Pyramid;
use ckd_detectors::roi_heads::{RoiAlign, RoiConfig};
use ckd_detectors::settings::Architecture;

use super::boxes::{self, Scored};
use super::graph::{Edge, GraphBuilder, Set, Side};
use super::input::Prepared;
use super::layers::{Layers, Then};
use super::model::Outputs;
use super::proto::Element;
use super::trunk::{pyramid, pyramid_inputs};
use crate::export::error::{ExportError, Result};

/// The weights of the box coder of the second stage.
const CODER: [f32; 4] = [10.0, 10.0, 5.0, 5.0];

/// Sides in pixels that a detection must have.
const MIN_SIZE: f32 = 1e-2;

/// Boxes (R, 4), and the image (R) that each is on.
struct Rois {
    boxes: Edge,
    image: Edge,
}

/// Outputs of the RPN for each level: objectness (N, A_l), deltas (N, A_l, 4), anchors (A_l, 4).
struct FirstStage {
    objectness: Vec<Edge>,
    deltas: Vec<Edge>,
    anchors: Vec<Edge>,
}

pub(super) fn write(
    layers: &mut Layers,
    config: &DetectorConfig,
    input: &Prepared,
    categories: &[u64],
    outputs: Outputs,
) -> Result<()> {
    let maps = pyramid_inputs(layers, &config.backbone, &input.pixels, "backbone.body.")?;
    let shape = config.pyramid()?;
    let levels = pyramid(layers, &maps, ExtraLevels::Subsample)?;
    let first = first_stage(layers, config, &levels, input)?;
    if outputs == Outputs::Raw {
        // The second stage is a graph of its own.
        layers.leave_out("roi_heads.");
        output_heads(&mut layers.graph, &first, &levels, &shape);
        return Ok(());
    }
    let proposals = propose(&mut layers.graph, config, &first, input);
    let rois = rois_of(&mut layers.graph, &proposals);
    let (logits, deltas) = second_stage(layers, &config.settings.roi, (&levels, &shape), &rois)?;
    let (found, labels) = detections(&mut layers.graph, config, (&logits, &deltas), &proposals, input);
    boxes::output_detections(&mut layers.graph, &found, &labels, categories, input.original.as_ref());
    Ok(())
}

/// The second stage on its own: class logits and deltas of given boxes on given maps.
pub(super) fn write_box_head(layers: &mut Layers, config: &DetectorConfig) -> Result<()> {
    if config.settings.architecture != Architecture::FasterRcnn {
        let reason = format!("a {} has no box head", config.settings.architecture);
        return Err(ExportError::Unsupported { reason });
    }
    layers.leave_out("backbone.");
    layers.leave_out("rpn.");
    let (graph, pyramid) = (&mut layers.graph, config.pyramid()?);
    let mut levels = Vec::new();
    for (name, stride) in pyramid.levels().iter().zip(pyramid.map_strides()) {
        let dims = map_dims(stride);
        let dims = dims.each_ref().map(|side| Side::Named(side));
        levels.push(graph.input(&name.to_string(), Element::F32, &dims, "the pyramid's map"));
    }
    let (rows, four) = (Side::Named("boxes"), Side::Fixed(4));
    let doc = "x1, y1, x2, y2 in pixels of the padded images";
    let boxes = graph.input("boxes", Element::F32, &[rows, four], doc);
    let image = graph.input("image", Element::I64, &[rows], "image of the batch that each box is on");
    let rois = Rois { boxes, image };
    let (logits, deltas) = second_stage(layers, &config.settings.roi, (&levels, &pyramid), &rois)?;
    let (graph, classes) = (&mut layers.graph, config.classes + 1);
    let doc = "a logit for each class behind the background, in the order of `ckd_det.categories`, before the softmax";
    graph.output(&logits, "logits", Element::F32, &[rows, Side::Fixed(classes)], doc);
    let doc = "dx, dy, dw, dh for the background and each class, times `box_coder_weights` of `ckd_det.postprocess`";
    graph.output(&deltas, "deltas", Element::F32, &[rows, Side::Fixed(4 * classes)], doc);
    Ok(())
}

/// Names of a map's sides.
fn map_dims(stride: &usize) -> [String; 4] {
    ["images".to_owned(), "channels".to_owned(), format!("height{stride}"), format!("width{stride}")]
}

fn first_stage(
    layers: &mut Layers,
    config: &DetectorConfig,
    levels: &[Edge],
    input: &Prepared,
) -> Result<FirstStage> {
    let (mut objectness, mut deltas) = (Vec::new(), Vec::new());
    let convs = layers.count(|i| format!("rpn.head.conv.{i}.0.weight"));
    for level in levels {
        let mut hidden = level.clone();
        for i in 0..convs {
            hidden = layers.conv(&hidden, &format!("rpn.head.conv.{i}.0"), 1, Then::Relu)?;
        }
        let logits = layers.conv(&hidden, "rpn.head.cls_logits", 1, Then::Nothing)?;
        let logits = boxes::per_anchor(&mut layers.graph, &logits, 1);
        objectness.push(layers.graph.reshape(&logits, &[0, -1]));
        let moves = layers.conv(&hidden, "rpn.head.bbox_pred", 1, Then::Nothing)?;
        deltas.push(boxes::per_anchor(&mut layers.graph, &moves, 4));
    }
    let anchors = boxes::anchors(&mut layers.graph, config, levels, &input.sizes)?;
    Ok(FirstStage { objectness, deltas, anchors })
}

fn output_heads(graph: &mut GraphBuilder, first: &FirstStage, levels: &[Edge], pyramid: &Pyramid) {
    let all = |graph: &mut GraphBuilder, parts: &[Edge], axis| {
        graph.concat(&parts.iter().collect::<Vec<_>>(), axis)
    };
    let objectness = all(graph, &first.objectness, 1);
    let deltas = all(graph, &first.deltas, 1);
    let anchors = all(graph, &first.anchors, 0);
    let (n, a) = (Side::Named("images"), Side::Named("anchors"));
    graph.output(&objectness, "objectness", Element::F32, &[n, a], "logits, before the sigmoid");
    graph.output(&deltas, "deltas", Element::F32, &[n, a, Side::Fixed(4)], "dx, dy, dw, dh of each anchor");
    graph.output(
        &anchors,
        "anchors",
        Element::F32,
        &[a, Side::Fixed(4)],
        "x1, y1, x2, y2; levels fine to coarse",
    );
    for ((level, name), stride) in levels.iter().zip(pyramid.levels()).zip(pyramid.map_strides()) {
        let dims = map_dims(stride);
        let dims = dims.each_ref().map(|side| Side::Named(side));
        graph.output(level, &name.to_string(), Element::F32, &dims, "the pyramid's map");
    }
}

/// Boxes (N, K, 4) with their objectness.
fn propose(
    graph: &mut GraphBuilder,
    config: &DetectorConfig,
    first: &FirstStage,
    input: &Prepared,
) -> Scored {
    let filter = &config.settings.rpn.at_inference();
    let (mut all_boxes, mut all_scores, mut all_levels) = (Vec::new(), Vec::new(), Vec::new());
    let levels = first.objectness.iter().zip(&first.deltas).zip(&first.anchors).enumerate();
    for (level, ((objectness, deltas), anchors)) in levels {
        let [logits, places] = boxes::top(graph, objectness, filter.pre_nms_top_n);
        let deltas = boxes::rows_of(graph, deltas, &places);
        let anchors = graph.op("Gather", &[anchors, &places]);
        let decoded = boxes::decode(graph, &deltas, &anchors, [1.0; 4]);
        let decoded = boxes::clip(graph, &decoded, &input.sizes, 3);
        let scores = graph.op("Sigmoid", &[&logits]);
        let least = graph.float(filter.score_threshold as f32);
        let enough = graph.op("GreaterOrEqual", &[&scores, &least]);
        let scores = boxes::only_where(graph, &enough, &scores);
        all_scores.push(boxes::without_slivers(graph, &decoded, &scores, filter.min_size as f32));
        all_boxes.push(decoded);
        let (level, shape) = (graph.int(level as i64), graph.op("Shape", &[&places]));
        all_levels.push(graph.op("Expand", &[&level, &shape]));
    }
    let mut all = |parts: &[Edge]| graph.concat(&parts.iter().collect::<Vec<_>>(), 1);
    let candidates = Scored { boxes: all(&all_boxes), scores: all(&all_scores) };
    let groups = (&all(&all_levels), first.objectness.len());
    let limits = (filter.nms_threshold, filter.post_nms_top_n);
    boxes::suppress_in_groups(graph, &candidates, groups, limits).0
}

/// Boxes of all images in one list.
fn rois_of(graph: &mut GraphBuilder, proposals: &Scored) -> Rois {
    let boxes = graph.reshape(&proposals.boxes, &[-1, 4]);
    let shape = graph.op("Shape", &[&proposals.scores]);
    let images = graph.side(&proposals.scores, 0);
    let image = graph.range(&images);
    let image = graph.unsqueeze(&image, &[1]);
    let image = graph.op("Expand", &[&image, &shape]);
    let image = graph.reshape(&image, &[-1]);
    Rois { boxes, image }
}

/// Class logits (R, classes + 1) and deltas (R, 4 (classes + 1)).
fn second_stage(
    layers: &mut Layers,
    config: &RoiConfig,
    (levels, pyramid): (&[Edge], &Pyramid),
    rois: &Rois,
) -> Result<(Edge, Edge)> {
    let mut x = pool(&mut layers.graph, config, (levels, pyramid), rois);
    // A head of convolutions has them in order, then one linear layer; torchvision's plain head has two.
    let convs = layers.count(|i| format!("roi_heads.box_head.{i}.0.weight"));
    for i in 0..convs {
        let names = (format!("roi_heads.box_head.{i}.0"), format!("roi_heads.box_head.{i}.1"));
        x = match layers.has(&format!("{}.weight", names.1)) {
            true => layers.conv_norm(&x, (&names.0, &names.1), 1, None, Then::Relu)?,
            false => layers.conv(&x, &names.0, 1, Then::Relu)?,
        };
    }
    let linear: Vec<String> = match convs {
        0 => ["fc6", "fc7"].map(|name| format!("roi_heads.box_head.{name}")).into(),
        _ => vec![format!("roi_heads.box_head.{}", convs + 1)],
    };
    let width = layers.dims(&format!("{}.weight", linear[0]))?[1];
    let mut hidden = layers.graph.reshape(&x, &[-1, width as i64]);
    for layer in &linear {
        hidden = layers.linear(&hidden, layer, Then::Relu)?;
    }
    Ok((
        layers.linear(&hidden, "roi_heads.box_predictor.cls_score", Then::Nothing)?,
        layers.linear(&hidden, "roi_heads.box_predictor.bbox_pred", Then::Nothing)?,
    ))
}

/// The features of each RoI, (R, C, P, P), each from the level of its size.
fn pool(
    graph: &mut GraphBuilder,
    config: &RoiConfig,
    (levels, pyramid): (&[Edge], &Pyramid),
    Rois { boxes: rois, image }: &Rois,
) -> Edge {
    let mapper = LevelMapper::over(pyramid.map_strides());
    let pooled_from = |graph: &mut GraphBuilder, index: usize, rois: &Edge, image: &Edge| {
        let size = config.pool_size as i64;
        let corners = match config.align {
            RoiAlign::Legacy => "output_half_pixel",
            RoiAlign::Aligned => "half_pixel",
        };
        let settings = [
            ("output_height", Set::I(size)),
            ("output_width", Set::I(size)),
            ("sampling_ratio", Set::I(config.sampling_ratio as i64)),
            ("spatial_scale", Set::F(1.0 / pyramid.strides()[index] as f32)),
            ("coordinate_transformation_mode", Set::S(corners)),
        ];
        graph.op_with("RoiAlign", &[&levels[index], rois, image], &settings)
    };
    if mapper.levels() == 1 {
        return pooled_from(graph, 0, rois, image);
    }
    let level = level_of(graph, rois, &mapper);
    let (mut pooled, mut order) = (Vec::new(), Vec::new());
    for index in 0..mapper.levels() {
        let own = graph.int(index as i64);
        let own = graph.op("Equal", &[&level, &own]);
        let places = graph.op("NonZero", &[&own]);
        let places = graph.reshape(&places, &[-1]);
        let (own_rois, own_image) =
            (graph.op("Gather", &[rois, &places]), graph.op("Gather", &[image, &places]));
        pooled.push(pooled_from(graph, index, &own_rois, &own_image));
        order.push(places);
    }
    let pooled = graph.concat(&pooled.iter().collect::<Vec<_>>(), 0);
    let order = graph.concat(&order.iter().collect::<Vec<_>>(), 0);
    // Where each RoI has gone.
    let count = graph.side(&order, 0);
    let places = graph.range(&count);
    let rows = graph.unsqueeze(&order, &[1]);
    let back = graph.op("ScatterND", &[&places, &rows, &places]);
    graph.op("Gather", &[&pooled, &back])
}

/// The level of each RoI (R): how many of the areas at which a coarser level begins it reaches.
///
/// The areas are those at which `LevelMapper` changes its answer, to the last bit: there is no logarithm in the graph,
/// whose rounding differs between runtimes.
fn level_of(graph: &mut GraphBuilder, rois: &Edge, mapper: &LevelMapper) -> Edge {
    let [x1, y1, x2, y2] = boxes::columns(graph, rois);
    let (width, height) = (graph.op("Sub", &[&x2, &x1]), graph.op("Sub", &[&y2, &y1]));
    let area = graph.op("Mul", &[&width, &height]);
    let starts: Vec<f32> = (1..mapper.levels()).map(|level| smallest_area_of(level, mapper)).collect();
    let starts = graph.floats(&[1, starts.len()], &starts);
    let reached = graph.op("GreaterOrEqual", &[&area, &starts]);
    let reached = graph.cast(&reached, Element::I64);
    let (axis, rest) = (graph.ints(&[1]), graph.ints(&[-1]));
    let level = graph.op("ReduceSum", &[&reached, &axis]);
    graph.op("Reshape", &[&level, &rest])
}

/// The smallest area of a RoI that `mapper` puts on `level`.
fn smallest_area_of(level: usize, mapper: &LevelMapper) -> f32 {
    let reaches = |area: f32| mapper.level(&[0.0, 0.0, area, 1.0]) >= level;
    let (mut below, mut above) = (0f32.to_bits(), f32::MAX.to_bits());
    // Positive floats are ordered as their bits are.
    while above - below > 1 {
        let middle = below + (above - below) / 2;
        if reaches(f32::from_bits(middle)) { above = middle } else { below = middle }
    }
    f32::from_bits(above)
}

fn detections(
    graph: &mut GraphBuilder,
    config: &DetectorConfig,
    (logits, deltas): (&Edge, &Edge),
    proposals: &Scored,
    input: &Prepared,
) -> (Scored, Edge) {
    let classes = config.classes;
    let postprocess = &config.settings.roi;
    let probabilities = graph.op_with("Softmax", &[logits], &[("axis", Set::I(-1))]);
    // (N, K, classes + 1), less the background in column 0.
    let shape = graph.op("Shape", &[&proposals.scores]);
    let columns = graph.ints(&[classes as i64 + 1]);
    let dims = graph.concat(&[&shape, &columns], 0);
    let probabilities = graph.op("Reshape", &[&probabilities, &dims]);
    let (one, end) = (graph.ints(&[1]), graph.ints(&[classes as i64 + 1]));
    let two = graph.ints(&[2]);
    let scores = graph.op("Slice", &[&probabilities, &one, &end, &two]);
    let four = graph.ints(&[4]);
    let dims = graph.concat(&[&dims, &four], 0);
    let deltas = graph.op("Reshape", &[deltas, &dims]);
    let deltas = graph.op("Slice", &[&deltas, &one, &end, &two]);
    let references = graph.unsqueeze(&proposals.boxes, &[2]);
    let decoded = boxes::decode(graph, &deltas, &references, CODER);
    let decoded = boxes::clip(graph, &decoded, &input.sizes, 4);
    let threshold = graph.float(postprocess.score_threshold as f32);
    let enough = graph.op("Greater", &[&scores, &threshold]);
    // Rows that fill up the list of proposals are no regions.
    let zero = graph.float(0.0);
    let is_region = graph.op("GreaterOrEqual", &[&proposals.scores, &zero]);
    let is_region = graph.unsqueeze(&is_region, &[2]);
    let enough = graph.op("And", &[&enough, &is_region]);
    let scores = boxes::only_where(graph, &enough, &scores);
    let scores = boxes::without_slivers(graph, &decoded, &scores, MIN_SIZE);
    let candidates = Scored { boxes: decoded, scores };
    let limits = (postprocess.nms_threshold, postprocess.detections_per_image);
    let (found, places) = boxes::suppress_in_columns(graph, &candidates, classes, limits);
    let classes = graph.int(classes as i64);
    let labels = graph.op("Mod", &[&places, &classes]);
    (found, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_areas_where_a_coarser_level_begins_are_those_of_the_level_mapper() {
        let mapper = LevelMapper::P2_TO_P5;
        for level in 1..mapper.levels() {
            let area = smallest_area_of(level, &mapper);
            let at = |area: f32| mapper.level(&[0.0, 0.0, area, 1.0]);
            assert_eq!((at(area.next_down()), at(area)), (level - 1, level));
            let side = 112.0 * (1 << (level - 1)) as f32;
            assert!((area / (side * side) - 1.0).abs() < 1e-5, "{area}");
        }
    }
}
