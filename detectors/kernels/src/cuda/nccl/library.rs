//! NVIDIA's library, loaded at run time: a program runs without it until several GPUs are asked for.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::LazyLock;

use libloading::Library;

/// The variable that names the file of the library.
const CHOICE: &str = "CKD_DET_NCCL";

/// Files to try, by the names that their versions have kept.
const FILES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// `ncclSuccess` and `ncclInProgress`.
const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;

/// Types of numbers as NCCL counts them (`ncclDataType_t`).
pub(super) const BYTE: c_int = 1;
pub(super) const FLOAT: c_int = 7;

/// NCCL cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NcclError {
    /// No library could be loaded.
    #[error(
        "NVIDIA's NCCL, by which several GPUs train together, could not be loaded; install libnccl2, or name its file in \
         CKD_DET_NCCL ({})",
        tried.join("; ")
    )]
    NoLibrary {
        /// Each file with the loader's reason.
        tried: Vec<String>,
    },
    /// The library lacks a function.
    #[error("{file} has no function {function}: NCCL 2.7 or newer is needed")]
    NoFunction {
        /// The file.
        file: String,
        /// Name of the function.
        function: &'static str,
    },
    /// A function failed.
    #[error("{function} failed: {reason}; NCCL_DEBUG=WARN makes NCCL say more")]
    Call {
        /// Name of the function.
        function: &'static str,
        /// The library's reason.
        reason: String,
    },
    /// An operation on the GPU failed.
    #[error(transparent)]
    Kernel(#[from] crate::Error),
}

impl From<candle_core::Error> for NcclError {
    fn from(error: candle_core::Error) -> Self {
        Self::Kernel(error.into())
    }
}

/// The result of a call.
pub(super) type Result<T> = std::result::Result<T, NcclError>;

/// Identity of a communicator, which one process makes and all must know.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Id([c_char; 128]);

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Id(..)")
    }
}

impl Id {
    /// Its bytes.
    pub fn to_bytes(self) -> Vec<u8> {
        self.0.iter().map(|&byte| byte as u8).collect()
    }

    /// The identity of these bytes; `None` if they are not 128.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 128] = bytes.try_into().ok()?;
        Some(Self(bytes.map(|byte| byte as c_char)))
    }
}

/// A communicator of NCCL.
pub(super) type Comm = *mut c_void;

/// A stream of CUDA.
type Stream = *mut c_void;

/// Declares the table of functions, and how it is filled.
macro_rules! functions {
    ($($field:ident: $name:literal ($($argument:ty),*);)*) => {
        pub(super) struct Functions {
            file: String,
            error_string: unsafe extern "C" fn(c_int) -> *const c_char,
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> c_int,)*
        }

        impl Functions {
            /// # Safety
            /// `library` must be NCCL.
            unsafe fn of(library: &Library, file: String) -> Result<Self> {
                $(
                    // SAFETY: NCCL declares the function so.
                    let $field = unsafe {
                        library.get::<unsafe extern "C" fn($($argument),*) -> c_int>(concat!($name, "\0").as_bytes())
                    };
                    let $field = *$field.map_err(|_| NcclError::NoFunction { file: file.clone(), function: $name })?;
                )*
                // SAFETY: as above.
                let error_string = unsafe { library.get(b"ncclGetErrorString\0") };
                let missing = |_| NcclError::NoFunction { file: file.clone(), function: "ncclGetErrorString" };
                let error_string = *error_string.map_err(missing)?;
                Ok(Self { file, error_string, $($field,)* })
            }
        }
    };
}

functions! {
    get_version: "ncclGetVersion" (*mut c_int);
    get_unique_id: "ncclGetUniqueId" (*mut Id);
    init_rank: "ncclCommInitRank" (*mut Comm, c_int, Id, c_int);
    destroy: "ncclCommDestroy" (Comm);
    async_error: "ncclCommGetAsyncError" (Comm, *mut c_int);
    group_start: "ncclGroupStart" ();
    group_end: "ncclGroupEnd" ();
    send: "ncclSend" (*const c_void, usize, c_int, c_int, Comm, Stream);
    receive: "ncclRecv" (*mut c_void, usize, c_int, c_int, Comm, Stream);
    all_gather: "ncclAllGather" (*const c_void, *mut c_void, usize, c_int, Comm, Stream);
}

impl Functions {
    /// The functions of the library, which is loaded once.
    pub(super) fn loaded() -> Result<&'static Self> {
        static LOADED: LazyLock<Result<Functions>> = LazyLock::new(load);
        match &*LOADED {
            Ok(functions) => Ok(functions),
            Err(NcclError::NoFunction { file, function }) => {
                Err(NcclError::NoFunction { file: file.clone(), function })
            }
            Err(NcclError::NoLibrary { tried }) => Err(NcclError::NoLibrary { tried: tried.clone() }),
            Err(error) => Err(NcclError::NoLibrary { tried: vec![error.to_string()] }),
        }
    }

    /// The error that a call's `code` stands for.
    pub(super) fn check(&self, function: &'static str, code: c_int) -> Result<()> {
        if matches!(code, SUCCESS | IN_PROGRESS) {
            return Ok(());
        }
        // SAFETY: NCCL returns a text that it keeps, for any code.
        let text = unsafe { (self.error_string)(code) };
        let reason = match text.is_null() {
            true => format!("code {code}"),
            // SAFETY: it ends with a zero.
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
        };
        Err(NcclError::Call { function, reason })
    }
}

fn load() -> Result<Functions> {
    let chosen = std::env::var(CHOICE);
    let files = chosen.map_or_else(|_| FILES.map(str::to_owned).to_vec(), |file| vec![file]);
    let mut tried = Vec::new();
    for file in files {
        // SAFETY: NCCL runs nothing but its own initialisers when it is loaded.
        match unsafe { Library::new(&file) } {
            // It stays loaded: its threads may outlive its use. SAFETY: the file is named as NCCL.
            Ok(library) => return unsafe { Functions::of(Box::leak(Box::new(library)), file) },
            Err(error) => tried.push(error.to_string()),
        }
    }
    Err(NcclError::NoLibrary { tried })
}

/// Version of a library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Major, minor and patch.
    pub numbers: (i32, i32, i32),
    /// The file.
    pub file: String,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor, patch) = self.numbers;
        write!(f, "{major}.{minor}.{patch} ({})", self.file)
    }
}

/// The version of the library.
///
/// # Errors
/// If it is not there.
pub fn version() -> Result<Version> {
    let functions = Functions::loaded()?;
    let mut number = 0;
    // SAFETY: NCCL writes one number.
    let code = unsafe { (functions.get_version)(&raw mut number) };
    functions.check("ncclGetVersion", code)?;
    // Up to 2.8 the minor number had one digit less.
    let numbers = match number < 10_000 {
        true => (number / 1000, number % 1000 / 100, number % 100),
        false => (number / 10_000, number % 10_000 / 100, number % 100),
    };
    Ok(Version { numbers, file: functions.file.clone() })
}

/// A fresh identity. The process that makes it must live until all have joined.
///
/// # Errors
/// If the library is not there, or finds no network.
pub fn unique_id() -> Result<Id> {
    let functions = Functions::loaded()?;
    let mut id = Id([0; 128]);
    // SAFETY: NCCL writes 128 bytes.
    let code = unsafe { (functions.get_unique_id)(&raw mut id) };
    functions.check("ncclGetUniqueId", code)?;
    Ok(id)
}
