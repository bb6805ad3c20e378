//! Fused epilogue of a convolution: the same pass over its result.

use candle_core::Tensor;

use crate::Value;
use crate::activation::Activation;

/// Scale, shift, residual and activation that a convolution applies to its result while it is in cache, in
/// this order.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue<'a> {
    /// A constant factor per output channel (K): a frozen norm's.
    pub scale: Option<&'a Tensor>,
    /// Added per output channel (K): a bias or a frozen norm's shift.
    pub shift: Option<&'a Value>,
    /// Added element by element, of the result's shape: a residual connection.
    pub residual: Option<&'a Value>,
    /// Applied last.
    pub activation: Activation,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { scale: None, shift: None, residual: None, activation: Activation::Identity }
    }
}
