//! Scalars whose gradients are known when they are made.

#[cfg(feature = "cuda")]
pub(crate) mod gpu;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::dispatch::{self, Host};
use crate::gradient::Gradient;
use crate::in_place::{in_memory_order, lend};
use crate::memory::{CHUNK, is_channels_last};
use crate::reduce::multiply;
use crate::{Result, Value};

/// Records a scalar of `inputs` whose gradients are known; none for an input that needs none.
///
/// The gradients are overwritten by their product with that of a later scalar: their memory must be their own.
///
/// # Shapes
/// A scalar; a gradient for each input, of its shape, row-major or channels last in memory.
pub fn with_gradients(inputs: &[&Value], scalar: Tensor, gradients: Vec<Option<Tensor>>) -> Value {
    let wanted =
        gradients.into_iter().zip(inputs).map(|(gradient, input)| gradient.filter(|_| input.is_tracked()));
    let gradients: Vec<Option<Tensor>> = wanted.collect();
    Value::consuming_operation(inputs, scalar, move |factor| {
        let factor = factor.into_tensor()?;
        let times = |gradient| times(gradient, &factor).map(Gradient::Own);
        gradients.into_iter().map(|gradient| gradient.map(times).transpose()).collect()
    })
}

/// The constant 0, of an input that has nothing to add up; its gradient is 0.
///
/// # Shapes
/// Any; a scalar.
///
/// # Errors
/// If the device has too little memory left.
pub fn nothing(input: &Value) -> Result<Value> {
    let scalar = Tensor::zeros((), candle_core::DType::F32, input.tensor().device())?;
    let gradient = input.is_tracked().then(|| input.tensor().zeros_like()).transpose()?;
    Ok(with_gradients(&[input], scalar, vec![gradient]))
}

/// `gradient`, multiplied in place by the only element of `factor`.
pub(crate) fn times(gradient: Tensor, factor: &Tensor) -> Result<Tensor> {
    let lies = if is_channels_last(&gradient) { in_memory_order(&gradient)? } else { gradient.clone() };
    times_scalar(&lies, factor)?;
    Ok(gradient)
}

/// Multiplies a contiguous gradient, which is in memory of its own, by the only element of `factor`.
pub(crate) fn times_scalar(gradient: &Tensor, factor: &Tensor) -> Result<()> {
    dispatch::run(gradient, TimesScalar { gradient, factor })
}

/// A gradient that is multiplied by the only element of `factor`, in place.
struct TimesScalar<'a> {
    gradient: &'a Tensor,
    factor: &'a Tensor,
}

impl Host for TimesScalar<'_> {
    type Output = ();

    fn on_host(self) -> Result<()> {
        let factor = self.factor.reshape(())?.to_scalar::<f32>()?;
        if factor == 1.0 {
            return Ok(());
        }
        lend("with_gradients", [self.gradient], [], |[gradient], []| {
            gradient.par_chunks_mut(CHUNK).for_each(|part| multiply(part, factor));
        })
    }
}
