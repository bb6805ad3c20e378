//! 2-D convolution (cross-correlation) with a fused epilogue, and its gradients.
//!
//! y = activation(scale · (x * w) + shift + residual), per output channel. A frozen batch norm is a scale
//! and a shift, so a frozen-BN residual block stores one activation per convolution.
//!
//! Layout: activations (N, H, W, C), weights (K, R, S, C/groups).
//!
//! - forward: tap (r, s) of output (y, x) is input (y·stride + r·dilation − padding, ...): a `sweep`.
//! - gradient of the input: for stride s the input pixels fall into s·s phases. Within a phase each pixel
//!   sees the same subset of taps at constant offsets in the output gradient, so each phase is a
//!   sweep of stride 1; exact for every parity of H and W.
//! - gradient of the weights: sums of outer products of windows and output gradients; a task owns output
//!   channels, or a fixed share of the pixels, so the bits do not depend on the number of threads.
//! - 3x3 of stride 1: all three in `winograd`'s form where it is faster. One channel a group: `depthwise`.
mod depthwise;
mod forward;
mod geometry;
mod input_gradient;
pub(crate) mod pixels;
mod sweep;
mod weight_gradient;
mod widened;
mod winograd;

use candle_core::Tensor;

use self::forward::forward;
use self::geometry::Geometry;
use self::input_gradient::input_gradient;
use self::weight_gradient::weight_gradient;
use crate::linear::{Activation, column_sums};
use crate::memory::{channels_last, elements, from_channels_last, from_elements, on_host};
use crate::{Error, Result, Value};

/// Where the taps of a convolution lie; (vertical, horizontal) each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dConfig {
    /// Input pixels between neighbouring outputs.
    pub stride: [usize; 2],
    /// Zeros on each side.
    pub padding: [usize; 2],
    /// Input pixels between neighbouring taps.
    pub dilation: [usize; 2],
    /// Independent groups of channels.
    pub groups: usize,
}

impl Default for Conv2dConfig {
    fn default() -> Self {
        Self { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 }
    }
}

impl Conv2dConfig {
    /// A dense convolution with equal stride and padding both ways.
    pub fn new(stride: usize, padding: usize) -> Self {
        Self { stride: [stride; 2], padding: [padding; 2], ..Self::default() }
    }

    /// Output size along one axis (0 vertical, 1 horizontal), `None` if the kernel does not fit.
    pub fn output_size(&self, axis: usize, input: usize, kernel: usize) -> Option<usize> {
        let span = self.dilation[axis] * (kernel.checked_sub(1)?) + 1;
        Some((input + 2 * self.padding[axis]).checked_sub(span)? / self.stride[axis] + 1)
    }
}

/// What is done to the convolution's result while it is in cache, in this order.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue<'a> {
    /// A constant factor per output channel (K): a frozen norm's.
    pub scale: Option<&'a Tensor>,
    /// Added per output channel (K): a bias or a frozen norm's shift.
    pub shift: Option<&'a Value>,
    /// Added element by element, of the result's shape: a residual connection.
    pub residual: Option<&'a Value>,
    /// Applied last.
    pub activation: Activation,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { scale: None, shift: None, residual: None, activation: Activation::Identity }
    }
}

impl Epilogue<'_> {
    /// Whether all of it is tables of `k` channels.
    fn fits(&self, k: usize) -> bool {
        let tables = [self.scale, self.shift.map(Value::tensor)];
        self.residual.is_none() && tables.iter().flatten().all(|table| table.dims() == [k])
    }
}

/// Convolves `x` with `weight` and applies `epilogue`.
///
/// # Shapes
/// `x` (N, C, H, W), `weight` (K, C/groups, R, S) to (N, K, H', W').
///
/// # Errors
/// If shapes, groups or the kernel's span do not fit.
pub fn conv2d(x: &Value, weight: &Value, config: Conv2dConfig, epilogue: Epilogue) -> Result<Value> {
    let geometry = Geometry::new(x.tensor(), weight.tensor(), config)?;
    let Geometry { n, oh, ow, k, r, s, .. } = geometry;
    crate::flops::count(n * oh * ow * k * r * s * geometry.group_channels().0);
    match widened::outputs(&geometry) {
        Some(outputs) if epilogue.fits(k) => widened::convolve_widened(x, weight, config, epilogue, outputs),
        _ => convolve(x, weight, config, epilogue),
    }
}

fn convolve(x: &Value, weight: &Value, config: Conv2dConfig, epilogue: Epilogue) -> Result<Value> {
    let geometry = Geometry::new(x.tensor(), weight.tensor(), config)?;
    let out = forward(&geometry, x.tensor(), weight.tensor(), &epilogue)?;
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
            Some(y) => channels_last(&activation.mask(&g, &y)?)?,
            None => channels_last(&g)?,
        };
        drop(g);
        let g = masked;
        let of_weights = saved_x.map(|x| weight_gradient(&geometry, &g, &x.tensor()?)).transpose()?;
        let of_weights = match (of_weights, &scale) {
            (Some(gradient), Some(scale)) => Some(scale_rows(&gradient, scale)?),
            (gradient, _) => gradient,
        };
        let of_input = saved_w.map(|w| input_gradient(&geometry, &g, &w, scale.as_ref())).transpose()?;
        let mut gradients = vec![of_input, of_weights];
        if let Some(track_shift) = track_shift {
            let sums = || from_elements(column_sums(&elements(&g)?, geometry.k), geometry.k, &g);
            gradients.push(track_shift.then(sums).transpose()?);
        }
        if has_residual {
            gradients.push(Some(g.permute((0, 3, 1, 2))?));
        }
        Ok(gradients)
    }))
}

/// Row k of `weight` (K, C, R, S) times `scale[k]`, channels-last in memory.
fn scale_rows(weight: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let (k, c, r, s) = weight.dims4()?;
    if scale.dims() != [k] {
        return Err(Error::invalid("conv2d", format!("scale {:?}, {k} channels", scale.dims())));
    }
    let (host, scale) = (channels_last(weight)?, on_host(scale)?);
    let mut scaled = elements(&host)?.to_vec();
    for (row, scale) in scaled.chunks_exact_mut((c * r * s).max(1)).zip(elements(&scale)?.iter()) {
        row.iter_mut().for_each(|w| *w *= scale);
    }
    from_channels_last(scaled, (k, r, s, c), weight)
}
