//! Errors of operations.

/// Error of an operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Shapes, types or parameters that do not fit the operation.
    #[error("{operation}: {reason}")]
    Invalid {
        /// The operation's name.
        operation: &'static str,
        /// Reason, with the shapes.
        reason: String,
    },
    /// Tensors on a device that the operation does not run on.
    #[error(
        "{kernel}: its tensors are on {device}, and this operation runs on the CPU only; use the device cpu"
    )]
    Device {
        /// The name of the computation.
        kernel: &'static str,
        /// The device of the tensors, as the command line names it.
        device: String,
    },
    /// A GPU has too little memory left.
    #[error(
        "out of GPU memory: {asked} MiB were asked for, {free} of {total} MiB are free, and this program holds {held}; \
         train.batch_size lower with train.accumulate higher, input.long_side_px lower, engine.precision = \"bf16\" or \
         engine.recompute = [\"layer1\", \"layer2\"] need less"
    )]
    OutOfMemory {
        /// MiB asked for.
        asked: usize,
        /// MiB that this program holds.
        held: u64,
        /// MiB left on the device.
        free: usize,
        /// MiB of the device.
        total: usize,
    },
    /// A file of kernels does not compile.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The C++ compiler of CUDA refused a file of kernels.
#[derive(Debug, thiserror::Error)]
#[error("NVRTC cannot compile the kernels {family} for {architecture}: {reason}")]
pub struct CompileError {
    /// File of the kernels.
    pub family: String,
    /// Architecture compiled for, such as compute_90.
    pub architecture: String,
    /// Message of the compiler.
    pub reason: String,
}

/// The result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn invalid(operation: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { operation, reason: reason.into() }
    }
}
