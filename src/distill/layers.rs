//! Layers that a method trains beside the student. They run in training only: their batch norms keep no
//! statistics.

use std::collections::BTreeMap;

use ckd_detectors::init::Init;
use ckd_detectors::nn::Conv2d;
use ckd_detectors::param::Builder;
use ckd_detectors::taps::Tap;
use ckd_kernels::elementwise::in_f32;
use ckd_kernels::linear::Activation;
use ckd_kernels::norm::{NormEpilogue, batch_norm_train};
use ckd_kernels::{Conv2dConfig, Epilogue, Value, conv2d};

use super::distiller::{DistillError, Width, Widths, width_at};

/// PyTorch's.
const EPSILON: f64 = 1e-5;

/// A convolution without bias, batch norm, and an activation.
#[derive(Debug)]
pub(super) struct ConvBn {
    weight: Value,
    scale: Value,
    shift: Value,
    config: Conv2dConfig,
}

impl ConvBn {
    /// `weight` (outputs, inputs, kernel, kernel), `bn.weight` and `bn.bias` in `builder`'s layer.
    pub(super) fn new(
        builder: &Builder,
        (inputs, outputs, kernel): (usize, usize, usize),
        init: Init,
    ) -> Result<Self, DistillError> {
        let norm = builder.within("bn");
        Ok(Self {
            weight: builder.weight("weight", &[outputs, inputs, kernel, kernel], init)?,
            scale: norm.weight("weight", &[outputs], Init::Constant(1.0))?,
            shift: norm.weight("bias", &[outputs], Init::Constant(0.0))?,
            config: Conv2dConfig::new(1, kernel / 2),
        })
    }

    /// (N, inputs, H, W) to (N, outputs, H, W).
    pub(super) fn forward(&self, x: &Value, activation: Activation) -> Result<Value, DistillError> {
        let y = conv2d(x, &self.weight, self.config, Epilogue::default())?;
        let epilogue = NormEpilogue { residual: None, activation };
        Ok(in_f32(&batch_norm_train(&y, &self.scale, &self.shift, EPSILON, epilogue)?.0)?)
    }
}

/// activation(layer(x)) in f32.
pub(super) fn convolved(layer: &Conv2d, x: &Value, activation: Activation) -> Result<Value, DistillError> {
    Ok(in_f32(&layer.forward(x, activation)?)?)
}

/// A 1x1 convolution with a bias.
pub(super) fn conv_1x1(builder: &Builder, (inputs, outputs): (usize, usize)) -> Result<Conv2d, DistillError> {
    let bias = Init::Uniform(1.0 / (inputs.max(1) as f64).sqrt());
    Ok(Conv2d::new(builder, (inputs, outputs, 1, 1), Init::TorchDefault, bias)?)
}

/// Layers that make the student's maps as wide as the teacher's: a 1x1 convolution where the widths differ.
#[derive(Debug)]
pub(super) struct Adapters(BTreeMap<Tap, Conv2d>);

impl Adapters {
    /// The layers `TAP.align` of the maps at `at`.
    pub(super) fn new(at: &[Tap], widths: &Widths, builder: &Builder) -> Result<Self, DistillError> {
        let mut layers = BTreeMap::new();
        for &tap in at {
            let Width { teacher, student } = width_at(widths, tap)?;
            if teacher != student {
                let layer = conv_1x1(&builder.within(tap).within("align"), (student, teacher))?;
                layers.insert(tap, layer);
            }
        }
        Ok(Self(layers))
    }

    /// The student's map in the teacher's width.
    ///
    /// # Shapes
    /// (N, C_student, H, W); (N, C_teacher, H, W).
    pub(super) fn forward(&self, tap: Tap, student: &Value) -> Result<Value, DistillError> {
        Ok(match self.0.get(&tap) {
            Some(layer) => convolved(layer, student, Activation::Identity)?,
            None => student.clone(),
        })
    }
}
