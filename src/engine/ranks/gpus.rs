//! Processes that compute on a GPU each: sums by NCCL, without a way through the host.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use ckd_collective::{Collective, Error, Local, Pending, Result};
use ckd_kernels::cuda::nccl::{Id, Nccl, NcclError, Sum};

/// Longest time that an operation waits, until [`Collective::set_patience`] says otherwise.
const PATIENCE: Duration = Duration::from_secs(600);

/// Time between two looks at an operation that takes long.
const PAUSE: Duration = Duration::from_micros(50);

/// A process of several that compute on a GPU each.
///
/// Everything beside the sums goes the way of the launcher that started the processes (MPI), or where they were started on one
/// machine without any, through NCCL too.
#[derive(Debug)]
pub struct Gpus {
    nccl: Nccl,
    launcher: Option<Arc<dyn Collective>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    patience: Duration,
    begun: u64,
    /// Sums of numbers from the host, with their length.
    sums: BTreeMap<u64, (Sum, usize)>,
}

impl Gpus {
    /// Joins the `size` processes of this machine that know `id`, as number `rank`, with an opened GPU.
    ///
    /// # Errors
    /// No NCCL; a GPU that another process has joined with.
    pub fn on_one_machine(
        device: &Device,
        id: Id,
        rank: usize,
        size: usize,
    ) -> std::result::Result<Self, NcclError> {
        Ok(Self::new(Nccl::join(device, id, rank, size)?, None))
    }

    /// Joins the processes of `launcher`, each with an opened GPU.
    ///
    /// # Errors
    /// No NCCL on rank 0; a GPU that another process has joined with; a rank that is late.
    pub fn under(launcher: Arc<dyn Collective>, device: &Device) -> std::result::Result<Self, GpusError> {
        let id = match launcher.is_first() {
            true => ckd_kernels::cuda::nccl::unique_id()?.to_bytes(),
            false => Vec::new(),
        };
        let id = launcher.broadcast(id)?;
        let id = Id::from_bytes(&id).ok_or_else(|| Error::Transport {
            reason: format!("{} bytes are no identity of NCCL", id.len()),
        })?;
        let nccl = Nccl::join(device, id, launcher.rank(), launcher.size())?;
        Ok(Self::new(nccl, Some(launcher)))
    }

    fn new(nccl: Nccl, launcher: Option<Arc<dyn Collective>>) -> Self {
        let state = State { patience: PATIENCE, begun: 0, sums: BTreeMap::new() };
        Self { nccl, launcher, state: Mutex::new(state) }
    }

    /// Starts the sum over the ranks of a vector on the GPU; its length is a multiple of their number.
    pub(super) fn start_sum_of(&self, vector: &Tensor) -> Result<Sum> {
        self.nccl.start_sum(vector).map_err(|error| self.failed(&error))
    }

    /// Waits for a sum.
    pub(super) fn finish_sum_of(&self, sum: Sum) -> Result<Tensor> {
        self.wait("a sum", || sum.is_done())?;
        self.nccl.take(sum).map_err(|error| self.failed(&error))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `is_done`. NCCL cannot tell who is late.
    fn wait(
        &self,
        operation: &'static str,
        is_done: impl Fn() -> std::result::Result<bool, NcclError>,
    ) -> Result<()> {
        let (began, patience) = (Instant::now(), self.state().patience);
        while !is_done().map_err(|error| self.failed(&error))? {
            self.nccl.check().map_err(|error| self.failed(&error))?;
            let waited = began.elapsed();
            if waited > patience {
                let (rank, host, late) = (self.rank(), self.host(), Vec::new());
                return Err(Error::Late { rank, host, operation, waited, late });
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn failed(&self, error: &NcclError) -> Error {
        Error::Transport { reason: format!("rank {} on {}: {error}", self.rank(), self.host()) }
    }

    /// Gathers equally many bytes of each rank, one after the other.
    fn gather_equal(&self, mine: &[u8]) -> Result<Vec<u8>> {
        let gather = self.nccl.start_gather(mine).map_err(|error| self.failed(&error))?;
        self.wait("a gather", || gather.is_done())?;
        self.nccl.take_bytes(gather).map_err(|error| self.failed(&error))
    }
}

/// The processes could not be brought together.
#[derive(Debug, thiserror::Error)]
pub enum GpusError {
    /// By NCCL.
    #[error(transparent)]
    Nccl(#[from] NcclError),
    /// By their launcher.
    #[error(transparent)]
    Collective(#[from] Error),
}

impl Collective for Gpus {
    fn rank(&self) -> usize {
        self.nccl.rank()
    }

    fn size(&self) -> usize {
        self.nccl.size()
    }

    fn local(&self) -> Local {
        let here = Local { rank: self.nccl.rank(), size: self.nccl.size() };
        self.launcher.as_ref().map_or(here, |launcher| launcher.local())
    }

    fn host(&self) -> String {
        self.launcher.as_ref().map_or_else(|| "this machine".to_owned(), |launcher| launcher.host())
    }

    fn set_patience(&self, patience: Duration) {
        self.state().patience = patience;
        if let Some(launcher) = &self.launcher {
            launcher.set_patience(patience);
        }
    }

    fn start_sum(&self, mut values: Vec<f32>) -> Result<Pending> {
        let length = values.len();
        values.resize(length.max(1).next_multiple_of(self.size()), 0.0);
        let padded = values.len();
        let vector = Tensor::from_vec(values, padded, &self.nccl.device());
        let vector = vector.map_err(|error| self.failed(&error.into()))?;
        let sum = self.start_sum_of(&vector)?;
        let mut state = self.state();
        state.begun += 1;
        let number = state.begun;
        state.sums.insert(number, (sum, length));
        Ok(Pending::numbered(number))
    }

    fn poll(&self) -> Result<()> {
        // The GPU moves them on.
        self.launcher.as_ref().map_or(Ok(()), |launcher| launcher.poll())
    }

    fn finish_sum(&self, sum: Pending) -> Result<Vec<f32>> {
        let Some((sum, length)) = self.state().sums.remove(&sum.number()) else { return Ok(Vec::new()) };
        let sum = self.finish_sum_of(sum)?;
        let mut values = sum.to_vec1::<f32>().map_err(|error| self.failed(&error.into()))?;
        values.truncate(length);
        Ok(values)
    }

    fn all_gather(&self, mine: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        if let Some(launcher) = &self.launcher {
            return launcher.all_gather(mine);
        }
        let lengths = self.gather_equal(&(mine.len() as u64).to_le_bytes())?;
        let lengths: Vec<usize> = lengths
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()) as usize)
            .collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if longest == 0 {
            return Ok(vec![Vec::new(); self.size()]);
        }
        let mut padded = mine;
        padded.resize(longest, 0);
        let all = self.gather_equal(&padded)?;
        Ok(all.chunks_exact(longest).zip(lengths).map(|(bytes, length)| bytes[..length].to_vec()).collect())
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        if let Some(launcher) = &self.launcher {
            return launcher.broadcast(bytes);
        }
        let mine = if self.is_first() { bytes } else { Vec::new() };
        Ok(self.all_gather(mine)?.swap_remove(0))
    }

    fn abort(&self, code: u8) -> ! {
        match &self.launcher {
            Some(launcher) => launcher.abort(code),
            // Who started the processes ends the others.
            None => std::process::exit(code.into()),
        }
    }

    fn on_gpus(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }
}
