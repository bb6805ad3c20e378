//! Tests of the collective operations.

mod launcher;
mod mpi;
mod sums;
mod threads;
