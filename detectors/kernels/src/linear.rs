//! Fully connected layers.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;

pub use crate::activation::Activation;
use crate::conv::pixels::{self, Sizes};
use crate::dispatch::{self, Host};
use crate::memory::{elements, from_elements, on_host};
use crate::microkernel::Finish;
use crate::piecewise::after;
pub use crate::product::{Accumulate, Form, product, product_on_this_thread};
use crate::reduce::column_sums;
use crate::{Error, Precision, Result, Value};

/// Fully connected layer: y = activation(x Wᵀ + b).
///
/// # Shapes
/// `x` (M, I), `weight` (O, I), `bias` (O) to (M, O); M may be 0.
///
/// # Errors
/// If the shapes do not fit.
pub fn linear(x: &Value, weight: &Value, bias: Option<&Value>, activation: Activation) -> Result<Value> {
    let (m, i) = x.tensor().dims2()?;
    let (o, weight_i) = weight.tensor().dims2()?;
    if i != weight_i || bias.is_some_and(|bias| bias.dims() != [o]) {
        let bias = bias.map(Value::dims);
        return Err(Error::invalid(
            "linear",
            format!("x {:?}, weight {:?}, bias {bias:?} do not fit", x.dims(), weight.dims()),
        ));
    }
    crate::flops::count(m * i * o);
    after(activation, |activation| layer(x, weight, bias, activation, (m, i, o)))
}

/// A fully connected layer of m rows, i inputs and o outputs.
fn layer(
    x: &Value,
    weight: &Value,
    bias: Option<&Value>,
    activation: Activation,
    (m, i, o): (usize, usize, usize),
) -> Result<Value> {
    let size = Sizes { m, i, o, precision: Precision::asked() };
    let (saved_x, saved_w) = (x.tensor().clone(), weight.tensor().clone());
    let layer = Linear { size, x: &saved_x, weight: &saved_w, bias: bias.map(Value::tensor), activation };
    let out = dispatch::run(&saved_x, layer)?;
    let tracked = (x.is_tracked(), weight.is_tracked(), bias.is_some_and(Value::is_tracked));
    let saved_y = out.clone();
    let mut inputs = vec![x, weight];
    inputs.extend(bias);
    let has_bias = bias.is_some();
    Ok(Value::operation(&inputs, out, move |g| {
        let g = activation.mask(g, &saved_y)?.contiguous()?;
        let of_x = || dispatch::run(&g, InputGradient { size, g: &g, weight: &saved_w });
        let of_weight = || dispatch::run(&g, WeightGradient { size, g: &g, x: &saved_x });
        let mut gradients = vec![tracked.0.then(of_x).transpose()?, tracked.1.then(of_weight).transpose()?];
        if has_bias {
            gradients.push(tracked.2.then(|| column_sums(&g)).transpose()?);
        }
        Ok(gradients)
    }))
}

/// Rows (M, I), weights (O, I) and a bias (O).
struct Linear<'a> {
    size: Sizes,
    x: &'a Tensor,
    weight: &'a Tensor,
    bias: Option<&'a Tensor>,
    activation: Activation,
}

impl Host for Linear<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { size, x: like, weight, bias, activation } = self;
        let (x, weight) = (on_host(like)?, on_host(weight)?);
        let bias = bias.map(on_host).transpose()?;
        let bias = bias.as_ref().map(elements).transpose()?;
        let finish = Finish { shift: bias.as_deref(), activation, ..Finish::default() };
        let out = pixels::product(size, &elements(&x)?, &elements(&weight)?, finish);
        from_elements(out, (size.m, size.o), like)
    }
}

/// The gradient (M, O) of the result, and the weights (O, I).
struct InputGradient<'a> {
    size: Sizes,
    g: &'a Tensor,
    weight: &'a Tensor,
}

impl Host for InputGradient<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { size, g, weight } = self;
        let weight = on_host(weight)?;
        let out = pixels::input_gradient(size, &elements(g)?, &elements(&weight)?);
        from_elements(out, (size.m, size.i), g)
    }
}

/// The gradient (M, O) of the result, and the rows (M, I).
struct WeightGradient<'a> {
    size: Sizes,
    g: &'a Tensor,
    x: &'a Tensor,
}

impl Host for WeightGradient<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { size, g, x } = self;
        let x = on_host(x)?;
        let out = pixels::weight_gradient(size, &elements(&x)?, &elements(g)?);
        from_elements(out, (size.o, size.i), g)
    }
}
