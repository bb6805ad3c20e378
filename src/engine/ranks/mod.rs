//! Several processes (ranks) in one run: what they tell each other.
//!
//! An update is `P` parts (batches). One process makes them one after the other, `W` processes make `P/W` each: same
//! mathematics, and the same bits where a rank's parts are a power of two. Rank 0 alone reads and writes the run's folder.
//!
//! | module | what lives there |
//! |---|---|
//! | `buckets` | gradients on their way, in the memory of the host or of a GPU |
//! | `gpus` | processes that compute on a GPU each |
//! | `packet` | numbers and tensors as bytes |
//! | `report` | what all ranks learn of each part of an update |
//! | `rows` | rows of all parts, which methods look at |
//! | `statistics` | statistics of batch norms over all parts |
//! | `sums` | sums of gradients while the walk back goes on; side effects of passes |

mod buckets;
#[cfg(feature = "cuda")]
mod gpus;
mod packet;
mod report;
mod rows;
mod statistics;
mod sums;

use std::ops::Range;
use std::time::Duration;

use candle_core::Tensor;
use ckd_collective::Collective;
use ckd_detectors::param::write_in_place;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{EngineError, Result};
use crate::data::position::Share;

#[cfg(feature = "cuda")]
pub use gpus::{Gpus, GpusError};
use packet::garbled;
pub(super) use packet::{Packet, Reader};
pub(super) use report::{PartReport, Report};
pub(super) use rows::{Collecting, Rows};
pub(super) use statistics::{check_statistics, with_statistics};
pub(super) use sums::{Plan, Summing, effects_over_ranks};

/// The parts of an update that a rank makes.
///
/// # Errors
/// [`EngineError::Parts`] if the ranks cannot share them evenly.
pub(super) fn own_parts(ranks: &dyn Collective, parts: u64) -> Result<Range<u64>> {
    let size = ranks.size() as u64;
    if !parts.is_multiple_of(size) {
        return Err(EngineError::Parts { ranks: size, parts, advice: divisors_near(parts, size) });
    }
    let (own, rank) = (parts / size, ranks.rank() as u64);
    Ok(rank * own..(rank + 1) * own)
}

/// Advice on the numbers of processes that share `parts` evenly, and of parts that `size` processes do.
fn divisors_near(parts: u64, size: u64) -> String {
    let divides = |count: &u64| parts.is_multiple_of(*count);
    let below = (1..size.min(parts + 1)).rev().find(divides);
    let above = (size + 1..=parts).find(divides);
    let counts: Vec<String> = below.into_iter().chain(above).map(|count| count.to_string()).collect();
    let (fewer, more) = (parts / size * size, parts.div_ceil(size) * size);
    let wanted = if fewer == 0 { more.to_string() } else { format!("{fewer} or {more}") };
    format!("start {} of them, or set train.accumulate to {wanted}", counts.join(" or "))
}

/// The result of `of_first` on rank 0, at all ranks.
///
/// # Errors
/// Errors of `of_first`, on rank 0; the other ranks then wait until the job is ended.
pub(super) fn from_first<V: Serialize + DeserializeOwned>(
    ranks: &dyn Collective,
    of_first: impl FnOnce() -> Result<V>,
) -> Result<V> {
    if ranks.is_alone() {
        return of_first();
    }
    if ranks.is_first() {
        let value = of_first()?;
        ranks.broadcast(serde_json::to_vec(&value).expect("a plain structure has a JSON form"))?;
        return Ok(value);
    }
    let bytes = ranks.broadcast(Vec::new())?;
    serde_json::from_slice(&bytes).map_err(|error| garbled(&error))
}

/// Does `of_first` on rank 0 alone.
///
/// # Errors
/// Errors of `of_first`.
pub(super) fn on_first<V>(ranks: &dyn Collective, of_first: impl FnOnce() -> Result<V>) -> Result<Option<V>> {
    if ranks.is_first() { of_first().map(Some) } else { Ok(None) }
}

/// Puts the elements of rank 0's `tensors` into those of all ranks.
///
/// # Errors
/// If a tensor cannot be read or written.
pub(super) fn spread<'t>(ranks: &dyn Collective, tensors: impl Iterator<Item = &'t Tensor>) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    for tensor in tensors {
        let mut packet = Packet::default();
        if ranks.is_first() {
            packet.tensor(tensor)?;
        }
        let bytes = ranks.broadcast(packet.into_bytes())?;
        if !ranks.is_first() {
            write_in_place(tensor, &Reader::of(&bytes).tensor(tensor.device())?)?;
        }
    }
    Ok(())
}

/// Checks that all ranks hold the same `tensors`, bit for bit.
///
/// # Errors
/// [`EngineError::RanksDiffer`] names the ranks that do not hold those of rank 0.
pub(super) fn check_same<'t>(
    ranks: &dyn Collective,
    step: u64,
    tensors: impl Iterator<Item = &'t Tensor>,
) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    let mut hasher = blake3::Hasher::new();
    for tensor in tensors {
        let mut packet = Packet::default();
        packet.tensor(tensor)?;
        hasher.update(&packet.into_bytes());
    }
    let all = ranks.all_gather(hasher.finalize().as_bytes().to_vec())?;
    let other: Vec<String> =
        (0..all.len()).filter(|&rank| all[rank] != all[0]).map(|r| r.to_string()).collect();
    match other.is_empty() {
        true => Ok(()),
        false => Err(EngineError::RanksDiffer {
            step,
            reason: format!("rank {} has other weights than rank 0", other.join(", rank ")),
        }),
    }
}

/// The batches of an evaluation that this rank computes: every `W`-th.
pub(super) fn evaluation_share(ranks: &dyn Collective) -> Share {
    Share { index: ranks.rank() as u64, of: ranks.size() as u64, run: 1 }
}

/// The findings on all batches in their order, of which each rank found its [`evaluation_share`].
///
/// # Errors
/// [`EngineError::Stopped`] on all ranks if `own` is; other errors of `own`.
pub(super) fn merged<V>(
    ranks: &dyn Collective,
    own: Result<Vec<V>>,
    write: impl Fn(&V, &mut Packet),
    read: impl Fn(&mut Reader<'_>) -> Result<V>,
) -> Result<Vec<V>> {
    if ranks.is_alone() {
        return own;
    }
    let mut packet = Packet::default();
    match own {
        Ok(own) => {
            packet.whole(own.len() as u64);
            own.iter().for_each(|found| write(found, &mut packet));
        }
        // Empty bytes say so; the others must not wait.
        Err(EngineError::Stopped) => {}
        Err(error) => return Err(error),
    }
    let all = ranks.all_gather(packet.into_bytes())?;
    if all.iter().any(Vec::is_empty) {
        return Err(EngineError::Stopped);
    }
    let mut shares = Vec::new();
    for bytes in &all {
        let mut reader = Reader::of(bytes);
        let count = reader.whole()?;
        let found = (0..count).map(|_| read(&mut reader)).collect::<Result<Vec<V>>>()?;
        shares.push(found.into_iter());
    }
    // Batch 0 of each rank, batch 1 of each, and so on.
    let mut whole = Vec::new();
    loop {
        let before = whole.len();
        whole.extend(shares.iter_mut().filter_map(Iterator::next));
        if whole.len() == before {
            return Ok(whole);
        }
    }
}

/// Sets how long operations wait for ranks that are late.
pub(super) fn set_patience(ranks: &dyn Collective, seconds: f64) {
    ranks.set_patience(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
}

#[cfg(test)]
mod tests {
    use ckd_collective::threads;

    use super::*;

    #[test]
    fn parts_are_shared_evenly_and_in_order_or_not_at_all() {
        let shares = threads::run(4, |ranks| own_parts(ranks, 8).unwrap());
        assert_eq!(shares, [0..2, 2..4, 4..6, 6..8]);
        let error = threads::run(3, |ranks| own_parts(ranks, 4).unwrap_err().to_string()).swap_remove(1);
        assert!(error.contains("start 2 or 4 of them") && error.contains("to 3 or 6"), "{error}");
        let error = threads::run(2, |ranks| own_parts(ranks, 1).unwrap_err().to_string()).swap_remove(0);
        assert!(error.contains("start 1 of them") && error.contains("to 2"), "{error}");
    }

    #[test]
    fn a_rank_with_other_weights_is_named() {
        let found = threads::run(3, |ranks| {
            let weight = if ranks.rank() == 2 { 1.0f32 } else { 2.0 };
            let tensor = Tensor::new(&[weight], &candle_core::Device::Cpu).unwrap();
            let before = check_same(ranks, 7, std::iter::once(&tensor)).unwrap_err().to_string();
            spread(ranks, std::iter::once(&tensor)).unwrap();
            check_same(ranks, 7, std::iter::once(&tensor)).unwrap();
            before
        });
        assert!(found.iter().all(|error| error.contains("rank 2") && error.contains("step 7")), "{found:?}");
    }
}
