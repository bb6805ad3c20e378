//! MPI, loaded at run time: no header, no link-time dependency, one binary for all libraries.
//!
//! | module | what lives there |
//! |---|---|
//! | `library` | finding the library that belongs to the launcher, and its ABI |
//! | `calls` | the functions of MPI that are called, each checked |
//! | `sums` | sums under way: all-to-all, tree, all-gather |
//! | `notices` | who is late |
//!
//! Bytes are all that MPI moves here; additions are done by this crate, so that their order is ours. Sums travel on two
//! communicators of their own: on each, operations begin in the order of the sums, as MPI demands, however fast each is.

#[cfg(unix)]
mod calls;
#[cfg(unix)]
mod library;
#[cfg(unix)]
mod notices;
#[cfg(unix)]
mod rank;
#[cfg(unix)]
mod sums;

#[cfg(unix)]
pub use rank::Mpi;

#[cfg(not(unix))]
mod none;

#[cfg(not(unix))]
pub use none::Mpi;
