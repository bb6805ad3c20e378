//! Convolutions by cuDNN, channels last: forward, gradient of the input, gradient of the weights.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::cudnn::sys::{
    cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdFilterAlgo_t, cudnnMathType_t, cudnnTensorFormat_t,
};
use candle_core::cuda_backend::cudarc::cudnn::{
    ConvBackwardData, ConvBackwardFilter, ConvDescriptor, ConvForward, Cudnn, CudnnError, FilterDescriptor,
    TensorDescriptor, sys::cudnnConvolutionMode_t,
};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView};
use candle_core::{CudaDevice, Storage, Tensor};

use super::memory::Fresh;
use crate::{Conv2dConfig, Error, Precision, Result};

/// Sizes of a convolution: maps are (N, C, H, W), weights (K, C / groups, R, S).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) x: [usize; 4],
    pub(crate) w: [usize; 4],
    pub(crate) y: [usize; 4],
    pub(crate) config: Conv2dConfig,
    pub(crate) precision: Precision,
}

/// Descriptors of a convolution for cuDNN.
struct Described {
    conv: ConvDescriptor<f32>,
    x: TensorDescriptor<f32>,
    w: FilterDescriptor<f32>,
    y: TensorDescriptor<f32>,
}

thread_local! {
    /// A handle of cuDNN belongs to one thread.
    static HANDLES: RefCell<HashMap<usize, Arc<Cudnn>>> = RefCell::default();
}

fn cudnn(device: &CudaDevice) -> Result<Arc<Cudnn>> {
    let stream = device.cuda_stream();
    HANDLES.with_borrow_mut(|handles| match handles.get(&stream.context().ordinal()) {
        Some(handle) => Ok(handle.clone()),
        None => {
            let handle = Cudnn::new(stream.clone()).map_err(wrap)?;
            handles.insert(stream.context().ordinal(), handle.clone());
            Ok(handle)
        }
    })
}

fn wrap(error: CudnnError) -> Error {
    candle_core::Error::wrap(error).into()
}

impl Sizes {
    fn describe(&self, device: &CudaDevice) -> Result<Described> {
        let handle = cudnn(device)?;
        let int = |size: usize| size as i32;
        let last = cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let mode = cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let Conv2dConfig { padding, stride, dilation, groups } = self.config;
        let mut conv = handle
            .create_conv2d::<f32>(padding.map(int), stride.map(int), dilation.map(int), mode)
            .map_err(wrap)?;
        // FMA keeps all 24 bits; the default may round the factors to TF32's 11.
        conv.set_math_type(match self.precision {
            Precision::F32 => cudnnMathType_t::CUDNN_FMA_MATH,
            _ => cudnnMathType_t::CUDNN_DEFAULT_MATH,
        })
        .map_err(wrap)?;
        conv.set_group_count(int(groups)).map_err(wrap)?;
        Ok(Described {
            conv,
            x: handle.create_4d_tensor(last, self.x.map(int)).map_err(wrap)?,
            w: handle.create_4d_filter(last, self.w.map(int)).map_err(wrap)?,
            y: handle.create_4d_tensor(last, self.y.map(int)).map_err(wrap)?,
        })
    }

    /// Whether a product has nothing to add: cuDNN takes no empty tensors.
    fn is_empty(&self) -> bool {
        [self.x, self.w, self.y].iter().flatten().any(|size| *size == 0)
    }

    /// The convolution of `x` (N, H, W, C) with `w` (K, R, S, C / groups).
    pub(crate) fn forward(&self, device: &CudaDevice, x: &Tensor, w: &Tensor) -> Result<Fresh<f32>> {
        let mut y = Fresh::new(device, self.y.iter().product())?;
        if self.is_empty() {
            return y.zeroed(device);
        }
        let told = self.describe(device)?;
        let conv = ConvForward { conv: &told.conv, x: &told.x, w: &told.w, y: &told.y };
        let algorithm = conv.pick_algorithm().map_err(wrap)?;
        let mut workspace = workspace(device, conv.get_workspace_size(algorithm).map_err(wrap)?)?;
        with_slices(x, w, |x, w| {
            // SAFETY: the descriptors are those of the slices.
            unsafe { conv.launch(algorithm, Some(workspace.slice()), (1.0, 0.0), &x, &w, y.slice()) }
                .map_err(wrap)
        })?;
        Ok(y)
    }

    /// The gradient of x of the gradient `g` (N, OH, OW, K).
    pub(crate) fn input_gradient(&self, device: &CudaDevice, g: &Tensor, w: &Tensor) -> Result<Fresh<f32>> {
        // The one among the quick algorithms whose sums have a fixed order.
        const ALGORITHM: cudnnConvolutionBwdDataAlgo_t =
            cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
        let mut dx = Fresh::new(device, self.x.iter().product())?;
        if self.is_empty() {
            return dx.zeroed(device);
        }
        let told = self.describe(device)?;
        let conv = ConvBackwardData { conv: &told.conv, dx: &told.x, w: &told.w, dy: &told.y };
        let mut workspace = workspace(device, conv.get_workspace_size(ALGORITHM).map_err(wrap)?)?;
        with_slices(w, g, |w, g| {
            // SAFETY: the descriptors are those of the slices.
            unsafe { conv.launch(ALGORITHM, Some(workspace.slice()), (1.0, 0.0), dx.slice(), &w, &g) }
                .map_err(wrap)
        })?;
        Ok(dx)
    }

    /// The gradient of the weights of the gradient `g` (N, OH, OW, K).
    pub(crate) fn weight_gradient(&self, device: &CudaDevice, g: &Tensor, x: &Tensor) -> Result<Fresh<f32>> {
        const ALGORITHM: cudnnConvolutionBwdFilterAlgo_t =
            cudnnConvolutionBwdFilterAlgo_t::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;
        let mut dw = Fresh::new(device, self.w.iter().product())?;
        if self.is_empty() {
            return dw.zeroed(device);
        }
        let told = self.describe(device)?;
        let conv = ConvBackwardFilter { conv: &told.conv, x: &told.x, dw: &told.w, dy: &told.y };
        let mut workspace = workspace(device, conv.get_workspace_size(ALGORITHM).map_err(wrap)?)?;
        with_slices(x, g, |x, g| {
            // SAFETY: the descriptors are those of the slices.
            unsafe { conv.launch(ALGORITHM, Some(workspace.slice()), (1.0, 0.0), &x, dw.slice(), &g) }
                .map_err(wrap)
        })?;
        Ok(dw)
    }
}

/// Memory that cuDNN works in: it writes before it reads.
fn workspace(device: &CudaDevice, bytes: usize) -> Result<Fresh<u8>> {
    Fresh::new(device, bytes)
}

/// Calls `f` with the numbers of two contiguous f32 tensors.
fn with_slices<R>(
    a: &Tensor,
    b: &Tensor,
    f: impl FnOnce(CudaView<'_, f32>, CudaView<'_, f32>) -> Result<R>,
) -> Result<R> {
    let ((a, a_layout), (b, b_layout)) = (a.storage_and_layout(), b.storage_and_layout());
    let (Storage::Cuda(a), Storage::Cuda(b)) = (&*a, &*b) else {
        return Err(Error::invalid("conv2d", "both tensors must lie on the GPU"));
    };
    let (Some(a_range), Some(b_range)) = (a_layout.contiguous_offsets(), b_layout.contiguous_offsets())
    else {
        return Err(Error::invalid("conv2d", "both tensors must be contiguous"));
    };
    let (a, b): (&CudaSlice<f32>, &CudaSlice<f32>) = (a.as_cuda_slice()?, b.as_cuda_slice()?);
    f(a.slice(a_range.0..a_range.1), b.slice(b_range.0..b_range.1))
}
