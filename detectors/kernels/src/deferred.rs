//! Side effects of a forward pass that wait: running statistics and memories that move once all passes of an update are done.
//!
//! A pass may run in another process. What it would move is then told to all, and all move the same, in the same order.

use std::cell::RefCell;

use candle_core::Tensor;

use crate::{Error, Result};

thread_local! {
    static WAITING: RefCell<Option<Vec<Deferred>>> = const { RefCell::new(None) };
}

/// A side effect that waits, and the tensors that it is made of.
pub struct Deferred {
    /// Tensors of the pass at hand; another pass's move the same things.
    pub tensors: Vec<Tensor>,
    apply: Box<Apply>,
}

type Apply = dyn Fn(&[Tensor]) -> Result<()>;

impl Deferred {
    /// Makes the side effect, of this pass's tensors or of those of another pass.
    ///
    /// # Errors
    /// Errors of the side effect.
    pub fn apply(&self, tensors: &[Tensor]) -> Result<()> {
        (self.apply)(tensors)
    }
}

impl std::fmt::Debug for Deferred {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Deferred({} tensors)", self.tensors.len())
    }
}

/// Runs `f`, and hands over the side effects of its passes on this thread instead of making them.
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
///
/// use ckd_kernels::deferred::{collected, defer};
///
/// let count = Rc::new(Cell::new(0));
/// let counter = count.clone();
/// let (_, waiting) = collected(|| defer(Vec::new(), move |_| Ok(counter.set(counter.get() + 1))));
/// assert_eq!(count.get(), 0);
/// waiting[0].apply(&[])?;
/// assert_eq!(count.get(), 1);
/// # Ok::<(), ckd_kernels::Error>(())
/// ```
pub fn collected<T>(f: impl FnOnce() -> T) -> (T, Vec<Deferred>) {
    struct Restore(Option<Vec<Deferred>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            WAITING.set(self.0.take());
        }
    }
    let restore = Restore(WAITING.replace(Some(Vec::new())));
    let result = f();
    let waiting = WAITING.take().unwrap_or_default();
    drop(restore);
    (result, waiting)
}

/// Makes a side effect of `tensors`: now, or when whoever collects it says so.
///
/// # Errors
/// Errors of the side effect, if it is made now.
pub fn defer(tensors: Vec<Tensor>, apply: impl Fn(&[Tensor]) -> Result<()> + 'static) -> Result<()> {
    let given = Deferred { tensors, apply: Box::new(apply) };
    let now = WAITING.with_borrow_mut(|waiting| match waiting {
        Some(waiting) => {
            waiting.push(given);
            None
        }
        None => Some(given),
    });
    now.map_or(Ok(()), |now| now.apply(&now.tensors))
}

/// The tensors of a side effect, which are `N`.
///
/// # Errors
/// If there are more or fewer.
pub fn exactly<const N: usize>(tensors: &[Tensor]) -> Result<&[Tensor; N]> {
    tensors.try_into().map_err(|_| Error::invalid("deferred", format!("{} tensors for {N}", tensors.len())))
}
