//! Operations that write where their operand lies: everything that shares its memory sees the result.

#[cfg(feature = "cuda")]
mod gpu;

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor};

use crate::dispatch::{self, Host};
use crate::memory::elements;
use crate::{Error, Result};

/// Overwrites `to` with the elements of `from`, keeping the storage and the memory order of `to`.
///
/// # Shapes
/// Two f32 tensors of one shape. `to` is contiguous, or NCHW with its channels last in memory.
///
/// # Errors
/// If shapes or types differ, `to` lies otherwise, or both share their memory.
pub fn overwrite(to: &Tensor, from: &Tensor) -> Result<()> {
    const NAME: &str = "overwrite";
    same_shape(NAME, &[to, from])?;
    let from = in_memory_order(from)?.to_device(to.device())?.to_dtype(to.dtype())?.contiguous()?;
    dispatch::run(to, Overwrite { to: &in_memory_order(to)?, from: &from })
}

struct Overwrite<'a> {
    to: &'a Tensor,
    from: &'a Tensor,
}

impl Host for Overwrite<'_> {
    type Output = ();

    fn on_host(self) -> Result<()> {
        lend("overwrite", [self.to], [self.from], |[to], [from]| to.copy_from_slice(from))
    }
}

/// Views a 4-dimensional tensor (N, C, H, W) as (N, H, W, C), the order in which maps and convolution weights
/// lie.
pub(crate) fn in_memory_order(tensor: &Tensor) -> Result<Tensor> {
    Ok(if tensor.rank() == 4 { tensor.permute((0, 2, 3, 1))? } else { tensor.clone() })
}

/// Fails unless all `tensors` have one shape.
pub(crate) fn same_shape(operation: &'static str, tensors: &[&Tensor]) -> Result<()> {
    if tensors.windows(2).all(|pair| pair[0].dims() == pair[1].dims()) {
        return Ok(());
    }
    let shapes: Vec<&[usize]> = tensors.iter().map(|tensor| tensor.dims()).collect();
    Err(Error::invalid(operation, format!("shapes differ: {shapes:?}")))
}

/// Lends the elements of tensors on the host to `f`: those of `written` to be overwritten, those of `read` to
/// be read.
///
/// # Errors
/// If a tensor is not contiguous f32, or one of `written` shares its memory with another tensor.
pub(crate) fn lend<const W: usize, const R: usize>(
    operation: &'static str,
    written: [&Tensor; W],
    read: [&Tensor; R],
    f: impl FnOnce([&mut [f32]; W], [&[f32]; R]),
) -> Result<()> {
    refuse_shared(operation, &written, &read)?;
    let mut sources = Vec::with_capacity(R);
    for tensor in read {
        sources.push(elements(tensor)?);
    }
    let sources: [&[f32]; R] = std::array::from_fn(|index| &*sources[index]);
    let with_lent = |lent: Vec<&mut [f32]>| {
        let lent = lent.try_into().unwrap_or_else(|_| unreachable!("one slice a tensor"));
        f(lent, sources);
    };
    match written.split_first() {
        None => with_lent(Vec::new()),
        Some((first, rest)) => {
            first.inplace_op1(&Lend::new(operation, rest, Vec::new(), with_lent))?;
        }
    }
    Ok(())
}

/// Fails if a tensor of `written` shares its memory with another one.
pub(crate) fn refuse_shared(operation: &'static str, written: &[&Tensor], read: &[&Tensor]) -> Result<()> {
    for (index, tensor) in written.iter().enumerate() {
        if written[index + 1..].iter().chain(read).any(|other| share_memory(tensor, other)) {
            return Err(Error::invalid(operation, "a tensor that is written shares its memory with another"));
        }
    }
    Ok(())
}

/// Candle lends one tensor at a time for writing: where one is lent, the next is asked for.
struct Lend<'a, F> {
    operation: &'static str,
    rest: &'a [&'a Tensor],
    lent: Cell<Vec<&'a mut [f32]>>,
    f: Cell<Option<F>>,
}

impl<'a, F: FnOnce(Vec<&mut [f32]>)> Lend<'a, F> {
    fn new(operation: &'static str, rest: &'a [&'a Tensor], lent: Vec<&'a mut [f32]>, f: F) -> Self {
        Self { operation, rest, lent: Cell::new(lent), f: Cell::new(Some(f)) }
    }
}

impl<F: FnOnce(Vec<&mut [f32]>)> InplaceOp1 for Lend<'_, F> {
    fn name(&self) -> &'static str {
        self.operation
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            candle_core::bail!("{}: contiguous f32 expected where it is written", self.operation);
        };
        // For as long as this tensor is lent: less than the earlier ones are.
        let mut lent: Vec<&mut [f32]> = self.lent.take().into_iter().map(|values| &mut *values).collect();
        lent.push(&mut values[start..end]);
        let Some(f) = self.f.take() else { candle_core::bail!("{}: lent twice", self.operation) };
        match self.rest.split_first() {
            None => {
                f(lent);
                Ok(())
            }
            Some((next, rest)) => next.inplace_op1(&Lend::new(self.operation, rest, lent, f)),
        }
    }
}

/// Returns whether two tensors lie in the same buffer.
fn share_memory(a: &Tensor, b: &Tensor) -> bool {
    let ((a, _), (b, _)) = (a.storage_and_layout(), b.storage_and_layout());
    std::ptr::eq(&*a, &*b)
}
