//! Trunks and the feature pyramid, read off the names of their tensors.

use ckd_detectors::backbone::{BackboneConfig, StrideIn};
use ckd_detectors::fpn::{ExtraLevels, P6From};

use super::graph::{Edge, Set};
use super::layers::{Layers, Then};
use crate::export::error::Result;

/// The maps at strides 4, 8, 16 and 32.
pub(super) fn trunk(
    layers: &mut Layers,
    config: &BackboneConfig,
    x: &Edge,
    within: &str,
) -> Result<Vec<Edge>> {
    match config {
        BackboneConfig::ResNet(config) => resnet(layers, x, within, config.stride_in),
        BackboneConfig::MobileNetV1(_) => mobilenet_v1(layers, x, within),
        BackboneConfig::MobileNetV2(_) => mobilenet_v2(layers, x, within),
    }
}

/// ResNet: a stem, and four stages of blocks that add their input.
pub(super) fn resnet(layers: &mut Layers, x: &Edge, within: &str, stride_in: StrideIn) -> Result<Vec<Edge>> {
    let names = (format!("{within}conv1"), format!("{within}bn1"));
    let stem = layers.conv_norm(x, (&names.0, &names.1), 2, None, Then::Relu)?;
    let settings = [
        ("kernel_shape", Set::Ints(&[3, 3])),
        ("strides", Set::Ints(&[2, 2])),
        ("pads", Set::Ints(&[1, 1, 1, 1])),
    ];
    let mut x = layers.graph.op_with("MaxPool", &[&stem], &settings);
    let mut maps = Vec::new();
    for stage in 1..=4 {
        let stage_name = format!("{within}layer{stage}");
        let blocks = layers.count(|block| format!("{stage_name}.{block}.conv1.weight"));
        for block in 0..blocks {
            let stride = if stage > 1 && block == 0 { 2 } else { 1 };
            x = residual_block(layers, &x, &format!("{stage_name}.{block}"), (stride, stride_in))?;
        }
        maps.push(x.clone());
    }
    Ok(maps)
}

/// A basic block, whose stride is in its first convolution, or a bottleneck.
fn residual_block(
    layers: &mut Layers,
    x: &Edge,
    block: &str,
    (stride, stride_in): (usize, StrideIn),
) -> Result<Edge> {
    let shortcut = if layers.has(&format!("{block}.downsample.0.weight")) {
        let names = (format!("{block}.downsample.0"), format!("{block}.downsample.1"));
        layers.conv_norm(x, (&names.0, &names.1), stride, None, Then::Nothing)?
    } else {
        x.clone()
    };
    let convs = layers.count(|i| format!("{block}.conv{}.weight", i + 1));
    let strided = match stride_in {
        StrideIn::Middle if convs == 3 => 2,
        StrideIn::Middle | StrideIn::First => 1,
    };
    let mut y = x.clone();
    for i in 1..=convs {
        let names = (format!("{block}.conv{i}"), format!("{block}.bn{i}"));
        let stride = if i == strided { stride } else { 1 };
        let residual = (i == convs).then_some(&shortcut);
        y = layers.conv_norm(&y, (&names.0, &names.1), stride, residual, Then::Relu)?;
    }
    Ok(y)
}

/// MobileNetV1: a convolution, 13 pairs of a filter of each channel and a 1x1.
pub(super) fn mobilenet_v1(layers: &mut Layers, x: &Edge, within: &str) -> Result<Vec<Edge>> {
    const HALVING: [usize; 4] = [2, 4, 6, 12];
    const TAKEN: [usize; 4] = [3, 5, 11, 13];
    let name = |index: usize, part: usize| format!("{within}{index}.{part}");
    let mut x = layers.conv_norm(x, (&name(0, 0), &name(0, 1)), 2, None, Then::Relu)?;
    let mut maps = Vec::new();
    for index in 1..=13 {
        let stride = if HALVING.contains(&index) { 2 } else { 1 };
        x = layers.conv_norm(&x, (&name(index, 0), &name(index, 1)), stride, None, Then::Relu)?;
        x = layers.conv_norm(&x, (&name(index, 3), &name(index, 4)), 1, None, Then::Relu)?;
        if TAKEN.contains(&index) {
            maps.push(x.clone());
        }
    }
    Ok(maps)
}

/// MobileNetV2: a convolution, 17 inverted residuals, a convolution.
pub(super) fn mobilenet_v2(layers: &mut Layers, x: &Edge, within: &str) -> Result<Vec<Edge>> {
    const HALVING: [usize; 4] = [2, 4, 7, 14];
    const TAKEN: [usize; 3] = [3, 6, 13];
    let ends = |index: usize| (format!("{within}{index}.0"), format!("{within}{index}.1"));
    let names = ends(0);
    let mut x = layers.conv_norm(x, (&names.0, &names.1), 2, None, Then::Relu6)?;
    let mut maps = Vec::new();
    for index in 1..=17 {
        let stride = if HALVING.contains(&index) { 2 } else { 1 };
        x = inverted_residual(layers, &x, &format!("{within}{index}.conv"), stride)?;
        if TAKEN.contains(&index) {
            maps.push(x.clone());
        }
    }
    let names = ends(18);
    maps.push(layers.conv_norm(&x, (&names.0, &names.1), 1, None, Then::Relu6)?);
    Ok(maps)
}

fn inverted_residual(layers: &mut Layers, x: &Edge, block: &str, stride: usize) -> Result<Edge> {
    let nested = layers.count(|i| format!("{block}.{i}.0.weight"));
    let mut y = x.clone();
    let mut inputs = None;
    for i in 0..nested {
        let names = (format!("{block}.{i}.0"), format!("{block}.{i}.1"));
        let dims = layers.dims(&format!("{}.weight", names.0))?;
        // The first to see the block's input tells its channels: a 1x1, or a filter of each channel.
        inputs.get_or_insert(if dims[1] == 1 { dims[0] } else { dims[1] });
        let stride = if i + 1 == nested { stride } else { 1 };
        y = layers.conv_norm(&y, (&names.0, &names.1), stride, None, Then::Relu6)?;
    }
    let names = (format!("{block}.{nested}"), format!("{block}.{}", nested + 1));
    let outputs = layers.dims(&format!("{}.weight", names.0))?[0];
    let residual = (stride == 1 && inputs == Some(outputs)).then_some(x);
    layers.conv_norm(&y, (&names.0, &names.1), 1, residual, Then::Nothing)
}

/// The pyramid over `maps`, fine to coarse: all of `backbone.fpn`, and the levels above.
pub(super) fn pyramid(layers: &mut Layers, maps: &[Edge], extra: ExtraLevels) -> Result<Vec<Edge>> {
    let mut levels = Vec::new();
    let mut top: Option<Edge> = None;
    for (i, map) in maps.iter().enumerate().rev() {
        let lateral = fpn_layer(layers, map, &format!("backbone.fpn.inner_blocks.{i}"))?;
        let merged = match &top {
            Some(top) => {
                let enlarged = enlarged(layers, top, &lateral);
                layers.graph.op("Add", &[&lateral, &enlarged])
            }
            None => lateral,
        };
        levels.push(fpn_layer(layers, &merged, &format!("backbone.fpn.layer_blocks.{i}"))?);
        top = Some(merged);
    }
    levels.reverse();
    let (Some(coarsest), Some(last)) = (levels.last().cloned(), maps.last()) else { return Ok(levels) };
    match extra {
        ExtraLevels::Subsample => {
            let settings = [("kernel_shape", Set::Ints(&[1, 1])), ("strides", Set::Ints(&[2, 2]))];
            levels.push(layers.graph.op_with("MaxPool", &[&coarsest], &settings));
        }
        ExtraLevels::P6P7(from) => {
            let below = match from {
                P6From::P5 => &coarsest,
                P6From::C5 => last,
            };
            let p6 = layers.conv(below, "backbone.fpn.extra_blocks.p6", 2, Then::Nothing)?;
            let positive = layers.graph.op("Relu", &[&p6]);
            let p7 = layers.conv(&positive, "backbone.fpn.extra_blocks.p7", 2, Then::Nothing)?;
            levels.extend([p6, p7]);
        }
    }
    Ok(levels)
}

/// A convolution of the pyramid, with its norm if it has one.
fn fpn_layer(layers: &mut Layers, x: &Edge, layer: &str) -> Result<Edge> {
    let (conv, norm) = (format!("{layer}.0"), format!("{layer}.1"));
    match layers.has(&format!("{norm}.weight")) {
        true => layers.conv_norm(x, (&conv, &norm), 1, None, Then::Nothing),
        false => layers.conv(x, &conv, 1, Then::Nothing),
    }
}

/// `x` at the height and width of `like`, each pixel the one it lies in.
fn enlarged(layers: &mut Layers, x: &Edge, like: &Edge) -> Edge {
    let graph = &mut layers.graph;
    let (own, wanted) = (graph.op("Shape", &[x]), graph.op("Shape", &[like]));
    let (first, last) = (graph.ints(&[0, 1]), graph.ints(&[2, 3]));
    let front = graph.op("Gather", &[&own, &first]);
    let back = graph.op("Gather", &[&wanted, &last]);
    let sizes = graph.concat(&[&front, &back], 0);
    let none = Edge::none();
    let settings = [
        ("mode", Set::S("nearest")),
        ("coordinate_transformation_mode", Set::S("asymmetric")),
        ("nearest_mode", Set::S("floor")),
    ];
    graph.op_with("Resize", &[x, &none, &none, &sizes], &settings)
}
