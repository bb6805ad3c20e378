//! Tensors as addresses on the device, fresh tensors, small tables from the host.

use candle_core::cuda_backend::CudaDType;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Shape, Storage, Tensor, WithDType};
use half::bf16;

use super::device::held_memory;
use super::family::Parameter;
use super::launch::{Argument, int};
use crate::{Error, Result};

/// Numbers that lie on a device.
pub(crate) trait Number: CudaDType + WithDType + DeviceRepr {
    const KIND: Parameter;
}

impl Number for f32 {
    const KIND: Parameter = Parameter::F32s;
}

impl Number for bf16 {
    const KIND: Parameter = Parameter::Bf16s;
}

impl Number for f64 {
    const KIND: Parameter = Parameter::F64s;
}

impl Number for u8 {
    const KIND: Parameter = Parameter::Bytes;
}

impl Number for i32 {
    const KIND: Parameter = Parameter::I32s;
}

impl Number for i64 {
    const KIND: Parameter = Parameter::I64s;
}

/// The address of a contiguous tensor of type `T`.
///
/// Memory is freed in the order of the stream, so an address may outlive its tensor up to a launch.
///
/// # Errors
/// If the tensor is not contiguous, of another type, or not on a GPU.
pub(crate) fn address<T: Number>(tensor: &Tensor) -> Result<Argument> {
    Ok(Argument::Address(pointer::<T>(tensor)?, T::KIND))
}

/// The address of a contiguous tensor of type `T`, for a table that a kernel reads.
///
/// # Errors
/// As [`address`].
pub(crate) fn pointer<T: Number>(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cuda(storage), Some((start, _)), true) =
        (&*storage, layout.contiguous_offsets(), tensor.dtype() == T::DTYPE)
    else {
        let reason = format!(
            "a contiguous {} tensor on the GPU expected, got {:?} {:?} with strides {:?} on {:?}",
            T::DTYPE.as_str(),
            tensor.dtype(),
            tensor.dims(),
            tensor.stride(),
            tensor.device().location()
        );
        return Err(Error::invalid("address", reason));
    };
    let slice = storage.as_cuda_slice::<T>()?;
    let (start_of_slice, _sync) = slice.device_ptr(slice.stream());
    Ok(start_of_slice + (start * size_of::<T>()) as u64)
}

/// The address of an f32 tensor.
pub(crate) fn floats(tensor: &Tensor) -> Result<Argument> {
    address::<f32>(tensor)
}

/// The address of a map, f32 or bf16.
pub(crate) fn elements(tensor: &Tensor) -> Result<Argument> {
    match tensor.dtype() {
        DType::BF16 => address::<bf16>(tensor),
        _ => address::<f32>(tensor),
    }
}

/// The address of a map, or none.
pub(crate) fn elements_or_null(tensor: Option<&Tensor>) -> Result<Argument> {
    tensor.map_or(Ok(null::<f32>()), elements)
}

/// No address, where a kernel's text allows that.
pub(crate) fn null<T: Number>() -> Argument {
    Argument::Address(0, T::KIND)
}

/// The address of an f32 tensor, or none.
pub(crate) fn floats_or_null(tensor: Option<&Tensor>) -> Result<Argument> {
    tensor.map_or(Ok(null::<f32>()), floats)
}

/// Memory that a kernel is about to write.
pub(crate) struct Fresh<T>(CudaSlice<T>);

impl<T: Number> Fresh<T> {
    /// Room for `len` numbers, not written yet.
    ///
    /// # Errors
    /// If the device has too little memory left.
    pub(crate) fn new(device: &CudaDevice, len: usize) -> Result<Self> {
        // SAFETY: kernels write all of it before it is read; a device reads no memory that is not its own.
        match unsafe { device.alloc::<T>(len.max(1)) } {
            Ok(slice) => Ok(Self(slice)),
            Err(source) => Err(out_of_memory(device, len * size_of::<T>(), source)),
        }
    }

    /// Its address.
    pub(crate) fn address(&self) -> Argument {
        let (address, _sync) = self.0.device_ptr(self.0.stream());
        Argument::Address(address, T::KIND)
    }

    /// The address of number `index`.
    pub(crate) fn address_of(&self, index: usize) -> Argument {
        Argument::Address(self.start() + (index * size_of::<T>()) as u64, T::KIND)
    }

    /// Its address, for NVIDIA's libraries.
    pub(crate) fn start(&self) -> u64 {
        self.0.device_ptr(self.0.stream()).0
    }

    /// It, filled with zeros.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) fn zeroed(mut self, device: &CudaDevice) -> Result<Self>
    where
        T: candle_core::cuda_backend::cudarc::driver::ValidAsZeroBits,
    {
        device.cuda_stream().memset_zeros(&mut self.0).map_err(candle_core::Error::wrap)?;
        Ok(self)
    }

    /// Reads the first `len` numbers to the host, once they are written; the copy is counted.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) fn read(&self, device: &CudaDevice, len: usize) -> Result<Vec<T>> {
        crate::transfers::count(len * size_of::<T>());
        let mut numbers = device.clone_dtoh(&self.0)?;
        numbers.truncate(len);
        Ok(numbers)
    }

    /// A row-major tensor of it.
    pub(crate) fn tensor(self, shape: impl Into<Shape>, device: &CudaDevice) -> Tensor {
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(self.0, device.clone()));
        Tensor::from_storage(storage, shape, BackpropOp::none(), false)
    }

    /// An NCHW-shaped tensor of it, channels last.
    ///
    /// # Errors
    /// None: four dimensions are permuted.
    pub(crate) fn map(self, nhwc: (usize, usize, usize, usize), device: &CudaDevice) -> Result<Tensor> {
        Ok(self.tensor(nhwc, device).permute((0, 3, 1, 2))?)
    }
}

/// Memory for a map, f32 or bf16, that a kernel is about to write.
pub(crate) enum FreshMap {
    F32(Fresh<f32>),
    Bf16(Fresh<bf16>),
}

impl FreshMap {
    /// Room for `len` numbers of the type of `like`.
    ///
    /// # Errors
    /// If the device has too little memory left.
    pub(crate) fn like(like: &Tensor, device: &CudaDevice, len: usize) -> Result<Self> {
        Ok(match like.dtype() {
            DType::BF16 => Self::Bf16(Fresh::new(device, len)?),
            _ => Self::F32(Fresh::new(device, len)?),
        })
    }

    /// Its address.
    pub(crate) fn address(&self) -> Argument {
        match self {
            Self::F32(map) => map.address(),
            Self::Bf16(map) => map.address(),
        }
    }

    /// It, filled with zeros.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) fn zeroed(self, device: &CudaDevice) -> Result<Self> {
        Ok(match self {
            Self::F32(map) => Self::F32(map.zeroed(device)?),
            Self::Bf16(map) => Self::Bf16(map.zeroed(device)?),
        })
    }

    /// A row-major tensor of it.
    pub(crate) fn tensor(self, shape: impl Into<Shape>, device: &CudaDevice) -> Tensor {
        match self {
            Self::F32(map) => map.tensor(shape, device),
            Self::Bf16(map) => map.tensor(shape, device),
        }
    }

    /// An NCHW-shaped tensor of it, channels last.
    ///
    /// # Errors
    /// None: four dimensions are permuted.
    pub(crate) fn map(self, nhwc: (usize, usize, usize, usize), device: &CudaDevice) -> Result<Tensor> {
        Ok(self.tensor(nhwc, device).permute((0, 3, 1, 2))?)
    }
}

impl<T> Fresh<T> {
    /// Memory that was written already.
    pub(crate) fn of(slice: CudaSlice<T>) -> Self {
        Self(slice)
    }

    /// The slice, for NVIDIA's libraries.
    pub(crate) fn slice(&mut self) -> &mut CudaSlice<T> {
        &mut self.0
    }
}

/// Numbers or plain structs of the host, on the device.
pub(crate) struct Table<T>(CudaSlice<T>, Parameter);

impl<T: DeviceRepr + Copy + Unpin + 'static> Table<T> {
    fn with_kind(device: &CudaDevice, values: &[T], kind: Parameter, filler: T) -> Result<Self> {
        // A device has no memory of no bytes.
        let slice = if values.is_empty() { device.clone_htod(&[filler]) } else { device.clone_htod(values) };
        Ok(Self(slice?, kind))
    }

    /// Its address.
    pub(crate) fn address(&self) -> Argument {
        let (address, _sync) = self.0.device_ptr(self.0.stream());
        Argument::Address(address, self.1)
    }
}

impl<T> Table<T> {
    /// Its address, for NVIDIA's libraries.
    pub(crate) fn start(&self) -> u64 {
        self.0.device_ptr(self.0.stream()).0
    }
}

impl Table<i32> {
    /// Copies numbers to the device.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) fn of_ints(device: &CudaDevice, values: &[i32]) -> Result<Self> {
        Self::with_kind(device, values, Parameter::I32s, 0)
    }
}

impl Table<i64> {
    /// Copies numbers to the device.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) fn of_longs(device: &CudaDevice, values: &[i64]) -> Result<Self> {
        Self::with_kind(device, values, Parameter::I64s, 0)
    }
}

impl Table<u8> {
    /// Copies bytes to the device.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) fn of_bytes(device: &CudaDevice, values: &[u8]) -> Result<Self> {
        Self::with_kind(device, values, Parameter::Bytes, 0)
    }
}

impl Table<f32> {
    /// Copies numbers to the device.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) fn of_floats(device: &CudaDevice, values: &[f32]) -> Result<Self> {
        Self::with_kind(device, values, Parameter::F32s, 0.0)
    }
}

impl<T: DeviceRepr + Copy + Default + Unpin + 'static> Table<T> {
    /// Copies plain structs, laid out as in C, to the device.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) fn of_structs(device: &CudaDevice, values: &[T]) -> Result<Self> {
        Self::with_kind(device, values, Parameter::Structs, T::default())
    }
}

/// For each of `targets` places, which of `named` name it, in their order: where a place's run starts (with the end of
/// all), and the runs. A sum over such a run needs no atomics.
///
/// # Errors
/// If there are more than kernels can count.
pub(crate) fn by_target(named: &[usize], targets: usize) -> Result<(Vec<i32>, Vec<i32>)> {
    let mut starts = vec![0usize; targets + 1];
    for &target in named {
        starts[target + 1] += 1;
    }
    for target in 0..targets {
        starts[target + 1] += starts[target];
    }
    let (mut next, mut order) = (starts.clone(), vec![0; named.len()]);
    for (place, &target) in named.iter().enumerate() {
        order[next[target]] = int(place)?;
        next[target] += 1;
    }
    Ok((starts.into_iter().map(int).collect::<Result<_>>()?, order))
}

/// An allocation that failed, with what the driver says is held and left.
fn out_of_memory(device: &CudaDevice, bytes: usize, source: candle_core::Error) -> Error {
    const MIB: usize = 1 << 20;
    let left = candle_core::cuda_backend::cudarc::driver::result::mem_get_info();
    match left {
        Ok((free, total)) if bytes > free => {
            let held = held_memory(device).unwrap_or(0) / MIB as u64;
            Error::OutOfMemory { asked: bytes.div_ceil(MIB), held, free: free / MIB, total: total / MIB }
        }
        _ => source.into(),
    }
}
