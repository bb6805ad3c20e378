//! Networks that were trained before, named in a network's place: weights files, runs, folders in the Hub's layout.

use std::path::{Path, PathBuf};

use ckd_detectors::classifier::Architecture as Classifier;

use crate::cli::UsageError;
use crate::cli::model::weights_at;
use crate::config::Architecture;
use crate::data::CategoryMap;
use crate::engine::EngineError;
use crate::engine::classes;
use crate::engine::classify::ClassifierCard;
use crate::weights::{ModelCard, WeightsFile};

/// A detector that was trained before.
pub(super) struct Trained {
    /// Its weights, in full.
    pub(super) weights: PathBuf,
    pub(super) card: ModelCard,
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
    /// A file that says nothing of its network, or is another network's.
    pub(super) fn of(given: &str) -> anyhow::Result<Option<Self>> {
        let Some(weights) = weights_at(Path::new(given))? else { return Ok(None) };
        let file = WeightsFile::read(&weights).map_err(EngineError::from)?;
        if let Some(card) = ClassifierCard::of(&file)? {
            let card = card.described();
            return Err(UsageError(format!("{given} is {card}, and the images have boxes")).into());
        }
        let card = ModelCard::of(&file).map_err(|error| {
            UsageError(format!(
                "{error}. For `new`, import it first: ckd-det weights import {given} --out FILE.safetensors"
            ))
        })?;
        match card.config.detector.architecture {
            Architecture::FasterRcnn => Ok(Some(Self { weights, card })),
            other => Err(UsageError(format!(
                "{given} is a {other}, and `new` writes configurations of faster_rcnn; copy one with `ckd-det config show` \
                 and set detector.architecture"
            ))
            .into()),
        }
    }

    /// Refuses a teacher of other classes than `categories`, which are those of the data `what`.
    ///
    /// # Errors
    /// Names the first difference.
    pub(super) fn check_classes(&self, what: &str, categories: &CategoryMap) -> anyhow::Result<()> {
        let own = self.weights.display().to_string();
        classes::check_same((&own, &self.card.categories), (what, categories))
            .map_err(|error| EngineError::Classes(error).into())
    }

    /// The tables `[teacher]`, `[teacher.normalization]` and `[teacher.detector]`.
    pub(super) fn as_teacher(&self) -> String {
        let config = &self.card.config;
        let (mean, std) = (config.normalization.mean, config.normalization.std);
        let mut text = format!(
            "[teacher]\n{}weights = {}\nresize = \"{}\"\n\n[teacher.normalization]\nmean = {mean:?}\nstd = {std:?}\n\n\
             [teacher.detector] # what its weights were trained with\n",
            self.network(),
            super::wish::toml_text(&self.weights),
            config.input.resize
        );
        for (key, value) in config.detector.facts().into_iter().filter(|(key, _)| *key != "architecture") {
            let value = match (key, &config.detector.anchor_sizes) {
                ("anchor_sizes", None) => PUBLISHED_ANCHORS.to_owned(),
                _ => value,
            };
            text += &format!("{key} = {value}\n");
        }
        text
    }

    /// The table `[student]` of a network that begins with these weights.
    pub(super) fn as_student(&self) -> String {
        format!("[student]\n{}init = {}\n", self.network(), super::wish::toml_text(&self.weights))
    }

    /// Keys of the network.
    fn network(&self) -> String {
        let network = &self.card.config.student.network;
        let (fpn, head) = (self.card.config.detector.fpn_channels, self.card.config.detector.roi.head_width);
        let mut text = format!("backbone = \"{}\"\n", network.backbone);
        if let Some(width) = network.width {
            text += &format!("width = {width} # channels of the first layer\n");
        }
        text + &format!(
            "norm = \"{}\"\nstride_in = \"{}\"\nfpn_norm = \"{}\"\nfpn_channels = {}\nhead_width = {}\n",
            network.norm,
            network.stride_in,
            network.fpn_norm,
            network.fpn_channels.unwrap_or(fpn),
            network.head_width.unwrap_or(head)
        )
    }

    /// The network in words.
    pub(super) fn told(&self) -> String {
        format!("{} ({})", self.card.config.student.network.backbone, self.weights.display())
    }
}

/// Faster R-CNN's published anchors, which a configuration without `anchor_sizes` has.
const PUBLISHED_ANCHORS: &str = "[[32.0], [64.0], [128.0], [256.0], [512.0]]";

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
