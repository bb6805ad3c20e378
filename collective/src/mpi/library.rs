//! The MPI library of the launcher, and the values by which its ABI differs from others'.

use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;

use libloading::os::unix::{Library as Loaded, RTLD_GLOBAL, RTLD_NOW};

use crate::launcher::Family;
use crate::{Error, Launcher, Result};

/// The variable that names the file of the library.
const CHOICE: &str = "CKD_DET_MPI";

/// A handle of MPI as a number: an address, or an int in its lower half. Either travels in one register.
pub(super) type Handle = usize;

/// Values that the three ABIs write differently.
#[derive(Debug, Clone, Copy)]
pub(super) struct Abi {
    pub(super) world: Handle,
    pub(super) byte: Handle,
    pub(super) float: Handle,
    /// `MPI_SUM`.
    pub(super) sum: Handle,
    /// `MPI_STATUS_IGNORE`.
    pub(super) ignore: Handle,
    /// `MPI_THREAD_SERIALIZED`.
    pub(super) serialized: c_int,
}

/// A loaded library.
#[derive(Debug)]
pub(super) struct Library {
    /// Never unloaded: its threads and exit handlers may outlive MPI's use.
    pub(super) loaded: ManuallyDrop<Loaded>,
    pub(super) file: String,
    pub(super) abi: Abi,
}

impl Library {
    /// Loads the library that `launcher` belongs to.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn of(launcher: &Launcher) -> Result<Self> {
        let files = match std::env::var(CHOICE) {
            Ok(file) => vec![file],
            Err(_) => candidates(launcher.family).into_iter().map(str::to_owned).collect(),
        };
        let mut tried = Vec::new();
        for file in files {
            // SAFETY: an MPI library runs nothing but its own initialisers when it is loaded. Open MPI's parts find its
            // symbols among the global ones.
            match unsafe { Loaded::open(Some(&file), RTLD_NOW | RTLD_GLOBAL) } {
                Ok(loaded) => {
                    let abi = abi(&loaded, &file);
                    return Ok(Self { loaded: ManuallyDrop::new(loaded), file, abi });
                }
                Err(error) => tried.push(error.to_string()),
            }
        }
        Err(Error::NoLibrary { launcher: launcher.name.clone(), tried })
    }
}

/// Files to try, by the names that their versions have kept.
fn candidates(family: Option<Family>) -> Vec<&'static str> {
    let open_mpi = ["libmpi.so.40", "libmpi.40.dylib"];
    let standard = ["libmpi_abi.so.1", "libmpi_abi.so.0", "libmpi_abi.dylib"];
    let mpich = ["libmpich.so.12", "libmpi.so.12", "libmpi.12.dylib"];
    match family {
        Some(Family::OpenMpi) => open_mpi.into_iter().chain(standard).collect(),
        Some(Family::Mpich) => mpich.into_iter().chain(standard).collect(),
        None => standard.into_iter().chain(open_mpi).chain(mpich).collect(),
    }
}

/// The ABI of a library, told by what it exports.
fn abi(loaded: &Loaded, file: &str) -> Abi {
    let address = |name: &[u8]| {
        // SAFETY: the address of a symbol is taken, not read.
        unsafe { loaded.get::<*mut c_void>(name) }.ok().map(|symbol| symbol.as_raw_ptr() as Handle)
    };
    let of_open_mpi =
        [&b"ompi_mpi_comm_world\0"[..], b"ompi_mpi_byte\0", b"ompi_mpi_float\0", b"ompi_mpi_op_sum\0"];
    if let [Some(world), Some(byte), Some(float), Some(sum)] = of_open_mpi.map(address) {
        return Abi { world, byte, float, sum, ignore: 0, serialized: 2 };
    }
    // MPI 5, chapter 20. A library may have these functions beside an ABI of its own: the file's name decides.
    if file.contains("mpi_abi") && address(b"MPI_Abi_get_version\0").is_some() {
        return Abi { world: 0x101, byte: 0x247, float: 0x210, sum: 0x21, ignore: 0, serialized: 2048 };
    }
    let (world, byte, float, sum) = (0x4400_0000, 0x4c00_010d, 0x4c00_040a, 0x5800_0003);
    Abi { world, byte, float, sum, ignore: 1, serialized: 2 }
}
