//! Trunks by their plans, and the feature pyramid by the names of its tensors.

use ckd_detectors::backbone::plan::{Layer, Node, Step};
use ckd_detectors::backbone::{BackboneConfig, Plan};
use ckd_detectors::fpn::{ExtraLevels, P6From};

use super::graph::{Edge, Set};
use super::layers::{Layers, Place, Then};
use crate::export::error::Result;

/// Maps of the trunk of `config`, whose tensors' names begin with `within`, fine to coarse.
pub(super) fn trunk(
    layers: &mut Layers,
    config: &BackboneConfig,
    x: &Edge,
    within: &str,
) -> Result<Vec<Edge>> {
    let plan = config.plan()?;
    let results = results(layers, &plan, x, within)?;
    Ok(plan.maps().map(|(stage, Node(at))| results[stage][at].clone()).collect())
}

/// Inputs of Faster R-CNN's pyramid on the same trunk.
pub(super) fn pyramid_inputs(
    layers: &mut Layers,
    config: &BackboneConfig,
    x: &Edge,
    within: &str,
) -> Result<Vec<Edge>> {
    let plan = config.plan()?;
    let results = results(layers, &plan, x, within)?;
    Ok(plan.pyramid_inputs().map(|(stage, Node(at))| results[stage][at].clone()).collect())
}

/// Results of all steps, stage by stage, each behind the stage's input.
fn results(layers: &mut Layers, plan: &Plan, x: &Edge, within: &str) -> Result<Vec<Vec<Edge>>> {
    let mut stages: Vec<Vec<Edge>> = Vec::with_capacity(plan.stages.len());
    for stage in &plan.stages {
        let input = stages.last().and_then(|results| results.last()).unwrap_or(x);
        let mut results = vec![input.clone()];
        for step in &stage.steps {
            let result = self::step(layers, step, &results, within)?;
            results.push(result);
        }
        stages.push(results);
    }
    Ok(stages)
}

fn step(layers: &mut Layers, step: &Step, results: &[Edge], within: &str) -> Result<Edge> {
    let input = &results[step.input.0];
    match &step.layer {
        Layer::ConvNorm(conv) => {
            let [name, norm] = [&conv.names.0, &conv.names.1].map(|name| format!("{within}{name}"));
            let place = Place { stride: conv.stride, groups: Some(conv.groups) };
            let residual = conv.residual.map(|node| &results[node.0]);
            layers.conv_norm_at(input, (&name, &norm), place, residual, conv.activation.into())
        }
        Layer::MaxPool => {
            let settings = [
                ("kernel_shape", Set::Ints(&[3, 3])),
                ("strides", Set::Ints(&[2, 2])),
                ("pads", Set::Ints(&[1, 1, 1, 1])),
            ];
            Ok(layers.graph.op_with("MaxPool", &[input], &settings))
        }
        Layer::HardSwish => Ok(layers.hard_swish(input)),
        Layer::SqueezeExcitation(squeeze) => {
            let name = format!("{within}{}", squeeze.name);
            let mean = layers.graph.op("GlobalAveragePool", &[input]);
            let squeezed = layers.conv(&mean, &format!("{name}.fc1"), 1, Then::Relu)?;
            let excited = layers.conv(&squeezed, &format!("{name}.fc2"), 1, Then::Nothing)?;
            let factors = layers.hard_sigmoid(&excited);
            Ok(layers.graph.op("Mul", &[input, &factors]))
        }
    }
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
