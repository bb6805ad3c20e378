//! Reading tensors as slices and making tensors of buffers, channels last.
//!
//! Kernels reach slices behind `dispatch`, where tensors are known to lie on the host. Code outside
//! this crate that reads slices copies a tensor of another device to the host first, and its result back.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Deref;

use candle_core::{DType, Device, Shape, Storage, StorageRef, Tensor, WithDType};
use rayon::prelude::*;

use crate::{Error, Result, trace};

/// Numbers that one task of a pass over memory takes: 64 KiB a stream.
pub(crate) const CHUNK: usize = 16 * 1024;

/// Borrowed elements of a contiguous tensor on the host.
pub struct Elements<'a, T = f32> {
    storage: StorageRef<'a>,
    start: usize,
    len: usize,
    kind: PhantomData<T>,
}

impl<T: WithDType> Deref for Elements<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &*self.storage {
            Storage::Cpu(storage) => match T::cpu_storage_as_slice(storage) {
                Ok(values) => &values[self.start..self.start + self.len],
                Err(_) => unreachable!("`elements_of` checked the type"),
            },
            _ => unreachable!("`elements_of` checked the device"),
        }
    }
}

/// Borrows the elements of `tensor`, which must come from [`on_host`] or [`channels_last`].
///
/// # Errors
/// If `tensor` is not contiguous, not f32, or not on the host.
pub fn elements(tensor: &Tensor) -> Result<Elements<'_>> {
    elements_of(tensor)
}

/// Borrows the elements of a contiguous tensor of type `T` on the host.
pub(crate) fn elements_of<T: WithDType>(tensor: &Tensor) -> Result<Elements<'_, T>> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(_), Some((start, end))) if tensor.dtype() == T::DTYPE => {
            Ok(Elements { storage, start, len: end - start, kind: PhantomData })
        }
        _ => Err(Error::invalid(
            "elements",
            format!(
                "needs a contiguous {} tensor on the host, got {:?} {:?}",
                T::DTYPE.as_str(),
                tensor.dtype(),
                tensor.shape()
            ),
        )),
    }
}

/// Brings a tensor to the host, contiguous and row-major in its own shape; no copy if it already is.
///
/// # Errors
/// If `tensor` is not f32.
pub fn on_host(tensor: &Tensor) -> Result<Tensor> {
    if tensor.dtype() != DType::F32 {
        return Err(Error::invalid("on_host", format!("f32 expected, got {:?}", tensor.dtype())));
    }
    if tensor.device().is_cpu() {
        return Ok(tensor.contiguous()?);
    }
    crate::transfers::count(4 * tensor.elem_count());
    trace::spanned("copy to the host", tensor.device(), || {
        Ok(tensor.to_device(&Device::Cpu)?.contiguous()?)
    })
}

/// The numbers of a tensor, row-major.
///
/// # Errors
/// If `tensor` is not f32.
pub fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    let host = on_host(tensor)?;
    Ok(elements(&host)?.to_vec())
}

/// Brings an NCHW tensor to the host as a contiguous (N, H, W, C) tensor; no copy if its memory is
/// channels-last.
///
/// # Shapes
/// (N, C, H, W) to (N, H, W, C).
///
/// # Errors
/// If `tensor` has another rank or is not f32.
pub fn channels_last(tensor: &Tensor) -> Result<Tensor> {
    if tensor.rank() != 4 {
        return Err(Error::invalid("channels_last", format!("NCHW expected, got {:?}", tensor.shape())));
    }
    on_host(&tensor.permute((0, 2, 3, 1))?)
}

/// An NCHW tensor as a contiguous (N, H, W, C) tensor where it lies; no copy if its memory is channels-last.
pub(crate) fn nhwc(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.permute((0, 2, 3, 1))?.contiguous()?)
}

/// Returns whether the memory of an NCHW tensor is channels-last, and not row-major too.
pub(crate) fn is_channels_last(a: &Tensor) -> bool {
    a.rank() == 4 && !a.is_contiguous() && a.permute((0, 2, 3, 1)).is_ok_and(|a| a.is_contiguous())
}

/// Makes an NCHW-shaped tensor of an NHWC buffer, on the device of `like`.
///
/// # Shapes
/// n · h · w · c values to (N, C, H, W).
///
/// # Errors
/// If there are more or fewer values.
pub fn from_channels_last(
    values: Vec<f32>,
    (n, h, w, c): (usize, usize, usize, usize),
    like: &Tensor,
) -> Result<Tensor> {
    Ok(from_elements(values, (n, h, w, c), like)?.permute((0, 3, 1, 2))?)
}

/// Asks for the cache line of `value` before it is read.
#[inline(always)]
pub(crate) fn prefetch(value: &f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint; it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// A NaN that no computation makes: what a debug build takes for a number that was never written.
const UNWRITTEN: u32 = 0x7FA5_A5A5;

/// A buffer of `len` numbers that `write` fills: without zeroing it first.
///
/// # Safety
/// `write` must write every number.
pub(crate) unsafe fn written(len: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    let places = &mut values.spare_capacity_mut()[..len];
    if cfg!(debug_assertions) {
        places.fill(MaybeUninit::new(f32::from_bits(UNWRITTEN)));
    }
    write(places);
    // SAFETY: the caller promises that all `len` numbers were written.
    unsafe { values.set_len(len) };
    debug_assert!(values.iter().all(|value| value.to_bits() != UNWRITTEN), "a number was never written");
    values
}

/// Makes a row-major tensor of `values`, on the device of `like`.
///
/// # Shapes
/// As many values as `shape` has elements, to `shape`.
///
/// # Errors
/// If there are more or fewer values.
pub fn from_elements(values: Vec<f32>, shape: impl Into<Shape>, like: &Tensor) -> Result<Tensor> {
    let tensor = Tensor::from_vec(values, shape.into(), &Device::Cpu)?;
    Ok(if like.device().is_cpu() { tensor } else { tensor.to_device(like.device())? })
}

/// `len` zeros, written in parallel.
pub(crate) fn zeros(len: usize) -> Vec<f32> {
    written_in_chunks(len, CHUNK, |_, _: &mut Place<f32>| ())
}

/// A fresh buffer of `len` numbers, written in parallel: `write` gets the number of a chunk and its
/// [`Place`].
///
/// Unlike zeros that are overwritten, it costs one pass over memory.
pub(crate) fn written_in_chunks<T: Copy + Default + Send>(
    len: usize,
    chunk: usize,
    write: impl Fn(usize, &mut Place<'_, T>) + Sync,
) -> Vec<T> {
    let mut out = Vec::with_capacity(len);
    let places = out.spare_capacity_mut()[..len].par_chunks_mut(chunk.max(1)).enumerate();
    places.for_each(|(index, values)| Place { values, filled: 0 }.finish(|place| write(index, place)));
    // SAFETY: `finish` filled every chunk.
    unsafe { out.set_len(len) };
    out
}

/// Two fresh buffers, as [`written_in_chunks`], with `widths` numbers for each of `rows` rows; a task writes
/// `rows_a_task` rows of both, and gets the number of its first one.
pub(crate) fn both_written<A: Copy + Default + Send, B: Copy + Default + Send>(
    rows: usize,
    widths: (usize, usize),
    rows_a_task: usize,
    write: impl Fn(usize, &mut Place<'_, A>, &mut Place<'_, B>) + Sync,
) -> (Vec<A>, Vec<B>) {
    let rows_a_task = rows_a_task.max(1);
    let lens = (rows * widths.0, rows * widths.1);
    let (mut a, mut b) = (Vec::with_capacity(lens.0), Vec::with_capacity(lens.1));
    let mut rest = (&mut a.spare_capacity_mut()[..lens.0], &mut b.spare_capacity_mut()[..lens.1]);
    let mut tasks = Vec::with_capacity(rows.div_ceil(rows_a_task));
    for first in (0..rows).step_by(rows_a_task) {
        let count = rows_a_task.min(rows - first);
        let ours = (rest.0.split_off_mut(..count * widths.0), rest.1.split_off_mut(..count * widths.1));
        tasks.push((first, ours.0.expect("rows are left"), ours.1.expect("rows are left")));
    }
    tasks.into_par_iter().for_each(|(first, a, b)| {
        Place { values: a, filled: 0 }
            .finish(|a| Place { values: b, filled: 0 }.finish(|b| write(first, a, b)));
    });
    // SAFETY: the tasks cover all rows, and `finish` filled the places of each.
    unsafe {
        a.set_len(lens.0);
        b.set_len(lens.1);
    }
    (a, b)
}

/// Memory that is written once, from its start on. What is never written is 0 in the end.
pub(crate) struct Place<'a, T> {
    values: &'a mut [MaybeUninit<T>],
    filled: usize,
}

impl<T: Copy + Default> Place<'_, T> {
    /// Number of values that fit in.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// Writes `values` behind what is there, as far as they fit.
    #[inline(always)]
    pub(crate) fn extend(&mut self, values: impl ExactSizeIterator<Item = T>) {
        let count = values.len().min(self.values.len() - self.filled);
        let places = &mut self.values[self.filled..][..count];
        let mut written = 0;
        for (place, value) in places.iter_mut().zip(values) {
            place.write(value);
            written += 1;
        }
        // An iterator may have lied about its length.
        self.filled += written;
    }

    /// Writes `values` behind what is there, as far as they fit.
    #[inline(always)]
    pub(crate) fn extend_from_slice(&mut self, values: &[T]) {
        let count = values.len().min(self.values.len() - self.filled);
        self.values[self.filled..][..count].write_copy_of_slice(&values[..count]);
        self.filled += count;
    }

    /// The whole of it as zeros, to add to.
    #[inline(always)]
    pub(crate) fn zeros(&mut self) -> &mut [T] {
        self.values.iter_mut().for_each(|place| {
            place.write(T::default());
        });
        self.filled = self.values.len();
        // SAFETY: all of it was just written.
        unsafe { self.values.assume_init_mut() }
    }

    /// Lets `write` fill the next `len` values, as far as they fit.
    #[inline(always)]
    pub(crate) fn part(&mut self, len: usize, write: impl FnOnce(&mut Place<'_, T>)) {
        let count = len.min(self.values.len() - self.filled);
        Place { values: &mut self.values[self.filled..][..count], filled: 0 }.finish(write);
        self.filled += count;
    }

    #[inline(always)]
    fn finish(mut self, write: impl FnOnce(&mut Self)) {
        write(&mut self);
        self.values[self.filled..].iter_mut().for_each(|place| {
            place.write(T::default());
        });
    }
}
