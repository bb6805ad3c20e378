//! A convolution and its node in the graph.

use candle_core::Tensor;

use super::config::Conv2dConfig;
use super::epilogue::Epilogue;
use super::forward::Forward;
use super::geometry::Geometry;
use super::input_gradient::InputGradient;
use super::weight_gradient::WeightGradient;
use crate::activation::Activation;
use crate::dispatch;
use crate::gradient::Gradient;
use crate::graph::Saved;
use crate::reduce::column_sums;
use crate::{Result, Value};

/// Convolves `x` with `weight` as they are.
pub(super) fn convolve(x: &Value, weight: &Value, config: Conv2dConfig, epilogue: Epilogue) -> Result<Value> {
    let geometry = Geometry::new(x.tensor(), weight.tensor(), config)?;
    let out = dispatch::run(x.tensor(), Forward::new(&geometry, x, weight, &epilogue)?)?;
    let (track_x, track_w) = (x.is_tracked(), weight.is_tracked());
    let track_shift = epilogue.shift.map(Value::is_tracked);
    let has_residual = epilogue.residual.is_some();
    let mut inputs = vec![x, weight];
    inputs.extend(epilogue.shift);
    inputs.extend(epilogue.residual);
    let saved_x = track_w.then(|| x.saved());
    let saved_w = track_x.then(|| weight.tensor().clone());
    let activation = epilogue.activation;
    let saved_y = (activation != Activation::Identity).then(|| out.clone());
    let scale = epilogue.scale.cloned();
    Ok(Value::consuming_operation(&inputs, out, move |g| {
        // Maps are large: each is freed as soon as nothing more is made of it.
        let masked = match saved_y {
            Some(y) => g.through(activation, &y)?,
            None => g,
        };
        let (g, masked) = masked.nhwc()?;
        let scale = scale.as_ref();
        let of_weights = |x: Saved| {
            let x = x.tensor()?;
            dispatch::run(&g, WeightGradient { geometry: &geometry, g: &g, x: &x, scale })
        };
        let of_weights = saved_x.map(of_weights).transpose()?;
        let of_input = |weight: Tensor| {
            dispatch::run(&g, InputGradient { geometry: &geometry, g: &g, weight: &weight, scale })
        };
        let of_input = saved_w.map(of_input).transpose()?;
        let mut gradients = vec![of_input, of_weights];
        if let Some(track_shift) = track_shift {
            gradients.push(track_shift.then(|| column_sums(&g)).transpose()?);
        }
        let mut gradients: Vec<_> = gradients.into_iter().map(|made| made.map(Gradient::Own)).collect();
        if has_residual {
            gradients.push(Some(masked));
        }
        Ok(gradients)
    }))
}
