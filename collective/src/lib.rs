//! Collective operations of the processes (ranks) of a data-parallel run: ordered sums, gathers and broadcasts.
//!
//! | module | what lives there |
//! |---|---|
//! | [`launcher`] | [`Launcher`]: which launcher (`mpirun`, `srun`) started this process |
//! | [`tree`] | [`Tree`]: sums as a balanced binary tree over an index |
//! | [`solo`] | [`Solo`]: one process |
//! | [`threads`] | threads as ranks, for tests |
//! | [`mpi`] | [`Mpi`]: MPI, loaded at run time |
//!
//! A sum of floating-point numbers depends on its order. [`Collective::start_sum`] adds as a tree over the rank, so the
//! bits are those of a [`Tree`] in one process.

#![warn(missing_docs)]

mod error;
pub mod launcher;
pub mod mpi;
pub mod solo;
pub mod threads;
pub mod tree;

use std::any::Any;
use std::fmt::Debug;
use std::time::Duration;

pub use error::{Error, Result};
pub use launcher::Launcher;
pub use mpi::Mpi;
pub use solo::Solo;
pub use tree::Tree;

/// Place of a rank among the ranks of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// Ranks of this machine before this one.
    pub rank: usize,
    /// Ranks of this machine.
    pub size: usize,
}

/// Ticket of a sum that was started.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a sum that is never finished keeps its memory"]
pub struct Pending(pub(crate) u64);

impl Pending {
    /// The ticket of this number, for a transport of another crate.
    pub fn numbered(number: u64) -> Self {
        Self(number)
    }

    /// Number of the ticket.
    pub fn number(&self) -> u64 {
        self.0
    }
}

/// The processes of one run. All ranks call the same operations in the same order.
pub trait Collective: Debug + Send + Sync {
    /// Number of this process, from 0.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// Place among the ranks of this machine.
    fn local(&self) -> Local;

    /// Name of this machine.
    fn host(&self) -> String;

    /// Longest time that an operation waits for the other ranks.
    fn set_patience(&self, patience: Duration);

    /// Starts the sum of the `values` of all ranks, as many on each, as a tree over the rank.
    ///
    /// # Errors
    /// If the transport fails.
    fn start_sum(&self, values: Vec<f32>) -> Result<Pending>;

    /// Moves the started sums on, without waiting. A long computation calls it now and then: the transport makes no
    /// progress of its own.
    ///
    /// # Errors
    /// If the transport fails.
    fn poll(&self) -> Result<()>;

    /// Waits for a sum.
    ///
    /// # Errors
    /// [`Error::Late`] names the ranks that did not come in time.
    fn finish_sum(&self, sum: Pending) -> Result<Vec<f32>>;

    /// Gathers the bytes of each rank at all ranks, in order of the ranks.
    ///
    /// # Errors
    /// [`Error::Late`] names the ranks that did not come in time.
    fn all_gather(&self, mine: Vec<u8>) -> Result<Vec<Vec<u8>>>;

    /// Sends the bytes of rank 0 to all; those of the others are ignored.
    ///
    /// # Errors
    /// [`Error::Late`] names the ranks that did not come in time.
    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>>;

    /// Ends all ranks at once with this exit code.
    fn abort(&self, code: u8) -> !;

    /// This transport, if it also sums vectors that lie on GPUs: its own type knows how.
    fn on_gpus(&self) -> Option<&dyn Any> {
        None
    }

    /// Whether this is the rank that writes files and talks to the user.
    fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether there is one rank only.
    fn is_alone(&self) -> bool {
        self.size() == 1
    }

    /// Whether any rank says `mine`.
    ///
    /// # Errors
    /// As [`all_gather`](Self::all_gather).
    fn any(&self, mine: bool) -> Result<bool> {
        if self.is_alone() {
            return Ok(mine);
        }
        Ok(self.all_gather(vec![u8::from(mine)])?.iter().any(|said| said.first() == Some(&1)))
    }
}
