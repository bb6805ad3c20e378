//! Global context of FGD: maps with their context, through a trained global-context block on each side (Cao
//! et al., arXiv 1904.11492).

use candle_core::Tensor;
use ckd_detectors::init::Init;
use ckd_detectors::nn::Conv2d;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::elementwise::{add, reshape, scale};
use ckd_kernels::linear::{Activation, linear};
use ckd_kernels::maps::{Weights, add_to_channels, attention_pool, squared_difference};
use ckd_kernels::norm::group_norm;

use super::distiller::DistillError;
use super::layers::convolved;
use super::maps::paired;
use super::scalar::nothing;

/// A global-context block: what a trained attention sees of a whole map, transformed.
#[derive(Debug)]
pub(super) struct ContextBlock {
    attention: Conv2d,
    reduce: (Value, Value),
    norm: (Value, Value),
    expand: (Value, Value),
}

impl ContextBlock {
    /// `attention`, `reduce`, `norm` and `expand` in `builder`'s layer. The last starts at 0, and so does the
    /// context.
    pub(super) fn new(builder: &Builder, width: usize) -> Result<Self, DistillError> {
        let narrow = (width / 2).max(1);
        let zero = Init::Constant(0.0);
        let both = |layer: &str, shape: &[usize], weight: Init, bias: Init, outputs: usize| {
            let builder = builder.within(layer);
            Ok::<_, DistillError>((
                builder.weight("weight", shape, weight)?,
                builder.weight("bias", &[outputs], bias)?,
            ))
        };
        let fan_in = width.max(1) as f64;
        let start = Init::Normal((2.0 / fan_in).sqrt());
        let bias = Init::Uniform(1.0 / fan_in.sqrt());
        Ok(Self {
            attention: Conv2d::new(&builder.within("attention"), (width, 1, 1, 1), start, zero)?,
            reduce: both("reduce", &[narrow, width], Init::TorchDefault, bias, narrow)?,
            norm: both("norm", &[narrow], Init::Constant(1.0), zero, narrow)?,
            expand: both("expand", &[width, narrow], zero, zero, width)?,
        })
    }

    /// (N, C, H, W) to (N, C).
    fn forward(&self, map: &Value) -> Result<Value, DistillError> {
        let seen = attention_pool(map, &convolved(&self.attention, map, Activation::Identity)?)?;
        let x = linear(&seen, &self.reduce.0, Some(&self.reduce.1), Activation::Identity)?;
        let &[n, narrow] = x.dims() else {
            return Err(DistillError::invalid("fgd", format!("(N, C) expected, got {:?}", x.dims())));
        };
        // A layer norm over the channels of one cell is a group norm of one group.
        let cells = reshape(&x, &[n, narrow, 1, 1])?;
        let x = group_norm(&cells, &self.norm.0, &self.norm.1, 1, 1e-5, Activation::Relu)?;
        let x = reshape(&x, &[n, narrow])?;
        Ok(linear(&x, &self.expand.0, Some(&self.expand.1), Activation::Identity)?)
    }
}

/// Squared difference of maps with their context, Σ (s + block_s(s) - t - block_t(t))² / B.
///
/// # Shapes
/// `teacher` and `student` (N, C, H, W); a scalar.
pub(super) fn context_difference(
    teacher: &Tensor,
    student: &Value,
    [own, theirs]: &[ContextBlock; 2],
) -> Result<Value, DistillError> {
    let (images, _, _, _) = paired("fgd", teacher, student)?;
    if student.tensor().elem_count() == 0 {
        return nothing(student);
    }
    let of_teacher = theirs.forward(&Value::constant(teacher.clone()))?;
    let difference = add(&own.forward(student)?, &scale(&of_teacher, -1.0)?)?;
    let shifted = add_to_channels(student, &difference)?;
    Ok(squared_difference(teacher, &shifted, Weights::default(), images as f64)?)
}
