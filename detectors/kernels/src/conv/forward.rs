//! The forward product.

use candle_core::Tensor;

use super::epilogue::Epilogue;
use super::geometry::Geometry;
use super::sweep::{Sweep, in_precision};
use super::{depthwise, winograd};
use crate::activation::Activation;
use crate::dispatch::Host;
use crate::memory::{channels_last, elements, from_channels_last, on_host, written};
use crate::microkernel::Finish;
use crate::panels::Panels;
use crate::{Error, Result, Value};

/// The operands of a convolution, checked.
pub(super) struct Forward<'a> {
    pub(super) geometry: &'a Geometry,
    /// (N, C, H, W).
    pub(super) x: &'a Tensor,
    /// (K, C/groups, R, S).
    pub(super) weight: &'a Tensor,
    /// (K).
    pub(super) scale: Option<&'a Tensor>,
    /// (K).
    pub(super) shift: Option<&'a Tensor>,
    /// (N, K, OH, OW).
    pub(super) residual: Option<&'a Tensor>,
    pub(super) activation: Activation,
}

impl<'a> Forward<'a> {
    pub(super) fn new(
        geometry: &'a Geometry,
        x: &'a Value,
        weight: &'a Value,
        epilogue: &Epilogue<'a>,
    ) -> Result<Self> {
        let &Geometry { n, oh, ow, k, .. } = geometry;
        let Epilogue { scale, activation, .. } = *epilogue;
        let [shift, residual] = [epilogue.shift, epilogue.residual].map(|value| value.map(Value::tensor));
        if let Some(residual) = residual.filter(|residual| residual.dims() != [n, k, oh, ow]) {
            let reason = format!("residual {:?}, result {:?}", residual.dims(), [n, k, oh, ow]);
            return Err(Error::invalid("conv2d", reason));
        }
        for (name, table) in [("shift", shift), ("scale", scale)] {
            if let Some(table) = table.filter(|table| table.dims() != [k]) {
                return Err(Error::invalid("conv2d", format!("{name} {:?}, {k} channels", table.dims())));
            }
        }
        Ok(Self { geometry, x: x.tensor(), weight: weight.tensor(), scale, shift, residual, activation })
    }
}

impl Host for Forward<'_> {
    /// (N, K, OH, OW), channels last in memory.
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let &Geometry { n, oh, ow, k, .. } = self.geometry;
        let (input, weight) = (channels_last(self.x)?, channels_last(self.weight)?);
        let residual = self.residual.map(channels_last).transpose()?;
        let [shift, scale] = [self.shift, self.scale].map(|table| table.map(on_host).transpose());
        let (shift, scale) = (shift?, scale?);
        let shift = shift.as_ref().map(elements).transpose()?;
        let scale = scale.as_ref().map(elements).transpose()?;
        let residual = residual.as_ref().map(elements).transpose()?;
        let finish = Finish {
            shift: shift.as_deref(),
            residual: residual.as_deref(),
            activation: self.activation,
            ..Finish::default()
        };
        let (input, weight) = (elements(&input)?, elements(&weight)?);
        let out = product(self.geometry, &input, &weight, scale.as_deref(), finish);
        from_channels_last(out, (n, oh, ow, k), self.x)
    }
}

/// The result (n, oh, ow, k) of the input and the weights (k, r, s, c/groups), row k of them times
/// `scale[k]`.
pub(super) fn product(
    geometry: &Geometry,
    input: &[f32],
    weight: &[f32],
    scale: Option<&[f32]>,
    finish: Finish,
) -> Vec<f32> {
    let &Geometry { config, n, oh, ow, k, .. } = geometry;
    let size = n * oh * ow * k;
    if geometry.is_depthwise() {
        // SAFETY: the convolution writes every number.
        return unsafe {
            written(size, |out| depthwise::forward(geometry, input, weight, scale, finish, out))
        };
    }
    let (group_c, group_k) = geometry.group_channels();
    let width = geometry.r * geometry.s * group_c;
    let panels: Vec<Panels> = (0..config.groups)
        .map(|group| {
            let scale = scale.map(|scale| &scale[group * group_k..][..group_k]);
            Panels::of_transposed(
                &weight[group * group_k * width..][..group_k * width],
                (width, group_k),
                scale,
            )
        })
        .collect();
    if winograd::suits(geometry) {
        let padding = config.padding.map(|padding| padding as isize);
        // SAFETY: the convolution writes every number.
        return unsafe {
            written(size, |out| {
                winograd::convolve(geometry.input_map(input), (oh, ow), padding, &panels[0], finish, out);
            })
        };
    }
    let geometry = geometry.flattened();
    let phases = [geometry.forward_phase()];
    let (precision, panels) = in_precision(geometry.precision, group_c, panels);
    let sweep = Sweep {
        precision,
        source: geometry.input_map(input),
        result: (geometry.oh, geometry.ow, k),
        stride: [1, 1],
        step: config.stride,
        phases: &phases,
        panels: &panels,
        groups: config.groups,
        finish,
    };
    // SAFETY: a sweep writes every number.
    unsafe { written(size, |out| sweep.run(out)) }
}
