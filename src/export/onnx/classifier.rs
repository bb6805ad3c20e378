//! Classifiers as graphs: `ckd_detectors::classifier` in inference.

use std::collections::BTreeMap;

use ckd_detectors::backbone::StrideIn;
use ckd_detectors::images::Normalization;
use ckd_detectors::param::ParamStore;

use super::graph::{Edge, Set, Side};
use super::layers::{Layers, Then};
use super::proto::Element;
use super::trunk::resnet;
use super::{OnnxModel, Precision, Result};

/// Which classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClassifierKind {
    /// `ckd_detectors::classifier::ResNetClassifier`.
    ResNet,
    /// `ckd_detectors::classifier::CifarResNet`.
    CifarResNet,
}

/// The classifier whose weights are `params` as a graph: `images` f32 (N, 3, H, W), RGB in 0..1, to `logits` (N, K)
/// and `embedding` (N, D).
///
/// # Errors
/// If a layer is missing, or there is one that the graph has no place for.
pub fn classifier(
    params: &ParamStore,
    kind: ClassifierKind,
    normalization: Normalization,
    metadata: &BTreeMap<String, String>,
    precision: Precision,
) -> Result<OnnxModel> {
    let mut layers = Layers::new(params, precision)?;
    let graph = &mut layers.graph;
    let [n, h, w] = ["images", "height", "width"].map(Side::Named);
    let sides = [n, Side::Fixed(3), h, w];
    let images = graph.input("images", Element::F32, &sides, "RGB in 0..1; not normalised");
    let mean = graph.floats(&[3, 1, 1], &normalization.mean);
    let std = graph.floats(&[3, 1, 1], &normalization.std);
    let centred = graph.op("Sub", &[&images, &mean]);
    let x = graph.op("Div", &[&centred, &std]);
    let (map, linear) = match kind {
        ClassifierKind::ResNet => (resnet(&mut layers, &x, "", StrideIn::Middle)?.pop(), "fc"),
        ClassifierKind::CifarResNet => (Some(cifar_resnet(&mut layers, &x)?), "linear"),
    };
    let pooled = layers.graph.op("GlobalAveragePool", &[&map.unwrap_or(x)]);
    let embedding = layers.graph.op_with("Flatten", &[&pooled], &[("axis", Set::I(1))]);
    let logits = layers.linear(&embedding, linear, Then::Nothing)?;
    let (width, classes) = {
        let dims = layers.dims(&format!("{linear}.weight"))?;
        (dims[1], dims[0])
    };
    layers.graph.output(&logits, "logits", Element::F32, &[n, Side::Fixed(classes)], "before the softmax");
    let doc = "the mean over the last map";
    layers.graph.output(&embedding, "embedding", Element::F32, &[n, Side::Fixed(width)], doc);
    Ok(OnnxModel::new(layers.finish("classifier")?, metadata))
}

/// The ResNets for CIFAR, whose shortcuts have no parameters.
fn cifar_resnet(layers: &mut Layers, x: &Edge) -> Result<Edge> {
    let mut x = layers.conv_norm(x, ("conv1", "bn1"), 1, None, Then::Relu)?;
    for stage in 1..=3 {
        let blocks = layers.count(|block| format!("layer{stage}.{block}.conv1.weight"));
        for block in 0..blocks {
            let name = |part: &str| format!("layer{stage}.{block}.{part}");
            let dims = layers.dims(&name("conv1.weight"))?;
            let (outputs, inputs) = (dims[0], dims[1]);
            let halves = outputs != inputs;
            let shortcut = if halves { halved(layers, &x, outputs - inputs) } else { x.clone() };
            let stride = if halves { 2 } else { 1 };
            let y = layers.conv_norm(&x, (&name("conv1"), &name("bn1")), stride, None, Then::Relu)?;
            let second = (name("conv2"), name("bn2"));
            x = layers.conv_norm(&y, (&second.0, &second.1), 1, Some(&shortcut), Then::Relu)?;
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
