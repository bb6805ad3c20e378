//! Threads of one process as ranks: the operations of a run of several processes, for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::tree::add_vectors;
use crate::{Collective, Error, Local, Pending, Result};

/// A rank that is a thread.
#[derive(Debug)]
pub struct Thread {
    rank: usize,
    shared: Arc<Shared>,
    own: Mutex<Own>,
}

/// State of one rank.
#[derive(Debug)]
struct Own {
    /// Operations that it began.
    begun: u64,
    patience: Duration,
}

#[derive(Debug)]
struct Shared {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that the ranks brought to each operation, and how many ranks took the result.
    operations: BTreeMap<u64, Operation>,
    aborted: Option<(usize, u8)>,
}

#[derive(Debug, Default)]
struct Operation {
    brought: BTreeMap<usize, Vec<u8>>,
    taken: usize,
}

/// Runs `of_rank` on `size` threads, which are the ranks of one run; the results by rank.
///
/// # Panics
/// If a rank panics.
pub fn run<T: Send>(size: usize, of_rank: impl Fn(&Thread) -> T + Sync) -> Vec<T> {
    let ranks = ranks(size);
    std::thread::scope(|scope| {
        let of_rank = &of_rank;
        let threads: Vec<_> = ranks.iter().map(|rank| scope.spawn(move || of_rank(rank))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// The ranks of one run, each for a thread of its own.
pub fn ranks(size: usize) -> Vec<Thread> {
    let shared = Arc::new(Shared { size, state: Mutex::default(), changed: Condvar::new() });
    let own = || Mutex::new(Own { begun: 0, patience: Duration::from_secs(600) });
    (0..size).map(|rank| Thread { rank, shared: shared.clone(), own: own() }).collect()
}

impl Thread {
    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings bytes to the next operation.
    fn bring(&self, bytes: Vec<u8>) -> u64 {
        let mut own = self.own();
        own.begun += 1;
        self.state().operations.entry(own.begun).or_default().brought.insert(self.rank, bytes);
        self.shared.changed.notify_all();
        own.begun
    }

    /// Waits until all have brought theirs.
    fn take(&self, number: u64, operation: &'static str) -> Result<Vec<Vec<u8>>> {
        let patience = self.own().patience;
        let (began, mut state) = (Instant::now(), self.state());
        loop {
            if let Some((by, code)) = state.aborted {
                return Err(Error::Aborted { by, code });
            }
            let open = state.operations.entry(number).or_default();
            if open.brought.len() == self.shared.size {
                let all = open.brought.values().cloned().collect();
                open.taken += 1;
                if open.taken == self.shared.size {
                    state.operations.remove(&number);
                }
                return Ok(all);
            }
            let Some(left) = patience.checked_sub(began.elapsed()) else {
                let late = (0..self.shared.size).filter(|rank| !open.brought.contains_key(rank)).collect();
                return Err(Error::Late {
                    rank: self.rank,
                    host: self.host(),
                    operation,
                    waited: patience,
                    late,
                });
            };
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Collective for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.shared.size
    }

    fn local(&self) -> Local {
        Local { rank: self.rank, size: self.shared.size }
    }

    fn host(&self) -> String {
        "this machine".to_owned()
    }

    fn set_patience(&self, patience: Duration) {
        self.own().patience = patience;
    }

    fn start_sum(&self, values: Vec<f32>) -> Result<Pending> {
        Ok(Pending(self.bring(values.iter().flat_map(|value| value.to_le_bytes()).collect())))
    }

    fn poll(&self) -> Result<()> {
        Ok(())
    }

    fn finish_sum(&self, sum: Pending) -> Result<Vec<f32>> {
        let all = self.take(sum.0, "a sum")?;
        let width = all.first().map_or(0, Vec::len) / size_of::<f32>();
        let number = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let mut vectors: Vec<f32> =
            all.iter().flat_map(|bytes| bytes.chunks_exact(size_of::<f32>())).map(number).collect();
        add_vectors(&mut vectors, width);
        vectors.truncate(width);
        Ok(vectors)
    }

    fn all_gather(&self, mine: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let number = self.bring(mine);
        self.take(number, "a gather")
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let number = self.bring(if self.rank == 0 { bytes } else { Vec::new() });
        Ok(self.take(number, "a broadcast")?.swap_remove(0))
    }

    /// Ends this thread by a panic; the operations of the others fail with [`Error::Aborted`].
    fn abort(&self, code: u8) -> ! {
        self.state().aborted = Some((self.rank, code));
        self.shared.changed.notify_all();
        std::panic::panic_any(format!("rank {} ended the run with exit code {code}", self.rank))
    }
}
