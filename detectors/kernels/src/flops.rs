//! Counting the work of a forward pass.

use std::cell::Cell;

thread_local! {
    static MULTIPLY_ADDS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the multiply-adds (FLOPs / 2) of the convolutions and linear layers that `f` runs forward.
///
/// The count follows the usual convention (fvcore, torchvision): the textbook cost of each layer,
/// whatever algorithm computes it; norms, activations and pooling are free.
pub fn counted<T>(f: impl FnOnce() -> T) -> (T, u64) {
    let before = MULTIPLY_ADDS.get();
    let result = f();
    (result, MULTIPLY_ADDS.get() - before)
}

pub(crate) fn count(multiply_adds: usize) {
    // What a gradient computes again was counted before.
    if crate::graph::is_again() {
        return;
    }
    MULTIPLY_ADDS.set(MULTIPLY_ADDS.get() + multiply_adds as u64);
}
