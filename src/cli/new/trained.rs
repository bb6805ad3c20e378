//! Networks that were trained before, named in a network's place: weights files, runs, folders in the Hub's layout.

use std::path::{Path, PathBuf};

use ckd_detectors::classifier::Architecture as Classifier;

use super::wish::toml_text;
use crate::cli::UsageError;
use crate::cli::model::weights_at;
use crate::config::{Architecture, Config};
use crate::data::CategoryMap;
use crate::engine::EngineError;
use crate::engine::classes;
use crate::engine::classify::ClassifierCard;
use crate::weights::agree::{detector_of, keys_of_teacher};
use crate::weights::card::Category;
use crate::weights::{ModelCard, WeightsFile};

/// A detector that was trained before.
pub(super) struct Trained {
    /// Its weights, in full.
    pub(super) weights: PathBuf,
    /// The configuration whose student it is.
    config: Box<Config>,
    /// Its classes, if the file names them.
    categories: Option<Vec<Category>>,
}

/// A classifier that was trained before.
pub(super) struct TrainedClassifier {
    /// Its weights, in full.
    pub(super) weights: PathBuf,
    pub(super) card: ClassifierCard,
}

impl Trained {
    /// The detector that `given` names, if a file or folder is there.
    ///
    /// # Errors
    /// A file of no known detector, or of one of another kind.
    pub(super) fn of(given: &str) -> anyhow::Result<Option<Self>> {
        let Some(weights) = weights_at(Path::new(given))? else { return Ok(None) };
        let file = WeightsFile::read(&weights).map_err(EngineError::from)?;
        if let Some(card) = ClassifierCard::of(&file)? {
            let card = card.described();
            return Err(UsageError(format!("{given} is {card}, and the images have boxes")).into());
        }
        let config = Box::new(detector_of(&file).map_err(EngineError::from)?);
        let categories = ModelCard::of(&file).ok().map(|card| card.categories);
        match config.detector.architecture {
            Architecture::FasterRcnn => Ok(Some(Self { weights, config, categories })),
            other => Err(UsageError(format!(
                "{given} is a {other}, and `new` writes configurations of faster_rcnn; `ckd-det train CONFIG --teacher` takes \
                 it for a student of its kind"
            ))
            .into()),
        }
    }

    /// Refuses a teacher of other classes than `categories`, which are those of the data `what`.
    ///
    /// # Errors
    /// Names the first difference.
    pub(super) fn check_classes(&self, what: &str, categories: &CategoryMap) -> anyhow::Result<()> {
        let Some(own) = &self.categories else { return Ok(()) };
        classes::check_same((&self.weights.display().to_string(), own), (what, categories))
            .map_err(|error| EngineError::Classes(error).into())
    }

    /// The table `[teacher]` of a student that `student` configures.
    pub(super) fn as_teacher(&self, student: &Config) -> String {
        let mut text = format!("[teacher]\nweights = {}\n", toml_text(&self.weights));
        for (key, value) in keys_of_teacher(&self.config, student) {
            text += &format!("{} = {value}\n", key.trim_start_matches("teacher."));
        }
        text
    }

    /// The table `[student]` of a network that begins with these weights.
    pub(super) fn as_student(&self) -> String {
        let (network, detector) = (&self.config.student.network, &self.config.detector);
        format!(
            "[student]\nbackbone = \"{}\"\nwidth = {}\nnorm = \"{}\"\nstride_in = \"{}\"\nfpn_norm = \"{}\"\n\
             fpn_channels = {}\nhead_width = {}\ninit = {}\n",
            network.backbone,
            network.stem_channels(),
            network.norm,
            network.stride_in,
            network.fpn_norm,
            network.fpn_channels.unwrap_or(detector.fpn_channels),
            network.head_width.unwrap_or(detector.roi.head_width),
            toml_text(&self.weights)
        )
    }

    /// The network in words.
    pub(super) fn told(&self) -> String {
        format!("{} ({})", self.config.student.network.backbone, self.weights.display())
    }
}

impl TrainedClassifier {
    /// The classifier that `given` names, if a file or folder is there.
    ///
    /// # Errors
    /// A file that says nothing of its network, or is a detector's.
    pub(super) fn of(given: &str) -> anyhow::Result<Option<Self>> {
        let Some(weights) = weights_at(Path::new(given))? else { return Ok(None) };
        let file = WeightsFile::read(&weights).map_err(EngineError::from)?;
        let no_card =
            || UsageError(format!("{given} does not describe a classifier: name a run or an export"));
        let card = ClassifierCard::of(&file)?.ok_or_else(no_card)?;
        Ok(Some(Self { weights, card }))
    }

    /// Kind of the network.
    pub(super) fn network(&self) -> Classifier {
        self.card.config.student.network
    }
}
