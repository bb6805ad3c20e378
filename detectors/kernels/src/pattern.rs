//! Activation pattern of a forward pass: the piece of its function that every number lies on, and the pixel that every window of
//! a max pooling takes.
//!
//! A network of ReLUs is smooth as long as its pattern stays. Reverse mode sees the pattern at one point and no kink beside it;
//! differences of two passes step across kinks. Two passes with the pattern of a third one are points of the one smooth function
//! that the third one's derivatives belong to.
//!
//! An operation asks once, when it is called, on the thread that calls it; kernels and the way back know nothing of it.

use std::cell::RefCell;

use candle_core::Tensor;

use crate::{Error, Result};

thread_local! {
    static PASS: RefCell<Pass> = const { RefCell::new(Pass::Free) };
}

/// Activation pattern of a forward pass: the choices of its piecewise functions and poolings, in the order of its operations.
#[derive(Debug, Clone, Default)]
pub struct ActivationPattern(Vec<Tensor>);

/// Role of the pass that this thread makes.
enum Pass {
    Free,
    Recorded(Vec<Tensor>),
    Held { pattern: Vec<Tensor>, used: usize },
}

/// Request of a pass to an operation with a kink.
pub(crate) enum Asked {
    /// Chooses as its input says.
    Nothing,
    /// Chooses as its input says, and [keeps](keep) its choice.
    Keep,
    /// Repeats this choice.
    Repeat(Tensor),
}

impl ActivationPattern {
    /// Runs `f` and keeps the choices of its operations.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use ckd_kernels::pattern::ActivationPattern;
    /// use ckd_kernels::{Error, Value};
    /// use ckd_kernels::elementwise::relu;
    ///
    /// let x = |x: [f32; 2]| Tensor::new(&x, &Device::Cpu).map(Value::constant);
    /// let (_, pattern) = ActivationPattern::recorded(|| relu(&x([0.1, -0.1])?));
    /// let beside = pattern.held(|| relu(&x([-0.1, 0.1])?))?;
    /// assert_eq!(beside.tensor().to_vec1::<f32>()?, [-0.1, 0.0]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn recorded<T>(f: impl FnOnce() -> T) -> (T, Self) {
        let (result, pass) = during(Pass::Recorded(Vec::new()), f);
        let pattern = match pass {
            Pass::Recorded(pattern) => pattern,
            _ => Vec::new(),
        };
        (result, Self(pattern))
    }

    /// Runs `f` with these choices, whatever the numbers are.
    ///
    /// # Errors
    /// Errors of `f`; operations that are not those of the recorded pass.
    pub fn held<T, E: From<Error>>(
        &self,
        f: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let (result, pass) = during(Pass::Held { pattern: self.0.clone(), used: 0 }, f);
        let result = result?;
        match pass {
            Pass::Held { used, .. } if used < self.0.len() => {
                let reason = format!("{} operations choose, {used} chose now", self.0.len());
                Err(Error::invalid("activation pattern", reason).into())
            }
            _ => Ok(result),
        }
    }
}

/// Runs `f` as part of `pass`; returns its result and the pass as `f` leaves it.
fn during<T>(pass: Pass, f: impl FnOnce() -> T) -> (T, Pass) {
    struct Restore(Pass);
    impl Drop for Restore {
        fn drop(&mut self) {
            PASS.replace(std::mem::replace(&mut self.0, Pass::Free));
        }
    }
    let restore = Restore(PASS.replace(pass));
    let result = f();
    let left = PASS.replace(Pass::Free);
    drop(restore);
    (result, left)
}

/// Returns whether choices of this thread's operations are recorded or held: no operation may run twice then.
pub(crate) fn is_on() -> bool {
    PASS.with_borrow(|pass| !matches!(pass, Pass::Free))
}

/// Request of this thread's pass to the operation that runs now.
///
/// # Errors
/// More operations than the recorded pass had.
pub(crate) fn asked() -> Result<Asked> {
    PASS.with_borrow_mut(|pass| match pass {
        Pass::Free => Ok(Asked::Nothing),
        Pass::Recorded(_) => Ok(Asked::Keep),
        Pass::Held { pattern, used } => match pattern.get(*used) {
            Some(choice) => {
                *used += 1;
                Ok(Asked::Repeat(choice.clone()))
            }
            None => {
                let reason =
                    format!("{} operations chose in the recorded pass, and one more now", pattern.len());
                Err(Error::invalid("activation pattern", reason))
            }
        },
    })
}

/// Keeps the choice of an operation.
pub(crate) fn keep(choice: Tensor) {
    PASS.with_borrow_mut(|pass| {
        if let Pass::Recorded(pattern) = pass {
            pattern.push(choice);
        }
    });
}

/// Checks that a choice is one for each of `count` numbers.
///
/// # Errors
/// A choice of another operation.
pub(crate) fn check(choice: &Tensor, count: usize) -> Result<()> {
    match choice.elem_count() == count {
        true => Ok(()),
        false => {
            let reason = format!("a choice for {} numbers, not for {count}", choice.elem_count());
            Err(Error::invalid("activation pattern", reason))
        }
    }
}
