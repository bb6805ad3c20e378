//! Convolutions on a GPU: cuDNN's products, and what surrounds them.

use candle_core::{CudaDevice, DType, Tensor};
use half::bf16;

use super::forward::Forward;
use super::geometry::Geometry;
use super::input_gradient::InputGradient;
use super::weight_gradient::WeightGradient;
use crate::activation::Activation;
use crate::cuda::cudnn::{Product, Sizes};
use crate::cuda::{Family, arguments, blocks, elements, elements_or_null, floats_or_null, int, launch};
use crate::dispatch::Gpu;
use crate::memory::nhwc;
use crate::stored::gpu::scaled;
use crate::{Error, Precision, Result};

impl Geometry {
    fn sizes(&self, device: &CudaDevice) -> Result<Sizes> {
        let &Self { config, n, h, w, c, oh, ow, k, r, s, precision } = self;
        let (group_c, _) = self.group_channels();
        let precision = precision.on(device)?;
        Ok(Sizes { x: [n, c, h, w], w: [k, group_c, r, s], y: [n, k, oh, ow], config, precision })
    }
}

/// A product of two contiguous tensors in the order of [`Product`], in the type of its precision. Where cuDNN has none of
/// bf16, it is made of the same factors in f32, and rounded.
fn product(device: &CudaDevice, sizes: &Sizes, product: Product, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let [n, c, h, w] = match product {
        Product::Forward => sizes.y,
        Product::InputGradient => sizes.x,
        Product::WeightGradient => sizes.w,
    };
    let nhwc = (n, h, w, c);
    if sizes.precision != Precision::Bf16 {
        return match sizes.product::<f32>(device, product, a, b)? {
            Some(made) => Ok(made.tensor(nhwc, device)),
            None => Err(Error::invalid("conv2d", format!("cuDNN has no such convolution: {sizes:?}"))),
        };
    }
    if let Some(made) = sizes.product::<bf16>(device, product, a, b)? {
        return Ok(made.tensor(nhwc, device));
    }
    let [a, b] = [a, b].map(|factor| scaled(device, factor, None, DType::F32));
    let sizes = Sizes { precision: Precision::Tf32, ..*sizes };
    scaled(device, &self::product(device, &sizes, product, &a?, &b?)?, None, DType::BF16)
}

/// activation(convolution + shift + residual) in one launch, if cuDNN has that.
fn finished(
    device: &CudaDevice,
    sizes: &Sizes,
    factors: (&Tensor, &Tensor),
    (shift, residual): (&Tensor, Option<&Tensor>),
    activation: Activation,
) -> Result<Option<Tensor>> {
    let [n, k, oh, ow] = sizes.y;
    let nhwc = (n, oh, ow, k);
    if sizes.precision == Precision::Bf16 {
        let shift = scaled(device, shift, None, DType::BF16)?;
        let made = sizes.finished::<bf16>(device, factors, (&shift, residual), activation)?;
        return Ok(made.map(|made| made.tensor(nhwc, device)));
    }
    let made = sizes.finished::<f32>(device, factors, (shift, residual), activation)?;
    Ok(made.map(|made| made.tensor(nhwc, device)))
}

/// Code of an activation in the kernels' text.
pub(crate) fn code(activation: Activation) -> i32 {
    match activation {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::Relu6 => 2,
    }
}

/// activation(y + shift + residual) in place, over rows of channels.
pub(crate) fn finish(
    device: &CudaDevice,
    y: &Tensor,
    shift: Option<&Tensor>,
    residual: Option<&Tensor>,
    activation: Activation,
) -> Result<()> {
    let (count, nothing) = (y.elem_count(), shift.is_none() && residual.is_none());
    if count == 0 || nothing && activation == Activation::Identity {
        return Ok(());
    }
    let arguments = arguments![
        elements(y)?,
        floats_or_null(shift)?,
        elements_or_null(residual)?,
        count as i64,
        int(y.dims().last().copied().unwrap_or(1))?,
        code(activation)
    ];
    launch(device, Family::Conv, "epilogue", blocks(count)?, [256, 1], arguments)
}

impl Gpu for Forward<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let sizes = self.geometry.sizes(device)?;
        let dtype = sizes.precision.dtype();
        let x = scaled(device, &nhwc(self.x)?, None, dtype)?;
        // A frozen norm's factors go into the weights, as on the CPU.
        let w = scaled(device, &nhwc(self.weight)?, self.scale, dtype)?;
        let residual = |map| scaled(device, &nhwc(map)?, None, dtype);
        let residual = self.residual.map(residual).transpose()?;
        let shift = self.shift.map(Tensor::contiguous).transpose()?;
        let (shift, residual) = (shift.as_ref(), residual.as_ref());
        let fused = shift.map(|shift| finished(device, &sizes, (&x, &w), (shift, residual), self.activation));
        let y = match fused.transpose()?.flatten() {
            Some(y) => y,
            None => {
                let y = product(device, &sizes, Product::Forward, &x, &w)?;
                finish(device, &y, shift, residual, self.activation)?;
                y
            }
        };
        Ok(y.permute((0, 3, 1, 2))?)
    }
}

impl Gpu for InputGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let sizes = self.geometry.sizes(device)?;
        let dtype = sizes.precision.dtype();
        let w = scaled(device, &nhwc(self.weight)?, self.scale, dtype)?;
        let g = scaled(device, self.g, None, dtype)?;
        Ok(product(device, &sizes, Product::InputGradient, &w, &g)?.permute((0, 3, 1, 2))?)
    }
}

impl Gpu for WeightGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let sizes = self.geometry.sizes(device)?;
        let dtype = sizes.precision.dtype();
        let x = scaled(device, &nhwc(self.x)?, None, dtype)?;
        let g = scaled(device, self.g, None, dtype)?;
        let sums = product(device, &sizes, Product::WeightGradient, &x, &g)?;
        Ok(scaled(device, &sums, self.scale, DType::F32)?.permute((0, 3, 1, 2))?)
    }
}
