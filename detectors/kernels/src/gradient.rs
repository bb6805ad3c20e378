//! Gradients on their way back through the graph.

use candle_core::{DType, Tensor};

use crate::Result;
use crate::activation::Activation;
use crate::memory::nhwc;
use crate::pointwise::{add_in_place, add_rows, sum_of};
use crate::stored::{differ, stored_as};

/// Gradient of a value as far as it is known.
pub(crate) enum Gradient {
    /// Gradient in memory that something else may hold too.
    Shared(Tensor),
    /// Gradient in memory that nobody else holds: it may be overwritten. Contiguous, or channels last.
    Own(Tensor),
    /// Gradient of zeros but for some rows.
    Rows(SomeRows),
}

/// Rows that are added to a matrix of zeros: it is made only where a whole one is needed.
pub(crate) struct SomeRows {
    pub(crate) rows: Tensor,
    /// Row of the matrix that each is added to; several may be added to one.
    pub(crate) indices: Vec<u32>,
    /// Rows and columns of the matrix.
    pub(crate) shape: (usize, usize),
}

impl SomeRows {
    fn matrix(self) -> Result<Tensor> {
        let matrix = Tensor::zeros(self.shape, self.rows.dtype(), self.rows.device())?;
        add_rows(&matrix, &self.rows, &self.indices)?;
        Ok(matrix)
    }
}

impl Gradient {
    pub(crate) fn into_tensor(self) -> Result<Tensor> {
        match self {
            Self::Shared(tensor) | Self::Own(tensor) => Ok(tensor),
            Self::Rows(rows) => rows.matrix(),
        }
    }

    /// This gradient in the type of its value.
    pub(crate) fn stored_as(self, dtype: DType) -> Result<Self> {
        Ok(match self {
            Self::Shared(tensor) | Self::Own(tensor) if differ(tensor.dtype(), dtype) => {
                Self::Own(stored_as(&tensor, dtype)?)
            }
            Self::Rows(rows) => Self::Rows(SomeRows { rows: stored_as(&rows.rows, dtype)?, ..rows }),
            same => same,
        })
    }

    /// This gradient of a map as (N, H, W, C), and itself in the same memory; no copy where its channels are last.
    pub(crate) fn nhwc(self) -> Result<(Tensor, Self)> {
        let own = !matches!(self, Self::Shared(_));
        let lines = nhwc(&self.into_tensor()?)?;
        let map = lines.permute((0, 3, 1, 2))?;
        Ok((lines, if own { Self::Own(map) } else { Self::Shared(map) }))
    }

    /// The sum with `other`, in the memory of either where that may be.
    pub(crate) fn plus(self, other: Self) -> Result<Self> {
        match (self, other) {
            (Self::Own(to), Self::Rows(from)) | (Self::Rows(from), Self::Own(to)) => {
                add_rows(&to, &from.rows, &from.indices)?;
                Ok(Self::Own(to))
            }
            (Self::Own(to), other) => {
                add_in_place(&to, &other.into_tensor()?)?;
                Ok(Self::Own(to))
            }
            (Self::Rows(rows), other) => Self::Own(rows.matrix()?).plus(other),
            (Self::Shared(first), other) => sum_of(&first, &other.into_tensor()?).map(Self::Own),
        }
    }

    /// The gradient through an activation whose result was `y`, in the same memory where that may be.
    pub(crate) fn through(self, activation: Activation, y: &Tensor) -> Result<Self> {
        match self {
            Self::Own(tensor) => {
                activation.mask_in_place(&tensor, y)?;
                Ok(Self::Own(tensor))
            }
            other => activation.mask(&other.into_tensor()?, y).map(Self::Own),
        }
    }
}
