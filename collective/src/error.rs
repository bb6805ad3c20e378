//! Errors of collective operations.

use std::time::Duration;

/// A collective operation failed, or the ranks could not be brought together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No MPI library could be loaded.
    #[error(
        "{launcher} started this process as one of several, but no MPI library could be loaded; install the one that belongs \
         to it, or name its file in CKD_DET_MPI ({})",
        tried.join("; ")
    )]
    NoLibrary {
        /// Name of the launcher.
        launcher: String,
        /// Each file with the loader's reason.
        tried: Vec<String>,
    },
    /// A library lacks a function, so it is no MPI library of a known ABI.
    #[error("{library} has no function {function}: it is no MPI library that this program can call")]
    NoFunction {
        /// The file.
        library: String,
        /// Name of the function.
        function: &'static str,
    },
    /// The library belongs to another launcher.
    #[error(
        "{launcher} started {expected} processes, but {library} ({version}) sees {found}: the library does not belong to this \
         launcher; use the launcher of that MPI, or name the launcher's library in CKD_DET_MPI"
    )]
    Mismatch {
        /// Name of the launcher.
        launcher: String,
        /// Processes that the launcher started.
        expected: usize,
        /// The file.
        library: String,
        /// The library's own name and version.
        version: String,
        /// Processes that the library sees.
        found: usize,
    },
    /// An MPI function failed.
    #[error("rank {rank} on {host}: {function} failed with code {code}")]
    Call {
        /// Rank that called it.
        rank: usize,
        /// Machine of the rank.
        host: String,
        /// Name of the function.
        function: &'static str,
        /// The error code of MPI.
        code: i32,
    },
    /// Some ranks did not come to an operation in time.
    #[error(
        "rank {rank} on {host} waited {} s in {operation} for {}",
        waited.as_secs(),
        named(late)
    )]
    Late {
        /// Rank that waited.
        rank: usize,
        /// Machine of the rank.
        host: String,
        /// Name of the operation.
        operation: &'static str,
        /// Time that it waited.
        waited: Duration,
        /// Ranks that were not heard of; empty where nobody can tell.
        late: Vec<usize>,
    },
    /// Another rank ended the run.
    #[error("rank {by} ended the run with exit code {code}")]
    Aborted {
        /// Rank that ended it.
        by: usize,
        /// Its exit code.
        code: u8,
    },
    /// A vector is longer than MPI can count.
    #[error("{bytes} bytes are more than one MPI call can move; use smaller buckets")]
    TooLong {
        /// Bytes of a piece.
        bytes: usize,
    },
    /// A transport of another crate failed.
    #[error("{reason}")]
    Transport {
        /// The reason, with the rank.
        reason: String,
    },
    /// This system has no MPI that is loaded at run time.
    #[error("MPI is loaded at run time on Unix systems only")]
    Unsupported,
}

/// The result of a collective operation.
pub type Result<T> = std::result::Result<T, Error>;

fn named(late: &[usize]) -> String {
    match late {
        [] => "the other ranks".to_owned(),
        [one] => format!("rank {one}"),
        several => {
            let names: Vec<String> = several.iter().map(usize::to_string).collect();
            format!("ranks {}", names.join(", "))
        }
    }
}
