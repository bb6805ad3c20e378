//! GPUs, driver and NVIDIA libraries of a machine.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::cuda_backend::cudarc::{cudnn, nvrtc};

use crate::Result;

/// GPUs, and the versions of what they are used through.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Newest CUDA that the driver knows: 1000 times the major number and 10 times the minor one.
    pub driver: i32,
    /// CUDA that the program was built for, in the same form.
    pub built_for: i32,
    /// Version of the runtime compiler.
    pub nvrtc: Option<(i32, i32)>,
    /// Version of cuDNN as its library gives it.
    pub cudnn: usize,
    /// GPUs that the driver shows (`CUDA_VISIBLE_DEVICES` hides others).
    pub gpus: Vec<GpuInfo>,
}

/// One GPU.
#[derive(Debug, Clone)]
pub struct GpuInfo {
    /// Number: N of `cuda:N`.
    pub ordinal: usize,
    /// Name of the model.
    pub name: String,
    /// Memory in bytes.
    pub memory: usize,
    /// Compute capability, such as (9, 0).
    pub compute_capability: (i32, i32),
}

/// Asks the driver.
///
/// # Errors
/// If there is no driver that answers.
pub fn machine() -> Result<Machine> {
    result::init().w()?;
    let mut driver = 0;
    // SAFETY: the driver writes one number.
    unsafe { sys::cuDriverGetVersion(&raw mut driver) }.result().w()?;
    let count = result::device::get_count().w()?;
    let gpus = (0..count).map(gpu).collect::<Result<Vec<_>>>()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the compiler writes two numbers.
    let answered = unsafe { nvrtc::sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    let nvrtc = answered.result().is_ok().then_some((major, minor));
    Ok(Machine { driver, built_for: BUILT_FOR, nvrtc, cudnn: cudnn::result::get_version(), gpus })
}

/// CUDA 13.0: of the toolkit that docs/GPU.md names and the bindings are made for.
const BUILT_FOR: i32 = 13_000;

fn gpu(ordinal: i32) -> Result<GpuInfo> {
    let device = result::device::get(ordinal).w()?;
    let attribute = |attribute| {
        // SAFETY: `device` was got from the driver.
        unsafe { result::device::get_attribute(device, attribute) }.w()
    };
    Ok(GpuInfo {
        ordinal: ordinal as usize,
        name: result::device::get_name(device).w()?,
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }.w()?,
        compute_capability: (
            attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
    })
}
