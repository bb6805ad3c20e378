//! `--device`: where to compute.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;

/// A device by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor.
    Cpu,
    /// The first NVIDIA GPU; of several processes on a machine each has its own.
    AnyCuda,
    /// The NVIDIA GPU of that number.
    Cuda(usize),
}

/// A device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Not the name of a device.
    #[error("{0:?} is no device; give cpu, cuda for the first GPU, or cuda:N with N the number of the GPU")]
    Unknown(String),
    /// This program was built without CUDA.
    #[error(
        "this ckd-det was built without CUDA, so there is no {0}; \
         build it with `cargo build --release --features cuda` (needs NVIDIA's nvcc), or use --device cpu"
    )]
    NotCompiled(DeviceChoice),
    /// The GPU does not answer.
    #[error("cannot use {choice}: {source}; `nvidia-smi` lists the GPUs there are")]
    Unavailable {
        /// The device asked for.
        choice: DeviceChoice,
        /// Error of CUDA.
        source: ckd_kernels::Error,
    },
}

impl DeviceChoice {
    /// The device of the process that has so many others of its run before it on this machine.
    #[must_use]
    pub fn of_rank(self, local: usize) -> Self {
        if self == Self::AnyCuda { Self::Cuda(local) } else { self }
    }

    /// Opens the device.
    ///
    /// # Errors
    /// When the program has no CUDA, or the GPU cannot be used.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            #[cfg(not(feature = "cuda"))]
            Self::AnyCuda | Self::Cuda(_) => Err(DeviceError::NotCompiled(self.of_rank(0))),
            #[cfg(feature = "cuda")]
            Self::AnyCuda => self.of_rank(0).open(),
            #[cfg(feature = "cuda")]
            Self::Cuda(number) => ckd_kernels::cuda::open(number)
                .map_err(|source| DeviceError::Unavailable { choice: self, source }),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        match name.split_once(':') {
            None if name == "cpu" => Ok(Self::Cpu),
            None if name == "cuda" => Ok(Self::AnyCuda),
            Some(("cuda", number)) => {
                number.parse().map(Self::Cuda).map_err(|_| DeviceError::Unknown(name.to_owned()))
            }
            _ => Err(DeviceError::Unknown(name.to_owned())),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => formatter.write_str("cpu"),
            Self::AnyCuda => formatter.write_str("cuda"),
            Self::Cuda(number) => write!(formatter, "cuda:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_they_are_displayed() {
        for choice in [DeviceChoice::Cpu, DeviceChoice::AnyCuda, DeviceChoice::Cuda(0), DeviceChoice::Cuda(7)]
        {
            assert_eq!(choice.to_string().parse::<DeviceChoice>().expect("its own name"), choice);
        }
        assert_eq!(DeviceChoice::AnyCuda.of_rank(1), DeviceChoice::Cuda(1));
        assert_eq!(DeviceChoice::Cuda(0).of_rank(1), DeviceChoice::Cuda(0));
        assert_eq!(DeviceChoice::Cpu.of_rank(1), DeviceChoice::Cpu);
    }

    #[test]
    fn a_name_that_is_no_device_is_refused_with_the_valid_ones() {
        for name in ["", "gpu", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "cuda:0:0"] {
            let message = name.parse::<DeviceChoice>().expect_err(name).to_string();
            assert!(message.contains("cpu") && message.contains("cuda:N"), "{message}");
        }
    }
}
