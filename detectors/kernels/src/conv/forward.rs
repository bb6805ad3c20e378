//! The forward product.

use candle_core::Tensor;

use super::geometry::Geometry;
use super::sweep::{Sweep, in_precision};
use super::{Epilogue, depthwise, winograd};
use crate::memory::{channels_last, elements, from_channels_last, on_host, written};
use crate::microkernel::Finish;
use crate::panels::Panels;
use crate::{Error, Result};

pub(super) fn forward(
    geometry: &Geometry,
    x: &Tensor,
    weight: &Tensor,
    epilogue: &Epilogue,
) -> Result<Tensor> {
    let &Geometry { n, oh, ow, k, .. } = geometry;
    let residual = match epilogue.residual {
        Some(residual) if residual.dims() == [n, k, oh, ow] => Some(channels_last(residual.tensor())?),
        Some(residual) => {
            let reason = format!("residual {:?}, result {:?}", residual.dims(), [n, k, oh, ow]);
            return Err(Error::invalid("conv2d", reason));
        }
        None => None,
    };
    let per_channel = |name, values: Option<&Tensor>| match values {
        Some(values) if values.dims() == [k] => Ok(Some(on_host(values)?)),
        Some(values) => Err(Error::invalid("conv2d", format!("{name} {:?}, {k} channels", values.dims()))),
        None => Ok(None),
    };
    let shift = per_channel("shift", epilogue.shift.map(crate::Value::tensor))?;
    let scale = per_channel("scale", epilogue.scale)?;
    let (input, weight) = (channels_last(x)?, channels_last(weight)?);
    let shift = shift.as_ref().map(elements).transpose()?;
    let scale = scale.as_ref().map(elements).transpose()?;
    let residual = residual.as_ref().map(elements).transpose()?;
    let finish = Finish {
        shift: shift.as_deref(),
        residual: residual.as_deref(),
        activation: epilogue.activation,
        ..Finish::default()
    };
    let (input, weight) = (elements(&input)?, elements(&weight)?);
    let out = product(geometry, &input, &weight, scale.as_deref(), finish);
    from_channels_last(out, (n, oh, ow, k), x)
}

/// The result (n, oh, ow, k) of the input and the weights (k, r, s, c/groups), row k of them times `scale[k]`.
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
