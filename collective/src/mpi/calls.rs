//! The functions of MPI that this crate calls, with checked results.

use std::ffi::{c_char, c_int, c_void};
use std::time::Duration;

use super::library::{Abi, Handle, Library};
use crate::{Error, Result};

/// Longest name that a library gives for itself or a machine (`MPI_MAX_LIBRARY_VERSION_STRING`).
const NAME: usize = 8192;
/// Time that a launcher has to pass on what a process said before it ended all.
const PASSED_ON: Duration = Duration::from_millis(200);

/// An operation under way. Its buffers must live, and stay untouched, until [`Calls::is_done`] says so.
#[derive(Debug)]
pub(super) struct Request(Handle);

/// A communicator.
#[derive(Debug, Clone, Copy)]
pub(super) struct Comm(Handle);

/// Declares the table of functions, and how it is filled.
macro_rules! functions {
    ($($field:ident: $name:literal ($($argument:ty),*);)*) => {
        struct Functions { $($field: unsafe extern "C" fn($($argument),*) -> c_int,)* }

        impl Functions {
            /// # Safety
            /// `library` must be an MPI library.
            unsafe fn of(library: &Library) -> Result<Self> {
                $(
                    // SAFETY: MPI declares the function so; handles are pointers or ints, which travel alike.
                    let $field = unsafe {
                        library.loaded.get::<unsafe extern "C" fn($($argument),*) -> c_int>(concat!($name, "\0").as_bytes())
                    };
                    let $field = *$field.map_err(|_| Error::NoFunction {
                        library: library.file.clone(),
                        function: $name,
                    })?;
                )*
                Ok(Self { $($field,)* })
            }
        }
    };
}

functions! {
    init: "MPI_Init_thread" (*mut c_int, *mut c_void, c_int, *mut c_int);
    finalize: "MPI_Finalize" ();
    abort: "MPI_Abort" (Handle, c_int);
    rank: "MPI_Comm_rank" (Handle, *mut c_int);
    size: "MPI_Comm_size" (Handle, *mut c_int);
    duplicate: "MPI_Comm_dup" (Handle, *mut Handle);
    version: "MPI_Get_library_version" (*mut c_char, *mut c_int);
    machine: "MPI_Get_processor_name" (*mut c_char, *mut c_int);
    test: "MPI_Test" (*mut Handle, *mut c_int, Handle);
    all_to_all: "MPI_Ialltoall" (*const c_void, c_int, Handle, *mut c_void, c_int, Handle, Handle, *mut Handle);
    all_gather: "MPI_Iallgather" (*const c_void, c_int, Handle, *mut c_void, c_int, Handle, Handle, *mut Handle);
    all_reduce: "MPI_Allreduce" (*const c_void, *mut c_void, c_int, Handle, Handle, Handle);
    broadcast: "MPI_Ibcast" (*mut c_void, c_int, Handle, c_int, Handle, *mut Handle);
    send: "MPI_Isend" (*const c_void, c_int, Handle, c_int, c_int, Handle, *mut Handle);
    receive: "MPI_Irecv" (*mut c_void, c_int, Handle, c_int, c_int, Handle, *mut Handle);
}

/// A library that was initialised. Any thread may call it, one at a time: `MPI_THREAD_SERIALIZED`.
pub(super) struct Calls {
    functions: Functions,
    abi: Abi,
    pub(super) library: Library,
    pub(super) rank: usize,
    pub(super) size: usize,
    pub(super) host: String,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {} by {}", self.rank, self.size, self.library.file)
    }
}

impl Calls {
    /// Initialises MPI.
    ///
    /// # Errors
    /// If a function is missing or fails.
    pub(super) fn initialise(library: Library) -> Result<Self> {
        // SAFETY: `Library` loaded a file that is named as an MPI library; every function is looked up before one is called.
        let functions = unsafe { Functions::of(&library)? };
        let abi = library.abi;
        let mut calls = Self { functions, abi, library, rank: 0, size: 1, host: String::new() };
        let (mut provided, mut rank, mut size) = (0, 0, 0);
        let (argc, argv) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: MPI allows no arguments; results are written to places that live.
        let code = unsafe { (calls.functions.init)(argc, argv, abi.serialized, &raw mut provided) };
        calls.check("MPI_Init_thread", code)?;
        // SAFETY: MPI is initialised; `world` is its communicator of all processes.
        let code = unsafe { (calls.functions.rank)(abi.world, &raw mut rank) };
        calls.check("MPI_Comm_rank", code)?;
        // SAFETY: as above.
        let code = unsafe { (calls.functions.size)(abi.world, &raw mut size) };
        calls.check("MPI_Comm_size", code)?;
        calls.rank = usize::try_from(rank).unwrap_or_default();
        calls.size = usize::try_from(size).unwrap_or(1);
        calls.host = calls.name(calls.functions.machine);
        Ok(calls)
    }

    /// Name and version of the library.
    pub(super) fn version(&self) -> String {
        let whole = self.name(self.functions.version);
        whole
            .lines()
            .next()
            .unwrap_or_default()
            .split(", package")
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    /// Text that a function writes into a buffer.
    fn name(&self, function: unsafe extern "C" fn(*mut c_char, *mut c_int) -> c_int) -> String {
        let (mut buffer, mut length) = (vec![0u8; NAME], 0);
        // SAFETY: the buffer is as long as the longest name that MPI may write.
        let code = unsafe { function(buffer.as_mut_ptr().cast(), &raw mut length) };
        let length = usize::try_from(length).unwrap_or_default().min(NAME);
        let name = String::from_utf8_lossy(&buffer[..length]);
        if code == 0 { name.trim_end_matches('\0').trim().to_owned() } else { String::new() }
    }

    pub(super) fn world(&self) -> Comm {
        Comm(self.abi.world)
    }

    /// A communicator of the same processes, on which operations do not meet those of others.
    pub(super) fn duplicate(&self) -> Result<Comm> {
        let mut comm = 0;
        // SAFETY: all processes call this together, right after the initialisation.
        let code = unsafe { (self.functions.duplicate)(self.abi.world, &raw mut comm) };
        self.check("MPI_Comm_dup", code).map(|()| Comm(comm))
    }

    /// Starts an all-to-all: piece `i` of `send` goes to rank `i`.
    ///
    /// # Safety
    /// Both vectors must live, and stay untouched, until the request is done.
    pub(super) unsafe fn all_to_all(&self, comm: Comm, send: &[f32], receive: &mut [f32]) -> Result<Request> {
        let count = self.count(size_of_val(send) / self.size)?;
        debug_assert_eq!(send.len(), receive.len());
        let (from, to, byte) = (send.as_ptr().cast(), receive.as_mut_ptr().cast(), self.abi.byte);
        self.started("MPI_Ialltoall", |request| {
            // SAFETY: both buffers hold `size` pieces of `count` bytes; the caller keeps them.
            unsafe { (self.functions.all_to_all)(from, count, byte, to, count, byte, comm.0, request) }
        })
    }

    /// Starts an all-gather of the bytes of `send`, as many on each rank.
    ///
    /// # Safety
    /// Both vectors must live, and stay untouched, until the request is done.
    pub(super) unsafe fn all_gather<T: Copy>(
        &self,
        comm: Comm,
        send: &[T],
        receive: &mut [T],
    ) -> Result<Request> {
        let count = self.count(size_of_val(send))?;
        debug_assert_eq!(send.len() * self.size, receive.len());
        let (from, to, byte) = (send.as_ptr().cast(), receive.as_mut_ptr().cast(), self.abi.byte);
        self.started("MPI_Iallgather", |request| {
            // SAFETY: `receive` has room for `count` bytes of each rank; the caller keeps both.
            unsafe { (self.functions.all_gather)(from, count, byte, to, count, byte, comm.0, request) }
        })
    }

    /// Sums `send` over the ranks into `receive`, in an order that is the library's; waits.
    pub(super) fn all_reduce(&self, comm: Comm, send: &[f32], receive: &mut [f32]) -> Result<()> {
        let count = self.count(send.len())?;
        assert_eq!(send.len(), receive.len(), "a sum is as long as its items");
        let (from, to) = (send.as_ptr().cast(), receive.as_mut_ptr().cast());
        let Abi { float, sum, .. } = self.abi;
        // SAFETY: both buffers hold `count` floats, and live until the call ends.
        let code = unsafe { (self.functions.all_reduce)(from, to, count, float, sum, comm.0) };
        self.check("MPI_Allreduce", code)
    }

    /// Starts a broadcast from rank 0.
    ///
    /// # Safety
    /// The bytes must live, and stay untouched, until the request is done.
    pub(super) unsafe fn broadcast(&self, comm: Comm, bytes: &mut [u8]) -> Result<Request> {
        let count = self.count(bytes.len())?;
        let (at, byte) = (bytes.as_mut_ptr().cast(), self.abi.byte);
        self.started("MPI_Ibcast", |request| {
            // SAFETY: the buffer holds `count` bytes; the caller keeps it.
            unsafe { (self.functions.broadcast)(at, count, byte, 0, comm.0, request) }
        })
    }

    /// Starts to send a notice to a rank.
    ///
    /// # Safety
    /// The bytes must live, and stay untouched, until the request is done.
    pub(super) unsafe fn send(&self, comm: Comm, bytes: &[u8; 8], to: usize, tag: c_int) -> Result<Request> {
        let (at, byte, to) = (bytes.as_ptr().cast(), self.abi.byte, self.count(to)?);
        self.started("MPI_Isend", |request| {
            // SAFETY: the buffer holds 8 bytes; the caller keeps it.
            unsafe { (self.functions.send)(at, 8, byte, to, tag, comm.0, request) }
        })
    }

    /// Starts to receive a notice from a rank.
    ///
    /// # Safety
    /// The bytes must live, and stay untouched, until the request is done.
    pub(super) unsafe fn receive(
        &self,
        comm: Comm,
        bytes: &mut [u8; 8],
        from: usize,
        tag: c_int,
    ) -> Result<Request> {
        let (at, byte, from) = (bytes.as_mut_ptr().cast(), self.abi.byte, self.count(from)?);
        self.started("MPI_Irecv", |request| {
            // SAFETY: the buffer holds 8 bytes; the caller keeps it.
            unsafe { (self.functions.receive)(at, 8, byte, from, tag, comm.0, request) }
        })
    }

    /// Whether an operation has come to its end. Moves all operations on.
    pub(super) fn is_done(&self, request: &mut Request) -> Result<bool> {
        let mut done = 0;
        // SAFETY: the request was started by this library, and `ignore` is its word for no status. A request that is done
        // becomes MPI_REQUEST_NULL, which is done.
        let code = unsafe { (self.functions.test)(&raw mut request.0, &raw mut done, self.abi.ignore) };
        self.check("MPI_Test", code).map(|()| done != 0)
    }

    /// Ends all processes, once the launcher has had time to pass on what this one said: MPICH's ends at once, and with it what
    /// it has not read yet.
    pub(super) fn abort(&self, code: u8) -> ! {
        std::thread::sleep(PASSED_ON);
        // SAFETY: MPI is initialised.
        unsafe { (self.functions.abort)(self.abi.world, code.into()) };
        std::process::exit(code.into())
    }

    /// Ends the use of MPI; no function may be called afterwards.
    pub(super) fn finalise(&self) {
        // SAFETY: no sum is under way, and `Mpi` calls this once, when it is dropped.
        unsafe { (self.functions.finalize)() };
    }

    fn started(&self, function: &'static str, start: impl FnOnce(*mut Handle) -> c_int) -> Result<Request> {
        let mut request = 0;
        let code = start(&raw mut request);
        self.check(function, code).map(|()| Request(request))
    }

    fn count(&self, number: usize) -> Result<c_int> {
        c_int::try_from(number).map_err(|_| Error::TooLong { bytes: number })
    }

    fn check(&self, function: &'static str, code: c_int) -> Result<()> {
        match code {
            0 => Ok(()),
            _ => Err(Error::Call { rank: self.rank, host: self.host.clone(), function, code }),
        }
    }
}
