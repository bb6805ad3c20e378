//! The device seam: runs a computation where its tensors lie.
//!
//! An operation checks its operands, records its gradient, and leaves the numbers to a struct of operands
//! (tensors and sizes) that implements [`Host`]. [`run`] is the only place that looks at the device.

use candle_core::{Device, DeviceLocation, Tensor};

use crate::{Error, Result};

/// A computation on the host: its operands. Their shapes were checked before.
pub(crate) trait Host: Sized {
    /// The result.
    type Output;

    /// Computes the result from operands that lie on the host.
    fn on_host(self) -> Result<Self::Output>;
}

/// Runs `work` on the device of its operand `like`.
///
/// # Errors
/// If there is no such computation on that device; those of the computation.
pub(crate) fn run<W: Host>(like: &Tensor, work: W) -> Result<W::Output> {
    match like.device() {
        Device::Cpu => work.on_host(),
        device => Err(Error::Device { kernel: name_of::<W>(), device: device_name(&device.location()) }),
    }
}

/// The last segment of a type's path, without its parameters.
fn name_of<W>() -> &'static str {
    let path = std::any::type_name::<W>().split('<').next().unwrap_or_default();
    path.rsplit("::").next().unwrap_or(path)
}

/// A device's name, as the command line takes it.
fn device_name(location: &DeviceLocation) -> String {
    match location {
        DeviceLocation::Cpu => "cpu".to_owned(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Twice<'a>(&'a [f32]);

    impl Host for Twice<'_> {
        type Output = Vec<f32>;

        fn on_host(self) -> Result<Vec<f32>> {
            Ok(self.0.iter().map(|value| 2.0 * value).collect())
        }
    }

    #[test]
    fn tensors_on_the_host_are_computed_there() {
        let like = Tensor::new(&[0f32], &Device::Cpu).unwrap();
        assert_eq!(run(&like, Twice(&[1.5, -2.0])).unwrap(), [3.0, -4.0]);
    }

    #[test]
    fn a_device_without_kernels_is_named_with_the_kernel_and_a_way_out() {
        let device = device_name(&DeviceLocation::Cuda { gpu_id: 1 });
        let error = Error::Device { kernel: name_of::<Twice>(), device };
        assert_eq!(
            error.to_string(),
            "Twice: its tensors are on cuda:1, and this operation runs on the CPU only; use the device cpu"
        );
    }
}
