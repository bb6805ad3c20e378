//! From what the graph is given to the network's input.

use super::boxes::Sizes;
use super::graph::{Edge, GraphBuilder, Set, Side};
use super::model::{InputRule, Preprocessing};
use super::proto::Element;

/// The network's input, and how its pixels relate to what was given.
pub(super) struct Prepared {
    /// Normalised, padded: (N, 3, H, W).
    pub(super) pixels: Edge,
    pub(super) sizes: Sizes,
    /// Factors (4) from boxes to pixels of the photographs; none if boxes are in those already.
    pub(super) original: Option<Edge>,
}

/// The graph's inputs and what is done to them.
pub(super) fn prepare(graph: &mut GraphBuilder, rule: &InputRule, preprocessing: Preprocessing) -> Prepared {
    match preprocessing {
        Preprocessing::Outside => from_pixels(graph, rule),
        Preprocessing::Inside => from_photographs(graph, rule),
    }
}

/// f32 images in 0..1, which the caller resized, with their true sizes.
fn from_pixels(graph: &mut GraphBuilder, rule: &InputRule) -> Prepared {
    let [n, h, w] = ["images", "height", "width"].map(Side::Named);
    let doc =
        "RGB in 0..1, resized by `ckd_det.input`; not normalised. Smaller images of a batch lie top left";
    let images = graph.input("images", Element::F32, &[n, Side::Fixed(3), h, w], doc);
    let doc = "height and width of each image without padding";
    let own = graph.input("sizes", Element::I64, &[n, Side::Fixed(2)], doc);
    let ones = graph.ints(&[1, 1]);
    let [rows, columns] = graph.op_of("Split", &[&own, &ones], &[("axis", Set::I(1))]);
    let [rows, columns] = [rows, columns].map(|side| graph.unsqueeze(&side, &[2]));
    let (height, width) = (graph.side(&images, 2), graph.side(&images, 3));
    // Padding is 0 after normalisation, as in training.
    let (ys, xs) = (graph.range(&height), graph.range(&width));
    let (ys, xs) = (graph.reshape(&ys, &[1, -1, 1]), graph.reshape(&xs, &[1, 1, -1]));
    let (inside_y, inside_x) = (graph.op("Less", &[&ys, &rows]), graph.op("Less", &[&xs, &columns]));
    let inside = graph.op("And", &[&inside_y, &inside_x]);
    let inside = graph.unsqueeze(&inside, &[1]);
    let normalised = normalised(graph, &images, rule);
    let zero = graph.float(0.0);
    let pixels = graph.op("Where", &[&inside, &normalised, &zero]);
    let (pixels, height, width) = padded(graph, &pixels, (height, width), rule.size_divisor);
    let [rows, columns] = [rows, columns].map(|side| graph.cast(&side, Element::F32));
    Prepared { pixels, sizes: Sizes { height, width, rows, columns }, original: None }
}

/// u8 photographs of one size, as they come out of a decoder.
fn from_photographs(graph: &mut GraphBuilder, rule: &InputRule) -> Prepared {
    let [n, h, w] = ["images", "height", "width"].map(Side::Named);
    let doc = "RGB photographs, upright, 0..255; resizing, normalisation and padding are in the graph";
    let images = graph.input("images", Element::U8, &[n, h, w, Side::Fixed(3)], doc);
    let given = [graph.side(&images, 1), graph.side(&images, 2)];
    let sides = [&given[0], &given[1]].map(|side| graph.cast(side, Element::F64));
    let (short, long) = (graph.op("Min", &[&sides[0], &sides[1]]), graph.op("Max", &[&sides[0], &sides[1]]));
    let (to_short, to_long) =
        (graph.double(rule.short_side_px.into()), graph.double(rule.long_side_px.into()));
    let (by_short, by_long) = (graph.op("Div", &[&to_short, &short]), graph.op("Div", &[&to_long, &long]));
    let scale = graph.op("Min", &[&by_short, &by_long]);
    let one = graph.ints(&[1]);
    let [height, width] = [&sides[0], &sides[1]].map(|side| {
        let scaled = graph.op("Mul", &[side, &scale]);
        let scaled = graph.cast(&scaled, Element::I64);
        graph.op("Max", &[&scaled, &one])
    });
    let pixels = graph.unit(&images);
    let shape = graph.op("Shape", &[&pixels]);
    let first = graph.ints(&[0, 1]);
    let front = graph.op("Gather", &[&shape, &first]);
    let wanted = graph.concat(&[&front, &height, &width], 0);
    let none = Edge::none();
    let settings = [("mode", Set::S("linear")), ("coordinate_transformation_mode", Set::S("half_pixel"))];
    let resized = graph.op_with("Resize", &[&pixels, &none, &none, &wanted], &settings);
    let normalised = normalised(graph, &resized, rule);
    let count = graph.side(&images, 0);
    let one = graph.ints(&[1]);
    let each = graph.concat(&[&count, &one, &one], 0);
    let [rows, columns] = [&height, &width].map(|side| {
        let side = graph.cast(side, Element::F32);
        graph.op("Expand", &[&side, &each])
    });
    // Each axis by its own ratio, rounded to f32 once, as `boxes::resize` does.
    let [down, across] = [(&given[0], &height), (&given[1], &width)].map(|(original, resized)| {
        let [original, resized] = [original, resized].map(|side| graph.cast(side, Element::F32));
        graph.op("Div", &[&original, &resized])
    });
    let original = graph.concat(&[&across, &down, &across, &down], 0);
    let (pixels, height, width) = padded(graph, &normalised, (height, width), rule.size_divisor);
    Prepared { pixels, sizes: Sizes { height, width, rows, columns }, original: Some(original) }
}

fn normalised(graph: &mut GraphBuilder, pixels: &Edge, rule: &InputRule) -> Edge {
    let mean = graph.floats(&[3, 1, 1], &rule.normalization.mean);
    let std = graph.floats(&[3, 1, 1], &rule.normalization.std);
    let centred = graph.op("Sub", &[pixels, &mean]);
    graph.op("Div", &[&centred, &std])
}

/// `pixels` with rows and columns of 0 up to multiples of `divisor`, and the sides then.
fn padded(
    graph: &mut GraphBuilder,
    pixels: &Edge,
    (height, width): (Edge, Edge),
    divisor: u32,
) -> (Edge, Edge, Edge) {
    let divisor_edge = graph.ints(&[divisor.into()]);
    let more = graph.ints(&[i64::from(divisor) - 1]);
    let [tall, wide] = [&height, &width].map(|side| {
        let up = graph.op("Add", &[side, &more]);
        let times = graph.op("Div", &[&up, &divisor_edge]);
        graph.op("Mul", &[&times, &divisor_edge])
    });
    let (below, right) = (graph.op("Sub", &[&tall, &height]), graph.op("Sub", &[&wide, &width]));
    let before = graph.ints(&[0; 6]);
    let pads = graph.concat(&[&before, &below, &right], 0);
    (graph.op("Pad", &[pixels, &pads]), tall, wide)
}
