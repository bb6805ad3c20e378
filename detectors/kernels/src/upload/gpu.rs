//! Copies to a GPU on a stream of their own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaSlice, CudaStream, DevicePtrMut, PinnedHostSlice, result,
};
use candle_core::{CudaDevice, Shape, Tensor};

use crate::Result;
use crate::cuda::Fresh;

/// Page-locked buffers, which are written in turns.
#[derive(Debug)]
pub(super) struct Ring {
    stream: Arc<CudaStream>,
    buffers: [Mutex<Option<Buffer>>; 2],
    next: AtomicUsize,
}

/// A page-locked buffer and the end of the copy that reads it.
#[derive(Debug)]
struct Buffer {
    memory: PinnedHostSlice<f32>,
    read: Option<Arc<CudaEvent>>,
}

/// A copy on the device, or on its way there.
#[derive(Debug)]
pub(super) struct Sent {
    values: CudaSlice<f32>,
    arrived: Arc<CudaEvent>,
}

impl Ring {
    pub(super) fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream().context().new_stream().w()?;
        Ok(Self { stream, buffers: Default::default(), next: AtomicUsize::new(0) })
    }

    /// Copies `values` to page-locked memory, and starts their copy from there.
    pub(super) fn send(&self, values: &[f32]) -> Result<Sent> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.buffers.len();
        let mut buffer = self.buffers[turn].lock().unwrap_or_else(PoisonError::into_inner);
        let is_short = buffer.as_ref().is_none_or(|buffer| buffer.memory.len() < values.len());
        if is_short {
            *buffer = None;
        }
        let buffer = match &mut *buffer {
            Some(buffer) => buffer,
            none => {
                // SAFETY: what is copied to the device was written before.
                let memory = unsafe { self.stream.context().alloc_pinned(values.len().max(1)) }.w()?;
                none.insert(Buffer { memory, read: None })
            }
        };
        buffer.wait()?;
        let staged = &mut buffer.memory.as_mut_slice().w()?[..values.len()];
        staged.copy_from_slice(values);
        // SAFETY: the copy below writes all of it, and nothing reads it before that has ended.
        let mut fresh = unsafe { self.stream.alloc::<f32>(values.len().max(1)) }.w()?;
        {
            let (to, _sync) = fresh.device_ptr_mut(&self.stream);
            // SAFETY: both have the length; the buffer is not written again before `read`.
            unsafe { result::memcpy_htod_async(to, staged, self.stream.cu_stream()) }.w()?;
        }
        let arrived = Arc::new(self.stream.record_event(None).w()?);
        buffer.read = Some(arrived.clone());
        Ok(Sent { values: fresh, arrived })
    }
}

impl Buffer {
    /// Waits for the copy that reads the buffer.
    fn wait(&mut self) -> Result<()> {
        Ok(self.read.take().map_or(Ok(()), |read| read.synchronize()).w()?)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // What goes wrong here is told by the next use of the device.
        let _ = self.wait();
    }
}

impl Sent {
    pub(super) fn is_to(&self, device: &CudaDevice) -> bool {
        self.values.stream().context() == device.cuda_stream().context()
    }

    /// A tensor of the copy, for which the stream of `device` waits, and in whose order it is freed.
    pub(super) fn tensor(self, shape: Shape, device: &CudaDevice) -> Result<Tensor> {
        let (stream, len) = (device.cuda_stream(), self.values.len());
        stream.wait(&self.arrived).w()?;
        // SAFETY: memory of `len` numbers that nothing else owns any more; the stream waits for their arrival.
        let values = unsafe { stream.upgrade_device_ptr::<f32>(self.values.leak(), len) };
        Ok(Fresh::of(values).tensor(shape, device))
    }
}
