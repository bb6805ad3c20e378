//! Classifiers as graphs: the networks of `ckd_detectors::classifier` in inference, told by the names of
//! their tensors.
//!
//! | told by | network |
//! |---|---|
//! | `block0.0.weight` | VGG for CIFAR; images 64 pixels high have a fourth pooling, so its graph is for one height |
//! | `block1.layer.0.bn1.weight` | wide ResNet |
//! | `blocks.0.0.conv.0.weight` | MobileNetV2 for CIFAR |
//! | `layer1.0.conv5.weight` | ShuffleNetV2 for CIFAR |
//! | `layer1.0.conv2.weight` of one input channel | ShuffleNetV1 for CIFAR |
//! | `conv1.weight` of 3x3 | ResNet for CIFAR |
//! | all its convolutions | a classifier of a detector's trunk |

use std::collections::BTreeMap;

use ckd_detectors::backbone::{Backbone, BackboneConfig};
use ckd_detectors::images::Normalization;
use ckd_detectors::param::ParamStore;

use super::graph::{Edge, Set, Side};
use super::layers::{Layers, Then};
use super::model::{OnnxModel, Precision, Preprocessing};
use super::proto::Element;
use super::trunk::trunk;
use crate::export::error::{ExportError, Result};

/// Settings of a classifier's graph.
#[derive(Debug, Clone)]
pub struct ClassifierGraph<'a> {
    /// The scale of its pixels.
    pub normalization: Normalization,
    /// The height of the images it was trained for, in pixels.
    pub side_px: usize,
    /// Texts that travel with the graph.
    pub metadata: &'a BTreeMap<String, String>,
    /// Storage of weights.
    pub precision: Precision,
    /// Input type: f32 (N, 3, H, W) in 0..1, or u8 (N, H, W, 3). The caller resizes in both cases.
    pub preprocessing: Preprocessing,
}

/// The classifier whose weights are `params` as a graph: `images`, RGB, to `logits` (N, K) and `embedding`
/// (N, D).
///
/// # Errors
/// If it is none of the networks above, a layer is missing, or there is one that the graph has no place for.
pub fn classifier(params: &ParamStore, about: &ClassifierGraph<'_>) -> Result<OnnxModel> {
    let ClassifierGraph { normalization, side_px, metadata, precision, preprocessing } = *about;
    let mut layers = Layers::new(params, precision)?;
    let is_vgg = layers.has("block0.0.weight");
    let graph = &mut layers.graph;
    let [n, h, w] = ["images", "height", "width"].map(Side::Named);
    // Its poolings depend on it.
    let h = if is_vgg { Side::Fixed(side_px) } else { h };
    let images = match preprocessing {
        Preprocessing::Outside => {
            let doc = "RGB in 0..1, resized by `ckd_det.input`; not normalised";
            graph.input("images", Element::F32, &[n, Side::Fixed(3), h, w], doc)
        }
        Preprocessing::Inside => {
            let doc = "RGB, 0..255, resized by `ckd_det.input`";
            let bytes = graph.input("images", Element::U8, &[n, h, w, Side::Fixed(3)], doc);
            graph.unit(&bytes)
        }
    };
    let mean = graph.floats(&[3, 1, 1], &normalization.mean);
    let std = graph.floats(&[3, 1, 1], &normalization.std);
    let centred = graph.op("Sub", &[&images, &mean]);
    let x = graph.op("Div", &[&centred, &std]);
    let map = match is_vgg {
        true => vgg(&mut layers, &x, side_px)?,
        false => last_map(&mut layers, &x)?,
    };
    let names = ["fc", "linear", "classifier.3", "classifier", "classifier.0", "classifier.1"];
    let linear = names.into_iter().find(|name| layers.has(&format!("{name}.weight")));
    let linear = linear.ok_or_else(|| ExportError::Unsupported {
        reason: format!("it has no last layer by one of the names {}", names.join(", ")),
    })?;
    let pooled = layers.graph.op("GlobalAveragePool", &[&map]);
    let mut embedding = layers.graph.op_with("Flatten", &[&pooled], &[("axis", Set::I(1))]);
    let mut doc = "the mean over the last map";
    if linear == "classifier.3" {
        let hidden = layers.linear(&embedding, "classifier.0", Then::Nothing)?;
        embedding = layers.hard_swish(&hidden);
        doc = "the hidden layer on the mean over the last map";
    }
    let logits = layers.linear(&embedding, linear, Then::Nothing)?;
    let dims = layers.dims(&format!("{linear}.weight"))?;
    layers.graph.output(&logits, "logits", Element::F32, &[n, Side::Fixed(dims[0])], "before the softmax");
    layers.graph.output(&embedding, "embedding", Element::F32, &[n, Side::Fixed(dims[1])], doc);
    Ok(OnnxModel::new(layers.finish("classifier")?, metadata))
}

/// Input of the last pooling, in all networks but VGG.
fn last_map(layers: &mut Layers, x: &Edge) -> Result<Edge> {
    let is_filter = |name: &str| layers.dims(name).is_ok_and(|dims| dims.get(1) == Some(&1));
    let is_small = |name: &str| layers.dims(name).is_ok_and(|dims| dims.get(2) == Some(&3));
    if layers.has("block1.layer.0.bn1.weight") {
        wide_resnet(layers, x)
    } else if layers.has("blocks.0.0.conv.0.weight") {
        cifar_mobilenet_v2(layers, x)
    } else if layers.has("layer1.0.conv5.weight") {
        shufflenet_v2(layers, x)
    } else if is_filter("layer1.0.conv2.weight") {
        shufflenet_v1(layers, x)
    } else if is_small("conv1.weight") {
        cifar_resnet(layers, x)
    } else {
        let found = Backbone::recognise(&layers.shapes())?.ok_or_else(|| ExportError::Unsupported {
            reason: "its trunk is of no network that is known here".to_owned(),
        })?;
        layers.epsilon = found.backbone.classifier().batch_norm.epsilon as f32;
        let config = BackboneConfig::new(found.backbone).with_stem_channels(found.stem_channels);
        Ok(trunk(layers, &config, x, &found.prefix)?.pop().unwrap_or_else(Edge::none))
    }
}

/// The ResNets for CIFAR: basic blocks or bottlenecks, with parameter-free shortcuts (option A) or
/// convolutions.
fn cifar_resnet(layers: &mut Layers, x: &Edge) -> Result<Edge> {
    let mut x = layers.conv_norm(x, ("conv1", "bn1"), 1, None, Then::Relu)?;
    let stages = layers.count(|stage| format!("layer{}.0.conv1.weight", stage + 1));
    for stage in 1..=stages {
        let blocks = layers.count(|block| format!("layer{stage}.{block}.conv1.weight"));
        for block in 0..blocks {
            let name = |part: &str| format!("layer{stage}.{block}.{part}");
            let stride = if stage > 1 && block == 0 { 2 } else { 1 };
            let convs = layers.count(|i| name(&format!("conv{}.weight", i + 1)));
            let inputs = layers.dims(&name("conv1.weight"))?[1];
            let outputs = layers.dims(&name(&format!("conv{convs}.weight")))?[0];
            let convolved = ["downsample", "shortcut"]
                .map(|part| (name(&format!("{part}.0")), name(&format!("{part}.1"))));
            let convolved = convolved.iter().find(|names| layers.has(&format!("{}.weight", names.0)));
            let shortcut = match convolved {
                Some(names) => layers.conv_norm(&x, (&names.0, &names.1), stride, None, Then::Nothing)?,
                None if outputs != inputs => halved(layers, &x, outputs - inputs),
                None => x.clone(),
            };
            // A bottleneck's stride is in its 3x3.
            let strided = if convs == 3 { 2 } else { 1 };
            for i in 1..=convs {
                let names = (name(&format!("conv{i}")), name(&format!("bn{i}")));
                let residual = (i == convs).then_some(&shortcut);
                let stride = if i == strided { stride } else { 1 };
                x = layers.conv_norm(&x, (&names.0, &names.1), stride, residual, Then::Relu)?;
            }
        }
    }
    Ok(x)
}

/// Every second pixel of every second row, between `more` channels of zeros.
fn halved(layers: &mut Layers, x: &Edge, more: usize) -> Edge {
    let graph = &mut layers.graph;
    let [starts, ends, axes, steps] =
        [[0, 0], [i64::MAX; 2], [2, 3], [2, 2]].map(|values: [i64; 2]| graph.ints(&values));
    let small = graph.op("Slice", &[x, &starts, &ends, &axes, &steps]);
    let (before, after) = ((more / 2) as i64, (more - more / 2) as i64);
    let pads = graph.ints(&[0, before, 0, 0, 0, after, 0, 0]);
    graph.op("Pad", &[&small, &pads])
}

/// Norm and ReLU stand before each convolution.
fn wide_resnet(layers: &mut Layers, x: &Edge) -> Result<Edge> {
    let mut x = layers.conv(x, "conv1", 1, Then::Nothing)?;
    for stage in 1..=3 {
        let blocks = layers.count(|block| format!("block{stage}.layer.{block}.conv1.weight"));
        for block in 0..blocks {
            let name = |part: &str| format!("block{stage}.layer.{block}.{part}");
            let stride = if stage > 1 && block == 0 { 2 } else { 1 };
            let active = layers.norm_relu(&x, &name("bn1"))?;
            let shortcut = match layers.has(&name("convShortcut.weight")) {
                true => layers.conv(&active, &name("convShortcut"), stride, Then::Nothing)?,
                false => x.clone(),
            };
            let y = layers.conv_norm(&active, (&name("conv1"), &name("bn2")), stride, None, Then::Relu)?;
            let y = layers.conv(&y, &name("conv2"), 1, Then::Nothing)?;
            x = layers.graph.op("Add", &[&y, &shortcut]);
        }
    }
    layers.norm_relu(&x, "bn1")
}

/// Five blocks, a pooling after each of the first three, of images 64 pixels high the first four.
fn vgg(layers: &mut Layers, x: &Edge, height: usize) -> Result<Edge> {
    let pools = if height == 64 { 4 } else { 3 };
    let mut x = x.clone();
    for block in 0..5 {
        // Convolution, norm, ReLU: three places each.
        let convs = layers.count(|i| format!("block{block}.{}.weight", 3 * i));
        for i in 0..convs {
            let names = (format!("block{block}.{}", 3 * i), format!("block{block}.{}", 3 * i + 1));
            x = layers.conv_norm(&x, (&names.0, &names.1), 1, None, Then::Relu)?;
        }
        if block < pools {
            let settings = [("kernel_shape", Set::Ints(&[2, 2])), ("strides", Set::Ints(&[2, 2]))];
            x = layers.graph.op_with("MaxPool", &[&x], &settings);
        }
    }
    Ok(x)
}

/// MobileNetV2 for CIFAR: ReLUs that are not clipped.
fn cifar_mobilenet_v2(layers: &mut Layers, x: &Edge) -> Result<Edge> {
    const STRIDES: [usize; 7] = [1, 1, 2, 2, 1, 2, 1];
    let mut x = layers.conv_norm(x, ("conv1.0", "conv1.1"), 2, None, Then::Relu)?;
    for (row, row_stride) in STRIDES.into_iter().enumerate() {
        let blocks = layers.count(|block| format!("blocks.{row}.{block}.conv.0.weight"));
        for block in 0..blocks {
            let name = |part: usize| format!("blocks.{row}.{block}.conv.{part}");
            let stride = if block == 0 { row_stride } else { 1 };
            let inputs = layers.dims(&format!("{}.weight", name(0)))?[1];
            let outputs = layers.dims(&format!("{}.weight", name(6)))?[0];
            let y = layers.conv_norm(&x, (&name(0), &name(1)), 1, None, Then::Relu)?;
            let y = layers.conv_norm(&y, (&name(3), &name(4)), stride, None, Then::Relu)?;
            let residual = (stride == 1 && inputs == outputs).then_some(&x);
            x = layers.conv_norm(&y, (&name(6), &name(7)), 1, residual, Then::Nothing)?;
        }
    }
    layers.conv_norm(&x, ("conv2.0", "conv2.1"), 1, None, Then::Relu)
}

/// Units of grouped 1x1, shuffle, depthwise 3x3, grouped 1x1.
fn shufflenet_v1(layers: &mut Layers, x: &Edge) -> Result<Edge> {
    let mut x = layers.conv_norm(x, ("conv1", "bn1"), 1, None, Then::Relu)?;
    let mut channels = layers.dims("conv1.weight")?[0];
    for stage in 1..=3 {
        let units = layers.count(|unit| format!("layer{stage}.{unit}.conv1.weight"));
        for unit in 0..units {
            let name = |part: &str| format!("layer{stage}.{unit}.{part}");
            let (reduce, restore) =
                (layers.dims(&name("conv1.weight"))?, layers.dims(&name("conv3.weight"))?);
            let halves = unit == 0;
            let groups = channels / reduce[1].max(1);
            let names = (name("conv1"), name("bn1"));
            let y = layers.conv_norm_in_groups(&x, (&names.0, &names.1), groups, None, Then::Relu)?;
            let y = shuffled(layers, &y, reduce[0], groups);
            let stride = if halves { 2 } else { 1 };
            let y = layers.conv_norm(&y, (&name("conv2"), &name("bn2")), stride, None, Then::Relu)?;
            let names = (name("conv3"), name("bn3"));
            let groups = reduce[0] / restore[1].max(1);
            let residual = (!halves).then_some(&x);
            let then = if halves { Then::Nothing } else { Then::Relu };
            let y = layers.conv_norm_in_groups(&y, (&names.0, &names.1), groups, residual, then)?;
            x = if halves {
                let mean = mean_3x3(layers, &x, channels);
                let both = layers.graph.concat(&[&y, &mean], 1);
                layers.graph.op("Relu", &[&both])
            } else {
                y
            };
            channels = if halves { restore[0] + channels } else { restore[0] };
        }
    }
    Ok(x)
}

/// The mean of 3x3 pixels at stride 2, zeros around counting as pixels.
fn mean_3x3(layers: &mut Layers, x: &Edge, channels: usize) -> Edge {
    let ninth = layers.graph.floats(&[channels, 1, 3, 3], &vec![1.0 / 9.0; channels * 9]);
    let settings = [
        ("kernel_shape", Set::Ints(&[3, 3])),
        ("strides", Set::Ints(&[2, 2])),
        ("pads", Set::Ints(&[1; 4])),
        ("group", Set::I(channels as i64)),
    ];
    layers.graph.op_with("Conv", &[x, &ninth], &settings)
}

/// Stages of one unit that transforms its input twice at stride 2, and others that transform half of it.
fn shufflenet_v2(layers: &mut Layers, x: &Edge) -> Result<Edge> {
    let mut x = layers.conv_norm(x, ("conv1", "bn1"), 1, None, Then::Relu)?;
    for stage in 1..=3 {
        let units = layers.count(|unit| format!("layer{stage}.{unit}.conv1.weight"));
        for unit in 0..units {
            let within = format!("layer{stage}.{unit}.");
            let conv = |layers: &mut Layers, x: &Edge, number: usize, stride, then| {
                let names = (format!("{within}conv{number}"), format!("{within}bn{number}"));
                layers.conv_norm(x, (&names.0, &names.1), stride, None, then)
            };
            let (left, right) = if unit == 0 {
                let left = conv(layers, &x, 1, 2, Then::Nothing)?;
                let left = conv(layers, &left, 2, 1, Then::Relu)?;
                let right = conv(layers, &x, 3, 1, Then::Relu)?;
                let right = conv(layers, &right, 4, 2, Then::Nothing)?;
                (left, conv(layers, &right, 5, 1, Then::Relu)?)
            } else {
                let half = layers.dims(&format!("{within}conv1.weight"))?[1] as i64;
                let sides = layers.graph.ints(&[half, half]);
                let [kept, changed] = layers.graph.op_of("Split", &[&x, &sides], &[("axis", Set::I(1))]);
                let y = conv(layers, &changed, 1, 1, Then::Relu)?;
                let y = conv(layers, &y, 2, 1, Then::Nothing)?;
                (kept, conv(layers, &y, 3, 1, Then::Relu)?)
            };
            let last = if unit == 0 { 5 } else { 3 };
            let half = layers.dims(&format!("{within}conv{last}.weight"))?[0];
            let both = layers.graph.concat(&[&left, &right], 1);
            x = shuffled(layers, &both, 2 * half, 2);
        }
    }
    layers.conv_norm(&x, ("conv2", "bn2"), 1, None, Then::Relu)
}

/// Channel j of group i becomes neighbour of channel j of the other groups (Zhang et al. 2018, figure 1).
fn shuffled(layers: &mut Layers, x: &Edge, channels: usize, groups: usize) -> Edge {
    let per_group = channels / groups.max(1);
    let order: Vec<i64> =
        (0..channels).map(|place| (place % groups * per_group + place / groups) as i64).collect();
    let order = layers.graph.ints(&order);
    layers.graph.op_with("Gather", &[x, &order], &[("axis", Set::I(1))])
}
