//! Counted work of a GPU: copies to the host, each of which waits for it, launches, and the memory that it took.

use std::cell::Cell;

use candle_core::Device;

use crate::Result;

/// Work of a GPU that a thread asked for.
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

thread_local! {
    static COUNTS: Cell<Counts> = const { Cell::new(Counts { copies: 0, bytes: 0, largest: 0, launches: 0 }) };
}

/// Counts the copies and launches that `f` asks a GPU for on this thread.
pub fn counted<T>(f: impl FnOnce() -> T) -> (T, Counts) {
    let before = COUNTS.take();
    let result = f();
    let own = COUNTS.get();
    COUNTS.set(before.and(own));
    (result, own)
}

impl Counts {
    /// Counts of two pieces of work together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            copies: self.copies + other.copies,
            bytes: self.bytes + other.bytes,
            largest: self.largest.max(other.largest),
            launches: self.launches + other.launches,
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
    let bytes = bytes as u64;
    COUNTS.set(COUNTS.get().and(Counts { copies: 1, bytes, largest: bytes, launches: 0 }));
}

/// Counts a launch.
#[cfg(feature = "cuda")]
pub(crate) fn count_launch() {
    COUNTS.set(COUNTS.get().and(Counts { launches: 1, ..Counts::default() }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_where_it_is_asked_for_and_in_all_that_is_around_it() {
        let ((inner, first), outer) = counted(|| {
            count(8);
            let first = counted(|| count(100));
            std::thread::spawn(|| count(1000)).join().expect("another thread");
            (first.1, 1)
        });
        assert_eq!((inner.copies, inner.bytes, inner.largest, first), (1, 100, 100, 1));
        assert_eq!((outer.copies, outer.bytes, outer.largest), (2, 108, 100));
        assert_eq!(counted(|| ()).1, Counts::default());
    }
}
