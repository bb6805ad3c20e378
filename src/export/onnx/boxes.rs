//! Anchors, decoding, selection and suppression as nodes: what `ckd_detectors` does on the host.
//!
//! N images, S candidates of each. A score of [`GONE`] marks a candidate that does not count: scores are at least 0.

use ckd_detectors::DetectorConfig;
use ckd_detectors::box_coder::LARGEST_LOG_RATIO;

use super::graph::{Edge, GraphBuilder, Set, Side};
use super::proto::Element;
use crate::export::error::{ExportError, Result};

/// The score of what was filtered out.
const GONE: f32 = -1.0;

/// Between [`GONE`] and the lowest score that counts.
const COUNTS: f32 = -0.5;

/// The images' padded size, and each image's own.
pub(super) struct Sizes {
    /// Rows of the padded batch: one integer.
    pub(super) height: Edge,
    /// Its columns: one integer.
    pub(super) width: Edge,
    /// Own rows of each image, f32 (N, 1, 1).
    pub(super) rows: Edge,
    /// Own columns of each image, f32 (N, 1, 1).
    pub(super) columns: Edge,
}

/// Boxes with scores: (N, S, 4) and (N, S).
pub(super) struct Scored {
    pub(super) boxes: Edge,
    pub(super) scores: Edge,
}

/// The anchors of each level, (A_l, 4).
pub(super) fn anchors(
    graph: &mut GraphBuilder,
    config: &DetectorConfig,
    maps: &[Edge],
    sizes: &Sizes,
) -> Result<Vec<Edge>> {
    let generator = config.settings.anchors(&config.pyramid()?)?;
    // On one cell a map, what is generated is the anchors around (0, 0).
    let cells =
        generator.generate((0, 0), &vec![(1, 1); generator.levels()]).map_err(ckd_detectors::Error::from)?;
    if maps.len() != generator.levels() {
        let reason = format!("{} levels of anchors for {} maps", generator.levels(), maps.len());
        return Err(ExportError::Unsupported { reason });
    }
    let mut cells = cells.as_slice();
    let mut levels = Vec::with_capacity(maps.len());
    for (level, (map, count)) in maps.iter().zip(generator.per_location()).enumerate() {
        let (own, rest) = cells.split_at(count);
        cells = rest;
        let corners = graph.floats(&[1, 1, count, 4], own.as_flattened());
        let [ys, xs] = [(2, &sizes.height), (3, &sizes.width)].map(|(axis, padded)| {
            let cells = graph.side(map, axis);
            let stride = match generator.strides() {
                Some(strides) => graph.ints(&[strides[level] as i64]),
                None => graph.op("Div", &[padded, &cells]),
            };
            let places = graph.range(&cells);
            let places = graph.op("Mul", &[&places, &stride]);
            graph.cast(&places, Element::F32)
        });
        // A row of ones for each corner coordinate that the shift along an axis moves.
        let across = graph.floats(&[4], &[1.0, 0.0, 1.0, 0.0]);
        let down = graph.floats(&[4], &[0.0, 1.0, 0.0, 1.0]);
        let ys = graph.reshape(&ys, &[-1, 1, 1, 1]);
        let xs = graph.reshape(&xs, &[1, -1, 1, 1]);
        let (dy, dx) = (graph.op("Mul", &[&ys, &down]), graph.op("Mul", &[&xs, &across]));
        let shifted = graph.op("Add", &[&corners, &dx]);
        let shifted = graph.op("Add", &[&shifted, &dy]);
        levels.push(graph.reshape(&shifted, &[-1, 4]));
    }
    Ok(levels)
}

/// A head's map (N, A·width, H, W) as one row for each anchor: (N, H·W·A, width).
pub(super) fn per_anchor(graph: &mut GraphBuilder, map: &Edge, width: usize) -> Edge {
    let last = graph.transpose(map, &[0, 2, 3, 1]);
    graph.reshape(&last, &[0, -1, width as i64])
}

/// The rows of `x` (N, A, ..) that `places` (N, S) names, image by image.
pub(super) fn rows_of(graph: &mut GraphBuilder, x: &Edge, places: &Edge) -> Edge {
    let places = graph.unsqueeze(places, &[-1]);
    graph.op_with("GatherND", &[x, &places], &[("batch_dims", Set::I(1))])
}

/// The boxes that `deltas` make of `references`, both (.., 4); `weights` are the coder's.
pub(super) fn decode(graph: &mut GraphBuilder, deltas: &Edge, references: &Edge, weights: [f32; 4]) -> Edge {
    let [dx, dy, dw, dh] = columns(graph, deltas);
    let [x1, y1, x2, y2] = columns(graph, references);
    let mut axis = |shift: &Edge, log_ratio: &Edge, low: &Edge, high: &Edge, weights: [f32; 2]| {
        let half = graph.float(0.5);
        let length = graph.op("Sub", &[high, low]);
        let to_centre = graph.op("Mul", &[&length, &half]);
        let centre = graph.op("Add", &[low, &to_centre]);
        let [by_shift, by_ratio] = weights.map(|weight| graph.float(weight));
        let shift = graph.op("Div", &[shift, &by_shift]);
        let shift = graph.op("Mul", &[&shift, &length]);
        let centre = graph.op("Add", &[&shift, &centre]);
        let log_ratio = graph.op("Div", &[log_ratio, &by_ratio]);
        let most = graph.float(LARGEST_LOG_RATIO);
        let log_ratio = graph.op("Min", &[&log_ratio, &most]);
        let ratio = graph.op("Exp", &[&log_ratio]);
        let length = graph.op("Mul", &[&ratio, &length]);
        let reach = graph.op("Mul", &[&length, &half]);
        [graph.op("Sub", &[&centre, &reach]), graph.op("Add", &[&centre, &reach])]
    };
    let [left, right] = axis(&dx, &dw, &x1, &x2, [weights[0], weights[2]]);
    let [top, bottom] = axis(&dy, &dh, &y1, &y2, [weights[1], weights[3]]);
    graph.concat(&[&left, &top, &right, &bottom], -1)
}

/// The boxes whose sides are `distances` from the centres of `anchors`, in sides of the anchors; both (.., 4).
pub(super) fn decode_points(graph: &mut GraphBuilder, distances: &Edge, anchors: &Edge) -> Edge {
    let [left, up, right, down] = columns(graph, distances);
    let [x1, y1, x2, y2] = columns(graph, anchors);
    let mut axis = |before: &Edge, after: &Edge, low: &Edge, high: &Edge| {
        let half = graph.float(0.5);
        let length = graph.op("Sub", &[high, low]);
        let to_centre = graph.op("Mul", &[&length, &half]);
        let centre = graph.op("Add", &[low, &to_centre]);
        let [before, after] = [before, after].map(|distance| graph.op("Mul", &[distance, &length]));
        [graph.op("Sub", &[&centre, &before]), graph.op("Add", &[&centre, &after])]
    };
    let [left, right] = axis(&left, &right, &x1, &x2);
    let [top, bottom] = axis(&up, &down, &y1, &y2);
    graph.concat(&[&left, &top, &right, &bottom], -1)
}

/// `boxes` (N, S, 4) or (N, S, K, 4) moved inside their images.
pub(super) fn clip(graph: &mut GraphBuilder, boxes: &Edge, sizes: &Sizes, rank: i64) -> Edge {
    let ends = [&sizes.columns, &sizes.rows, &sizes.columns, &sizes.rows];
    let ends = graph.concat(&ends, 2);
    let mut dims = vec![1; rank as usize];
    (dims[0], dims[rank as usize - 1]) = (0, 4);
    // (N, 1, .., 4): 0 keeps the number of images.
    let ends = graph.reshape(&ends, &dims);
    let zero = graph.float(0.0);
    let inside = graph.op("Max", &[boxes, &zero]);
    graph.op("Min", &[&inside, &ends])
}

/// The four columns of (.., 4), each (.., 1).
pub(super) fn columns(graph: &mut GraphBuilder, boxes: &Edge) -> [Edge; 4] {
    let ones = graph.ints(&[1; 4]);
    graph.op_of("Split", &[boxes, &ones], &[("axis", Set::I(-1))])
}

/// `scores` (N, S), [`GONE`] where a side of `boxes` (N, S, 4) is shorter than `min_size`.
pub(super) fn without_slivers(graph: &mut GraphBuilder, boxes: &Edge, scores: &Edge, min_size: f32) -> Edge {
    let [x1, y1, x2, y2] = columns(graph, boxes);
    let least = graph.float(min_size);
    let [wide, tall] = [(&x2, &x1), (&y2, &y1)].map(|(high, low)| {
        let length = graph.op("Sub", &[high, low]);
        graph.op("GreaterOrEqual", &[&length, &least])
    });
    let enough = graph.op("And", &[&wide, &tall]);
    let last = graph.ints(&[-1]);
    let enough = graph.op("Squeeze", &[&enough, &last]);
    only_where(graph, &enough, scores)
}

/// `scores` (N, S), [`GONE`] where `boxes` (N, S, 4) have no area.
pub(super) fn without_empty(graph: &mut GraphBuilder, boxes: &Edge, scores: &Edge) -> Edge {
    let [x1, y1, x2, y2] = columns(graph, boxes);
    let [wide, tall] = [(&x2, &x1), (&y2, &y1)].map(|(high, low)| graph.op("Greater", &[high, low]));
    let some = graph.op("And", &[&wide, &tall]);
    let last = graph.ints(&[-1]);
    let some = graph.op("Squeeze", &[&some, &last]);
    only_where(graph, &some, scores)
}

/// `scores`, [`GONE`] where `condition` is false.
pub(super) fn only_where(graph: &mut GraphBuilder, condition: &Edge, scores: &Edge) -> Edge {
    let gone = graph.float(GONE);
    graph.op("Where", &[condition, scores, &gone])
}

/// The `most` highest of each row of `scores` (N, S), or all of them: values and places, (N, S').
pub(super) fn top(graph: &mut GraphBuilder, scores: &Edge, most: usize) -> [Edge; 2] {
    let count = graph.side(scores, 1);
    let most = graph.ints(&[limit(most)]);
    let k = graph.op("Min", &[&count, &most]);
    graph.op_of("TopK", &[scores, &k], &[("axis", Set::I(1))])
}

/// Highest-scoring pairs of anchor and class of a level.
pub(super) struct Confident {
    /// (N, S), descending.
    pub(super) scores: Edge,
    /// Rows of the level, (N, S).
    pub(super) anchors: Edge,
    /// Class indices, (N, S).
    pub(super) labels: Edge,
}

/// Pairs of `scores` (N, A, K) above `threshold`, the `most` highest of each image.
pub(super) fn confident(
    graph: &mut GraphBuilder,
    scores: &Edge,
    classes: usize,
    (threshold, most): (f64, usize),
) -> Confident {
    let scores = graph.reshape(scores, &[0, -1]);
    let threshold = graph.float(threshold as f32);
    let enough = graph.op("Greater", &[&scores, &threshold]);
    let scores = only_where(graph, &enough, &scores);
    let [scores, places] = top(graph, &scores, most);
    let columns = graph.int(classes as i64);
    let anchors = graph.op("Div", &[&places, &columns]);
    let labels = graph.op("Mod", &[&places, &columns]);
    Confident { scores, anchors, labels }
}

fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Non-maximum suppression among the candidates of a group, then the `most` best of an image.
///
/// # Shapes
/// `candidates` (N, S), `groups` (N, S) of integers below `count`. Returns (N, S') and the places within S; rows
/// are filled up with [`GONE`].
pub(super) fn suppress_in_groups(
    graph: &mut GraphBuilder,
    candidates: &Scored,
    (groups, count): (&Edge, usize),
    (threshold, most): (f64, usize),
) -> (Scored, Edge) {
    let own = graph.unsqueeze(groups, &[1]);
    let all: Vec<i64> = (0..count as i64).collect();
    let all = graph.ints(&all);
    let all = graph.reshape(&all, &[1, -1, 1]);
    let is_own = graph.op("Equal", &[&own, &all]);
    let scores = graph.unsqueeze(&candidates.scores, &[1]);
    let scores = only_where(graph, &is_own, &scores);
    let kept = suppress(graph, &candidates.boxes, &scores, threshold);
    let places = graph.ints(&[0, 2]);
    let places = graph.op_with("Gather", &[&kept, &places], &[("axis", Set::I(1))]);
    let survivors = keep_at(graph, &candidates.scores, &places);
    best(graph, &candidates.boxes, &survivors, most)
}

/// Non-maximum suppression of classes that have boxes of their own, then the `most` best of an image.
///
/// # Shapes
/// `candidates` (N, S, K, 4) and (N, S, K). Returns (N, S') and the places within S·K.
pub(super) fn suppress_in_columns(
    graph: &mut GraphBuilder,
    candidates: &Scored,
    classes: usize,
    (threshold, most): (f64, usize),
) -> (Scored, Edge) {
    // Each class of each image is a batch of its own.
    let by_class = graph.transpose(&candidates.boxes, &[0, 2, 1, 3]);
    let shape = graph.op("Shape", &[&by_class]);
    let (two, four) = (graph.ints(&[2]), graph.ints(&[4]));
    let count = graph.op("Gather", &[&shape, &two]);
    let rest = graph.ints(&[-1]);
    let dims = graph.concat(&[&rest, &count, &four], 0);
    let boxes = graph.op("Reshape", &[&by_class, &dims]);
    let one = graph.ints(&[1]);
    let scores = graph.transpose(&candidates.scores, &[0, 2, 1]);
    let dims = graph.concat(&[&rest, &one, &count], 0);
    let scores = graph.op("Reshape", &[&scores, &dims]);
    let kept = suppress(graph, &boxes, &scores, threshold);
    let [batch, _, place] = {
        let ones = graph.ints(&[1; 3]);
        graph.op_of::<3>("Split", &[&kept, &ones], &[("axis", Set::I(1))])
    };
    let classes = graph.int(classes as i64);
    let image = graph.op("Div", &[&batch, &classes]);
    let class = graph.op("Mod", &[&batch, &classes]);
    let places = graph.concat(&[&image, &place, &class], 1);
    let survivors = keep_at(graph, &candidates.scores, &places);
    let survivors = graph.reshape(&survivors, &[0, -1]);
    let boxes = graph.reshape(&candidates.boxes, &[0, -1, 4]);
    best(graph, &boxes, &survivors, most)
}

/// `scores` (.., S) of `boxes` (B, S, 4), and which stay: (M, 3) of batch, class and place.
fn suppress(graph: &mut GraphBuilder, boxes: &Edge, scores: &Edge, threshold: f64) -> Edge {
    let all = graph.side(boxes, 1);
    let threshold = graph.floats(&[1], &[threshold as f32]);
    let counts = graph.floats(&[1], &[COUNTS]);
    graph.op("NonMaxSuppression", &[boxes, scores, &all, &threshold, &counts])
}

/// `scores` at `places` (M, rank), [`GONE`] elsewhere.
fn keep_at(graph: &mut GraphBuilder, scores: &Edge, places: &Edge) -> Edge {
    let kept = graph.op("GatherND", &[scores, places]);
    let shape = graph.op("Shape", &[scores]);
    let gone = graph.float(GONE);
    let gone = graph.op("Expand", &[&gone, &shape]);
    graph.op("ScatterND", &[&gone, places, &kept])
}

/// The `most` best of each image, or as many as the image with most of them has (at least one row, which may be
/// [`GONE`]): shorter lists are less work.
fn best(graph: &mut GraphBuilder, boxes: &Edge, scores: &Edge, most: usize) -> (Scored, Edge) {
    let counts = counting(graph, scores);
    let counts = graph.cast(&counts, Element::I64);
    let axis = graph.ints(&[1]);
    let of_image = graph.op("ReduceSum", &[&counts, &axis]);
    let fullest = graph.op_with("ReduceMax", &[&of_image], &[("axes", Set::Ints(&[0]))]);
    let fullest = graph.reshape(&fullest, &[1]);
    let (most, one) = (graph.ints(&[limit(most)]), graph.ints(&[1]));
    let k = graph.op("Min", &[&fullest, &most]);
    let k = graph.op("Max", &[&k, &one]);
    let [scores, places] = graph.op_of("TopK", &[scores, &k], &[("axis", Set::I(1))]);
    (Scored { boxes: rows_of(graph, boxes, &places), scores }, places)
}

/// Which scores count.
fn counting(graph: &mut GraphBuilder, scores: &Edge) -> Edge {
    let least = graph.float(COUNTS);
    graph.op("Greater", &[scores, &least])
}

/// Makes the detections of all images the graph's outputs: `found` (N, S) of class indices `labels` (N, S).
pub(super) fn output_detections(
    graph: &mut GraphBuilder,
    found: &Scored,
    labels: &Edge,
    categories: &[u64],
    original: Option<&Edge>,
) {
    let counts = counting(graph, &found.scores);
    let places = graph.op("NonZero", &[&counts]);
    let places = graph.transpose(&places, &[1, 0]);
    let boxes = match original {
        Some(ratio) => graph.op("Mul", &[&found.boxes, ratio]),
        None => found.boxes.clone(),
    };
    let [boxes, scores, labels] =
        [&boxes, &found.scores, labels].map(|x| graph.op("GatherND", &[x, &places]));
    let ids: Vec<i64> = categories.iter().map(|&id| i64::try_from(id).unwrap_or(i64::MAX)).collect();
    let ids = graph.ints(&ids);
    let labels = graph.op("Gather", &[&ids, &labels]);
    let zero = graph.int(0);
    let image = graph.op_with("Gather", &[&places, &zero], &[("axis", Set::I(1))]);
    let count = Side::Named("detections");
    let pixels = match original {
        Some(_) => "x1, y1, x2, y2 in pixels of the photographs",
        None => "x1, y1, x2, y2 in pixels of `images`",
    };
    graph.output(&boxes, "boxes", Element::F32, &[count, Side::Fixed(4)], pixels);
    graph.output(&labels, "labels", Element::I64, &[count], "category ids");
    graph.output(&scores, "scores", Element::F32, &[count], "0 to 1; of each image in descending order");
    graph.output(&image, "image", Element::I64, &[count], "which image of the batch, from 0; ascending");
}
