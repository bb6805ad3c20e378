//! A process of an MPI job.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::calls::{Calls, Comm, Request};
use super::library::Library;
use super::notices::Notices;
use super::sums::Sums;
use crate::{Collective, Error, Launcher, Local, Pending, Result};

/// Longest time that an operation waits, until [`Collective::set_patience`] says otherwise.
const PATIENCE: Duration = Duration::from_secs(600);

/// A wait of this length is told to the other ranks; as long, they are given to tell theirs.
const LONG: Duration = Duration::from_secs(1);

/// Most bytes that one call moves.
const CHUNK: usize = 1 << 28;

/// Tests of a request without sleep.
const EAGER: u32 = 200;

/// Time between two tests of a request that takes long.
const PAUSE: Duration = Duration::from_micros(50);

/// A process of an MPI job. Dropping it ends the use of MPI.
#[derive(Debug)]
pub struct Mpi {
    calls: Calls,
    control: Comm,
    local: Local,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    sums: Sums,
    notices: Notices,
    /// Operations that waited for others.
    operations: u64,
    patience: Duration,
    /// Whether an operation was given up, so that its buffers are still MPI's.
    is_broken: bool,
}

impl Mpi {
    /// Joins the job that `launcher` started: loads its library and initialises MPI.
    ///
    /// # Errors
    /// No library; a library of another launcher.
    pub fn join(launcher: &Launcher) -> Result<Self> {
        let calls = Calls::initialise(Library::of(launcher)?)?;
        if let Some(expected) = launcher.size.filter(|&expected| expected != calls.size) {
            return Err(Error::Mismatch {
                launcher: launcher.name.clone(),
                expected,
                library: calls.library.file.clone(),
                version: calls.version(),
                found: calls.size,
            });
        }
        let (spreading, collecting, control) = (calls.duplicate()?, calls.duplicate()?, calls.duplicate()?);
        let state = State {
            sums: Sums::on(spreading, collecting),
            notices: Notices::on(calls.world(), &calls),
            operations: 0,
            patience: PATIENCE,
            is_broken: false,
        };
        let (rank, host) = (calls.rank, calls.host.clone().into_bytes());
        let mut own = Self { calls, control, local: Local { rank: 0, size: 1 }, state: Mutex::new(state) };
        let hosts = own.all_gather(host)?;
        let here = |(_, name): &(usize, &Vec<u8>)| **name == hosts[rank];
        own.local = Local {
            rank: hosts.iter().enumerate().take(rank).filter(here).count(),
            size: hosts.iter().enumerate().filter(here).count(),
        };
        Ok(own)
    }

    /// Name and version of the library, with its file.
    pub fn version(&self) -> String {
        format!("{} ({})", self.calls.version(), self.calls.library.file)
    }

    /// The library's own sum over the ranks, `MPI_Allreduce`, to measure [`start_sum`](Collective::start_sum) against. Its
    /// order, and so its bits, are the library's choice; it waits for ever.
    ///
    /// # Errors
    /// If the library fails.
    pub fn sum_of_library(&self, values: &[f32]) -> Result<Vec<f32>> {
        let _others_wait = self.state();
        let mut sum = vec![0.0; values.len()];
        self.calls.all_reduce(self.control, values, &mut sum)?;
        Ok(sum)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `is_done`, and names who is late.
    fn wait(
        &self,
        state: &mut State,
        operation: &'static str,
        mut is_done: impl FnMut(&mut State) -> Result<bool>,
    ) -> Result<()> {
        state.operations += 1;
        let (began, number, mut tests) = (Instant::now(), state.operations, 0u32);
        loop {
            if is_done(state)? {
                return Ok(());
            }
            tests = tests.saturating_add(1);
            if tests < EAGER {
                std::hint::spin_loop();
                continue;
            }
            std::thread::sleep(PAUSE);
            let waited = began.elapsed();
            if waited < LONG.min(state.patience / 2) {
                continue;
            }
            state.notices.tell(&self.calls, number)?;
            state.notices.hear(&self.calls)?;
            if waited >= state.patience.saturating_add(LONG) {
                state.is_broken = true;
                let late = state.notices.missing(&self.calls, number);
                let (rank, host) = (self.calls.rank, self.calls.host.clone());
                return Err(Error::Late { rank, host, operation, waited, late });
            }
        }
    }

    /// Waits for a request whose buffers the caller keeps; gives them up to MPI for good if it does not come.
    fn settle<B>(
        &self,
        state: &mut State,
        operation: &'static str,
        mut request: Request,
        buffers: B,
    ) -> Result<B> {
        let is_done = |state: &mut State| {
            // Sums move on while something else is waited for.
            state.sums.advance(&self.calls)?;
            self.calls.is_done(&mut request)
        };
        match self.wait(state, operation, is_done) {
            Ok(()) => Ok(buffers),
            Err(error) => {
                // MPI may still write into them.
                std::mem::forget(buffers);
                Err(error)
            }
        }
    }

    /// Gathers equally many bytes of each rank, one after the other.
    fn gather_equal(&self, state: &mut State, mine: Vec<u8>) -> Result<Vec<u8>> {
        let mut all = vec![0; mine.len() * self.calls.size];
        // SAFETY: both vectors are kept until the request is done.
        let request = unsafe { self.calls.all_gather(self.control, &mine, &mut all)? };
        Ok(self.settle(state, "a gather", request, (mine, all))?.1)
    }

    fn send_from_first(&self, state: &mut State, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
        // SAFETY: the vector is kept until the request is done.
        let request = unsafe { self.calls.broadcast(self.control, &mut bytes)? };
        self.settle(state, "a broadcast", request, bytes)
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.calls.rank
    }

    fn size(&self) -> usize {
        self.calls.size
    }

    fn local(&self) -> Local {
        self.local
    }

    fn host(&self) -> String {
        self.calls.host.clone()
    }

    fn set_patience(&self, patience: Duration) {
        self.state().patience = patience;
    }

    fn start_sum(&self, values: Vec<f32>) -> Result<Pending> {
        self.state().sums.start(&self.calls, values).map(Pending)
    }

    fn poll(&self) -> Result<()> {
        self.state().sums.advance(&self.calls)
    }

    fn finish_sum(&self, sum: Pending) -> Result<Vec<f32>> {
        let mut state = self.state();
        let mut found = None;
        self.wait(&mut state, "a sum", |state| {
            state.sums.advance(&self.calls)?;
            found = state.sums.take(sum.0);
            Ok(found.is_some())
        })?;
        Ok(found.unwrap_or_default())
    }

    fn all_gather(&self, mine: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let mut state = self.state();
        let lengths = self.gather_equal(&mut state, (mine.len() as u64).to_le_bytes().to_vec())?;
        let lengths: Vec<usize> = lengths
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()) as usize)
            .collect();
        let (longest, room) = (lengths.iter().copied().max().unwrap_or(0), CHUNK / self.calls.size);
        let mut all: Vec<Vec<u8>> = lengths.iter().map(|&length| Vec::with_capacity(length)).collect();
        for start in (0..longest).step_by(room.max(1)) {
            let width = room.min(longest - start);
            let mut piece = mine.get(start..mine.len().min(start + width)).unwrap_or_default().to_vec();
            piece.resize(width, 0);
            let pieces = self.gather_equal(&mut state, piece)?;
            for ((whole, piece), &length) in all.iter_mut().zip(pieces.chunks_exact(width)).zip(&lengths) {
                whole.extend(&piece[..width.min(length.saturating_sub(start))]);
            }
        }
        Ok(all)
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let mut state = self.state();
        let length = self.send_from_first(&mut state, (bytes.len() as u64).to_le_bytes().to_vec())?;
        let length = u64::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
        let mut whole = Vec::with_capacity(length);
        for start in (0..length).step_by(CHUNK) {
            let width = CHUNK.min(length - start);
            let mut piece = bytes.get(start..bytes.len().min(start + width)).unwrap_or_default().to_vec();
            piece.resize(width, 0);
            whole.append(&mut self.send_from_first(&mut state, piece)?);
        }
        Ok(whole)
    }

    fn abort(&self, code: u8) -> ! {
        self.calls.abort(code)
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        let mut state = self.state();
        if !state.is_broken && !state.sums.are_under_way() {
            let patience = state.patience;
            // What fails now harms nothing: the run is over.
            let _ = state.notices.end(&self.calls, patience);
            self.calls.finalise();
        }
        state.sums.give_up();
        state.notices.give_up();
    }
}
