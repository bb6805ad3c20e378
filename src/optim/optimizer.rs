//! The rule of an update, and the norm that clipping measures.

use std::sync::Arc;

use candle_core::Tensor;
use ckd_kernels::sgd::squared_norm;
use ckd_kernels::{Gradients, Result};

use super::groups::Parameter;

/// A rule by which gradients change parameters, with its state.
pub trait Optimizer: std::fmt::Debug {
    /// The parameters, in the order of their names.
    fn parameters(&self) -> &[Parameter];

    /// One update with `scale` times `gradients`, at learning rate `lr` times each parameter's own factor. A parameter
    /// without a gradient stays as it is, and so does its state.
    ///
    /// # Errors
    /// If a gradient does not have its parameter's shape.
    fn step(&mut self, gradients: &Gradients, lr: f64, scale: f64) -> Result<()>;

    /// The tensors of the state. A checkpoint holds each as `SLOT/NAME` and restores it in place.
    fn slots(&self) -> Vec<Slot<'_>>;
}

/// A tensor of an optimiser's state.
#[derive(Debug, Clone, Copy)]
pub struct Slot<'a> {
    /// Purpose of the state: `velocity`, for example.
    pub slot: &'static str,
    /// The parameter that it belongs to.
    pub name: &'a Arc<str>,
    /// Values of the state.
    pub tensor: &'a Tensor,
}

/// The norm of `gradients`, over all `parameters` in order, times `scale`.
///
/// # Errors
/// If a gradient cannot be read.
pub fn gradient_norm(parameters: &[Parameter], gradients: &Gradients, scale: f64) -> Result<f64> {
    let own: Vec<&Tensor> =
        parameters.iter().filter_map(|parameter| gradients.get(&parameter.name)).collect();
    Ok(squared_norm(&own)?.sqrt() * scale)
}

/// Zeros of `param`'s shape, with convolution weights channels-last as `param` has them.
pub(super) fn zeros_in_memory_order(param: &Tensor) -> Result<Tensor> {
    Ok(match param.rank() {
        4 => param.permute((0, 2, 3, 1))?.zeros_like()?.permute((0, 3, 1, 2))?,
        _ => param.zeros_like()?,
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_norm_is_over_all_parameters_that_have_a_gradient() {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let parameter = |name: &str| Parameter {
            name: name.into(),
            tensor: tensor(&[0.0, 0.0]),
            lr_factor: 1.0,
            weight_decay: 0.0,
        };
        let gradients =
            Gradients::from([("a".into(), tensor(&[3.0, 0.0])), ("other".into(), tensor(&[9.0]))]);
        assert_eq!(gradient_norm(&[parameter("a"), parameter("b")], &gradients, 0.5).unwrap(), 1.5);
    }
}
