//! A stage in 8 bits: maps between its convolutions are steps of the next one's grid.

use ckd_kernels::Value;
use ckd_kernels::eight_bits::{Grid, Map};
use ckd_kernels::elementwise::hard_swish;
use ckd_kernels::linear::Activation;
use ckd_kernels::pool::max_pool2d;

use super::{Built, Operation};
use crate::Result;
use crate::backbone::plan::{Node, Step};

impl Built {
    /// Whether a convolution of the stage computes in 8 bits.
    pub(super) fn is_rounded(&self) -> bool {
        self.steps.iter().any(|(_, operation)| operation.grid().is_some())
    }

    /// [`run`](Self::run) in inference; what is `wanted`, and the last result, are in f32.
    pub(super) fn run_rounded(
        &self,
        x: Value,
        wanted: impl Fn(Node) -> bool,
        mut see: impl FnMut(&Step, &Value),
    ) -> Result<Value> {
        let mut maps = vec![Some(Map::Real(x.tensor().clone()))];
        for (index, (step, operation)) in self.steps.iter().enumerate() {
            let node = Node(index + 1);
            let map = |node: Node| maps[node.0].as_ref().expect("a step sees what is before it");
            let input = map(step.input);
            let real = |map: &Map| -> Result<Value> { Ok(Value::constant(map.to_real()?)) };
            let result = match operation {
                Operation::ConvNorm { conv, residual, activation } => {
                    let output = if wanted(node) { None } else { self.read_on(node) };
                    conv.forward_map(input, residual.map(map), *activation, output)?
                }
                Operation::MaxPool => Map::Real(max_pool2d(&real(input)?, 3, 2, 1)?.tensor().clone()),
                Operation::HardSwish => Map::Real(hard_swish(&real(input)?)?.tensor().clone()),
                Operation::SqueezeExcitation(squeeze) => {
                    Map::Real(squeeze.forward(&real(input)?)?.tensor().clone())
                }
            };
            for node in step.operands() {
                if self.last_use[node.0] == index {
                    maps[node.0] = None;
                }
            }
            if wanted(node) {
                see(step, &real(&result)?);
            }
            maps.push(Some(result));
        }
        let last = maps.pop().flatten().expect("the last result is kept");
        Ok(Value::constant(last.to_real()?))
    }

    /// Grid of all layers that `node` goes into, if there is one and nothing else reads it but sums.
    ///
    /// A linear bottleneck that a sum reads stays in f32: nothing bounds its numbers, and it would be rounded again by every block of
    /// its stage.
    fn read_on(&self, node: Node) -> Option<Grid> {
        if self.last_use[node.0] >= self.steps.len() || self.is_summed_linear(node) {
            return None;
        }
        let mut readers =
            self.steps.iter().filter(|(step, _)| step.input == node).map(|(_, reader)| reader.grid());
        let first = readers.next()??;
        readers.all(|grid| grid == Some(first)).then_some(first)
    }

    fn is_summed_linear(&self, node: Node) -> bool {
        let is_linear = |operation: &Operation| {
            matches!(operation, Operation::ConvNorm { activation: Activation::Identity, .. })
        };
        let made_by = node.0.checked_sub(1).map(|index| &self.steps[index].1);
        made_by.is_some_and(is_linear)
            && self.steps.iter().any(|(_, operation)| {
                matches!(operation, Operation::ConvNorm { residual: Some(residual), .. } if *residual == node)
            })
    }
}

impl Operation {
    /// Grid of the input, if the operation computes in 8 bits.
    fn grid(&self) -> Option<Grid> {
        match self {
            Self::ConvNorm { conv, .. } => conv.grid(),
            Self::MaxPool | Self::HardSwish | Self::SqueezeExcitation(_) => None,
        }
    }
}
