//! Batch norm over several parts of an update at once (synchronised batch norm): the parts exchange their sums.

use std::cell::Cell;

use crate::Result;

/// Parts of an update that are computed at once, each elsewhere, by the same operations in the same order.
pub trait Parts {
    /// Whether this is the first part.
    fn is_first(&self) -> bool;

    /// The numbers of all parts in their order, as many of each; `own` are those of this part.
    ///
    /// # Errors
    /// If another part does not come.
    fn gather(&self, own: &[f64]) -> Result<Vec<Vec<f64>>>;
}

thread_local! {
    static PARTS: Cell<Option<&'static dyn Parts>> = const { Cell::new(None) };
}

/// Runs `f`, in which [`batch_norm_train`](super::batch_norm_train) and its gradient take the sums of all `parts`.
///
/// The first part alone moves running statistics, which are the same in all.
pub fn over_parts<T>(parts: &dyn Parts, f: impl FnOnce() -> T) -> T {
    struct Restore(Option<&'static dyn Parts>);
    impl Drop for Restore {
        fn drop(&mut self) {
            PARTS.set(self.0);
        }
    }
    // SAFETY: the reference is used on this thread alone, while `f` runs; it is taken away before `parts` can end, also where
    // `f` panics.
    let parts = unsafe { std::mem::transmute::<&dyn Parts, &'static dyn Parts>(parts) };
    let _restore = Restore(PARTS.replace(Some(parts)));
    f()
}

/// Whether batch norms take the sums of [several parts](over_parts).
pub fn are_over_parts() -> bool {
    PARTS.get().is_some()
}

/// Whether this part moves running statistics.
pub(super) fn moves_statistics() -> bool {
    PARTS.get().is_none_or(Parts::is_first)
}

/// The sum of all parts' numbers, in order of the parts; `own` where there is one part only.
pub(super) fn summed(own: Vec<f64>) -> Result<Vec<f64>> {
    let Some(parts) = PARTS.get() else { return Ok(own) };
    let mut all = parts.gather(&own)?.into_iter();
    let mut sum = all.next().unwrap_or(own);
    for part in all {
        sum.iter_mut().zip(part).for_each(|(sum, number)| *sum += number);
    }
    Ok(sum)
}
