//! Reading tensors as slices and making tensors of buffers, channels last.
//!
//! The kernels run on the host. A tensor of another device is copied to the host first and the
//! result is copied back: correct everywhere, fast on the CPU.

use std::mem::MaybeUninit;
use std::ops::Deref;

use candle_core::{CpuStorage, DType, Device, Shape, Storage, StorageRef, Tensor};

use crate::{Error, Result};

/// The elements of a contiguous f32 tensor on the host.
pub struct Elements<'a> {
    storage: StorageRef<'a>,
    start: usize,
    len: usize,
}

impl Deref for Elements<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.start..self.start + self.len],
            _ => unreachable!("`elements` checked device and type"),
        }
    }
}

/// Borrows the elements of `tensor`, which must come from [`on_host`] or [`channels_last`].
pub fn elements(tensor: &Tensor) -> Result<Elements<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => {
            Ok(Elements { storage, start, len: end - start })
        }
        _ => Err(Error::invalid(
            "elements",
            format!(
                "needs a contiguous f32 tensor on the host, got {:?} {:?}",
                tensor.dtype(),
                tensor.shape()
            ),
        )),
    }
}

/// `tensor` as contiguous f32 on the host, row-major in its own shape; no copy if it already is.
pub fn on_host(tensor: &Tensor) -> Result<Tensor> {
    if tensor.dtype() != DType::F32 {
        return Err(Error::invalid("on_host", format!("f32 expected, got {:?}", tensor.dtype())));
    }
    Ok(tensor.to_device(&Device::Cpu)?.contiguous()?)
}

/// An NCHW tensor as a contiguous (N, H, W, C) tensor on the host; no copy if its memory is channels-last.
pub fn channels_last(tensor: &Tensor) -> Result<Tensor> {
    if tensor.rank() != 4 {
        return Err(Error::invalid("channels_last", format!("NCHW expected, got {:?}", tensor.shape())));
    }
    on_host(&tensor.permute((0, 2, 3, 1))?)
}

/// An NCHW-shaped tensor over an NHWC buffer, on the device of `like`.
pub fn from_channels_last(
    values: Vec<f32>,
    (n, h, w, c): (usize, usize, usize, usize),
    like: &Tensor,
) -> Result<Tensor> {
    Ok(from_elements(values, (n, h, w, c), like)?.permute((0, 3, 1, 2))?)
}

/// A buffer of `len` numbers that `write` fills: without zeroing it first.
///
/// # Safety
/// `write` must write every number.
pub(crate) unsafe fn written(len: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    write(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: the caller promises that all `len` numbers were written.
    unsafe { values.set_len(len) };
    values
}

/// A row-major tensor over `values`, on the device of `like`.
pub fn from_elements(values: Vec<f32>, shape: impl Into<Shape>, like: &Tensor) -> Result<Tensor> {
    let tensor = Tensor::from_vec(values, shape.into(), &Device::Cpu)?;
    Ok(if like.device().is_cpu() { tensor } else { tensor.to_device(like.device())? })
}
