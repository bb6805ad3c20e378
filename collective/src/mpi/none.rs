//! Systems without MPI at run time.

use std::convert::Infallible;
use std::time::Duration;

use crate::{Collective, Error, Launcher, Local, Pending, Result};

/// A process of an MPI job; none exists on this system.
#[derive(Debug)]
pub struct Mpi(Infallible);

impl Mpi {
    /// Refuses: MPI is loaded at run time on Unix systems only.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn join(_: &Launcher) -> Result<Self> {
        Err(Error::Unsupported)
    }

    /// The library's own sum over the ranks.
    ///
    /// # Errors
    /// None: no process exists.
    pub fn sum_of_library(&self, _: &[f32]) -> Result<Vec<f32>> {
        match self.0 {}
    }

    /// Name and version of the library.
    pub fn version(&self) -> String {
        match self.0 {}
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        match self.0 {}
    }

    fn size(&self) -> usize {
        match self.0 {}
    }

    fn local(&self) -> Local {
        match self.0 {}
    }

    fn host(&self) -> String {
        match self.0 {}
    }

    fn set_patience(&self, _: Duration) {
        match self.0 {}
    }

    fn start_sum(&self, _: Vec<f32>) -> Result<Pending> {
        match self.0 {}
    }

    fn poll(&self) -> Result<()> {
        match self.0 {}
    }

    fn finish_sum(&self, _: Pending) -> Result<Vec<f32>> {
        match self.0 {}
    }

    fn all_gather(&self, _: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        match self.0 {}
    }

    fn broadcast(&self, _: Vec<u8>) -> Result<Vec<u8>> {
        match self.0 {}
    }

    fn abort(&self, _: u8) -> ! {
        match self.0 {}
    }
}
