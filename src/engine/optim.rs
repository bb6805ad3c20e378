//! SGD over the trainable parameters, in the order of their names.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;
use ckd_detectors::param::ParamStore;
use ckd_kernels::Gradients;
use ckd_kernels::sgd::{SgdStep, squared_norm};

use super::Result;
use crate::config::Optim;

/// The optimiser and its state.
#[derive(Debug)]
pub struct Sgd {
    settings: Optim,
    slots: BTreeMap<Arc<str>, Slot>,
}

#[derive(Debug)]
struct Slot {
    param: Tensor,
    velocity: Tensor,
    weight_decay: f64,
}

impl Sgd {
    /// An optimiser at rest over the trainable parameters of `params`.
    pub fn new(params: &ParamStore, settings: &Optim) -> Result<Self> {
        Self::over(&[params], settings)
    }

    /// An optimiser at rest over the trainable parameters of several stores, whose names differ.
    pub fn over(stores: &[&ParamStore], settings: &Optim) -> Result<Self> {
        let mut slots = BTreeMap::new();
        for params in stores {
            for (name, param) in params.trainable() {
                let weight_decay = match group(name, params) {
                    Group::Weight => settings.weight_decay,
                    Group::Bias => settings.bias_decay(),
                    Group::Norm => settings.norm_decay(),
                };
                let velocity = zeros_in_memory_order(param)?;
                slots.insert(name.clone(), Slot { param: param.clone(), velocity, weight_decay });
            }
        }
        Ok(Self { settings: settings.clone(), slots })
    }

    /// The norm of `gradients`, over all parameters in order, times `scale`.
    pub fn gradient_norm(&self, gradients: &Gradients, scale: f64) -> Result<f64> {
        let mut sum = 0.0;
        for gradient in self.slots.keys().filter_map(|name| gradients.get(name)) {
            sum += squared_norm(gradient)?;
        }
        Ok(sum.sqrt() * scale)
    }

    /// One update with `scale` times `gradients`, whose norm (with the scale) is `norm`.
    pub fn step(&mut self, gradients: &Gradients, lr: f64, scale: f64, norm: f64) -> Result<()> {
        // As `torch.nn.utils.clip_grad_norm_`.
        let clip = self.settings.clip_grad_norm.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0));
        for (name, slot) in &self.slots {
            let Some(gradient) = gradients.get(name) else { continue };
            let step = SgdStep {
                lr,
                momentum: self.settings.momentum,
                nesterov: self.settings.nesterov,
                weight_decay: slot.weight_decay,
                gradient_scale: scale * clip,
            };
            step.apply(&slot.param, &slot.velocity, gradient)?;
        }
        Ok(())
    }

    /// The velocities by parameter name.
    pub fn state(&self) -> impl Iterator<Item = (&Arc<str>, &Tensor)> {
        self.slots.iter().map(|(name, slot)| (name, &slot.velocity))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Group {
    Weight,
    Bias,
    Norm,
}

/// A norm's weight has one dimension; its bias belongs to it.
fn group(name: &str, params: &ParamStore) -> Group {
    let rank = |name: &str| params.get(name).map(|param| param.value.dims().len());
    let layer = name.rsplit_once('.').map_or("", |(layer, _)| layer);
    match rank(&format!("{layer}.weight")) {
        Some(1) => Group::Norm,
        _ if name.ends_with(".bias") => Group::Bias,
        _ => Group::Weight,
    }
}

/// Zeros of `param`'s shape, with convolution weights channels-last as `param` has them.
fn zeros_in_memory_order(param: &Tensor) -> Result<Tensor> {
    Ok(match param.rank() {
        4 => param.permute((0, 2, 3, 1))?.zeros_like()?.permute((0, 3, 1, 2))?,
        _ => param.zeros_like()?,
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use ckd_detectors::init::Init;
    use ckd_detectors::param::Builder;

    use super::*;

    fn settings() -> Optim {
        Optim {
            lr: 0.1,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 0.01,
            weight_decay_norm: Some(0.0),
            weight_decay_bias: Some(0.0),
            clip_grad_norm: None,
        }
    }

    #[test]
    fn weights_biases_and_norms_are_told_apart_by_their_layer() {
        let builder = Builder::new(0, &Device::Cpu);
        builder.within("conv").weight("weight", &[2, 2, 1, 1], Init::Constant(1.0)).unwrap();
        builder.within("conv").weight("bias", &[2], Init::Constant(1.0)).unwrap();
        builder.within("bn").weight("weight", &[2], Init::Constant(1.0)).unwrap();
        builder.within("bn").weight("bias", &[2], Init::Constant(1.0)).unwrap();
        let store = builder.finish();
        assert_eq!(group("conv.weight", &store), Group::Weight);
        assert_eq!(group("conv.bias", &store), Group::Bias);
        assert_eq!(group("bn.weight", &store), Group::Norm);
        assert_eq!(group("bn.bias", &store), Group::Norm);
    }

    #[test]
    fn two_steps_follow_the_textbook_with_decay_on_weights_alone() {
        let builder = Builder::new(0, &Device::Cpu);
        builder.within("fc").weight("weight", &[1, 1], Init::Constant(1.0)).unwrap();
        builder.within("fc").weight("bias", &[1], Init::Constant(1.0)).unwrap();
        let store = builder.finish();
        let mut sgd = Sgd::new(&store, &settings()).unwrap();
        let one = |dims: &[usize]| Tensor::ones(dims, candle_core::DType::F32, &Device::Cpu).unwrap();
        let gradients = Gradients::from([("fc.weight".into(), one(&[1, 1])), ("fc.bias".into(), one(&[1]))]);
        let norm = sgd.gradient_norm(&gradients, 1.0).unwrap();
        assert!((norm - 2f64.sqrt()).abs() < 1e-12);
        for _ in 0..2 {
            sgd.step(&gradients, 0.1, 1.0, norm).unwrap();
        }
        let value = |name: &str| {
            store.get(name).unwrap().value.tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]
        };
        // v1 = 1, p1 = 0.9; v2 = 1.9, p2 = 0.71.
        assert!((value("fc.bias") - 0.71).abs() < 1e-6);
        // v1 = 1.01, p1 = 0.899; v2 = 0.909 + 1 + 0.00899, p2 = 0.707201.
        assert!((value("fc.weight") - 0.707_201).abs() < 1e-6);
    }

    #[test]
    fn clipping_shortens_a_long_gradient_and_leaves_a_short_one() {
        let builder = Builder::new(0, &Device::Cpu);
        builder.within("fc").weight("bias", &[1], Init::Constant(0.0)).unwrap();
        let store = builder.finish();
        let clipped = Optim { clip_grad_norm: Some(0.5), momentum: 0.0, ..settings() };
        let mut sgd = Sgd::new(&store, &clipped).unwrap();
        let gradients = Gradients::from([("fc.bias".into(), Tensor::new(&[4f32], &Device::Cpu).unwrap())]);
        sgd.step(&gradients, 1.0, 1.0, 4.0).unwrap();
        let value = store.get("fc.bias").unwrap().value.tensor().to_vec1::<f32>().unwrap()[0];
        assert!((value + 0.5).abs() < 1e-6);
    }
}
