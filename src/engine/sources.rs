//! What a run reads: data sets and weights, found before anything is loaded.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{EngineError, Result};
use crate::config::{Config, DataKind, Loaded};
use crate::data::coco::MissingImages;
use crate::data::synth::{self, Split, SynthConfig};
use crate::data::{Dataset, LoadReport};

/// Where the data of an experiment is.
#[derive(Debug, Clone)]
pub struct DataPaths {
    /// Training images and annotations.
    pub train: SplitPaths,
    /// Held-out images and annotations.
    pub val: SplitPaths,
}

/// One split on the disk.
#[derive(Debug, Clone)]
pub struct SplitPaths {
    /// The folder that the annotations' file names are relative to.
    pub images: PathBuf,
    /// COCO `instances_*.json`.
    pub annotations: PathBuf,
}

impl DataPaths {
    /// Where `loaded` says its data is; the synthetic set is made if it is not there.
    ///
    /// # Errors
    /// [`EngineError::Missing`] names everything that is not where it should be and how to get it.
    pub fn find(loaded: &Loaded) -> Result<Self> {
        let data = &loaded.config.data;
        if let (DataKind::Synth, Some(synth)) = (data.kind, &data.synth) {
            let config = SynthConfig {
                images_train: synth.images_train,
                images_val: synth.images_val,
                image_size_px: synth.image_size_px,
                classes: synth.classes,
                seed: synth.seed,
                min_objects: synth.min_objects,
                max_objects: synth.max_objects,
            };
            synth::generate(&config, &data.root)?;
            let split = |split: Split| SplitPaths {
                images: split.images(&data.root),
                annotations: split.annotations(&data.root),
            };
            return Ok(Self { train: split(Split::Train), val: split(Split::Val) });
        }
        let paths = Self::on_disk(loaded);
        let train =
            [("training images", &paths.train.images), ("training annotations", &paths.train.annotations)];
        check_there(loaded, &[train, paths.wanted_of_val()].concat())?;
        Ok(paths)
    }

    /// Where the validation split of `loaded` is; the training split may be missing.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_val(loaded: &Loaded) -> Result<SplitPaths> {
        if loaded.config.data.kind == DataKind::Synth {
            return Ok(Self::find(loaded)?.val);
        }
        let paths = Self::on_disk(loaded);
        check_there(loaded, &paths.wanted_of_val())?;
        Ok(paths.val)
    }

    fn on_disk(loaded: &Loaded) -> Self {
        let data = &loaded.config.data;
        let root = loaded.resolve(&data.root);
        let split = |images: &Path, annotations: &Path| SplitPaths {
            images: root.join(images),
            annotations: root.join(annotations),
        };
        Self {
            train: split(&data.train_images, &data.train_annotations),
            val: split(&data.val_images, &data.val_annotations),
        }
    }

    fn wanted_of_val(&self) -> [(&'static str, &PathBuf); 2] {
        [("validation images", &self.val.images), ("validation annotations", &self.val.annotations)]
    }

    /// Both splits, with what was found odd in them.
    pub fn load(&self) -> Result<DataSets> {
        let (train, train_report) = self.train.load()?;
        let (val, val_report) = self.val.load()?;
        let names =
            |set: &Dataset| set.categories.iter().map(|(id, name)| (id, name.to_owned())).collect::<Vec<_>>();
        if names(&train) != names(&val) {
            return Err(EngineError::Classes {
                what: self.train.annotations.display().to_string(),
                ours: class_list(names(&train).iter().map(|(_, name)| name.as_str())),
                other: self.val.annotations.display().to_string(),
                theirs: class_list(names(&val).iter().map(|(_, name)| name.as_str())),
            });
        }
        Ok(DataSets {
            train,
            val,
            reports: [train_report, val_report],
            val_annotations: self.val.annotations.clone(),
        })
    }
}

impl SplitPaths {
    /// The split, with what was found odd in it.
    pub fn load(&self) -> Result<(Arc<Dataset>, LoadReport)> {
        let (set, report) = Dataset::load(&self.annotations, &self.images, MissingImages::Error)?;
        Ok((Arc::new(set), report))
    }
}

/// Both splits in memory (annotations; images stay on the disk).
#[derive(Debug, Clone)]
pub struct DataSets {
    /// What is learned from.
    pub train: Arc<Dataset>,
    /// What is measured on.
    pub val: Arc<Dataset>,
    /// What was odd in either.
    pub reports: [LoadReport; 2],
    /// The ground truth as the evaluator reads it.
    pub val_annotations: PathBuf,
}

/// An error that names everything in `wanted` that is not there, and how to get it.
fn check_there(loaded: &Loaded, wanted: &[(&str, &PathBuf)]) -> Result<()> {
    let data = &loaded.config.data;
    let missing: Vec<String> = wanted
        .iter()
        .filter(|(_, path)| !path.exists())
        .map(|(what, path)| format!("  {what}: {}", path.display()))
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(EngineError::Missing(format!(
            "data that {} needs is missing:\n{}\nlooked for data.root = {:?} at:\n{}\n{}",
            loaded.config.name,
            missing.join("\n"),
            data.root,
            places(loaded, &data.root),
            how_to_get(&loaded.config),
        ))),
    }
}

/// The weights file at `path`, which the key `key` of the configuration names.
///
/// # Errors
/// [`EngineError::Missing`] says where it was looked for and how to get it.
pub fn find_weights(loaded: &Loaded, key: &str, path: &Path) -> Result<PathBuf> {
    let found = loaded.resolve(path);
    match found.exists() {
        true => Ok(found),
        false => Err(EngineError::Missing(format!(
            "the weights {key} = {path:?} of {} are missing; looked at:\n{}\nPut the file there, name another with \
             --set {key}=FILE, or, for a teacher, train it first by naming its experiment: \
             --set teacher.train=EXPERIMENT.toml",
            loaded.config.name,
            places(loaded, path),
        ))),
    }
}

fn places(loaded: &Loaded, path: &Path) -> String {
    let places = loaded.places(path);
    let absolute = |place: &PathBuf| std::path::absolute(place).unwrap_or_else(|_| place.clone());
    places.iter().map(|place| format!("  {}", absolute(place).display())).collect::<Vec<_>>().join("\n")
}

fn how_to_get(config: &Config) -> &'static str {
    if config.data.train_annotations.ends_with("instances_train2017.json") {
        "COCO 2017 is free at https://cocodataset.org/#download: unpack train2017.zip, val2017.zip and \
         annotations_trainval2017.zip into one folder and name it with --set data.root=FOLDER (20 GB)"
    } else {
        "name the folder that holds them with --set data.root=FOLDER"
    }
}

/// Class names for a message: the first few and how many there are.
pub fn class_list<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = names.len();
    let first: Vec<&str> = names.take(8).collect();
    let dots = if count > first.len() { ", ..." } else { "" };
    format!("{count} classes ({}{dots})", first.join(", "))
}
