//! Counted copies to the host: each one waits for the GPU.

use std::sync::atomic::{AtomicU64, Ordering};

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

/// Counts a copy of `bytes` to the host.
pub(crate) fn count(bytes: usize) {
    COPIES.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    LARGEST.fetch_max(bytes as u64, Ordering::Relaxed);
}

pub(crate) fn count_launch() {
    LAUNCHES.fetch_add(1, Ordering::Relaxed);
}
