//! Convolutions on a GPU: cuDNN's products, and what surrounds them.

use candle_core::{CudaDevice, Tensor};

use super::forward::Forward;
use super::geometry::Geometry;
use super::input_gradient::InputGradient;
use super::weight_gradient::WeightGradient;
use crate::activation::Activation;
use crate::cuda::cudnn::Sizes;
use crate::cuda::{Family, Fresh, arguments, blocks, floats, floats_or_null, int, launch};
use crate::dispatch::Gpu;
use crate::memory::nhwc;
use crate::{Precision, Result};

impl Geometry {
    fn sizes(&self) -> Sizes {
        let &Self { config, n, h, w, c, oh, ow, k, r, s, precision } = self;
        let (group_c, _) = self.group_channels();
        Sizes { x: [n, c, h, w], w: [k, group_c, r, s], y: [n, k, oh, ow], config, precision }
    }
}

/// Rows of a tensor times `scale`, rounded to bfloat16 if `precision` is that; the tensor itself if neither.
fn factors(
    device: &CudaDevice,
    tensor: Tensor,
    scale: Option<&Tensor>,
    precision: Precision,
) -> Result<Tensor> {
    let round = precision == Precision::Bf16;
    if scale.is_none() && !round || tensor.elem_count() == 0 {
        return Ok(tensor);
    }
    let count = tensor.elem_count();
    let out = Fresh::<f32>::new(device, count)?;
    let width = int(count / tensor.dim(0)?)?;
    let scale = scale.map(Tensor::contiguous).transpose()?;
    let arguments = arguments![
        floats(&tensor)?,
        floats_or_null(scale.as_ref())?,
        out.address(),
        count as i64,
        width,
        i32::from(round)
    ];
    launch(device, Family::Conv, "scaled_rows", blocks(count)?, [256, 1], arguments)?;
    Ok(out.tensor(tensor.shape(), device))
}

/// A matrix rounded to `precision`.
pub(crate) fn scaled_rows_of(device: &CudaDevice, matrix: &Tensor, precision: Precision) -> Result<Tensor> {
    factors(device, matrix.contiguous()?, None, precision)
}

/// Code of an activation in the kernels' text.
pub(crate) fn code(activation: Activation) -> i32 {
    match activation {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::Relu6 => 2,
    }
}

/// activation(y + shift + residual) in place, over rows of `c` channels.
fn finish(
    device: &CudaDevice,
    y: &Fresh<f32>,
    count: usize,
    c: usize,
    shift: Option<&Tensor>,
    residual: Option<&Tensor>,
    activation: Activation,
) -> Result<()> {
    let nothing = shift.is_none() && residual.is_none();
    if count == 0 || nothing && activation == Activation::Identity {
        return Ok(());
    }
    let arguments = arguments![
        y.address(),
        floats_or_null(shift)?,
        floats_or_null(residual)?,
        count as i64,
        int(c)?,
        code(activation)
    ];
    launch(device, Family::Conv, "epilogue", blocks(count)?, [256, 1], arguments)
}

impl Gpu for Forward<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let sizes = self.geometry.sizes();
        let &Geometry { n, oh, ow, k, precision, .. } = self.geometry;
        let x = factors(device, nhwc(self.x)?, None, precision)?;
        // A frozen norm's factors go into the weights, as on the CPU.
        let w = factors(device, nhwc(self.weight)?, self.scale, precision)?;
        let residual = self.residual.map(nhwc).transpose()?;
        let shift = self.shift.map(Tensor::contiguous).transpose()?;
        let fused = match &shift {
            Some(shift) => sizes.finished(device, (&x, &w), (shift, residual.as_ref()), self.activation)?,
            None => None,
        };
        let y = match fused {
            Some(y) => y,
            None => {
                let y = sizes.forward(device, &x, &w)?;
                finish(device, &y, n * oh * ow * k, k, shift.as_ref(), residual.as_ref(), self.activation)?;
                y
            }
        };
        y.map((n, oh, ow, k), device)
    }
}

impl Gpu for InputGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let &Geometry { n, h, w, c, precision, .. } = self.geometry;
        let weight = factors(device, nhwc(self.weight)?, self.scale, precision)?;
        let g = factors(device, self.g.clone(), None, precision)?;
        self.geometry.sizes().input_gradient(device, &g, &weight)?.map((n, h, w, c), device)
    }
}

impl Gpu for WeightGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let &Geometry { k, r, s, .. } = self.geometry;
        let (group_c, _) = self.geometry.group_channels();
        // As on the CPU, gradients of weights keep all bits.
        let precision = match self.geometry.precision {
            Precision::Bf16 => Precision::F32,
            precision => precision,
        };
        let sizes = Sizes { precision, ..self.geometry.sizes() };
        let sums = sizes.weight_gradient(device, self.g, &nhwc(self.x)?)?.tensor((k, r, s, group_c), device);
        let scaled = factors(device, sums, self.scale, Precision::F32)?;
        Ok(scaled.permute((0, 3, 1, 2))?)
    }
}
