//! A validation part for a data set that has none: drawn by a seed, images of one content on one side.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

/// Whether each of `files` is held out: about the share `part` of them, at least one, never all.
///
/// Files of one content (BLAKE3) go to one side together. The draw depends on the contents and on `seed`, not on
/// names or on their order: a set that was renamed is split alike. A file that cannot be read counts by its name.
pub fn held_out<P: AsRef<Path> + Sync>(files: &[P], part: f64, seed: u64) -> Vec<bool> {
    let key = |path: &P| {
        let path = path.as_ref();
        let content = std::fs::read(path).unwrap_or_else(|_| path.as_os_str().as_encoded_bytes().to_vec());
        let mut hash = blake3::Hasher::new();
        hash.update(&seed.to_le_bytes());
        hash.update(blake3::hash(&content).as_bytes());
        *hash.finalize().as_bytes()
    };
    let keys: Vec<[u8; 32]> = files.par_iter().map(key).collect();
    let mut groups: BTreeMap<[u8; 32], Vec<usize>> = BTreeMap::new();
    for (index, key) in keys.into_iter().enumerate() {
        groups.entry(key).or_default().push(index);
    }
    let wanted = ((part * files.len() as f64).round() as usize).max(1);
    let (mut held_out, mut count, mut left) = (vec![false; files.len()], 0, groups.len());
    for group in groups.into_values() {
        // The last group stays: there must be something to learn from.
        if count >= wanted || left == 1 {
            break;
        }
        left -= 1;
        count += group.len();
        group.into_iter().for_each(|index| held_out[index] = true);
    }
    held_out
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn images_of_one_content_stay_together_whatever_they_are_called() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |prefix: &str| -> Vec<_> {
            let path = |index: usize| folder.path().join(format!("{prefix}{index}"));
            // Files 3k, 3k + 1 and 3k + 2 have one content.
            (0..60)
                .for_each(|index| fs::write(path(index), format!("content {}", index / 3)).expect("a file"));
            (0..60).map(path).collect()
        };
        let files = write("a");
        let split = held_out(&files, 0.2, 7);
        assert_eq!(split.iter().filter(|held_out| **held_out).count(), 12);
        assert!(split.chunks(3).all(|group| group.iter().all(|held_out| *held_out == group[0])), "{split:?}");
        assert_eq!(held_out(&write("renamed"), 0.2, 7), split);
        assert_ne!(held_out(&files, 0.2, 8), split, "another seed draws others");
    }

    #[test]
    fn something_is_held_out_and_something_is_left_to_learn_from() {
        let names: Vec<String> = (0..3).map(|index| format!("not there {index}")).collect();
        for part in [0.0, 0.2, 1.0] {
            let held_out = held_out(&names, part, 0).into_iter().filter(|held_out| *held_out).count();
            assert!((1..3).contains(&held_out), "{part}: {held_out}");
        }
        assert_eq!(held_out(&names[..1], 0.5, 0), [false], "one image cannot be split");
    }
}
