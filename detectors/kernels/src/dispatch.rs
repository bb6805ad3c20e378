//! The device seam: runs a computation where its tensors lie.
//!
//! An operation checks its operands, records its gradient, and leaves the numbers to a struct of operands
//! (tensors and sizes) that implements [`Host`] and, in a program with CUDA, [`Gpu`]. [`run`] is the only
//! place that looks at the device. A computation without a GPU form does not compile there.

use candle_core::{Device, DeviceLocation, Tensor};

use crate::{Error, Result, trace};

/// A computation on the host: its operands. Their shapes were checked before.
pub(crate) trait Host: Sized {
    /// The result.
    type Output;

    /// Computes the result from operands that lie on the host.
    fn on_host(self) -> Result<Self::Output>;
}

/// A computation on an NVIDIA GPU too.
#[cfg(feature = "cuda")]
pub(crate) trait Gpu: Host {
    /// Computes the result from operands that lie on `device`.
    fn on_gpu(self, device: &candle_core::CudaDevice) -> Result<Self::Output>;
}

/// Computations for every device that the program knows.
#[cfg(feature = "cuda")]
pub(crate) trait Anywhere: Gpu {}
#[cfg(feature = "cuda")]
impl<W: Gpu> Anywhere for W {}
/// Computations for every device that the program knows.
#[cfg(not(feature = "cuda"))]
pub(crate) trait Anywhere: Host {}
#[cfg(not(feature = "cuda"))]
impl<W: Host> Anywhere for W {}

/// Runs `work` on the device of its operand `like`.
///
/// # Errors
/// If there is no such computation on that device; those of the computation.
pub(crate) fn run<W: Anywhere>(like: &Tensor, work: W) -> Result<W::Output> {
    trace::spanned(path_of::<W>(), like.device(), || match like.device() {
        Device::Cpu => work.on_host(),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => work.on_gpu(device),
        device => Err(Error::Device { kernel: name_of::<W>(), device: device_name(&device.location()) }),
    })
}

/// A type's path in its crate, without its parameters.
fn path_of<W>() -> &'static str {
    let path = std::any::type_name::<W>().split('<').next().unwrap_or_default();
    path.split_once("::").map_or(path, |(_, path)| path)
}

/// The last segment of that path.
fn name_of<W>() -> &'static str {
    let path = path_of::<W>();
    path.rsplit("::").next().unwrap_or(path)
}

/// A device's name, as the command line takes it.
pub(crate) fn device_name(location: &DeviceLocation) -> String {
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

    #[cfg(feature = "cuda")]
    impl Gpu for Twice<'_> {
        fn on_gpu(self, _: &candle_core::CudaDevice) -> Result<Vec<f32>> {
            self.on_host()
        }
    }

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
