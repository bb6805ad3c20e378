//! Batch norm with statistics that are constants.

use candle_core::Tensor;

use super::rows::{BackwardLine, ForwardLine, Rows};
use super::tables::{check_table, dims, to_vec};
use crate::activation::Activation;
use crate::dispatch::{self, Host};
use crate::memory::{elements, from_channels_last, from_elements, nhwc};
use crate::{Error, Result, Value};

/// Frozen batch norm: y = (x - mean) / sqrt(var + eps) · weight + bias, with constant statistics.
///
/// # Shapes
/// `x` (N, C, H, W); `weight`, `bias`, `mean`, `var` (C).
///
/// # Errors
/// If shapes do not fit, or a gradient of `mean` or `var` is asked for (both must be constants).
pub fn frozen_batch_norm(
    x: &Value,
    weight: &Value,
    bias: &Value,
    mean: &Value,
    var: &Value,
    eps: f64,
) -> Result<Value> {
    let name = "frozen_batch_norm";
    let (_, c, _, _) = dims(name, x)?;
    for (table, what) in [(weight, "weight"), (bias, "bias"), (mean, "mean"), (var, "var")] {
        check_table(name, what, table, c)?;
    }
    if mean.is_tracked() || var.is_tracked() {
        return Err(Error::invalid(name, "mean and var must be constants"));
    }
    let input = nhwc(x.tensor())?;
    let tables = [weight, mean, var].map(|table| table.tensor().clone());
    let line = Frozen { x: &input, tables: &tables, bias: bias.tensor(), eps };
    let out = dispatch::run(x.tensor(), line)?;

    let wanted = [x, weight, bias].map(Value::is_tracked);
    let saved_x = wanted[1].then_some(input);
    Ok(Value::operation(&[x, weight, bias], out, move |g| {
        let g = nhwc(g)?;
        let gradients = FrozenGradients { g: &g, x: saved_x.as_ref(), tables: &tables, eps, wanted };
        let [of_x, of_weight, of_bias] = dispatch::run(&g, gradients)?;
        Ok(vec![of_x, of_weight, of_bias])
    }))
}

/// A map (N, H, W, C) to be normalised; `tables` are weight, mean and variance.
pub(super) struct Frozen<'a> {
    pub(super) x: &'a Tensor,
    pub(super) tables: &'a [Tensor; 3],
    pub(super) bias: &'a Tensor,
    pub(super) eps: f64,
}

impl Host for Frozen<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let (n, h, w, c) = self.x.dims4()?;
        let line = Line::of(self.tables, self.eps)?;
        let line = ForwardLine { mean: &line.mean, factor: &line.factor, bias: &to_vec(self.bias)? };
        let rows = Rows { sections: 1, rows: n * h * w, c };
        let out = rows.forward(&elements(self.x)?, &line, None, Activation::Identity);
        from_channels_last(out, (n, h, w, c), self.x)
    }
}

/// The gradient (N, H, W, C) of the result; `x` is there if the weight's is wanted. `wanted` are those of x,
/// weight, bias.
pub(super) struct FrozenGradients<'a> {
    pub(super) g: &'a Tensor,
    pub(super) x: Option<&'a Tensor>,
    pub(super) tables: &'a [Tensor; 3],
    pub(super) eps: f64,
    pub(super) wanted: [bool; 3],
}

impl Host for FrozenGradients<'_> {
    type Output = [Option<Tensor>; 3];

    fn on_host(self) -> Result<[Option<Tensor>; 3]> {
        let like = self.g;
        let (n, h, w, c) = like.dims4()?;
        let rows = Rows { sections: 1, rows: n * h * w, c };
        let line = Line::of(self.tables, self.eps)?;
        let g = elements(like)?;
        let mut gradients = [None, None, None];
        if self.wanted[0] {
            let zeros = vec![0f32; c];
            let line = BackwardLine { a: &line.factor, b: &zeros, d: &zeros, mean: &zeros };
            let (gx, _) = rows.backward(&g, None, None, &line, false);
            gradients[0] = Some(from_channels_last(gx, (n, h, w, c), like)?);
        }
        if self.wanted[1] || self.wanted[2] {
            // Without x only the first of the two sums is needed: g then stands in for x.
            let x = self.x.map(elements).transpose()?;
            let sums = rows.gradient_sums(&g, x.as_deref().unwrap_or(&g), None, &line.mean);
            let table = |numbers: Vec<f32>| from_elements(numbers, c, like);
            let of_weight = sums.of_products.iter().zip(&line.inverse_std);
            let of_weight = || of_weight.map(|(sum, inverse)| (sum * inverse) as f32).collect();
            gradients[1] = self.wanted[1].then(of_weight).map(table).transpose()?;
            let of_bias = || sums.of_gradients.iter().map(|sum| *sum as f32).collect();
            gradients[2] = self.wanted[2].then(of_bias).map(table).transpose()?;
        }
        Ok(gradients)
    }
}

/// The norm as a line (x - mean) · factor, a channel.
struct Line {
    mean: Vec<f32>,
    inverse_std: Vec<f64>,
    factor: Vec<f32>,
}

impl Line {
    fn of([weight, mean, var]: &[Tensor; 3], eps: f64) -> Result<Self> {
        let inverse_std: Vec<f64> =
            to_vec(var)?.iter().map(|var| 1.0 / (f64::from(*var) + eps).sqrt()).collect();
        let gain = to_vec(weight)?;
        let factor = gain.iter().zip(&inverse_std).map(|(gain, inverse)| (f64::from(*gain) * inverse) as f32);
        let factor = factor.collect();
        Ok(Self { mean: to_vec(mean)?, inverse_std, factor })
    }
}
