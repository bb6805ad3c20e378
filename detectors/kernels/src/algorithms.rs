//! Choice of the algorithms of NVIDIA's libraries.

use std::cell::Cell;

use crate::precision::within;

/// Algorithms of a GPU's convolutions. A CPU has one for each shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Algorithms {
    /// Algorithms whose sums have a fixed order: bits repeat.
    #[default]
    Repeatable,
    /// The fastest for each shape, found by trying all of them once: bits need not repeat.
    Fastest,
}

thread_local! {
    static CURRENT: Cell<Algorithms> = const { Cell::new(Algorithms::Repeatable) };
}

impl Algorithms {
    /// Runs `f` with these algorithms, backward passes within it too.
    pub fn scope<T>(self, f: impl FnOnce() -> T) -> T {
        within(&CURRENT, self, f)
    }

    /// Algorithms of the innermost [`scope`](Self::scope).
    #[cfg(feature = "cuda")]
    pub(crate) fn asked() -> Self {
        CURRENT.get()
    }
}
