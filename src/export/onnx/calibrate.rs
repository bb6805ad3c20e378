//! Activations in 8 bits (QDQ): what goes into a convolution or a linear layer is rounded to 256 steps of the
//! range it had on calibration images (Jacob et al. 2018, arXiv 1712.05877: asymmetric, a scale for each
//! tensor).

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;
use ckd_kernels::eight_bits::Grid;

use super::evaluate::Evaluator;
use super::model::OnnxModel;
use super::proto::{Attribute, Constant, Element, Node};
use crate::export::error::Result;

/// Operators whose products are worth 8 bits.
const PRODUCTS: [&str; 2] = ["Conv", "Gemm"];

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
    /// reads it later. Inputs without a range stay f32.
    pub fn with_activations_in_8_bits(&self, ranges: &Ranges) -> Self {
        let mut model = self.clone();
        let Some(graph) = &mut model.0.graph else { return model };
        let mut nodes = Vec::with_capacity(graph.node.len());
        let mut quantised = BTreeSet::new();
        for mut node in std::mem::take(&mut graph.node) {
            let input = node.input.first().cloned().unwrap_or_default();
            if let (true, Some(&range)) = (PRODUCTS.contains(&node.op_type.as_str()), ranges.0.get(&input)) {
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
