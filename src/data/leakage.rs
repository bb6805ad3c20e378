//! Leakage between splits: images of the evaluation whose content is a training image's.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use rayon::prelude::*;

use super::dataset::Dataset;
use super::report::{FindingKind, LoadReport};

/// Bytes that are hashed at the start of a training: a fraction of a second.
pub const CHEAP_BYTES: u64 = 64 << 20;

/// Notes in `report` the images of `val` whose files have the content of a file of `train`.
///
/// Files are compared by length, then by BLAKE3. Nothing is noted if more than `most` bytes would have to be
/// read.
pub fn find(train: &Dataset, val: &Dataset, report: &mut LoadReport, most: u64) {
    let paths = |set: &Dataset| set.images.iter().map(|image| image.path.clone()).collect::<Vec<_>>();
    for image in shared(&paths(train), &paths(val), most).unwrap_or_default() {
        report.findings.found(FindingKind::Leaked, val.images[image].id.0);
    }
}

/// The indices of the files of `val` that have the content of a file of `train`; `None` if more than `most`
/// bytes would have to be read.
pub fn shared<P: AsRef<Path> + Sync>(train: &[P], val: &[P], most: u64) -> Option<Vec<usize>> {
    let lengths = |paths: &[P]| -> Vec<Option<u64>> {
        let length =
            |path: &P| std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|data| data.len());
        paths.par_iter().map(length).collect()
    };
    let (train_lengths, val_lengths) = (lengths(train), lengths(val));
    let common: HashSet<u64> = {
        let train: HashSet<u64> = train_lengths.iter().flatten().copied().collect();
        val_lengths.iter().flatten().copied().filter(|length| train.contains(length)).collect()
    };
    let is_candidate = |length: &Option<u64>| length.is_some_and(|length| common.contains(&length));
    let bytes: u64 =
        train_lengths.iter().chain(&val_lengths).filter(|length| is_candidate(length)).flatten().sum();
    if bytes > most {
        return None;
    }
    let hashes = |paths: &[P], lengths: &[Option<u64>]| -> HashMap<usize, blake3::Hash> {
        let hash = |(index, path): (usize, &P)| {
            let content = is_candidate(&lengths[index]).then(|| std::fs::read(path).ok()).flatten()?;
            Some((index, blake3::hash(&content)))
        };
        paths.par_iter().enumerate().filter_map(hash).collect()
    };
    let known: HashSet<blake3::Hash> = hashes(train, &train_lengths).into_values().collect();
    let found = hashes(val, &val_lengths).into_iter().filter(|(_, hash)| known.contains(hash));
    let mut found: Vec<usize> = found.map(|(index, _)| index).collect();
    found.sort_unstable();
    Some(found)
}
