//! Opening a GPU.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::result;
use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute;
use candle_core::{CudaDevice, Device};

use crate::Result;

/// Opens GPU `ordinal` with one stream for all threads.
///
/// A process opens a GPU once: candle takes two openings for two devices, whose tensors do not mix.
///
/// # Errors
/// If there is no such GPU, or its driver does not answer.
pub fn open(ordinal: usize) -> Result<Device> {
    // `Device::new_cuda` gives every thread a stream of its own, and nothing orders these.
    let device = Device::new_cuda_with_stream(ordinal)?;
    let Device::Cuda(cuda) = &device else { unreachable!("a CUDA device was opened") };
    // SAFETY: all work on this device is put into its one stream, in the order in which it is asked for.
    unsafe { cuda.disable_event_tracking() };
    keep_freed_memory(cuda)?;
    Ok(device)
}

/// Lets the driver's pool keep what is freed. By default it gives it back at every synchronisation, and asks
/// the system again.
fn keep_freed_memory(device: &CudaDevice) -> Result<()> {
    let mut threshold = u64::MAX;
    let gpu = device.cuda_stream().context().cu_device();
    // SAFETY: the attribute is a u64, which is read during the call.
    unsafe {
        let pool = result::device::get_default_mem_pool(gpu).w()?;
        let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()).w()?;
    }
    Ok(())
}

/// The most bytes that the program has held of the memory of `device` so far.
///
/// # Errors
/// If the driver does not say.
pub(crate) fn peak_memory(device: &CudaDevice) -> Result<u64> {
    of_pool(device, CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH)
}

/// Bytes that the program holds of the memory of `device`.
///
/// # Errors
/// If the driver does not say.
pub(crate) fn held_memory(device: &CudaDevice) -> Result<u64> {
    of_pool(device, CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)
}

fn of_pool(device: &CudaDevice, attribute: CUmemPool_attribute) -> Result<u64> {
    let mut bytes = 0u64;
    let gpu = device.cuda_stream().context().cu_device();
    // SAFETY: the attribute is a u64, which is written during the call.
    unsafe {
        let pool = result::device::get_default_mem_pool(gpu).w()?;
        result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()).w()?;
    }
    Ok(bytes)
}
