//! Gradients on their way back through the graph.

use candle_core::Tensor;

use crate::Result;
use crate::activation::Activation;
use crate::memory::nhwc;
use crate::pointwise::{add_in_place, sum_of};

/// Gradient of a value as far as it is known, and whether its memory is nobody else's.
pub(crate) struct Gradient {
    tensor: Tensor,
    is_own: bool,
}

impl Gradient {
    /// A gradient whose memory something else may see.
    pub(crate) fn shared(tensor: Tensor) -> Self {
        Self { tensor, is_own: false }
    }

    /// A gradient that was just made, contiguous or channels last: it may be overwritten.
    pub(crate) fn own(tensor: Tensor) -> Self {
        Self { tensor, is_own: true }
    }

    pub(crate) fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    pub(crate) fn into_tensor(self) -> Tensor {
        self.tensor
    }

    /// This gradient of a map with its channels last in memory; no copy where they are.
    pub(crate) fn channels_last(self) -> Result<Self> {
        Ok(Self { tensor: nhwc(&self.tensor)?.permute((0, 3, 1, 2))?, ..self })
    }

    /// The sum with `other`, in the memory of this one where that may be.
    pub(crate) fn plus(self, other: Self) -> Result<Self> {
        if self.is_own {
            add_in_place(&self.tensor, &other.tensor)?;
            return Ok(self);
        }
        sum_of(&self.tensor, &other.tensor).map(Self::own)
    }

    /// The gradient through an activation whose result was `y`, in the memory of this one where that may be.
    pub(crate) fn through(self, activation: Activation, y: &Tensor) -> Result<Self> {
        match self.is_own {
            true => {
                activation.mask_in_place(&self.tensor, y)?;
                Ok(self)
            }
            false => activation.mask(&self.tensor, y).map(Self::own),
        }
    }
}
