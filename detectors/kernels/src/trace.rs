//! A recording of operations: when each ran on the host and, where its tensors lie there, on the GPU.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use candle_core::Device;

static IS_ON: AtomicBool = AtomicBool::new(false);
static RECORDING: Mutex<Option<Open>> = Mutex::new(None);

/// The time of an operation on one track, since the recording began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Name of the operation, or of the part of a step.
    pub name: &'static str,
    /// The processor that it ran on.
    pub track: Track,
    /// Its begin.
    pub begin: Duration,
    /// Its length; on the GPU, between what was put into the stream before it and after it.
    pub took: Duration,
}

/// A processor in a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Track {
    /// A thread of the program, by a number. Of an operation on the GPU, this is the time to ask for it.
    Host(u64),
    /// The GPU.
    Gpu,
}

/// A recording under way: begun by [`record`].
struct Open {
    began: Instant,
    spans: Vec<Span>,
    #[cfg(feature = "cuda")]
    gpu: Option<gpu::Open>,
}

/// Records all operations on `device` while `work` runs. One recording runs at a time in a process.
///
/// # Errors
/// Errors of `work`, and of the driver.
pub fn record<T, E: From<crate::Error>>(
    device: &Device,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<(T, Vec<Span>), E> {
    device.synchronize().map_err(crate::Error::from)?;
    *recording() = Some(Open {
        began: Instant::now(),
        spans: Vec::new(),
        #[cfg(feature = "cuda")]
        gpu: gpu::Open::new(device)?,
    });
    IS_ON.store(true, Ordering::Relaxed);
    let result = work();
    IS_ON.store(false, Ordering::Relaxed);
    let open = recording().take();
    let mut spans = Vec::new();
    if let Some(open) = open {
        spans = open.spans;
        #[cfg(feature = "cuda")]
        if let Some(gpu) = open.gpu {
            spans.extend(gpu.spans()?);
        }
    }
    spans.sort_by_key(|span| (span.begin, std::cmp::Reverse(span.took)));
    Ok((result?, spans))
}

/// Runs `work`, in a recording if there is one under way.
///
/// # Errors
/// Errors of `work`, and of the driver.
pub fn spanned<T, E: From<crate::Error>>(
    name: &'static str,
    device: &Device,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    if !IS_ON.load(Ordering::Relaxed) {
        return work();
    }
    #[cfg(feature = "cuda")]
    let asked = gpu::mark(device)?;
    #[cfg(not(feature = "cuda"))]
    let _ = device;
    let began = Instant::now();
    let result = work();
    let took = began.elapsed();
    #[cfg(feature = "cuda")]
    let done = gpu::mark(device)?;
    if let Some(open) = &mut *recording() {
        let begin = began.saturating_duration_since(open.began);
        open.spans.push(Span { name, track: Track::Host(thread()), begin, took });
        #[cfg(feature = "cuda")]
        if let (Some(gpu), Some(asked), Some(done)) = (&mut open.gpu, asked, done) {
            gpu.push(name, asked, done);
        }
    }
    result
}

fn recording() -> MutexGuard<'static, Option<Open>> {
    RECORDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Number of the calling thread, from 1 in the order in which they were first recorded.
fn thread() -> u64 {
    static THREADS: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static NUMBER: u64 = 1 + THREADS.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

#[cfg(feature = "cuda")]
mod gpu {
    use std::time::Duration;

    use candle_core::Device;
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::CudaEvent;
    use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;

    use super::{Span, Track};
    use crate::Result;

    /// Marks in the stream of a GPU.
    pub(super) struct Open {
        began: CudaEvent,
        spans: Vec<(&'static str, CudaEvent, CudaEvent)>,
    }

    impl Open {
        pub(super) fn new(device: &Device) -> Result<Option<Self>> {
            Ok(mark(device)?.map(|began| Self { began, spans: Vec::new() }))
        }

        pub(super) fn push(&mut self, name: &'static str, asked: CudaEvent, done: CudaEvent) {
            self.spans.push((name, asked, done));
        }

        /// The spans, once the GPU has done them.
        pub(super) fn spans(self) -> Result<Vec<Span>> {
            let between = |from: &CudaEvent, to: &CudaEvent| {
                from.elapsed_ms(to).w().map(|ms| Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1e3))
            };
            let span = |(name, asked, done): &(&'static str, CudaEvent, CudaEvent)| {
                let begin = between(&self.began, asked)?;
                Ok(Span { name, track: Track::Gpu, begin, took: between(asked, done)? })
            };
            self.spans.iter().map(span).collect()
        }
    }

    /// A mark in the stream of `device`, if it is a GPU.
    pub(super) fn mark(device: &Device) -> Result<Option<CudaEvent>> {
        let Device::Cuda(device) = device else { return Ok(None) };
        // The default keeps the time; other flags leave it out.
        Ok(Some(device.cuda_stream().record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).w()?))
    }
}
