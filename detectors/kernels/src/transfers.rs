//! Counted work of a GPU: copies to the host, each of which waits for it, launches, and the memory that it took.

use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Device;

use crate::Result;

static COPIES: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static LARGEST: AtomicU64 = AtomicU64::new(0);
static LAUNCHES: AtomicU64 = AtomicU64::new(0);

/// Work of the GPU since the program started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Copies to the host: the program waits for each.
    pub copies: u64,
    /// Bytes of these copies.
    pub bytes: u64,
    /// Bytes of the largest copy.
    pub largest: u64,
    /// Kernels of ckd-kernels that were launched; NVIDIA's libraries launch their own beside them.
    pub launches: u64,
}

/// Counts of the work of the GPU since the program started.
pub fn counts() -> Counts {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Counts { copies: read(&COPIES), bytes: read(&BYTES), largest: read(&LARGEST), launches: read(&LAUNCHES) }
}

impl Counts {
    /// The work since `earlier`; the largest copy is that of all times.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            copies: self.copies - earlier.copies,
            bytes: self.bytes - earlier.bytes,
            largest: self.largest,
            launches: self.launches - earlier.launches,
        }
    }
}

/// The most bytes that the program has held of the memory of a GPU so far; `None` on the CPU.
///
/// # Errors
/// If the driver does not say.
pub fn peak_memory(device: &Device) -> Result<Option<u64>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::cuda::peak_memory(device).map(Some),
        _ => Ok(None),
    }
}

/// Counts a copy of `bytes` to the host.
pub(crate) fn count(bytes: usize) {
    COPIES.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    LARGEST.fetch_max(bytes as u64, Ordering::Relaxed);
}

#[cfg(feature = "cuda")]
pub(crate) fn count_launch() {
    LAUNCHES.fetch_add(1, Ordering::Relaxed);
}
