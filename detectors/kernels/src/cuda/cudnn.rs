//! Convolutions by cuDNN, channels last: forward, gradient of the input, gradient of the weights.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::cudnn::sys::{
    cudnnActivationMode_t, cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdFilterAlgo_t,
    cudnnConvolutionFwdAlgo_t, cudnnMathType_t, cudnnNanPropagation_t, cudnnTensorFormat_t,
};
use candle_core::cuda_backend::cudarc::cudnn::{
    ConvBackwardData, ConvBackwardFilter, ConvBiasActivationForward, ConvDescriptor, ConvForward, Cudnn,
    CudnnDataType, CudnnError, FilterDescriptor, TensorDescriptor, sys::cudnnConvolutionMode_t,
};
use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, ValidAsZeroBits};
use candle_core::{CudaDevice, DType, Storage, Tensor};

use super::memory::{Fresh, Number};
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

/// Numbers that cuDNN convolves; it adds them in f32.
pub(crate) trait Convolved: Number + CudnnDataType + ValidAsZeroBits {}
impl<T: Number + CudnnDataType + ValidAsZeroBits> Convolved for T {}

/// Whether products are those of tensor cores alone: one algorithm has them.
fn are_bf16<T: Number>() -> bool {
    T::DTYPE == DType::BF16
}

/// One of the three products of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Product {
    /// The result (N, OH, OW, K), of the input (N, H, W, C) and the weights (K, R, S, C / groups).
    Forward,
    /// The gradient of the input, of the weights and the result's gradient.
    InputGradient,
    /// The gradient of the weights, of the input and the result's gradient.
    WeightGradient,
}

/// Request to cuDNN: a product, or the result behind a shift and perhaps a ReLU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operation {
    Product(Product),
    Shifted,
    ShiftedRelu,
}

/// Descriptors of a convolution for cuDNN.
struct Described<T> {
    conv: ConvDescriptor<f32>,
    x: TensorDescriptor<T>,
    w: FilterDescriptor<T>,
    y: TensorDescriptor<T>,
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

/// Operations that cuDNN refused, by device.
static REFUSED: LazyLock<Mutex<HashSet<(usize, Sizes, Operation)>>> = LazyLock::new(Mutex::default);

/// Why a product was not made.
enum Failure {
    /// cuDNN has no such operation.
    Refused(CudnnError),
    Failed(Error),
}

impl From<CudnnError> for Failure {
    fn from(error: CudnnError) -> Self {
        match error.0 as u32 {
            // 9, and from version 9 on 3000 and the next: not supported.
            9 | 3000..4000 => Self::Refused(error),
            _ => Self::Failed(wrap(error)),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) => wrap(error),
            Failure::Failed(error) => error,
        }
    }
}

fn wrap(error: CudnnError) -> Error {
    candle_core::Error::wrap(error).into()
}

impl Sizes {
    fn describe<T: Convolved>(&self, device: &CudaDevice) -> Result<Described<T>> {
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

    /// A product of two contiguous tensors in the order of [`Product`]; `None` where cuDNN refuses it.
    ///
    /// # Errors
    /// Errors of cuDNN and the driver, apart from a refusal.
    pub(crate) fn product<T: Convolved>(
        &self,
        device: &CudaDevice,
        product: Product,
        a: &Tensor,
        b: &Tensor,
    ) -> Result<Option<Fresh<T>>> {
        self.unless_refused(device, Operation::Product(product), || match product {
            Product::Forward => self.forward(device, a, b),
            Product::InputGradient => self.input_gradient(device, a, b),
            Product::WeightGradient => self.weight_gradient(device, a, b),
        })
    }

    /// Calls `make`; from its first refusal on the result is `None`.
    fn unless_refused<T>(
        &self,
        device: &CudaDevice,
        operation: Operation,
        make: impl FnOnce() -> std::result::Result<T, Failure>,
    ) -> Result<Option<T>> {
        let key = (device.cuda_stream().context().ordinal(), *self, operation);
        if REFUSED.lock().unwrap_or_else(PoisonError::into_inner).contains(&key) {
            return Ok(None);
        }
        match make() {
            Ok(made) => Ok(Some(made)),
            Err(Failure::Refused(_)) => {
                REFUSED.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
                Ok(None)
            }
            Err(Failure::Failed(error)) => Err(error),
        }
    }

    fn forward<T: Convolved>(&self, device: &CudaDevice, x: &Tensor, w: &Tensor) -> Made<T> {
        let mut y = Fresh::new(device, self.y.iter().product())?;
        if self.is_empty() {
            return Ok(y.zeroed(device)?);
        }
        let (told, [zero, one]) = (self.describe::<T>(device)?, [0.0, 1.0].map(T::from_f64));
        let conv = ConvForward { conv: &told.conv, x: &told.x, w: &told.w, y: &told.y };
        with_slices(x, w, |x, w| {
            let mut run = |algorithm| {
                let mut room = workspace(device, conv.get_workspace_size(algorithm))?;
                // SAFETY: the descriptors are those of the slices.
                unsafe { conv.launch(algorithm, Some(room.slice()), (one, zero), &x, &w, y.slice()) }?;
                Ok(())
            };
            let usual = || if are_bf16::<T>() { Ok(FORWARD[0]) } else { Ok(conv.pick_algorithm()?) };
            let algorithm =
                self.algorithm(device, Operation::Product(Product::Forward), &FORWARD, usual, &mut run)?;
            run(algorithm)
        })?;
        Ok(y)
    }

    /// activation(the convolution of `x` with `w` + `shift` + `residual`) by one launch of cuDNN; `None` where it has no such
    /// form: another activation than ReLU, or a shape that it refuses.
    ///
    /// # Shapes
    /// `x` and `w` of [`Product::Forward`]; `shift` (K), `residual` (N, OH, OW, K).
    ///
    /// # Errors
    /// Errors of cuDNN and the driver, apart from a refusal.
    pub(crate) fn finished<T: Convolved>(
        &self,
        device: &CudaDevice,
        (x, w): (&Tensor, &Tensor),
        (shift, residual): (&Tensor, Option<&Tensor>),
        activation: Activation,
    ) -> Result<Option<Fresh<T>>> {
        if self.is_empty() || activation == Activation::Relu6 {
            return Ok(None);
        }
        let is_relu = activation == Activation::Relu;
        let operation = if is_relu { Operation::ShiftedRelu } else { Operation::Shifted };
        self.unless_refused(device, operation, || {
            let mut y = Fresh::new(device, self.y.iter().product())?;
            let (told, handle) = (self.describe::<T>(device)?, cudnn(device)?);
            let mode = match is_relu {
                true => cudnnActivationMode_t::CUDNN_ACTIVATION_RELU,
                false => cudnnActivationMode_t::CUDNN_ACTIVATION_IDENTITY,
            };
            let propagates = cudnnNanPropagation_t::CUDNN_PROPAGATE_NAN;
            let act = handle.create_activation::<f32>(mode, propagates, 0.0)?;
            let last = cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
            let bias = handle.create_4d_tensor(last, [1, self.y[1] as i32, 1, 1])?;
            let Described { conv, x: of_x, w: of_w, y: of_y } = &told;
            let fused = ConvBiasActivationForward {
                conv,
                act: &act,
                x: of_x,
                w: of_w,
                z: of_y,
                bias: &bias,
                y: of_y,
            };
            // Without an activation there is the first of them only.
            let all = if is_relu { &FORWARD[..] } else { &FORWARD[..1] };
            let [zero, one] = [0.0, 1.0].map(T::from_f64);
            // What is added 0 times is not read.
            let (z, times) = residual.map_or((x, zero), |residual| (residual, one));
            with_slices(x, w, |x, w| {
                with_slices(z, shift, |z, shift| {
                    let mut run = |algorithm| {
                        let mut room = workspace(device, fused.get_workspace_size(algorithm))?;
                        let room = Some(room.slice());
                        let y = y.slice();
                        // SAFETY: the descriptors are those of the slices.
                        unsafe { fused.launch(algorithm, room, (one, times), &x, &w, &z, &shift, y) }?;
                        Ok(())
                    };
                    let usual = || match is_relu && !are_bf16::<T>() {
                        true => Ok(fused.pick_algorithm()?),
                        false => Ok(FORWARD[0]),
                    };
                    let algorithm = self.algorithm(device, operation, all, usual, &mut run)?;
                    run(algorithm)
                })
            })?;
            Ok(y)
        })
    }

    fn input_gradient<T: Convolved>(&self, device: &CudaDevice, w: &Tensor, g: &Tensor) -> Made<T> {
        let mut dx = Fresh::new(device, self.x.iter().product())?;
        if self.is_empty() {
            return Ok(dx.zeroed(device)?);
        }
        let (told, [zero, one]) = (self.describe::<T>(device)?, [0.0, 1.0].map(T::from_f64));
        let conv = ConvBackwardData { conv: &told.conv, dx: &told.x, w: &told.w, dy: &told.y };
        with_slices(w, g, |w, g| {
            let mut run = |algorithm| {
                let mut room = workspace(device, conv.get_workspace_size(algorithm))?;
                // SAFETY: the descriptors are those of the slices.
                unsafe { conv.launch(algorithm, Some(room.slice()), (one, zero), dx.slice(), &w, &g) }?;
                Ok(())
            };
            // The one among the quick algorithms whose sums have a fixed order.
            let usual = || Ok(INPUT_GRADIENT[0]);
            let algorithm = self.algorithm(
                device,
                Operation::Product(Product::InputGradient),
                &INPUT_GRADIENT,
                usual,
                &mut run,
            )?;
            run(algorithm)
        })?;
        Ok(dx)
    }

    fn weight_gradient<T: Convolved>(&self, device: &CudaDevice, x: &Tensor, g: &Tensor) -> Made<T> {
        let mut dw = Fresh::new(device, self.w.iter().product())?;
        if self.is_empty() {
            return Ok(dw.zeroed(device)?);
        }
        let (told, [zero, one]) = (self.describe::<T>(device)?, [0.0, 1.0].map(T::from_f64));
        let conv = ConvBackwardFilter { conv: &told.conv, x: &told.x, dw: &told.w, dy: &told.y };
        with_slices(x, g, |x, g| {
            let mut run = |algorithm| {
                let mut room = workspace(device, conv.get_workspace_size(algorithm))?;
                // SAFETY: the descriptors are those of the slices.
                unsafe { conv.launch(algorithm, Some(room.slice()), (one, zero), &x, dw.slice(), &g) }?;
                Ok(())
            };
            let usual = || Ok(WEIGHT_GRADIENT[0]);
            let algorithm = self.algorithm(
                device,
                Operation::Product(Product::WeightGradient),
                &WEIGHT_GRADIENT,
                usual,
                &mut run,
            )?;
            run(algorithm)
        })?;
        Ok(dw)
    }

    /// The algorithm of `operation` that is asked for: the `usual` one, or the fastest of `all`. It is chosen once for each
    /// shape.
    fn algorithm<A: Copy + PartialEq>(
        &self,
        device: &CudaDevice,
        operation: Operation,
        all: &[A],
        usual: impl FnOnce() -> std::result::Result<A, Failure>,
        run: &mut impl FnMut(A) -> std::result::Result<(), Failure>,
    ) -> std::result::Result<A, Failure> {
        let asked = Algorithms::asked();
        let key = (device.cuda_stream().context().ordinal(), operation, *self, asked);
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

/// Result of a product, or why there is none.
type Made<T> = std::result::Result<Fresh<T>, Failure>;

/// Algorithms that were chosen, by device, operation, shape and what was asked for: their places in the lists below.
type Chosen = HashMap<(usize, Operation, Sizes, Algorithms), usize>;

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
fn fastest<A: Copy>(
    device: &CudaDevice,
    all: &[A],
    run: &mut impl FnMut(A) -> std::result::Result<(), Failure>,
) -> std::result::Result<A, Failure> {
    let stream = device.cuda_stream();
    let failed = |error| Error::from(candle_core::Error::wrap(error));
    let now = || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(failed);
    let mut measure = |algorithm: A| -> std::result::Result<f32, Failure> {
        run(algorithm)?;
        let start = now()?;
        for _ in 0..RUNS {
            run(algorithm)?;
        }
        Ok(start.elapsed_ms(&now()?).map_err(failed)?)
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
        (None, None) => Err(Error::invalid("conv2d", "no algorithm to choose from").into()),
    }
}

/// Memory that cuDNN works in: it writes before it reads.
fn workspace(device: &CudaDevice, bytes: std::result::Result<usize, CudnnError>) -> Made<u8> {
    let bytes = bytes?;
    if Algorithms::asked() == Algorithms::Fastest && bytes > MOST_ROOM {
        return Err(
            Error::invalid("conv2d", format!("an algorithm asks for {bytes} bytes to work in")).into()
        );
    }
    Ok(Fresh::new(device, bytes)?)
}

/// Bytes that a faster algorithm may work in.
const MOST_ROOM: usize = 1 << 30;

/// Calls `f` with the numbers of two contiguous tensors of one type.
fn with_slices<T: Number, R>(
    a: &Tensor,
    b: &Tensor,
    f: impl FnOnce(CudaView<'_, T>, CudaView<'_, T>) -> std::result::Result<R, Failure>,
) -> std::result::Result<R, Failure> {
    let ((a, a_layout), (b, b_layout)) = (a.storage_and_layout(), b.storage_and_layout());
    let (Storage::Cuda(a), Storage::Cuda(b)) = (&*a, &*b) else {
        return Err(Error::invalid("conv2d", "both tensors must lie on the GPU").into());
    };
    let (Some(a_range), Some(b_range)) = (a_layout.contiguous_offsets(), b_layout.contiguous_offsets())
    else {
        return Err(Error::invalid("conv2d", "both tensors must be contiguous").into());
    };
    let slices = || Ok::<_, candle_core::Error>((a.as_cuda_slice()?, b.as_cuda_slice()?));
    let (a, b): (&CudaSlice<T>, &CudaSlice<T>) = slices().map_err(Error::from)?;
    f(a.slice(a_range.0..a_range.1), b.slice(b_range.0..b_range.1))
}
