//! Putting a kernel with its arguments into the stream of a GPU.

use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaStream, LaunchConfig, PushKernelArg};

use super::family::{Element, Family, Parameter, kernel};
use crate::{Error, Result};

/// An argument of a kernel. Addresses may be 0 where the kernel's text allows it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Argument {
    Address(u64, Parameter),
    F32(f32),
    F64(f64),
    I32(i32),
    I64(i64),
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl From<f64> for Argument {
    fn from(value: f64) -> Self {
        Self::F64(value)
    }
}

impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Self::I32(value)
    }
}

impl From<i64> for Argument {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}

/// A size as kernels take it: 32 bits, or an error before anything is launched.
pub(crate) fn int(size: usize) -> Result<i32> {
    i32::try_from(size)
        .map_err(|_| Error::invalid("launch", format!("{size} is more than a kernel's numbers hold")))
}

impl Argument {
    /// Whether a kernel that was compiled for maps of `element` takes this argument where its text declares `wanted`.
    fn fits(&self, wanted: Parameter, element: Element) -> bool {
        match (wanted, element) {
            // No address of an f32 tensor is none of a map either.
            (Parameter::Elements, Element::F32) => self.kind() == Parameter::F32s,
            (Parameter::Elements, Element::Bf16) => {
                self.kind() == Parameter::Bf16s || matches!(self, Self::Address(0, Parameter::F32s))
            }
            _ => self.kind() == wanted,
        }
    }

    fn kind(&self) -> Parameter {
        match self {
            Self::Address(_, kind) => *kind,
            Self::F32(_) => Parameter::F32,
            Self::F64(_) => Parameter::F64,
            Self::I32(_) => Parameter::I32,
            Self::I64(_) => Parameter::I64,
        }
    }
}

/// Arguments of a launch, each made by `Argument::from`.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => {
        &[$($crate::cuda::Argument::from($argument)),*]
    };
}
pub(crate) use arguments;

/// Threads of a block that runs over numbers one by one.
pub(crate) const THREADS: u32 = 256;

/// Blocks of [`THREADS`] threads for `count` of them.
pub(crate) fn blocks(count: usize) -> Result<[u32; 3]> {
    let blocks = count.div_ceil(THREADS as usize).max(1);
    match i32::try_from(blocks) {
        Ok(blocks) => Ok([blocks as u32, 1, 1]),
        Err(_) => Err(Error::invalid("launch", format!("{count} numbers are too many for one launch"))),
    }
}

/// Launches kernel `name` of `family` with `grid` blocks of `block` threads: the one for bf16 maps if an argument is one.
///
/// The kinds of the arguments are checked against the kernel's text: all maps of a launch have one type. Buffers must have the sizes that the text
/// reads and writes: that is the caller's part, and the tests' (device memory ends at a guard page there).
///
/// # Errors
/// If an argument has another kind than the text declares; errors of the driver.
pub(crate) fn launch(
    device: &CudaDevice,
    family: Family,
    name: &'static str,
    grid: [u32; 3],
    block: [u32; 2],
    arguments: &[Argument],
) -> Result<()> {
    launch_in(&device.cuda_stream(), device, (family, name), grid, block, arguments)
}

/// Launches like [`launch`], in a stream beside that of the computations.
///
/// # Errors
/// Launches like [`launch`].
pub(super) fn launch_in(
    stream: &CudaStream,
    device: &CudaDevice,
    (family, name): (Family, &'static str),
    grid: [u32; 3],
    block: [u32; 2],
    arguments: &[Argument],
) -> Result<()> {
    let is_bf16 = arguments.iter().any(|argument| argument.kind() == Parameter::Bf16s);
    let element = if is_bf16 { Element::Bf16 } else { Element::F32 };
    let kernel = kernel(device, family, element, name)?;
    let mut given = arguments.iter().zip(&*kernel.parameters);
    let fits = arguments.len() == kernel.parameters.len()
        && given.all(|(argument, wanted)| argument.fits(*wanted, element));
    if !fits {
        let given: Vec<Parameter> = arguments.iter().map(Argument::kind).collect();
        let reason = format!("kernel {name} wants {:?}, got {given:?}", kernel.parameters);
        return Err(Error::invalid("launch", reason));
    }
    let config = LaunchConfig {
        grid_dim: (grid[0], grid[1], grid[2]),
        block_dim: (block[0], block[1], 1),
        shared_mem_bytes: 0,
    };
    let mut builder = stream.launch_builder(&kernel.function);
    for argument in arguments {
        match argument {
            Argument::Address(address, _) => builder.arg(address),
            Argument::F32(value) => builder.arg(value),
            Argument::F64(value) => builder.arg(value),
            Argument::I32(value) => builder.arg(value),
            Argument::I64(value) => builder.arg(value),
        };
    }
    // SAFETY: number and kinds of the arguments were checked; sizes of buffers are the caller's part.
    unsafe { builder.launch(config) }.map_err(candle_core::Error::wrap)?;
    crate::transfers::count_launch();
    Ok(())
}
