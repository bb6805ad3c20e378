//! Normalisation: frozen and training batch norm (Ioffe and Szegedy 2015), group norm (Wu and He 2018).
//!
//! All three are y = activation((x - mean) · factor + bias + residual) with a mean and a factor per channel, or per
//! image and channel, and their gradients are dx = a·g + b·(x - mean) + d with such tables. So there are three passes
//! for all: sums per channel, the forward line, the backward line. Training takes two forward (sums, line)
//! and two backward; the ReLU's mask is read off the output, inside those.
//!
//! Sums are f64, over chunks of a fixed size added in order: the same bits on any number of threads.

mod rows;

use candle_core::Tensor;

use crate::linear::Activation;
use crate::memory::{channels_last, elements, from_channels_last, from_elements, on_host};
use crate::{Error, Result, Value};
use rows::{Activated, BackwardLine, ForwardLine, GradientSums, Rows};

/// What follows a normalisation in the same pass over memory.
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

/// The mean and variance of a batch, per channel.
#[derive(Debug, Clone)]
pub struct BatchStatistics {
    /// Mean (C).
    pub mean: Tensor,
    /// Variance with n - 1 in the denominator (C); with n where a channel has one value only.
    pub unbiased_var: Tensor,
    /// Values per channel, N·H·W.
    pub values_per_channel: usize,
}

impl BatchStatistics {
    /// Moves the running mean and variance (C each) towards this batch, in place.
    ///
    /// An empty batch moves nothing.
    pub fn fold_into(&self, running_mean: &Tensor, running_var: &Tensor, momentum: f64) -> Result<()> {
        if self.values_per_channel == 0 {
            return Ok(());
        }
        update_running(running_mean, &self.mean, momentum)?;
        update_running(running_var, &self.unbiased_var, momentum)
    }
}

/// running ← (1 - momentum) running + momentum batch, in the storage of `running`, so that every tensor that shares it sees it.
///
/// # Errors
/// If the shapes differ, or `running` is not contiguous f32.
pub fn update_running(running: &Tensor, batch: &Tensor, momentum: f64) -> Result<()> {
    if running.dims() != batch.dims() {
        return Err(Error::invalid(
            "update_running",
            format!("running {:?}, batch {:?}", running.dims(), batch.dims()),
        ));
    }
    let moved: Vec<f32> = {
        let (old, new) = (on_host(running)?, on_host(batch)?);
        let (old, new) = (elements(&old)?, elements(&new)?);
        let moved =
            |(old, new): (&f32, &f32)| (1.0 - momentum) * f64::from(*old) + momentum * f64::from(*new);
        old.iter().zip(new.iter()).map(moved).map(|value| value as f32).collect()
    };
    if moved.is_empty() {
        return Ok(());
    }
    Ok(running.slice_set(&from_elements(moved, running.shape(), running)?, 0, 0)?)
}

/// y = (x - mean) / sqrt(var + eps) · weight + bias, with statistics that are constants.
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
    let (n, c, h, w) = dims(name, x)?;
    for (table, what) in [(weight, "weight"), (bias, "bias"), (mean, "mean"), (var, "var")] {
        check_table(name, what, table, c)?;
    }
    if mean.is_tracked() || var.is_tracked() {
        return Err(Error::invalid(name, "mean and var must be constants"));
    }
    let (gain, mean, var) = (to_vec(weight)?, to_vec(mean)?, to_vec(var)?);
    let inverse_std: Vec<f64> = var.iter().map(|var| 1.0 / (f64::from(*var) + eps).sqrt()).collect();
    let factor: Vec<f32> =
        gain.iter().zip(&inverse_std).map(|(gain, inverse)| (f64::from(*gain) * inverse) as f32).collect();
    let line = ForwardLine { mean: &mean, factor: &factor, bias: &to_vec(bias)? };
    let rows = Rows { sections: 1, rows: n * h * w, c };
    let input = channels_last(x.tensor())?;
    let out = rows.forward(&elements(&input)?, &line, None, Activation::Identity);
    let out = from_channels_last(out, (n, h, w, c), x.tensor())?;

    let tracked = (x.is_tracked(), weight.is_tracked(), bias.is_tracked());
    let saved_x = tracked.1.then_some(input);
    Ok(Value::operation(&[x, weight, bias], out, move |gradient| {
        let host = channels_last(gradient)?;
        let g = elements(&host)?;
        let mut gradients = vec![None, None, None];
        if tracked.0 {
            let zeros = vec![0f32; c];
            let line = BackwardLine { a: &factor, b: &zeros, d: &zeros, mean: &zeros };
            let (gx, _) = rows.backward(&g, None, None, &line, false);
            gradients[0] = Some(from_channels_last(gx, (n, h, w, c), gradient)?);
        }
        if tracked.1 || tracked.2 {
            // Without x only the first of the two sums is needed: g then stands in for x.
            let x = saved_x.as_ref().map(elements).transpose()?;
            let sums = rows.gradient_sums(&g, x.as_deref().unwrap_or(&g), None, &mean);
            let gw = sums.of_products.iter().zip(&inverse_std).map(|(sum, inverse)| (sum * inverse) as f32);
            gradients[1] = tracked.1.then(|| from_elements(gw.collect(), c, gradient)).transpose()?;
            let gb = sums.of_gradients.iter().map(|sum| *sum as f32);
            gradients[2] = tracked.2.then(|| from_elements(gb.collect(), c, gradient)).transpose()?;
        }
        Ok(gradients)
    }))
}

/// Batch norm with the statistics of the batch: the biased variance normalises. Returns these statistics too.
///
/// A channel with a single value normalises to its bias, with finite gradients. An empty batch gives an empty result.
///
/// # Shapes
/// `x` (N, C, H, W), `weight`, `bias` (C) to `x`'s shape.
///
/// # Errors
/// If shapes do not fit.
pub fn batch_norm_train(
    x: &Value,
    weight: &Value,
    bias: &Value,
    eps: f64,
    fused: NormEpilogue,
) -> Result<(Value, BatchStatistics)> {
    let (n, c, h, w) = dims("batch_norm_train", x)?;
    let grouping = Grouping { rows: Rows { sections: 1, rows: n * h * w, c }, group: 1 };
    let (out, moments) = normalize("batch_norm_train", x, weight, bias, eps, grouping, fused)?;
    let values = n * h * w;
    let unbiased = if values > 1 { values as f64 / (values - 1) as f64 } else { 1.0 };
    let table = |values: &mut dyn Iterator<Item = f64>| {
        from_elements(values.map(|value| value as f32).collect(), c, x.tensor())
    };
    let statistics = BatchStatistics {
        mean: table(&mut moments.iter().map(|moments| moments.mean))?,
        unbiased_var: table(&mut moments.iter().map(|moments| moments.var * unbiased))?,
        values_per_channel: values,
    };
    Ok((out, statistics))
}

/// Group norm: each image's channels are normalised in `groups` groups of neighbours.
///
/// # Shapes
/// `x` (N, C, H, W), `weight`, `bias` (C) to `x`'s shape; `groups` divides C.
///
/// # Errors
/// If shapes do not fit.
pub fn group_norm(
    x: &Value,
    weight: &Value,
    bias: &Value,
    groups: usize,
    eps: f64,
    activation: Activation,
) -> Result<Value> {
    let (n, c, h, w) = dims("group_norm", x)?;
    if groups == 0 || c == 0 || c % groups != 0 {
        return Err(Error::invalid("group_norm", format!("{c} channels in {groups} groups")));
    }
    let grouping = Grouping { rows: Rows { sections: n, rows: h * w, c }, group: c / groups };
    let epilogue = NormEpilogue { residual: None, activation };
    Ok(normalize("group_norm", x, weight, bias, eps, grouping, epilogue)?.0)
}

/// Which elements are normalised together: within a section, each `group` neighbouring channels.
#[derive(Clone, Copy)]
struct Grouping {
    rows: Rows,
    group: usize,
}

/// Mean and biased variance of one channel of one section.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Moments {
    mean: f64,
    var: f64,
}

fn normalize(
    name: &'static str,
    x: &Value,
    weight: &Value,
    bias: &Value,
    eps: f64,
    grouping: Grouping,
    fused: NormEpilogue,
) -> Result<(Value, Vec<Moments>)> {
    let (n, c, h, w) = dims(name, x)?;
    check_table(name, "weight", weight, c)?;
    check_table(name, "bias", bias, c)?;
    if let Some(residual) = fused.residual.filter(|residual| residual.dims() != x.dims()) {
        return Err(Error::invalid(name, format!("residual {:?}, x {:?}", residual.dims(), x.dims())));
    }
    let Grouping { rows, .. } = grouping;
    let input = channels_last(x.tensor())?;
    let residual = fused.residual.map(|residual| channels_last(residual.tensor())).transpose()?;
    let gain = to_vec(weight)?;
    let (moments, out) = {
        let input = elements(&input)?;
        let moments = grouping.moments(&input);
        let line = Line::new(&moments, &gain, eps);
        let bias = to_vec(bias)?.repeat(rows.sections);
        let line = ForwardLine { mean: &line.mean, factor: &line.factor, bias: &bias };
        let residual = residual.as_ref().map(elements).transpose()?;
        let out = rows.forward(&input, &line, residual.as_deref(), fused.activation);
        (moments, out)
    };
    let out = from_channels_last(out, (n, h, w, c), x.tensor())?;

    let activation = fused.activation;
    let saved_y = (activation != Activation::Identity).then(|| out.clone());
    let tracked = (x.is_tracked(), weight.is_tracked(), bias.is_tracked());
    let residual_tracked = fused.residual.map(Value::is_tracked);
    let mut inputs = vec![x, weight, bias];
    inputs.extend(fused.residual);
    let saved_moments = moments.clone();
    let backward = move |gradient: &Tensor| {
        let host = channels_last(gradient)?;
        let saved_y = saved_y.as_ref().map(channels_last).transpose()?;
        let (g, x) = (elements(&host)?, elements(&input)?);
        let y = saved_y.as_ref().map(elements).transpose()?;
        let y = y.as_deref().map(|y| Activated { y, activation });
        let line = Line::new(&saved_moments, &gain, eps);
        let sums = rows.gradient_sums(&g, &x, y, &line.mean);
        let image = |values| from_channels_last(values, (n, h, w, c), gradient);
        let mut gradients = vec![None, None, None];
        let mut masked = None;
        if tracked.0 {
            let (b, d) = grouping.backward_tables(&line, &sums, &gain);
            let tables = BackwardLine { a: &line.factor, b: &b, d: &d, mean: &line.mean };
            let keep_masked = residual_tracked == Some(true) && y.is_some();
            let (gx, kept) = rows.backward(&g, Some(&x), y, &tables, keep_masked);
            gradients[0] = Some(image(gx)?);
            masked = kept;
        }
        let per_channel = |of: &dyn Fn(usize) -> f64| {
            let sum =
                |channel| (0..rows.sections).map(|section| of(section * c + channel)).sum::<f64>() as f32;
            from_elements((0..c).map(sum).collect(), c, gradient)
        };
        if tracked.1 {
            gradients[1] = Some(per_channel(&|at| sums.of_products[at] * line.inverse_std[at])?);
        }
        if tracked.2 {
            gradients[2] = Some(per_channel(&|at| sums.of_gradients[at])?);
        }
        match (residual_tracked, masked, saved_y.as_ref()) {
            (Some(true), Some(masked), _) => gradients.push(Some(image(masked)?)),
            (Some(true), None, Some(y)) => {
                let y = y.permute((0, 3, 1, 2))?;
                gradients.push(Some(activation.mask(gradient, &y)?));
            }
            (Some(true), None, None) => gradients.push(Some(gradient.clone())),
            (Some(false), ..) => gradients.push(None),
            (None, ..) => {}
        }
        Ok(gradients)
    };
    Ok((Value::operation(&inputs, out, backward), moments))
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
    fn values(&self) -> f64 {
        (self.rows.rows * self.group) as f64
    }

    /// Mean and biased variance per section and channel; those of an empty group are 0 and 1.
    fn moments(&self, x: &[f32]) -> Vec<Moments> {
        if self.rows.rows == 0 {
            return vec![Moments { mean: 0.0, var: 1.0 }; self.rows.sections * self.rows.c];
        }
        let (sums, squares) = self.rows.value_sums(x);
        let groups = sums.chunks_exact(self.group).zip(squares.chunks_exact(self.group));
        let moments = groups.map(|(sums, squares)| {
            let mean = sums.iter().sum::<f64>() / self.values();
            let var = squares.iter().sum::<f64>() / self.values() - mean * mean;
            // Not `max`, which would hide a NaN.
            Moments { mean, var: if var < 0.0 { 0.0 } else { var } }
        });
        moments.flat_map(|moments| std::iter::repeat_n(moments, self.group)).collect()
    }

    /// The tables b and d of dx = a g + b (x - mean) + d, from
    /// dx = (w g - mean(w g) - x̂ mean(w g x̂)) / std, means over the group.
    fn backward_tables(&self, line: &Line, sums: &GradientSums, gain: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (count, c) = (sums.of_gradients.len(), self.rows.c);
        let (mut b, mut d) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for first in (0..count).step_by(self.group) {
            let members = first..first + self.group;
            let inverse = line.inverse_std[first];
            let (mut weighted, mut products) = (0f64, 0f64);
            for at in members {
                // With one channel a group the factor itself, rounded, so that a lone value's terms cancel exactly.
                let factor = match self.group {
                    1 => f64::from(line.factor[at]),
                    _ => f64::from(gain[at % c]) * inverse,
                };
                weighted += factor * sums.of_gradients[at];
                products += factor * sums.of_products[at];
            }
            let b_group = -products * inverse * inverse / self.values();
            b.extend(std::iter::repeat_n(b_group as f32, self.group));
            d.extend(std::iter::repeat_n((-weighted / self.values()) as f32, self.group));
        }
        (b, d)
    }
}

fn dims(name: &'static str, x: &Value) -> Result<(usize, usize, usize, usize)> {
    x.tensor().dims4().map_err(|_| Error::invalid(name, format!("x {:?} is not NCHW", x.dims())))
}

fn check_table(name: &'static str, what: &str, table: &Value, c: usize) -> Result<()> {
    if table.dims() != [c] {
        return Err(Error::invalid(name, format!("{what} {:?}, {c} channels", table.dims())));
    }
    Ok(())
}

fn to_vec(table: &Value) -> Result<Vec<f32>> {
    let host = on_host(table.tensor())?;
    Ok(elements(&host)?.to_vec())
}
