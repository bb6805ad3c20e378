//! Activations in 8 bits (QDQ): what goes into a convolution or a linear layer is rounded to 256 steps of the
//! range it had on calibration images (Jacob et al. 2018, arXiv 1712.05877: asymmetric, a scale for each
//! tensor).

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;
use ckd_detectors::eight_bits::is_worth;
use ckd_kernels::eight_bits::Grid;

use super::evaluate::Evaluator;
use super::model::OnnxModel;
use super::proto::{Attribute, Constant, Element, Graph, Node};
use crate::export::error::Result;

/// Operators whose products are worth 8 bits.
const PRODUCTS: [&str; 2] = ["Conv", "Gemm"];

/// Whether a layer with a weight of this shape stays in f32, its weight too: a convolution that is not worth 8 bits.
pub(super) fn stays_in_f32(shape: &[usize]) -> bool {
    shape.len() == 4 && !is_worth(shape)
}

/// The smallest and the largest value of each tensor that goes into a product; 0 is always within.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ranges(BTreeMap<String, (f32, f32)>);

impl Ranges {
    /// Runs the graph on one input and widens the ranges by what is seen.
    ///
    /// # Errors
    /// As [`Evaluator::run`].
    pub fn observe(
        &mut self,
        evaluator: &Evaluator,
        inputs: &[(&str, Tensor)],
    ) -> Result<BTreeMap<String, Tensor>> {
        evaluator.run_watched(inputs, &mut |node, x| {
            if PRODUCTS.contains(&node.op_type.as_str()) && x.elem_count() > 0 {
                let range = self.0.entry(node.input[0].clone()).or_default();
                for value in x.flatten_all()?.to_vec1::<f32>()? {
                    if value.is_finite() {
                        *range = (range.0.min(value), range.1.max(value));
                    }
                }
            }
            Ok(())
        })
    }
}

/// The operator of residual connections.
const SUM: &str = "Add";

impl OnnxModel {
    /// Quantised copy of the graph: the input of every product is rounded to 8 bits within its range, also where a sum
    /// reads it later. Inputs without a range stay f32, and those of convolutions whose sums take fewer than 32 numbers.
    pub fn with_activations_in_8_bits(&self, ranges: &Ranges) -> Self {
        let mut model = self.clone();
        let Some(graph) = &mut model.0.graph else { return model };
        let mut nodes = Vec::with_capacity(graph.node.len());
        let mut quantised = BTreeSet::new();
        let short = short_products(graph);
        for mut node in std::mem::take(&mut graph.node) {
            let input = node.input.first().cloned().unwrap_or_default();
            let is_worth = PRODUCTS.contains(&node.op_type.as_str())
                && !node.output.first().is_some_and(|output| short.contains(output));
            if let (true, Some(&range)) = (is_worth, ranges.0.get(&input)) {
                if quantised.insert(input.clone()) {
                    let Grid { scale, zero } = Grid::of_range(range.0, range.1);
                    let [scale_name, zero_name] = ["scale", "zero"].map(|part| format!("{input}.{part}"));
                    graph.initializer.push(scalar(&scale_name, Element::F32, scale.to_le_bytes().to_vec()));
                    graph.initializer.push(scalar(&zero_name, Element::U8, vec![zero]));
                    let bytes = format!("{input}.u8");
                    nodes.push(linear("QuantizeLinear", [&input, &scale_name, &zero_name], &bytes));
                    let output = format!("{input}.rounded");
                    nodes.push(linear("DequantizeLinear", [&bytes, &scale_name, &zero_name], &output));
                }
                node.input[0] = format!("{input}.rounded");
            } else if node.op_type == SUM {
                // A residual connection: the map need not be kept in f32 beside its steps.
                for input in node.input.iter_mut().filter(|input| quantised.contains(*input)) {
                    *input = format!("{input}.rounded");
                }
            }
            nodes.push(node);
        }
        graph.node = nodes;
        model
    }
}

/// Results of the convolutions that [stay in f32](stays_in_f32).
fn short_products(graph: &Graph) -> BTreeSet<String> {
    let is_short = |constant: &&Constant| {
        stays_in_f32(&constant.dims.iter().map(|&size| size as usize).collect::<Vec<_>>())
    };
    let weights: BTreeSet<&str> =
        graph.initializer.iter().filter(is_short).map(|constant| constant.name.as_str()).collect();
    let is_short = |node: &&Node| {
        node.op_type == "Conv" && node.input.get(1).is_some_and(|weight| weights.contains(weight.as_str()))
    };
    graph.node.iter().filter(is_short).filter_map(|node| node.output.first().cloned()).collect()
}

fn scalar(name: &str, element: Element, raw_data: Vec<u8>) -> Constant {
    Constant { dims: Vec::new(), data_type: element as i32, name: name.to_owned(), raw_data }
}

fn linear(kind: &str, inputs: [&str; 3], output: &str) -> Node {
    Node {
        input: inputs.map(str::to_owned).into(),
        output: vec![output.to_owned()],
        name: format!("{kind}_{output}"),
        op_type: kind.to_owned(),
        attribute: Vec::<Attribute>::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::onnx::proto::Model;

    fn conv(number: usize) -> Node {
        Node {
            input: vec![format!("x{number}"), format!("weight{number}")],
            output: vec![format!("y{number}")],
            op_type: "Conv".to_owned(),
            ..Node::default()
        }
    }

    #[test]
    fn first_and_depthwise_layers_of_a_mobilenet_stay_in_f32() {
        let weights = [[32, 3, 3, 3], [96, 16, 1, 1], [192, 32, 1, 1], [32, 1, 3, 3]];
        let constant = |(number, dims): (usize, &[i64; 4])| Constant {
            dims: dims.to_vec(),
            name: format!("weight{number}"),
            ..Constant::default()
        };
        let graph = Graph {
            node: (0..weights.len()).map(conv).collect(),
            initializer: weights.iter().enumerate().map(constant).collect(),
            ..Graph::default()
        };
        let model = OnnxModel(Model { graph: Some(graph), ..Model::default() });
        let ranges = Ranges((0..weights.len()).map(|number| (format!("x{number}"), (0.0, 6.0))).collect());
        let rounded = model.with_activations_in_8_bits(&ranges).0.graph.unwrap();
        let inputs: Vec<&str> = rounded
            .node
            .iter()
            .filter(|node| node.op_type == "Conv")
            .map(|node| node.input[0].as_str())
            .collect();
        assert_eq!(inputs, ["x0", "x1", "x2.rounded", "x3"]);
    }
}
