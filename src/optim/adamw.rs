//! Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101), as PyTorch's `AdamW`.

use candle_core::{Device, Tensor};
use ckd_kernels::adamw::{self, AdamWStep};
use ckd_kernels::{Gradients, Result};

use super::groups::Parameter;
use super::optimizer::{Optimizer, Slot, zeros_in_memory_order};
use super::settings::Optim;

/// AdamW and its running means.
#[derive(Debug)]
pub struct AdamW {
    parameters: Vec<Parameter>,
    /// State of each parameter.
    states: Vec<State>,
    betas: [f64; 2],
    eps: f64,
}

/// The state of one parameter.
#[derive(Debug)]
struct State {
    /// Running mean of the gradient.
    mean: Tensor,
    /// Running mean of its square.
    square: Tensor,
    /// Updates so far, (1), as PyTorch counts them: for each parameter, in f32. Beyond 2²⁴ the count stays, and the
    /// corrections that depend on it are 1 long before.
    updates: Tensor,
}

impl AdamW {
    /// AdamW at rest over `parameters`.
    ///
    /// # Errors
    /// If the device has no room for the running means.
    pub fn new(parameters: Vec<Parameter>, settings: &Optim) -> Result<Self> {
        let state = |parameter: &Parameter| {
            Ok(State {
                mean: zeros_in_memory_order(&parameter.tensor)?,
                square: zeros_in_memory_order(&parameter.tensor)?,
                updates: Tensor::new(&[0f32], &Device::Cpu)?,
            })
        };
        let states = parameters.iter().map(state).collect::<Result<_>>()?;
        // A checked configuration has two.
        let betas = std::array::from_fn(|index| settings.betas.get(index).copied().unwrap_or(0.0));
        Ok(Self { parameters, states, betas, eps: settings.eps })
    }
}

impl Optimizer for AdamW {
    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn step(&mut self, gradients: &Gradients, lr: f64, scale: f64) -> Result<()> {
        let mut moves = Vec::with_capacity(self.parameters.len());
        for (parameter, state) in self.parameters.iter().zip(&self.states) {
            let Some(gradient) = gradients.get(&parameter.name) else { continue };
            let updates = state.updates.to_vec1::<f32>()?[0] + 1.0;
            let step = AdamWStep {
                lr: lr * parameter.lr_factor,
                beta1: self.betas[0],
                beta2: self.betas[1],
                eps: self.eps,
                weight_decay: parameter.weight_decay,
                gradient_scale: scale,
                step: updates as u64,
            };
            moves.push(step.of(&parameter.tensor, &state.mean, &state.square, gradient)?);
            state.updates.slice_set(&Tensor::new(&[updates], &Device::Cpu)?, 0, 0)?;
        }
        adamw::apply(&moves)
    }

    fn slots(&self) -> Vec<Slot<'_>> {
        let slots = self.parameters.iter().zip(&self.states).flat_map(|(parameter, state)| {
            let State { mean, square, updates } = state;
            [("mean", mean), ("square", square), ("updates", updates)].map(|(slot, tensor)| Slot {
                slot,
                name: &parameter.name,
                tensor,
            })
        });
        slots.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_without_a_gradient_keeps_its_state_and_its_count() {
        let parameter = |name: &str| Parameter {
            name: name.into(),
            tensor: Tensor::new(&[1f32], &Device::Cpu).unwrap(),
            lr_factor: 1.0,
            weight_decay: 0.1,
        };
        let mut adamw = AdamW::new(vec![parameter("a"), parameter("b")], &Optim::new(0.1)).unwrap();
        let gradient = Tensor::new(&[2f32], &Device::Cpu).unwrap();
        for names in [&["a", "b"][..], &["a"], &["a"]] {
            let gradients = names.iter().map(|&name| (name.into(), gradient.clone())).collect();
            adamw.step(&gradients, 0.1, 1.0).unwrap();
        }
        let counts: Vec<f32> = adamw
            .slots()
            .iter()
            .filter(|slot| slot.slot == "updates")
            .map(|slot| slot.tensor.to_vec1::<f32>().unwrap()[0])
            .collect();
        assert_eq!(counts, [3.0, 1.0]);
        // The first update moves by the learning rate, whatever the gradient's length is; decay takes 1 %.
        let value = adamw.parameters()[1].tensor.to_vec1::<f32>().unwrap()[0];
        assert!((value - (0.99 - 0.1)).abs() < 1e-6, "{value}");
    }
}
