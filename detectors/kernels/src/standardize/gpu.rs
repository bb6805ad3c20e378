//! Centred and standardised rows on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::{Divisor, Standardized, StandardizedGradient};
use crate::Result;
use crate::cuda::{Argument, arguments};
use crate::dispatch::Gpu;
use crate::normalize::of_rows;

impl Divisor {
    /// eps and floor as the kernels' text takes them; a negative eps stands for the divisor 1.
    fn arguments(self) -> [Argument; 2] {
        let (eps, floor) = match self {
            Self::One => (-1.0, 0.0),
            Self::Deviation { eps, floor } => (eps, floor),
        };
        *arguments![eps, floor]
    }
}

impl Gpu for Standardized<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { x, width, divisor } = self;
        of_rows(device, "standardized_rows", &[x], width, x, &divisor.arguments())
    }
}

impl Gpu for StandardizedGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { g, x, width, divisor } = self;
        of_rows(device, "standardized_rows_gradient", &[g, x], width, x, &divisor.arguments())
    }
}
