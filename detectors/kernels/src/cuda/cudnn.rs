//! Convolutions by cuDNN, channels last: forward, gradient of the input, gradient of the weights.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::cudnn::sys::{
    cudnnActivationMode_t, cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdFilterAlgo_t,
    cudnnConvolutionFwdAlgo_t, cudnnMathType_t, cudnnNanPropagation_t, cudnnTensorFormat_t,
};
use candle_core::cuda_backend::cudarc::cudnn::{
    ConvBackwardData, ConvBackwardFilter, ConvBiasActivationForward, ConvDescriptor, ConvForward, Cudnn,
    CudnnError, FilterDescriptor, TensorDescriptor, sys::cudnnConvolutionMode_t,
};
use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView};
use candle_core::{CudaDevice, Storage, Tensor};

use super::memory::Fresh;
use crate::activation::Activation;
use crate::{Algorithms, Conv2dConfig, Error, Precision, Result};

/// Sizes of a convolution: maps are (N, C, H, W), weights (K, C / groups, R, S).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// Convolutions with an activation that cuDNN refused, by device and code of the activation.
static REFUSED: LazyLock<Mutex<HashSet<(usize, Sizes, u32)>>> = LazyLock::new(Mutex::default);

/// Whether cuDNN has no such operation: 9, and from version 9 on 3000 and the next.
fn is_refusal(CudnnError(status): CudnnError) -> bool {
    matches!(status as u32, 9 | 3000..4000)
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
        with_slices(x, w, |x, w| {
            let mut run = |algorithm| {
                let mut room = workspace(device, conv.get_workspace_size(algorithm))?;
                // SAFETY: the descriptors are those of the slices.
                unsafe { conv.launch(algorithm, Some(room.slice()), (1.0, 0.0), &x, &w, y.slice()) }
                    .map_err(wrap)
            };
            let usual = || conv.pick_algorithm().map_err(wrap);
            let algorithm = self.algorithm(device, "forward", &FORWARD, usual, &mut run)?;
            run(algorithm)
        })?;
        Ok(y)
    }

    /// activation(the convolution of `x` with `w` + `shift` + `residual`) by one launch of cuDNN; `None` where it has no such
    /// form: another activation than ReLU, or a shape that it refuses.
    ///
    /// # Shapes
    /// `x` and `w` of [`forward`](Self::forward); `shift` (K), `residual` (N, OH, OW, K).
    ///
    /// # Errors
    /// Errors of cuDNN and the driver, apart from a refusal.
    pub(crate) fn finished(
        &self,
        device: &CudaDevice,
        (x, w): (&Tensor, &Tensor),
        (shift, residual): (&Tensor, Option<&Tensor>),
        activation: Activation,
    ) -> Result<Option<Fresh<f32>>> {
        let mode = match activation {
            Activation::Identity => cudnnActivationMode_t::CUDNN_ACTIVATION_IDENTITY,
            Activation::Relu => cudnnActivationMode_t::CUDNN_ACTIVATION_RELU,
            Activation::Relu6 => return Ok(None),
        };
        let key = (device.cuda_stream().context().ordinal(), *self, mode as u32);
        if self.is_empty() || REFUSED.lock().unwrap_or_else(PoisonError::into_inner).contains(&key) {
            return Ok(None);
        }
        let mut y = Fresh::new(device, self.y.iter().product())?;
        let (told, handle) = (self.describe(device)?, cudnn(device)?);
        let propagates = cudnnNanPropagation_t::CUDNN_PROPAGATE_NAN;
        let act = handle.create_activation::<f32>(mode, propagates, 0.0).map_err(wrap)?;
        let last = cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let bias = handle.create_4d_tensor(last, [1, self.y[1] as i32, 1, 1]).map_err(wrap)?;
        let Described { conv, x: of_x, w: of_w, y: of_y } = &told;
        let fused =
            ConvBiasActivationForward { conv, act: &act, x: of_x, w: of_w, z: of_y, bias: &bias, y: of_y };
        // Without an activation there is the first of them only.
        let (all, product) = match activation {
            Activation::Identity => (&FORWARD[..1], "forward and shift"),
            _ => (&FORWARD[..], "forward and ReLU"),
        };
        // What is added 0 times is not read.
        let (z, times) = residual.map_or((x, 0.0), |residual| (residual, 1.0));
        let refused = Cell::new(false);
        let failed = |error| {
            refused.set(refused.get() || is_refusal(error));
            wrap(error)
        };
        let done = with_slices(x, w, |x, w| {
            with_slices(z, shift, |z, shift| {
                let mut run = |algorithm| {
                    let mut room = workspace(device, fused.get_workspace_size(algorithm))?;
                    let room = Some(room.slice());
                    // SAFETY: the descriptors are those of the slices.
                    unsafe { fused.launch(algorithm, room, (1.0, times), &x, &w, &z, &shift, y.slice()) }
                        .map_err(failed)
                };
                let usual = || match activation {
                    Activation::Identity => Ok(FORWARD[0]),
                    _ => fused.pick_algorithm().map_err(wrap),
                };
                let algorithm = self.algorithm(device, product, all, usual, &mut run)?;
                run(algorithm)
            })
        });
        match done {
            Ok(()) => Ok(Some(y)),
            Err(_) if refused.get() => {
                REFUSED.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The gradient of x of the gradient `g` (N, OH, OW, K).
    pub(crate) fn input_gradient(&self, device: &CudaDevice, g: &Tensor, w: &Tensor) -> Result<Fresh<f32>> {
        let mut dx = Fresh::new(device, self.x.iter().product())?;
        if self.is_empty() {
            return dx.zeroed(device);
        }
        let told = self.describe(device)?;
        let conv = ConvBackwardData { conv: &told.conv, dx: &told.x, w: &told.w, dy: &told.y };
        with_slices(w, g, |w, g| {
            let mut run = |algorithm| {
                let mut room = workspace(device, conv.get_workspace_size(algorithm))?;
                // SAFETY: the descriptors are those of the slices.
                unsafe { conv.launch(algorithm, Some(room.slice()), (1.0, 0.0), dx.slice(), &w, &g) }
                    .map_err(wrap)
            };
            // The one among the quick algorithms whose sums have a fixed order.
            let usual = || Ok(cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1);
            let algorithm = self.algorithm(device, "input", &INPUT_GRADIENT, usual, &mut run)?;
            run(algorithm)
        })?;
        Ok(dx)
    }

    /// The gradient of the weights of the gradient `g` (N, OH, OW, K).
    pub(crate) fn weight_gradient(&self, device: &CudaDevice, g: &Tensor, x: &Tensor) -> Result<Fresh<f32>> {
        let mut dw = Fresh::new(device, self.w.iter().product())?;
        if self.is_empty() {
            return dw.zeroed(device);
        }
        let told = self.describe(device)?;
        let conv = ConvBackwardFilter { conv: &told.conv, x: &told.x, dw: &told.w, dy: &told.y };
        with_slices(x, g, |x, g| {
            let mut run = |algorithm| {
                let mut room = workspace(device, conv.get_workspace_size(algorithm))?;
                // SAFETY: the descriptors are those of the slices.
                unsafe { conv.launch(algorithm, Some(room.slice()), (1.0, 0.0), &x, dw.slice(), &g) }
                    .map_err(wrap)
            };
            let usual = || Ok(cudnnConvolutionBwdFilterAlgo_t::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1);
            let algorithm = self.algorithm(device, "weights", &WEIGHT_GRADIENT, usual, &mut run)?;
            run(algorithm)
        })?;
        Ok(dw)
    }

    /// The algorithm of `product` that is asked for: the `usual` one, or the fastest of `all`. It is chosen once for each
    /// shape.
    fn algorithm<A: Copy + PartialEq>(
        &self,
        device: &CudaDevice,
        product: &'static str,
        all: &[A],
        usual: impl FnOnce() -> Result<A>,
        run: &mut impl FnMut(A) -> Result<()>,
    ) -> Result<A> {
        let asked = Algorithms::asked();
        let key = (device.cuda_stream().context().ordinal(), product, *self, asked);
        let known = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        if let Some(place) = known {
            return Ok(all[place]);
        }
        let chosen = match asked {
            Algorithms::Repeatable => usual()?,
            Algorithms::Fastest => fastest(device, all, run)?,
        };
        if let Some(place) = all.iter().position(|algorithm| *algorithm == chosen) {
            CHOSEN.lock().unwrap_or_else(PoisonError::into_inner).insert(key, place);
        }
        Ok(chosen)
    }
}

/// Algorithms that were chosen, by device, product, shape and what was asked for: their places in the lists below.
type Chosen = HashMap<(usize, &'static str, Sizes, Algorithms), usize>;

static CHOSEN: LazyLock<Mutex<Chosen>> = LazyLock::new(Mutex::default);

const FORWARD: [cudnnConvolutionFwdAlgo_t; 7] = {
    use cudnnConvolutionFwdAlgo_t::*;
    [
        CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
        CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
        CUDNN_CONVOLUTION_FWD_ALGO_GEMM,
        CUDNN_CONVOLUTION_FWD_ALGO_FFT,
        CUDNN_CONVOLUTION_FWD_ALGO_FFT_TILING,
        CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD,
        CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD_NONFUSED,
    ]
};

const INPUT_GRADIENT: [cudnnConvolutionBwdDataAlgo_t; 6] = {
    use cudnnConvolutionBwdDataAlgo_t::*;
    [
        CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
        CUDNN_CONVOLUTION_BWD_DATA_ALGO_0,
        CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT,
        CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT_TILING,
        CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD,
        CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD_NONFUSED,
    ]
};

const WEIGHT_GRADIENT: [cudnnConvolutionBwdFilterAlgo_t; 6] = {
    use cudnnConvolutionBwdFilterAlgo_t::*;
    [
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0,
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3,
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT,
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT_TILING,
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD_NONFUSED,
    ]
};

/// Runs of an algorithm that are measured together, after one that is not.
const RUNS: usize = 3;

/// The algorithm of `all` whose runs take the least time on the device. One that cannot compute the shape, or asks for more
/// memory than there is, is passed over; the error is that of the first where none can.
fn fastest<A: Copy>(device: &CudaDevice, all: &[A], run: &mut impl FnMut(A) -> Result<()>) -> Result<A> {
    let stream = device.cuda_stream();
    let now = || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(candle_core::Error::wrap);
    let mut measure = |algorithm: A| -> Result<f32> {
        run(algorithm)?;
        let start = now()?;
        for _ in 0..RUNS {
            run(algorithm)?;
        }
        Ok(start.elapsed_ms(&now()?).map_err(candle_core::Error::wrap)?)
    };
    let (mut best, mut failure) = (None, None);
    for &algorithm in all {
        match (measure(algorithm), best) {
            (Ok(time), Some((least, _))) if time >= least => {}
            (Ok(time), _) => best = Some((time, algorithm)),
            (Err(error), _) => failure = failure.or(Some(error)),
        }
    }
    match (best, failure) {
        (Some((_, algorithm)), _) => Ok(algorithm),
        (None, Some(error)) => Err(error),
        (None, None) => Err(Error::invalid("conv2d", "no algorithm to choose from")),
    }
}

/// Memory that cuDNN works in: it writes before it reads.
fn workspace(device: &CudaDevice, bytes: std::result::Result<usize, CudnnError>) -> Result<Fresh<u8>> {
    let bytes = bytes.map_err(wrap)?;
    if Algorithms::asked() == Algorithms::Fastest && bytes > MOST_ROOM {
        return Err(Error::invalid("conv2d", format!("an algorithm asks for {bytes} bytes to work in")));
    }
    Fresh::new(device, bytes)
}

/// Bytes that a faster algorithm may work in.
const MOST_ROOM: usize = 1 << 30;

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
