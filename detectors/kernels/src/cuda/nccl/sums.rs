//! Sums and gathers over the ranks, in a stream beside that of the computations.

use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream};
use candle_core::{CudaDevice, Device, Tensor};

use super::library::{BYTE, Comm, FLOAT, Functions, Id, Result};
use crate::Error;
use crate::cuda::launch::launch_in;
use crate::cuda::{Family, Fresh, Table, arguments, blocks, int, pointer};

/// A process of several that compute on a GPU each.
pub struct Nccl {
    functions: &'static Functions,
    /// Its calls are made one at a time.
    comm: Mutex<Held>,
    device: CudaDevice,
    stream: Arc<CudaStream>,
    rank: usize,
    size: usize,
}

struct Held(Comm);

// SAFETY: NCCL lets any thread call a communicator, one at a time.
unsafe impl Send for Held {}

impl std::fmt::Debug for Nccl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {} by NCCL", self.rank, self.size)
    }
}

/// A sum under way.
#[derive(Debug)]
pub struct Sum(UnderWay<f32>);

/// A gather under way.
#[derive(Debug)]
pub struct Gather(UnderWay<u8>);

/// Memory that an operation uses until its event has come.
struct UnderWay<T> {
    memory: Option<Memory<T>>,
    length: usize,
    event: CudaEvent,
}

struct Memory<T> {
    whole: Fresh<T>,
    _pieces: Option<Fresh<T>>,
    _own: Own,
}

enum Own {
    Vector { _vector: Tensor },
    Bytes { _bytes: Table<u8> },
}

impl<T> std::fmt::Debug for UnderWay<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} numbers", self.length)
    }
}

impl<T> Drop for UnderWay<T> {
    fn drop(&mut self) {
        // NCCL may still read and write it.
        if !self.event.is_complete() {
            std::mem::forget(self.memory.take());
        }
    }
}

impl Sum {
    /// Whether the GPU has made it.
    ///
    /// # Errors
    /// Errors of the driver.
    pub fn is_done(&self) -> Result<bool> {
        Ok(self.0.event.try_is_complete().w()?)
    }
}

impl Gather {
    /// Whether the GPU has made it.
    ///
    /// # Errors
    /// Errors of the driver.
    pub fn is_done(&self) -> Result<bool> {
        Ok(self.0.event.try_is_complete().w()?)
    }
}

impl Nccl {
    /// Joins the `size` processes that know `id`, as number `rank`, with an opened GPU. Waits for all.
    ///
    /// # Errors
    /// No library; a device that is no GPU, or that another process has joined with.
    pub fn join(device: &Device, id: Id, rank: usize, size: usize) -> Result<Self> {
        let functions = Functions::loaded()?;
        let Device::Cuda(device) = device else {
            return Err(Error::invalid("nccl", format!("{:?} is no GPU", device.location())).into());
        };
        let device = device.clone();
        let stream = device.cuda_stream().fork().w()?;
        let mut comm: Comm = std::ptr::null_mut();
        let (count, number) = (int(size)?, int(rank)?);
        // SAFETY: the context of the GPU is this thread's since the stream was made; NCCL writes one pointer.
        let code = unsafe { (functions.init_rank)(&raw mut comm, count, id, number) };
        functions.check("ncclCommInitRank", code)?;
        Ok(Self { functions, comm: Mutex::new(Held(comm)), device, stream, rank, size })
    }

    /// Number of this process.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of processes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The GPU.
    pub fn device(&self) -> Device {
        Device::Cuda(self.device.clone())
    }

    /// Starts the sum of the vectors of all ranks, as a tree over the rank. It begins when what was asked of the GPU before is
    /// done, and goes on beside what is asked later.
    ///
    /// # Shapes
    /// `vector` (L), the same on all ranks, L a multiple of their number.
    ///
    /// # Errors
    /// Another length; errors of NCCL.
    pub fn start_sum(&self, vector: &Tensor) -> Result<Sum> {
        let length = vector.elem_count();
        if vector.rank() != 1 || length == 0 || !length.is_multiple_of(self.size) {
            let reason = format!("{:?} cannot be shared by {} ranks", vector.dims(), self.size);
            return Err(Error::invalid("nccl", reason).into());
        }
        let width = length / self.size;
        let pieces = Fresh::<f32>::new(&self.device, length)?;
        let whole = Fresh::<f32>::new(&self.device, length)?;
        let (from, to) = (pointer::<f32>(vector)?, pieces.start());
        self.stream.join(&self.device.cuda_stream()).w()?;
        let comm = self.comm();
        self.exchange(&comm, (from, to), width)?;
        let arguments = arguments![pieces.address(), int(self.size)?, width as i64];
        let kernel = (Family::Elementwise, "tree_sum");
        launch_in(&self.stream, &self.device, kernel, blocks(width)?, [256, 1], arguments)?;
        self.gather_in(&comm, (to, whole.start()), width, FLOAT)?;
        let event = self.stream.record_event(None).w()?;
        let memory = Memory { whole, _pieces: Some(pieces), _own: Own::Vector { _vector: vector.clone() } };
        Ok(Sum(UnderWay { memory: Some(memory), length, event }))
    }

    /// The numbers of a sum. What is asked of the GPU next waits for it; this thread does not.
    ///
    /// # Errors
    /// Errors of the driver.
    pub fn take(&self, mut sum: Sum) -> Result<Tensor> {
        let main = self.device.cuda_stream();
        main.wait(&sum.0.event).w()?;
        // The other memory is freed in the order of the stream, after that.
        let Some(memory) = sum.0.memory.take() else { unreachable!("a sum is taken once") };
        Ok(memory.whole.tensor(sum.0.length, &self.device))
    }

    /// Starts to gather the bytes of each rank at all, as many of each.
    ///
    /// # Errors
    /// Errors of NCCL.
    pub fn start_gather(&self, mine: &[u8]) -> Result<Gather> {
        let length = mine.len() * self.size;
        let own = Table::of_bytes(&self.device, mine)?;
        let whole = Fresh::<u8>::new(&self.device, length)?;
        self.stream.join(&self.device.cuda_stream()).w()?;
        let comm = self.comm();
        self.gather_in(&comm, (own.start(), whole.start()), mine.len(), BYTE)?;
        let event = self.stream.record_event(None).w()?;
        let memory = Memory { whole, _pieces: None, _own: Own::Bytes { _bytes: own } };
        Ok(Gather(UnderWay { memory: Some(memory), length, event }))
    }

    /// The bytes of all ranks, one after the other.
    ///
    /// # Errors
    /// Errors of the driver.
    pub fn take_bytes(&self, mut gather: Gather) -> Result<Vec<u8>> {
        self.device.cuda_stream().wait(&gather.0.event).w()?;
        let Some(mut memory) = gather.0.memory.take() else { unreachable!("a gather is taken once") };
        let mut bytes = self.device.clone_dtoh(memory.whole.slice())?;
        bytes.truncate(gather.0.length);
        Ok(bytes)
    }

    /// The error of an operation that was started, if NCCL knows of one.
    ///
    /// # Errors
    /// The error that NCCL knows of.
    pub fn check(&self) -> Result<()> {
        let (comm, mut found) = (self.comm(), 0);
        // SAFETY: the communicator lives; NCCL writes one number.
        let code = unsafe { (self.functions.async_error)(comm.0, &raw mut found) };
        self.functions.check("ncclCommGetAsyncError", code)?;
        self.functions.check("an operation of NCCL", found)
    }

    fn comm(&self) -> MutexGuard<'_, Held> {
        self.comm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an all-to-all into the stream: piece `i` of `width` numbers goes to rank `i`.
    fn exchange(&self, comm: &Held, (from, to): (u64, u64), width: usize) -> Result<()> {
        let stream = self.stream.cu_stream().cast::<c_void>();
        let bytes = (width * size_of::<f32>()) as u64;
        // SAFETY: NCCL collects calls until the end of the group.
        self.functions.check("ncclGroupStart", unsafe { (self.functions.group_start)() })?;
        for peer in 0..self.size {
            let (out, back) = (from + peer as u64 * bytes, to + peer as u64 * bytes);
            let peer = int(peer)? as c_int;
            // SAFETY: both vectors have `size` pieces of `width` numbers, and are kept until the event that follows.
            let sent = unsafe { (self.functions.send)(out as _, width, FLOAT, peer, comm.0, stream) };
            self.functions.check("ncclSend", sent)?;
            // SAFETY: as above.
            let received = unsafe { (self.functions.receive)(back as _, width, FLOAT, peer, comm.0, stream) };
            self.functions.check("ncclRecv", received)?;
        }
        // SAFETY: the group was started.
        self.functions.check("ncclGroupEnd", unsafe { (self.functions.group_end)() })
    }

    fn gather_in(&self, comm: &Held, (from, to): (u64, u64), count: usize, kind: c_int) -> Result<()> {
        let stream = self.stream.cu_stream().cast::<c_void>();
        // SAFETY: `to` has room for `count` numbers of each rank; both are kept until the event that follows.
        let code = unsafe { (self.functions.all_gather)(from as _, to as _, count, kind, comm.0, stream) };
        self.functions.check("ncclAllGather", code)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        let comm = self.comm();
        // SAFETY: nothing uses the communicator afterwards. Operations that are under way end first.
        unsafe { (self.functions.destroy)(comm.0) };
    }
}
