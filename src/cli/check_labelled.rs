//! `ckd-det data check` of labelled images: folders of classes, CIFAR, STL-10, Tiny-ImageNet.

use std::path::Path;

use anyhow::bail;
use rayon::prelude::*;

use super::say;
use crate::data::cifar::Split;
use crate::data::labelled_data::{LabelledData, LabelledKind};
use crate::data::{Labelled, OnBadImage, leakage};
use crate::engine::classify::{LabelledSets, read_split};

/// Bad images named for each split.
const NAMED: usize = 20;

/// Data set of labelled images to check.
pub(super) struct Asked<'a> {
    /// Its layout.
    pub(super) kind: LabelledKind,
    /// Its folder.
    pub(super) root: &'a Path,
    /// `train` or `val`, of image folders any folder; both splits if it is not given.
    pub(super) split: Option<&'a str>,
    /// Whether every image is decoded.
    pub(super) decode: bool,
}

/// Prints what the data set holds: images by class, images that cannot be used, held-out images that are training images.
///
/// # Errors
/// Missing or damaged files; splits of different classes; images that cannot be used.
pub(super) fn run(asked: &Asked<'_>) -> anyhow::Result<()> {
    let mut data = LabelledData::new(asked.kind, asked.root.to_owned());
    data.on_bad_image = OnBadImage::Skip;
    data.max_bad_images = 1.0;
    let splits: &[(&str, Split)] = match (asked.split, asked.kind) {
        (None, _) => &[("train", Split::Train), ("val", Split::Test)],
        (Some("train"), _) => &[("train", Split::Train)],
        (Some("val"), _) => &[("val", Split::Test)],
        (Some(folder), LabelledKind::Folder) => {
            data.train = folder.into();
            &[(folder, Split::Train)]
        }
        (Some(other), kind) => bail!("{kind} has no split {other:?}: name train or val, or neither for both"),
    };
    let (mut sets, mut bad, mut total) = (Vec::new(), 0, 0);
    for &(name, split) in splits {
        let set = read_split(&data, asked.root, split)?;
        bad += tell(name, &set, asked.root, asked.decode)?;
        total += set.len();
        sets.push(set);
    }
    if let Ok([train, val]) = <[Labelled; 2]>::try_from(sets) {
        let shared = leakage::shared(train.paths(), val.paths(), u64::MAX).unwrap_or_default();
        if let Some(&first) = shared.first() {
            let first = val.path(first);
            let count = shared.len();
            say(format!(
                "{count} held-out images have the content of a training image, first: {}",
                first.display()
            ))?;
        }
        LabelledSets::new(train, val, asked.root)?;
    }
    match bad {
        0 => Ok(()),
        _ => {
            bail!("{bad} of {total} images cannot be used; data.on_bad_image = \"skip\" trains without them")
        }
    }
}

/// Prints the report of a split; returns the number of images that cannot be used.
pub(super) fn tell(name: &str, set: &Labelled, root: &Path, decode: bool) -> anyhow::Result<usize> {
    let mut problems: Vec<String> = set.left_out.iter().map(|bad| bad.reason.clone()).collect();
    if decode {
        let bad: Vec<&Path> = set.left_out.iter().map(|bad| bad.path.as_path()).collect();
        let undecodable =
            (0..set.len()).into_par_iter().filter(|&image| !bad.contains(&set.path(image).as_path()));
        let undecodable = undecodable.filter_map(|image| Some(set.image(image).err()?.to_string()));
        problems.extend(undecodable.collect::<Vec<_>>());
    }
    let (images, classes) = (set.len(), set.classes.len());
    say(format!(
        "{} {name}: {images} images, {classes} classes, {} cannot be used",
        root.display(),
        problems.len()
    ))?;
    for problem in problems.iter().take(NAMED) {
        say(format!("  {problem}"))?;
    }
    let mut counts = vec![0; classes];
    set.labels.iter().for_each(|&label| counts[label as usize] += 1);
    say("class  images  name")?;
    for (class, (count, name)) in counts.iter().zip(&set.classes).enumerate() {
        say(format!("{class:>5} {count:>7}  {name}"))?;
    }
    Ok(problems.len())
}
