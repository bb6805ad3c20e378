//! Which trained detector a verb is about: the arguments, and the detector ready to use.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Device;
use ckd_detectors::Detector;

use super::UsageError;
use crate::config::{Config, Document, Experiment};
use crate::engine::EngineError;
use crate::engine::classify::ClassifierCard;
use crate::engine::detect::build;
use crate::report::run_folder::RunFolder;
use crate::weights::card::{Category, category_map, input_ranges};
use crate::weights::{ModelCard, WeightsFile};

/// Names a trained detector.
#[derive(Debug, clap::Args)]
pub(super) struct ModelArgs {
    /// A run's folder [default: the latest below ./runs]
    #[arg(long, value_name = "DIR", conflicts_with = "weights")]
    pub(super) run: Option<PathBuf>,
    /// A weights file: of a run, or exported
    #[arg(long, value_name = "FILE")]
    pub(super) weights: Option<PathBuf>,
    /// The average of the run's weights (`train.ema_decay`) instead of its last weights
    #[arg(long, conflicts_with = "weights")]
    pub(super) ema: bool,
    /// The experiment that the weights belong to, if the file does not say
    #[arg(long, value_name = "CONFIG", requires = "weights")]
    pub(super) config: Option<String>,
}

/// A detector with all it needs.
pub(super) struct Model {
    pub(super) detector: Detector,
    pub(super) config: Config,
    /// The classes, if the file or `fallback` knows them.
    pub(super) categories: Vec<Category>,
    pub(super) card: Option<ModelCard>,
    pub(super) file: WeightsFile,
}

impl ModelArgs {
    /// The weights file that is meant.
    pub(super) fn find(&self) -> anyhow::Result<PathBuf> {
        let of_run = |run: &Path| -> anyhow::Result<PathBuf> {
            let weights = self.weights_in(&RunFolder::at(run));
            match weights.exists() {
                true if is_pretraining(&RunFolder::at(run)) => Err(UsageError(format!(
                    "{} learned features without labels, so it finds and names nothing; a detector or a classifier begins \
                     with it by student.init = \"run:{}\"",
                    run.display(),
                    run.file_name().unwrap_or_default().display()
                ))
                .into()),
                true => Ok(weights),
                false if RunFolder::at(run.join("peer0")).last().exists() => Err(UsageError(format!(
                    "{} is a cohort's run: name one of its networks, --run {}",
                    run.display(),
                    run.join("peer0").display()
                ))
                .into()),
                false if self.ema && RunFolder::at(run).last().exists() => Err(UsageError(format!(
                    "{} has no average of weights: it was trained without train.ema_decay",
                    run.display()
                ))
                .into()),
                false => Err(EngineError::Missing(format!(
                    "{} is not there: {} is no finished run; go on with it by `ckd-det train CONFIG --resume`",
                    weights.display(),
                    run.display()
                ))
                .into()),
            }
        };
        match (&self.weights, &self.run) {
            (Some(weights), _) if weights.exists() => Ok(weights.clone()),
            (Some(weights), _) => Err(EngineError::Missing(format!("there is no file {}", weights.display())).into()),
            (None, Some(run)) => of_run(run),
            (None, None) if self.ema => {
                Err(UsageError("--ema is of a run: name it with --run DIR".to_owned()).into())
            }
            (None, None) => match latest_run() {
                Some(run) => of_run(&run),
                None => Err(EngineError::Missing(
                    "no finished run below ./runs: name one with --run DIR or a file with --weights FILE, or make one \
                     with `ckd-det train quickstart.toml`"
                        .to_owned(),
                )
                .into()),
            },
        }
    }

    /// The file of a run that is meant.
    fn weights_in(&self, run: &RunFolder) -> PathBuf {
        if self.ema { run.ema() } else { run.last() }
    }

    /// Loads the detector. `fallback` names the classes of a file that does not.
    pub(super) fn open(
        &self,
        device: &Device,
        fallback: impl FnOnce(&Config) -> anyhow::Result<Vec<Category>>,
    ) -> anyhow::Result<Model> {
        self.load(WeightsFile::read(&self.find()?)?, device, fallback)
    }

    /// Loads the detector from a file that is read already.
    pub(super) fn load(
        &self,
        file: WeightsFile,
        device: &Device,
        fallback: impl FnOnce(&Config) -> anyhow::Result<Vec<Category>>,
    ) -> anyhow::Result<Model> {
        if let Some(card) = ClassifierCard::of(&file)? {
            return Err(UsageError(format!(
                "{} is {}, and a detector is needed here; `ckd-det eval` without --coco-val, `predict` and `export` take both",
                file.path.display(),
                card.described()
            ))
            .into());
        }
        let card = match &self.config {
            Some(_) => ModelCard::of(&file).ok(),
            None => Some(ModelCard::of(&file)?),
        };
        let config = match (&self.config, &card) {
            (Some(name), _) => Config::load(name, &[])?.config,
            (None, Some(card)) => card.config.clone(),
            (None, None) => unreachable!("without --config the card is there"),
        };
        let categories = match &card {
            Some(card) => card.categories.clone(),
            None => fallback(&config)?,
        };
        let detector = build::loaded(&config, categories.len(), &file, device)?;
        Ok(Model { detector, config, categories, card, file })
    }
}

/// Checks that a folder of data that the user names is there: nothing is made in its place.
pub(super) fn check_data_root(root: Option<&Path>) -> anyhow::Result<()> {
    match root.filter(|root| !root.is_dir()) {
        None => Ok(()),
        Some(root) => {
            let missing = format!("there is no folder {}, which --data-root names", root.display());
            Err(EngineError::Missing(missing).into())
        }
    }
}

impl Model {
    /// Computes in 8 bits from now on.
    ///
    /// # Errors
    /// A file without the ranges of activations; another device than the processor.
    pub(super) fn round(&self) -> anyhow::Result<()> {
        let Some(ranges) = input_ranges(&self.file)? else {
            return Err(UsageError(format!(
                "{} has no ranges of activations to compute in 8 bits by; `ckd-det export --int8 activations --out \
                 FILE.safetensors` writes them",
                self.file.path.display()
            ))
            .into());
        };
        Ok(self.detector.params().compute_in_8_bits(&ranges)?)
    }

    /// Class indices to category ids.
    pub(super) fn category_map(&self) -> anyhow::Result<crate::data::CategoryMap> {
        category_map(&self.categories)
            .map_err(|id| UsageError(format!("the weights list category {} twice", id.0)).into())
    }
}

/// Whether a run trained a backbone alone.
fn is_pretraining(run: &RunFolder) -> bool {
    matches!(Experiment::load(run.config(), &[]), Ok(Experiment::Pretrain(_)))
}

/// The finished run below `./runs` that was written last; it may be a cohort's.
fn latest_run() -> Option<PathBuf> {
    let runs = fs::read_dir("runs").ok()?.filter_map(|run| Some(run.ok()?.path()));
    let written = |weights: PathBuf| fs::metadata(weights).ok()?.modified().ok();
    let finished = |run: PathBuf| {
        let networks = [run.clone(), run.join("peer0")].map(|network| RunFolder::at(network).last());
        Some((networks.into_iter().find_map(written)?, run))
    };
    runs.filter_map(finished).max().map(|(_, run)| run)
}

/// The weights that `given` names, in full: a file, the last ones of a run's folder, or a folder in the Hub's layout; `None`
/// if nothing is there.
///
/// # Errors
/// A current folder that cannot be told.
pub(super) fn weights_at(given: &Path) -> Result<Option<PathBuf>, UsageError> {
    if !given.exists() {
        return Ok(None);
    }
    let run = RunFolder::at(given).last();
    let weights = if given.is_dir() && run.exists() { run } else { given.to_owned() };
    let whole = std::path::absolute(&weights);
    whole.map(Some).map_err(|error| UsageError(format!("{}: {error}", weights.display())))
}
