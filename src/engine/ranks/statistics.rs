//! Statistics of batch norms over the parts of all ranks (`train.sync_bn`).

use std::cell::Cell;

use ckd_collective::Collective;
use ckd_kernels::norm::{Parts, over_parts};

use super::packet::{Packet, Reader};
use crate::config::Train;
use crate::engine::{EngineError, Result};

/// Refuses `train.sync_bn` unless each part of an update has a process of its own.
///
/// # Errors
/// [`EngineError::Alone`] says how many processes there must be.
pub(in crate::engine) fn check_statistics(ranks: &dyn Collective, train: &Train) -> Result<()> {
    let (parts, size) = (train.parts(), ranks.size());
    if !train.sync_bn || parts == size {
        return Ok(());
    }
    Err(EngineError::Alone(format!(
        "train.sync_bn takes the statistics of all parts of an update at once, so each part needs a process: start {parts} of \
         them, or set train.accumulate to {size}"
    )))
}

/// Runs the `pass` of this rank's part; its batch norms take the statistics of all ranks' parts if `train.sync_bn` says so.
///
/// # Errors
/// Errors of the pass; a rank that is late.
pub(in crate::engine) fn with_statistics<V>(
    ranks: &dyn Collective,
    train: &Train,
    pass: impl FnOnce() -> Result<V>,
) -> Result<V> {
    if !train.sync_bn || ranks.is_alone() {
        return pass();
    }
    let parts = OfRanks { ranks, lost: Cell::new(None) };
    let result = over_parts(&parts, pass);
    match parts.lost.into_inner() {
        Some(lost) => Err(lost),
        None => result,
    }
}

/// The parts of all ranks.
struct OfRanks<'r> {
    ranks: &'r dyn Collective,
    /// Error that the kernels cannot name.
    lost: Cell<Option<EngineError>>,
}

impl OfRanks<'_> {
    fn all(&self, own: &[f64]) -> Result<Vec<Vec<f64>>> {
        let mut packet = Packet::default();
        own.iter().for_each(|&number| packet.real(number));
        let all = self.ranks.all_gather(packet.into_bytes())?;
        let numbers = |bytes: &Vec<u8>| {
            let mut reader = Reader::of(bytes);
            let numbers = own.iter().map(|_| reader.real()).collect::<Result<Vec<f64>>>()?;
            if reader.is_empty() {
                Ok(numbers)
            } else {
                Err(EngineError::Damaged("it is too long".to_owned()))
            }
        };
        all.iter().map(numbers).collect()
    }
}

impl Parts for OfRanks<'_> {
    fn is_first(&self) -> bool {
        self.ranks.is_first()
    }

    fn gather(&self, own: &[f64]) -> ckd_kernels::Result<Vec<Vec<f64>>> {
        self.all(own).map_err(|error| {
            let reason = error.to_string();
            self.lost.set(Some(error));
            ckd_kernels::Error::Invalid { operation: "batch norm", reason }
        })
    }
}
