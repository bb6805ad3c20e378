//! Norms by the statistics of their input, and their gradients.

use candle_core::{Device, Tensor};

use super::rows::{BackwardLine, By, ForwardLine, GradientSums, Mask, Rows};
use super::shared::summed;
use super::tables::{check_table, dims, to_vec};
use crate::activation::Activation;
use crate::dispatch::{self, Host};
use crate::memory::{elements, from_channels_last, from_elements, nhwc};
use crate::piecewise::after;
use crate::stored::stored_as;
use crate::{Error, Result, Value};

/// Residual and activation that follow a norm in the same pass over memory.
#[derive(Debug, Clone, Copy)]
pub struct NormEpilogue<'a> {
    /// Added element by element, of the result's shape: a residual connection.
    pub residual: Option<&'a Value>,
    /// Applied last.
    pub activation: Activation,
}

impl Default for NormEpilogue<'_> {
    fn default() -> Self {
        Self { residual: None, activation: Activation::Identity }
    }
}

/// Grouping of the elements that are normalised together: within a section, each `group` neighbouring
/// channels.
#[derive(Clone, Copy)]
pub(super) struct Grouping {
    pub(super) rows: Rows,
    pub(super) group: usize,
    /// Whether the sums are those of [all parts](super::over_parts).
    pub(super) is_shared: bool,
}

/// Mean and biased variance of one channel of one section.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Moments {
    pub(super) mean: f64,
    pub(super) var: f64,
}

impl Moments {
    /// A table of all means and one of all variances: f64 (2, sections · C).
    pub(super) fn tensor(all: &[Self]) -> Result<Tensor> {
        let values = all.iter().map(|moments| moments.mean).chain(all.iter().map(|moments| moments.var));
        Ok(Tensor::from_vec(values.collect::<Vec<f64>>(), (2, all.len()), &Device::Cpu)?)
    }

    /// The moments that such a tensor holds.
    pub(super) fn read(tensor: &Tensor) -> Result<Vec<Self>> {
        let values = tensor.flatten_all()?.to_vec1::<f64>()?;
        let (means, variances) = values.split_at(values.len() / 2);
        Ok(means.iter().zip(variances).map(|(&mean, &var)| Self { mean, var }).collect())
    }
}

/// Normalises `x` by its own moments; returns these too, as [`Moments::read`] takes them.
pub(super) fn normalize(
    name: &'static str,
    x: &Value,
    weight: &Value,
    bias: &Value,
    eps: f64,
    grouping: Grouping,
    fused: NormEpilogue,
) -> Result<(Value, Tensor)> {
    let (_, c, _, _) = dims(name, x)?;
    check_table(name, "weight", weight, c)?;
    check_table(name, "bias", bias, c)?;
    if let Some(residual) = fused.residual.filter(|residual| residual.dims() != x.dims()) {
        return Err(Error::invalid(name, format!("residual {:?}, x {:?}", residual.dims(), x.dims())));
    }
    let mut moments = None;
    let out = after(fused.activation, |activation| {
        let fused = NormEpilogue { activation, ..fused };
        let (out, own) = normalized(x, weight, bias, eps, grouping, fused)?;
        moments = Some(own);
        Ok(out)
    })?;
    let moments = moments.ok_or_else(|| Error::invalid(name, "nothing was measured"))?;
    Ok((out, moments))
}

/// [`normalize`] of operands that fit, with the activation that `fused` names.
fn normalized(
    x: &Value,
    weight: &Value,
    bias: &Value,
    eps: f64,
    grouping: Grouping,
    fused: NormEpilogue,
) -> Result<(Value, Tensor)> {
    let input = nhwc(x.tensor())?;
    let residual = |map: &Value| stored_as(&nhwc(map.tensor())?, x.tensor().dtype());
    let residual = fused.residual.map(residual).transpose()?;
    let (gain, shift) = (weight.tensor().clone(), bias.tensor().clone());
    let activation = fused.activation;
    let norm = Norm {
        x: &input,
        weight: &gain,
        bias: &shift,
        residual: residual.as_ref(),
        eps,
        grouping,
        activation,
    };
    let (out, moments) = dispatch::run(x.tensor(), norm)?;

    let saved_y = (activation != Activation::Identity).then(|| out.clone());
    let wanted = [x, weight, bias].map(Value::is_tracked);
    let residual_tracked = fused.residual.map(Value::is_tracked);
    let mut inputs = vec![x, weight, bias];
    inputs.extend(fused.residual);
    let saved_moments = moments.clone();
    let backward = move |gradient: &Tensor| {
        let (g, y) = (nhwc(gradient)?, saved_y.as_ref().map(nhwc).transpose()?);
        let gradients = NormGradients {
            g: &g,
            x: &input,
            y: y.as_ref(),
            weight: &gain,
            bias: &shift,
            moments: &saved_moments,
            eps,
            grouping,
            activation,
            wanted,
            has_residual: residual_tracked.is_some(),
            keep_masked: residual_tracked == Some(true),
        };
        let ([of_x, of_weight, of_bias], masked) = dispatch::run(&g, gradients)?;
        let mut gradients = vec![of_x, of_weight, of_bias];
        match (residual_tracked, masked, saved_y.as_ref()) {
            (Some(true), Some(masked), _) => gradients.push(Some(masked)),
            (Some(true), None, Some(y)) => gradients.push(Some(activation.mask(gradient, y)?)),
            (Some(true), None, None) => gradients.push(Some(gradient.clone())),
            (Some(false), ..) => gradients.push(None),
            (None, ..) => {}
        }
        Ok(gradients)
    };
    Ok((Value::operation(&inputs, out, backward), moments))
}

/// Maps (N, H, W, C) to be normalised, and tables (C).
pub(super) struct Norm<'a> {
    pub(super) x: &'a Tensor,
    pub(super) weight: &'a Tensor,
    pub(super) bias: &'a Tensor,
    pub(super) residual: Option<&'a Tensor>,
    pub(super) eps: f64,
    pub(super) grouping: Grouping,
    pub(super) activation: Activation,
}

impl Host for Norm<'_> {
    /// The result and the moments.
    type Output = (Tensor, Tensor);

    fn on_host(self) -> Result<(Tensor, Tensor)> {
        let rows = self.grouping.rows;
        let input = elements(self.x)?;
        let moments = self.grouping.moments(&input)?;
        let line = Line::new(&moments, &to_vec(self.weight)?, self.eps);
        let bias = to_vec(self.bias)?.repeat(rows.sections);
        let line = ForwardLine { mean: &line.mean, factor: &line.factor, bias: &bias };
        let residual = self.residual.map(elements).transpose()?;
        let out = rows.forward(&input, &line, residual.as_deref(), self.activation);
        Ok((from_channels_last(out, self.x.dims4()?, self.x)?, Moments::tensor(&moments)?))
    }
}

/// The gradient of the result, and what the forward pass had; maps are (N, H, W, C). `wanted` are the
/// gradients of x, weight and bias; `keep_masked` asks for the gradient behind the activation too.
pub(super) struct NormGradients<'a> {
    pub(super) g: &'a Tensor,
    pub(super) x: &'a Tensor,
    pub(super) y: Option<&'a Tensor>,
    pub(super) weight: &'a Tensor,
    pub(super) bias: &'a Tensor,
    pub(super) moments: &'a Tensor,
    pub(super) eps: f64,
    pub(super) grouping: Grouping,
    pub(super) activation: Activation,
    pub(super) wanted: [bool; 3],
    pub(super) has_residual: bool,
    pub(super) keep_masked: bool,
}

impl Host for NormGradients<'_> {
    /// Gradients of x, weight and bias; and the one behind the activation, if it came about on the way.
    type Output = ([Option<Tensor>; 3], Option<Tensor>);

    fn on_host(self) -> Result<Self::Output> {
        let Self { grouping, activation, wanted, .. } = self;
        let rows = grouping.rows;
        let (g, x) = (elements(self.g)?, elements(self.x)?);
        let y = self.y.map(elements).transpose()?;
        let gain = to_vec(self.weight)?;
        let line = Line::new(&Moments::read(self.moments)?, &gain, self.eps);
        let (factor, bias) = (rows.wide(&line.factor), rows.wide(&to_vec(self.bias)?.repeat(rows.sections)));
        let mask = y.as_deref().map(|y| match self.has_residual {
            true => Mask { activation, by: By::Result(y) },
            false => Mask { activation, by: By::Input { factor: &factor, bias: &bias } },
        });
        let sums = rows.gradient_sums(&g, &x, mask, &line.mean);
        let shape = self.x.dims4()?;
        let image = |values| from_channels_last(values, shape, self.g);
        let mut gradients = [None, None, None];
        let mut masked = None;
        if wanted[0] {
            let (sums, values) = grouping.over_parts(&sums)?;
            let (b, d) = grouping.backward_tables(&line, &sums, values, &gain);
            let tables = BackwardLine { a: &line.factor, b: &b, d: &d, mean: &line.mean };
            let keep_masked = self.keep_masked && mask.is_some();
            let (gx, kept) = rows.backward(&g, Some(&x), mask, &tables, keep_masked);
            gradients[0] = Some(image(gx)?);
            masked = kept.map(image).transpose()?;
        }
        let c = rows.c;
        let per_channel = |of: &dyn Fn(usize) -> f64| {
            let sum =
                |channel| (0..rows.sections).map(|section| of(section * c + channel)).sum::<f64>() as f32;
            from_elements((0..c).map(sum).collect(), c, self.g)
        };
        if wanted[1] {
            gradients[1] = Some(per_channel(&|at| sums.of_products[at] * line.inverse_std[at])?);
        }
        if wanted[2] {
            gradients[2] = Some(per_channel(&|at| sums.of_gradients[at])?);
        }
        Ok((gradients, masked))
    }
}

/// Tables per section and channel, of what both directions need.
struct Line {
    mean: Vec<f32>,
    inverse_std: Vec<f64>,
    factor: Vec<f32>,
}

impl Line {
    fn new(moments: &[Moments], gain: &[f32], eps: f64) -> Self {
        let mean = moments.iter().map(|moments| moments.mean as f32).collect();
        let inverse_std: Vec<f64> = moments.iter().map(|moments| 1.0 / (moments.var + eps).sqrt()).collect();
        let gains = gain.iter().cycle();
        let factor =
            inverse_std.iter().zip(gains).map(|(std, gain)| (std * f64::from(*gain)) as f32).collect();
        Self { mean, inverse_std, factor }
    }
}

impl Grouping {
    /// Elements of a group.
    pub(super) fn values(&self) -> f64 {
        (self.rows.rows * self.group) as f64
    }

    /// Mean and biased variance per section and channel; those of an empty group are 0 and 1.
    fn moments(&self, x: &[f32]) -> Result<Vec<Moments>> {
        let (sums, squares, values) = match self.is_shared {
            true => {
                let (sums, squares) = self.rows.value_sums(x);
                self.shared(&sums, &squares)?
            }
            false if self.rows.rows == 0 => (Vec::new(), Vec::new(), 0.0),
            false => {
                let (sums, squares) = self.rows.value_sums(x);
                (sums, squares, self.values())
            }
        };
        Ok(self.of_sums(&sums, &squares, values))
    }

    /// The moments of groups of `values` elements, from sums and sums of squares per section and channel.
    fn of_sums(&self, sums: &[f64], squares: &[f64], values: f64) -> Vec<Moments> {
        if values == 0.0 {
            return vec![Moments { mean: 0.0, var: 1.0 }; self.rows.sections * self.rows.c];
        }
        let groups = sums.chunks_exact(self.group).zip(squares.chunks_exact(self.group));
        let moments = groups.map(|(sums, squares)| {
            let mean = sums.iter().sum::<f64>() / values;
            let var = squares.iter().sum::<f64>() / values - mean * mean;
            // Not `max`, which would hide a NaN.
            Moments { mean, var: if var < 0.0 { 0.0 } else { var } }
        });
        moments.flat_map(|moments| std::iter::repeat_n(moments, self.group)).collect()
    }

    /// The moments of all parts, from `own` ones, each of one channel.
    #[cfg(feature = "cuda")]
    pub(super) fn over_all_parts(&self, own: &[Moments]) -> Result<Vec<Moments>> {
        let sums: Vec<f64> = own.iter().map(|own| own.mean * self.values()).collect();
        let squares: Vec<f64> =
            own.iter().map(|own| (own.var + own.mean * own.mean) * self.values()).collect();
        let (sums, squares, values) = self.shared(&sums, &squares)?;
        Ok(self.of_sums(&sums, &squares, values))
    }

    /// The sums of two tables over all parts, and the values behind each.
    fn shared(&self, first: &[f64], second: &[f64]) -> Result<(Vec<f64>, Vec<f64>, f64)> {
        let mut first = summed([first, second, &[self.values()]].concat())?;
        let values = first.pop().unwrap_or_default();
        let second = first.split_off(first.len() / 2);
        Ok((first, second, values))
    }

    /// The sums behind the gradient of the input, over all parts where they are shared, and the values behind each.
    pub(super) fn over_parts(&self, own: &GradientSums) -> Result<(GradientSums, f64)> {
        let (of_gradients, of_products, values) = match self.is_shared {
            true => self.shared(&own.of_gradients, &own.of_products)?,
            false => (own.of_gradients.clone(), own.of_products.clone(), self.values()),
        };
        Ok((GradientSums { of_gradients, of_products }, values))
    }

    /// The tables b and d of dx = a g + b (x - mean) + d, from
    /// dx = (w g - mean(w g) - x̂ mean(w g x̂)) / std, means over the group.
    fn backward_tables(
        &self,
        line: &Line,
        sums: &GradientSums,
        values: f64,
        gain: &[f32],
    ) -> (Vec<f32>, Vec<f32>) {
        let (count, c) = (sums.of_gradients.len(), self.rows.c);
        let (mut b, mut d) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for first in (0..count).step_by(self.group) {
            let members = first..first + self.group;
            let inverse = line.inverse_std[first];
            let (mut weighted, mut products) = (0f64, 0f64);
            for at in members {
                // With one channel a group the factor itself, rounded, so that a lone value's terms cancel
                // exactly.
                let factor = match self.group {
                    1 => f64::from(line.factor[at]),
                    _ => f64::from(gain[at % c]) * inverse,
                };
                weighted += factor * sums.of_gradients[at];
                products += factor * sums.of_products[at];
            }
            let b_group = -products * inverse * inverse / values;
            b.extend(std::iter::repeat_n(b_group as f32, self.group));
            d.extend(std::iter::repeat_n((-weighted / values) as f32, self.group));
        }
        (b, d)
    }
}
