//! Type of a map's numbers in memory: f32, or bf16 on a GPU.
//!
//! With [`Precision::Bf16`](crate::Precision) on a GPU, convolutions give maps of bf16, and what lies between them keeps the type of
//! its input: it computes in f32 and rounds what it writes. Rows are f32; losses and what compares networks take f32. The graph
//! brings a gradient to the type of its value.

#[cfg(feature = "cuda")]
pub(crate) mod gpu;

use candle_core::{DType, Tensor};

use crate::dispatch::{self, Host};
use crate::{Error, Result};

/// Whether one of two types is bf16 and the other is not.
pub(crate) fn differ(a: DType, b: DType) -> bool {
    (a == DType::BF16) != (b == DType::BF16)
}

/// The numbers of an f32 or bf16 tensor in the other type; the tensor itself where it has that, or neither is bf16. The
/// order in memory stays.
pub(crate) fn stored_as(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if !differ(x.dtype(), dtype) {
        return Ok(x.clone());
    }
    dispatch::run(x, Stored { x, dtype })
}

struct Stored<'a> {
    x: &'a Tensor,
    dtype: DType,
}

impl Host for Stored<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let (from, to) = (self.x.dtype(), self.dtype);
        Err(Error::invalid("stored", format!("{from:?} to {to:?}: numbers on the host are f32")))
    }
}
