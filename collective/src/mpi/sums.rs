//! Sums under way: pieces go to the rank that adds them, and the sums of all pieces come back.

use std::collections::{BTreeMap, VecDeque};

use super::calls::{Calls, Comm, Request};
use crate::Result;
use crate::tree::add_vectors;

/// The sums of a rank, in the order in which they were started.
#[derive(Debug)]
pub(super) struct Sums {
    /// The communicator of the all-to-alls.
    spreading: Comm,
    /// The communicator of the all-gathers.
    collecting: Comm,
    started: u64,
    queue: VecDeque<Sum>,
    done: BTreeMap<u64, Vec<f32>>,
}

#[derive(Debug)]
struct Sum {
    number: u64,
    /// Numbers of the caller, without what fills the last piece.
    length: usize,
    stage: Stage,
}

/// How far a sum is. Buffers stay where they are on the heap until their request is done.
#[derive(Debug)]
enum Stage {
    Spreading { request: Request, pieces: Vec<f32>, _own: Vec<f32> },
    Added { piece: Vec<f32> },
    Collecting { request: Request, whole: Vec<f32>, _piece: Vec<f32> },
    Collected,
}

impl Sums {
    pub(super) fn on(spreading: Comm, collecting: Comm) -> Self {
        Self { spreading, collecting, started: 0, queue: VecDeque::new(), done: BTreeMap::new() }
    }

    /// Starts a sum.
    pub(super) fn start(&mut self, calls: &Calls, mut values: Vec<f32>) -> Result<u64> {
        let length = values.len();
        self.started += 1;
        if length == 0 {
            self.done.insert(self.started, values);
            return Ok(self.started);
        }
        values.resize(length.div_ceil(calls.size) * calls.size, 0.0);
        let mut pieces = vec![0.0; values.len()];
        // SAFETY: both vectors are kept in the stage, unmoved on the heap, until the request is done.
        let request = unsafe { calls.all_to_all(self.spreading, &values, &mut pieces)? };
        let stage = Stage::Spreading { request, pieces, _own: values };
        self.queue.push_back(Sum { number: self.started, length, stage });
        Ok(self.started)
    }

    /// Moves all sums on.
    pub(super) fn advance(&mut self, calls: &Calls) -> Result<()> {
        // All-gathers begin in the order of the sums on every rank.
        let mut may_collect = true;
        for sum in &mut self.queue {
            if let Stage::Spreading { request, pieces, .. } = &mut sum.stage
                && calls.is_done(request)?
            {
                let width = pieces.len() / calls.size;
                let mut piece = std::mem::take(pieces);
                add_vectors(&mut piece, width);
                piece.truncate(width);
                sum.stage = Stage::Added { piece };
            }
            if let Stage::Added { piece } = &mut sum.stage
                && may_collect
            {
                let piece = std::mem::take(piece);
                let mut whole = vec![0.0; piece.len() * calls.size];
                // SAFETY: both vectors are kept in the stage, unmoved on the heap, until the request is done.
                let request = unsafe { calls.all_gather(self.collecting, &piece, &mut whole)? };
                sum.stage = Stage::Collecting { request, whole, _piece: piece };
            }
            may_collect &= matches!(sum.stage, Stage::Collecting { .. } | Stage::Collected);
            if let Stage::Collecting { request, whole, .. } = &mut sum.stage
                && calls.is_done(request)?
            {
                let mut whole = std::mem::take(whole);
                whole.truncate(sum.length);
                self.done.insert(sum.number, whole);
                sum.stage = Stage::Collected;
            }
        }
        self.queue.retain(|sum| !matches!(sum.stage, Stage::Collected));
        Ok(())
    }

    /// A finished sum.
    pub(super) fn take(&mut self, number: u64) -> Option<Vec<f32>> {
        self.done.remove(&number)
    }

    pub(super) fn are_under_way(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Leaves the buffers of what is under way to MPI for good.
    pub(super) fn give_up(&mut self) {
        std::mem::forget(std::mem::take(&mut self.queue));
    }
}
