//! Maps of another type on a GPU.

use candle_core::{CudaDevice, DType, Tensor};
use half::bf16;

use super::Stored;
use crate::cuda::{
    Family, Fresh, FreshMap, arguments, blocks, elements, floats, floats_or_null, int, launch,
};
use crate::dispatch::Gpu;
use crate::memory::{is_channels_last, nhwc};
use crate::{Precision, Result};

impl Precision {
    /// This precision as far as a GPU has it: products of bf16 came with compute capability 8.0.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) fn on(self, device: &CudaDevice) -> Result<Self> {
        let capability = || device.cuda_stream().context().compute_capability();
        match self {
            Self::Bf16 if capability().map_err(candle_core::Error::wrap)? < (8, 0) => Ok(Self::F32),
            precision => Ok(precision),
        }
    }

    /// Type of the factors and results of products in this precision.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::Bf16 => DType::BF16,
            _ => DType::F32,
        }
    }
}

impl Gpu for Stored<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        match is_channels_last(self.x) {
            true => Ok(scaled(device, &nhwc(self.x)?, None, self.dtype)?.permute((0, 3, 1, 2))?),
            false => scaled(device, &self.x.contiguous()?, None, self.dtype),
        }
    }
}

/// A contiguous tensor in type `dtype`, its rows (all that has one index of the first dimension) times `scale` if there is one;
/// the tensor itself where nothing changes.
pub(crate) fn scaled(
    device: &CudaDevice,
    x: &Tensor,
    scale: Option<&Tensor>,
    dtype: DType,
) -> Result<Tensor> {
    let count = x.elem_count();
    if scale.is_none() && x.dtype() == dtype {
        return Ok(x.clone());
    }
    let scale = scale.map(Tensor::contiguous).transpose()?;
    let out = match dtype {
        DType::BF16 => FreshMap::Bf16(Fresh::<bf16>::new(device, count)?),
        _ => FreshMap::F32(Fresh::<f32>::new(device, count)?),
    };
    if count > 0 {
        let (count, width) = (count as i64, int(count / x.dim(0).unwrap_or(1))?);
        let scale = floats_or_null(scale.as_ref())?;
        let (name, from) = match dtype {
            DType::BF16 => ("to_elements", floats(x)?),
            _ => ("to_floats", elements(x)?),
        };
        let arguments = arguments![from, scale, out.address(), count, width];
        launch(device, Family::Conv, name, blocks(x.elem_count())?, [256, 1], arguments)?;
    }
    Ok(out.tensor(x.shape(), device))
}
