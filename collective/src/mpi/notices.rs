//! Who is late: a rank that waits long tells the others in which operation, so that each knows who does not.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use super::calls::{Calls, Comm, Request};
use crate::Result;

const TAG: c_int = 1;

/// The operation of a rank that is about to end.
const END: u64 = u64::MAX;

/// Time between two looks for notices.
const PAUSE: Duration = Duration::from_micros(50);

/// Notices of ranks that wait.
#[derive(Debug)]
pub(super) struct Notices {
    comm: Comm,
    /// The operation in which this rank last told that it waits.
    told: u64,
    /// By rank, what comes next from it; the boxes stay where they are.
    coming: Vec<Option<(Request, Box<[u8; 8]>)>>,
    /// By rank, the latest operation in which it waited.
    heard: Vec<u64>,
    sent: Vec<(Request, Box<[u8; 8]>)>,
}

impl Notices {
    pub(super) fn on(comm: Comm, calls: &Calls) -> Self {
        let coming = (0..calls.size).map(|_| None).collect();
        Self { comm, told: 0, coming, heard: vec![0; calls.size], sent: Vec::new() }
    }

    /// Tells the others, once, that this rank waits in `operation`.
    pub(super) fn tell(&mut self, calls: &Calls, operation: u64) -> Result<()> {
        if self.told == operation {
            return Ok(());
        }
        self.told = operation;
        for to in (0..calls.size).filter(|&to| to != calls.rank) {
            let bytes = Box::new(operation.to_le_bytes());
            // SAFETY: the box is kept beside its request.
            let request = unsafe { calls.send(self.comm, &bytes, to, TAG)? };
            self.sent.push((request, bytes));
        }
        Ok(())
    }

    /// Takes in what the others told.
    pub(super) fn hear(&mut self, calls: &Calls) -> Result<()> {
        for from in (0..calls.size).filter(|&from| from != calls.rank) {
            // Nothing comes after its last notice, and no receive may be left open.
            while self.heard[from] != END {
                if self.coming[from].is_none() {
                    let mut bytes = Box::new([0; 8]);
                    // SAFETY: the box is kept beside its request.
                    let request = unsafe { calls.receive(self.comm, &mut bytes, from, TAG)? };
                    self.coming[from] = Some((request, bytes));
                }
                let Some((request, bytes)) = &mut self.coming[from] else { break };
                if !calls.is_done(request)? {
                    break;
                }
                self.heard[from] = self.heard[from].max(u64::from_le_bytes(**bytes));
                self.coming[from] = None;
            }
        }
        let mut index = 0;
        while index < self.sent.len() {
            match calls.is_done(&mut self.sent[index].0)? {
                true => drop(self.sent.swap_remove(index)),
                false => index += 1,
            }
        }
        Ok(())
    }

    /// Ranks that do not wait in `operation`.
    pub(super) fn missing(&self, calls: &Calls, operation: u64) -> Vec<usize> {
        (0..calls.size).filter(|&rank| rank != calls.rank && self.heard[rank] < operation).collect()
    }

    /// Takes in all notices of the others, up to their last ones, for at most so long: a library may complain at its end of
    /// messages that nobody received.
    pub(super) fn end(&mut self, calls: &Calls, patience: Duration) -> Result<()> {
        let began = Instant::now();
        self.tell(calls, END)?;
        loop {
            self.hear(calls)?;
            let is_heard = |rank: usize| rank == calls.rank || self.heard[rank] == END;
            if (self.sent.is_empty() && (0..calls.size).all(is_heard)) || began.elapsed() > patience {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Leaves the buffers of what is under way to MPI for good.
    pub(super) fn give_up(&mut self) {
        std::mem::forget(std::mem::take(&mut self.coming));
        std::mem::forget(std::mem::take(&mut self.sent));
    }
}
