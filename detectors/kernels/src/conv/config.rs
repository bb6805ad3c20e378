//! Stride, padding, dilation and groups of a convolution.

/// Stride, padding, dilation and groups of a convolution; (vertical, horizontal) each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Conv2dConfig {
    /// Stride: input pixels between neighbouring outputs.
    pub stride: [usize; 2],
    /// Padding: zeros on each side.
    pub padding: [usize; 2],
    /// Dilation: input pixels between neighbouring taps.
    pub dilation: [usize; 2],
    /// Number of independent groups of channels.
    pub groups: usize,
}

impl Default for Conv2dConfig {
    fn default() -> Self {
        Self { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 }
    }
}

impl Conv2dConfig {
    /// A dense convolution with equal stride and padding both ways.
    pub fn new(stride: usize, padding: usize) -> Self {
        Self { stride: [stride; 2], padding: [padding; 2], ..Self::default() }
    }

    /// Output size along one axis (0 vertical, 1 horizontal), `None` if the kernel does not fit.
    pub fn output_size(&self, axis: usize, input: usize, kernel: usize) -> Option<usize> {
        let span = self.dilation[axis] * (kernel.checked_sub(1)?) + 1;
        Some((input + 2 * self.padding[axis]).checked_sub(span)? / self.stride[axis] + 1)
    }
}
