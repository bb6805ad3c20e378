//! Stochastic gradient descent with momentum, as PyTorch's `SGD`.

use candle_core::Tensor;
use ckd_kernels::sgd::{self, SgdStep};
use ckd_kernels::{Gradients, Result};

use super::groups::Parameter;
use super::optimizer::{Optimizer, Slot, zeros_in_memory_order};
use super::settings::Optim;

/// SGD and its velocities.
#[derive(Debug)]
pub struct Sgd {
    parameters: Vec<Parameter>,
    /// Velocity of each parameter.
    velocities: Vec<Tensor>,
    momentum: f64,
    nesterov: bool,
}

impl Sgd {
    /// SGD at rest over `parameters`.
    ///
    /// # Errors
    /// If the device has no room for the velocities.
    pub fn new(parameters: Vec<Parameter>, settings: &Optim) -> Result<Self> {
        let velocities = parameters
            .iter()
            .map(|parameter| zeros_in_memory_order(&parameter.tensor))
            .collect::<Result<_>>()?;
        Ok(Self { parameters, velocities, momentum: settings.momentum, nesterov: settings.nesterov })
    }
}

impl Optimizer for Sgd {
    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn step(&mut self, gradients: &Gradients, lr: f64, scale: f64) -> Result<()> {
        let mut updates = Vec::with_capacity(self.parameters.len());
        for (parameter, velocity) in self.parameters.iter().zip(&self.velocities) {
            let Some(gradient) = gradients.get(&parameter.name) else { continue };
            let step = SgdStep {
                lr: lr * parameter.lr_factor,
                momentum: self.momentum,
                nesterov: self.nesterov,
                weight_decay: parameter.weight_decay,
                gradient_scale: scale,
            };
            updates.push(step.of(&parameter.tensor, velocity, gradient)?);
        }
        sgd::apply(&updates)
    }

    fn slots(&self) -> Vec<Slot<'_>> {
        let slots = self.parameters.iter().zip(&self.velocities);
        slots.map(|(parameter, tensor)| Slot { slot: "velocity", name: &parameter.name, tensor }).collect()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn two_steps_follow_the_textbook_with_each_parameters_own_decay_and_rate() {
        let one = |dims: &[usize]| Tensor::ones(dims, DType::F32, &Device::Cpu).unwrap();
        let parameter = |name: &str, lr_factor: f64, weight_decay: f64| Parameter {
            name: name.into(),
            tensor: one(&[1]),
            lr_factor,
            weight_decay,
        };
        let parameters =
            vec![parameter("bias", 1.0, 0.0), parameter("slow", 0.5, 0.0), parameter("weight", 1.0, 0.01)];
        let mut sgd = Sgd::new(parameters, &Optim::new(0.1)).unwrap();
        let gradients: Gradients = ["bias", "slow", "weight"].map(|name| (name.into(), one(&[1]))).into();
        for _ in 0..2 {
            sgd.step(&gradients, 0.1, 1.0).unwrap();
        }
        let value = |index: usize| sgd.parameters()[index].tensor.to_vec1::<f32>().unwrap()[0];
        // v1 = 1, p1 = 0.9; v2 = 1.9, p2 = 0.71.
        assert!((value(0) - 0.71).abs() < 1e-6);
        // p1 = 0.95, p2 = 0.855.
        assert!((value(1) - 0.855).abs() < 1e-6);
        // v1 = 1.01, p1 = 0.899; v2 = 0.909 + 1 + 0.00899, p2 = 0.707201.
        assert!((value(2) - 0.707_201).abs() < 1e-6);
    }
}
