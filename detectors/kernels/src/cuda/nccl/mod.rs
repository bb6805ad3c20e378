//! NCCL: sums of vectors over the GPUs of several processes, in an order of our own.
//!
//! | module | what lives there |
//! |---|---|
//! | `library` | the library, loaded at run time, and its functions |
//! | `sums` | sums and gathers under way, in a stream of their own |
//!
//! The library moves numbers; additions are a kernel of this crate, a tree over the ranks. The bits are those of the same
//! additions on a host.

mod library;
mod sums;

pub use library::{Id, NcclError, Version, unique_id, version};
pub use sums::{Gather, Nccl, Sum};
