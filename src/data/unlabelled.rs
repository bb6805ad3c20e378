//! Images that a detector has labelled (pseudo-labels), to train on beside those that people have.
//!
//! `ckd-det predict --as-labels` writes them as a COCO file. Each box keeps the score that it was found with; what scored
//! too low to be a label and too high to be background is there as a box to be ignored. The file says who labelled, by
//! which thresholds, and how much.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ckd_settings::{Check, choices, section};

use super::dataset::{ClassIndex, Dataset};
use super::error::DataError;
use super::leakage;
use super::report::LoadReport;

choices! {
    /// Weight of a pseudo-label in the losses of what is matched with it.
    pub enum Weighting {
        /// The score of the box.
        Soft = "soft",
        /// 1, as of a label that a person drew.
        Hard = "hard",
    }
}

section! {
    /// Images without labels of their own, which `ckd-det predict --as-labels` gave boxes. They join the training images.
    pub struct Unlabelled {
        /// The file of `predict --as-labels`; relative to the current directory, else to the configuration's folder.
        pub annotations: PathBuf,
        /// Folder of the images. Default: the one that the file names.
        pub images: Option<PathBuf>,
        /// Weight of a box in the class and box losses of what is matched with it.
        pub weighting: Weighting = Weighting::Soft,
        /// Factor of all that these images, boxes and background, add to the detection losses; 0 leaves them to the methods of
        /// distillation.
        pub weight: f32 = 1.0,
    }
}

impl Unlabelled {
    fn check(&self, check: &mut Check<'_>) {
        check.not_negative("weight", self.weight.into());
    }
}

/// Adds the images of `pseudo` to `train`; a box counts by its score or wholly, and all that is of these images by `weight`. Classes go by their names, and ids of images
/// follow those of `train`.
///
/// # Errors
/// A class that `train` does not have, or has twice; images that were made in code; images of `val`, which would be measured by what
/// was trained on.
pub fn joined(
    train: &Dataset,
    (pseudo, report): (Dataset, &LoadReport),
    val: &Dataset,
    (weighting, weight): (Weighting, f32),
) -> Result<Dataset, DataError> {
    let path = &report.path;
    let paths = |set: &Dataset| set.images.iter().map(|image| image.path.clone()).collect::<Vec<_>>();
    let pseudo_paths = paths(&pseudo);
    let shared = leakage::shared(&paths(val), &pseudo_paths, u64::MAX).unwrap_or_default();
    if !shared.is_empty() {
        let first = shared.iter().take(NAMED).map(|&image| pseudo.images[image].file_name.clone());
        return Err(DataError::PseudoLeak {
            path: path.clone(),
            count: shared.len(),
            first: first.collect(),
        });
    }
    let mut by_name: BTreeMap<&str, Option<ClassIndex>> = BTreeMap::new();
    for (class, (_, name)) in (0..).zip(train.categories.iter()) {
        // A name that two classes have names neither.
        by_name.entry(name).and_modify(|class| *class = None).or_insert(Some(ClassIndex(class)));
    }
    let class_of = |name: &str| by_name.get(name).copied().flatten();
    let classes: Vec<ClassIndex> = pseudo
        .categories
        .iter()
        .map(|(_, name)| {
            class_of(name).ok_or_else(|| DataError::PseudoClass {
                path: path.clone(),
                class: name.to_owned(),
                known: train.categories.iter().map(|(_, name)| name.to_owned()).collect(),
            })
        })
        .collect::<Result<_, _>>()?;
    train
        .with_more(pseudo, weight, |annotation| {
            annotation.category = classes[annotation.category.0 as usize];
            annotation.weight = match (weighting, annotation.score) {
                (Weighting::Soft, Some(score)) => weight * score as f32,
                _ => weight,
            };
        })
        .ok_or_else(|| DataError::Setting("pseudo-labels join images that are files".to_owned()))
}

/// Images that a message names.
const NAMED: usize = 5;
