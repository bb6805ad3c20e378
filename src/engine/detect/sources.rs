//! What a run reads: data sets and weights, found before anything is loaded.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Config, DataKind, Loaded};
use crate::data::pseudo_labels::PseudoLabels;
use crate::data::synth::{self, Split};
use crate::data::unlabelled::{self, Weighting};
use crate::data::{DataError, Dataset, ImagePolicy, Instances, LoadReport, SplitFiles, coco, leakage};
use crate::engine::missing::{Beginning, places, refuse, weights};
use crate::engine::{Result, classes};
use crate::eval::GroundTruth;
use crate::weights::card::categories_of;

/// Everything on the disk that an experiment reads.
#[derive(Debug)]
pub struct Inputs {
    /// Images and boxes.
    pub data: DataPaths,
    /// Weights.
    pub(super) beginning: Beginning,
}

/// Paths of the data of an experiment.
#[derive(Debug, Clone)]
pub struct DataPaths {
    /// Training images and annotations.
    pub train: SplitFiles,
    /// Held-out images and annotations.
    pub val: SplitFiles,
    /// Images that a detector has labelled, to train on beside the others.
    pub unlabelled: Option<PseudoFiles>,
}

/// Files of images that a detector has labelled.
#[derive(Debug, Clone)]
pub struct PseudoFiles {
    /// File of the boxes.
    pub annotations: PathBuf,
    /// Folder of the images, unless it is the one that the file names.
    pub images: Option<PathBuf>,
    /// Policy for the files of the images.
    pub policy: ImagePolicy,
    /// Weight of a box in the losses, and factor of all weights.
    pub weighting: (Weighting, f32),
}

impl PseudoFiles {
    /// Adds the images to those of `data`.
    ///
    /// # Errors
    /// Files that cannot be used; classes that the data does not have; evaluation images among the images.
    fn join(&self, data: DataSets) -> Result<DataSets> {
        let instances = coco::read(&self.annotations).map_err(DataError::from)?;
        let named = instances.pseudo_labels.as_ref().map(|labels| labels.folder.clone());
        let beside = || self.annotations.parent().unwrap_or(Path::new("")).to_owned();
        let folder = self.images.clone().or(named).unwrap_or_else(beside);
        let policy = ImagePolicy { root: Some(folder.clone()), ..self.policy.clone() };
        let (set, report) = Dataset::new(&instances, &folder, &policy).map_err(DataError::from)?;
        let train = unlabelled::joined(&data.train, (set, &report), &data.val, self.weighting)?;
        let reports = data.reports.into_iter().chain([report]).collect();
        Ok(DataSets { train: Arc::new(train), reports, ..data })
    }
}

impl Inputs {
    /// Finds everything that `loaded` names; then the synthetic set is made if it is not there.
    ///
    /// # Errors
    /// [`EngineError::Missing`](crate::engine::EngineError::Missing) names everything that is missing, where it was looked for and how to get it.
    pub fn find(loaded: &Loaded<Config>) -> Result<Self> {
        let mut missing = Vec::new();
        let data = DataPaths::of(loaded);
        missing.extend(DataPaths::missing(
            loaded,
            &[parts(&data.train, "training"), parts(&data.val, "validation")].concat(),
            "--set data.root=",
        ));
        missing.extend(data.missing_labels(loaded));
        let beginning = Beginning::find(loaded, &mut missing);
        refuse(missing)?;
        make_synthetic(&loaded.config)?;
        Ok(Self { data, beginning })
    }
}

impl DataPaths {
    /// Finds the validation split of `loaded` for evaluation alone: the training split may be missing.
    ///
    /// # Errors
    /// As [`Inputs::find`].
    pub fn find_val(loaded: &Loaded<Config>) -> Result<SplitFiles> {
        let data = Self::of(loaded);
        let missing = Self::missing(loaded, &parts(&data.val, "validation"), "--data-root ");
        refuse(missing.into_iter().collect())?;
        make_synthetic(&loaded.config)?;
        Ok(data.val)
    }

    /// Paths of the data as `loaded` names them.
    pub(crate) fn of(loaded: &Loaded<Config>) -> Self {
        let data = &loaded.config.data;
        let root = match data.kind {
            // It is made where the program runs, whatever lies beside the configuration.
            DataKind::Synth => data.root.clone(),
            _ => loaded.resolve(&data.root),
        };
        let unlabelled = data.unlabelled.as_ref().map(|own| PseudoFiles {
            annotations: loaded.resolve(&own.annotations),
            images: own.images.as_deref().map(|images| loaded.resolve(images)),
            policy: data.files(&root, Split::Train).policy,
            weighting: (own.weighting, own.weight),
        });
        Self { train: data.files(&root, Split::Train), val: data.files(&root, Split::Val), unlabelled }
    }

    /// The file of pseudo-labels, if it is missing, and how to get it.
    fn missing_labels(&self, loaded: &Loaded<Config>) -> Option<String> {
        let annotations = &loaded.config.data.unlabelled.as_ref()?.annotations;
        if self.unlabelled.as_ref()?.annotations.exists() {
            return None;
        }
        Some(format!(
            "boxes that {} needs are missing: data.unlabelled.annotations = {annotations:?}\nlooked at:\n{}\nA trained \
             detector makes them: ckd-det predict --run RUN --as-labels {} --no-pictures FOLDER",
            loaded.config.run.name,
            places(loaded, annotations),
            annotations.display(),
        ))
    }

    /// Missing files among `wanted`, and how to get them; `option` names another folder.
    fn missing(loaded: &Loaded<Config>, wanted: &[(String, PathBuf)], option: &str) -> Option<String> {
        let data = &loaded.config.data;
        let absent: Vec<String> = wanted
            .iter()
            .filter(|(_, path)| !path.exists())
            .map(|(what, path)| format!("  {what}: {}", path.display()))
            .collect();
        // A synthetic set is made where it is missing.
        if absent.is_empty() || data.kind == DataKind::Synth {
            return None;
        }
        Some(format!(
            "data that {} needs is missing:\n{}\nlooked for data.root = {:?} at:\n{}\n{}",
            loaded.config.run.name,
            absent.join("\n"),
            data.root,
            places(loaded, &data.root),
            how_to_get_data(&loaded.config, option),
        ))
    }

    /// Both splits, with a report on each.
    ///
    /// # Errors
    /// Files that cannot be used; splits of different classes; nothing to learn from.
    pub fn load(&self) -> Result<DataSets> {
        let data = DataSets::new(LoadedSplit::open(&self.train)?, LoadedSplit::of_truth(&self.val)?)?;
        match &self.unlabelled {
            Some(files) => files.join(data),
            None => Ok(data),
        }
    }
}

/// The files of a split that must be there, each with its name in messages.
fn parts(files: &SplitFiles, name: &str) -> [(String, PathBuf); 2] {
    [
        (format!("{name} images"), files.images.clone()),
        (format!("{name} annotations"), files.annotations.clone()),
    ]
}

/// A split in memory: its boxes as training and as evaluation take them.
#[derive(Debug, Clone)]
pub struct LoadedSplit {
    /// Images and boxes to learn from or to run over.
    pub dataset: Arc<Dataset>,
    /// Ground truth of the same images for the evaluator.
    pub truth: Arc<GroundTruth>,
    /// Findings about data that was not taken as it stands.
    pub report: LoadReport,
}

impl LoadedSplit {
    /// Reads a split from its files, once for training and evaluation.
    ///
    /// # Errors
    /// If a file is missing, or not what it should be.
    pub fn open(files: &SplitFiles) -> Result<Self> {
        let (instances, folder) = files.open()?;
        Self::of(&instances, Dataset::new(&instances, &folder, &files.policy)?)
    }

    /// Reads a split to measure by.
    ///
    /// # Errors
    /// As [`open`](Self::open), and boxes that a detector found.
    pub fn of_truth(files: &SplitFiles) -> Result<Self> {
        let (instances, folder) = files.open()?;
        if let Some(PseudoLabels { teacher, .. }) = &instances.pseudo_labels {
            let (path, teacher) = (files.annotations.clone(), teacher.clone());
            return Err(DataError::PseudoTruth { path, teacher }.into());
        }
        Self::of(&instances, Dataset::new(&instances, &folder, &files.policy)?)
    }

    /// A split of `instances` and the data set that was made of them, by [`Dataset::new`] or
    /// [`Dataset::with_pixels`].
    ///
    /// # Errors
    /// If the evaluator cannot take the boxes.
    pub fn of(instances: &Instances, (dataset, report): (Dataset, LoadReport)) -> Result<Self> {
        let truth = Arc::new(GroundTruth::of(instances)?);
        Ok(Self { dataset: Arc::new(dataset), truth, report })
    }
}

/// Both splits in memory (annotations; images stay on the disk).
#[derive(Debug, Clone)]
pub struct DataSets {
    /// Training images.
    pub train: Arc<Dataset>,
    /// Validation images.
    pub val: Arc<Dataset>,
    /// Findings about the data of both splits, and of pseudo-labels.
    pub reports: Vec<LoadReport>,
    /// The boxes of `val` as the evaluator takes them.
    pub truth: Arc<GroundTruth>,
}

impl DataSets {
    /// A training and a validation split, read from files or made in code.
    ///
    /// # Errors
    /// If their classes differ, or the training split has no box to learn from.
    pub fn new(train: LoadedSplit, mut val: LoadedSplit) -> Result<Self> {
        let [ours, theirs] = [&train, &val].map(|split| split.report.path.display().to_string());
        let classes = categories_of(&train.dataset.categories);
        classes::check_same((&ours, &classes), (&theirs, &val.dataset.categories))?;
        if train.report.positives == 0 {
            return Err(DataError::NoBoxes { report: Box::new(train.report) }.into());
        }
        leakage::find(&train.dataset, &val.dataset, &mut val.report, leakage::CHEAP_BYTES);
        Ok(Self {
            train: train.dataset,
            val: val.dataset,
            reports: vec![train.report, val.report],
            truth: val.truth,
        })
    }
}

/// Draws the synthetic set that `config` describes, unless it is there.
fn make_synthetic(config: &Config) -> Result<()> {
    let data = &config.data;
    if let (DataKind::Synth, Some(synth)) = (data.kind, &data.synth) {
        synth::generate(synth, &data.root)?;
    }
    Ok(())
}

/// The teacher's weights.
pub(super) fn teacher_weights(loaded: &Loaded<Config>, missing: &mut Vec<String>) -> Option<PathBuf> {
    let teacher = loaded.config.teacher.as_ref()?;
    let help = "Put a detector of that build there (tensors named as in torchvision), name another file with --set \
                teacher.weights=FILE, or train the teacher first by naming its experiment: --set \
                teacher.train=EXPERIMENT.toml";
    let random = teacher.network.allow_random_weights;
    weights(loaded, ("teacher.weights", teacher.weights.as_ref()?), random, help, missing)
}

/// The student's initial weights.
pub(super) fn initial_weights(loaded: &Loaded<Config>, missing: &mut Vec<String>) -> Option<PathBuf> {
    let student = &loaded.config.student;
    let backbone = student.network.backbone;
    let help = match backbone.published() {
        Some(file) => format!(
            "torchvision's ImageNet weights of a {backbone} are at https://download.pytorch.org/models/{file}: save \
             them there, or name another file with --set student.init=FILE"
        ),
        None => "Name another file with --set student.init=FILE".to_owned(),
    };
    let random = student.network.allow_random_weights;
    weights(loaded, ("student.init", student.init.as_ref()?), random, &help, missing)
}

fn how_to_get_data(config: &Config, option: &str) -> String {
    if config.data.val_annotations.ends_with("instances_val2017.json") {
        format!(
            "COCO 2017 is free at https://cocodataset.org/#download: unpack train2017.zip, val2017.zip and \
             annotations_trainval2017.zip into one folder and name it with {option}FOLDER (20 GB)"
        )
    } else {
        format!("Name the folder that holds them with {option}FOLDER")
    }
}
