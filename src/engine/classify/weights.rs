//! Weights of classifiers: what travels with them, and how they come into a network.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use ckd_detectors::classifier::Classifier;
use ckd_detectors::param::Builder;
use serde_json::json;

use super::network::student;
use crate::config::{ClassifyConfig, Document};
use crate::engine::{EngineError, Result};
use crate::weights::load::BODY;
use crate::weights::{WeightsError, WeightsFile};

const CONFIG: &str = "ckd_det.classify_config";
const CLASSES: &str = "ckd_det.classes";
const PROVENANCE: &str = "ckd_det.provenance";
const INPUT: &str = "ckd_det.input";
/// Prefix of `torch.nn.DataParallel` before every name.
const DATA_PARALLEL: &str = "module.";
/// Prefix of the layers of MobileNets in their classifiers, which detectors leave out.
const FEATURES: &str = "features.";

/// Description of a classifier that its weights carry: all that is needed to use it again, and its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassifierCard {
    /// The experiment; the weights are those of its student.
    pub config: ClassifyConfig,
    /// The classes, in the order of the logits.
    pub classes: Vec<String>,
    /// Facts about the training: steps, accuracy, hashes.
    pub provenance: BTreeMap<String, String>,
}

impl ClassifierCard {
    /// The entries of a safetensors header.
    pub fn to_metadata(&self) -> BTreeMap<String, String> {
        let json = |value: serde_json::Value| value.to_string();
        let normalization = self.config.student_normalization();
        let side = self.config.labelled.input.side_px;
        // For other programs.
        let input = json!({
            "channels": "RGB",
            "range": [0.0, 1.0],
            "mean": normalization.mean.map(decimal),
            "std": normalization.std.map(decimal),
            "side_px": side,
            "resize": match self.config.labelled.input.eval_resize_px {
                Some(short) => format!("antialiased bilinear, the shorter side to {short} pixels; then the middle {side}"),
                None => format!("antialiased bilinear, the whole image to {side} x {side}"),
            },
        });
        BTreeMap::from([
            ("format".to_owned(), "pt".to_owned()),
            (CONFIG.to_owned(), self.config.to_toml()),
            (CLASSES.to_owned(), json(self.classes.clone().into())),
            (PROVENANCE.to_owned(), json(json!(self.provenance))),
            (INPUT.to_owned(), json(input)),
        ])
    }

    /// The card of `file`, if it has one: a file from elsewhere has none.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn of(file: &WeightsFile) -> Result<Option<Self>> {
        let Some(config) = file.metadata.get(CONFIG) else { return Ok(None) };
        let fail = |reason: String| EngineError::from(WeightsError::Card { path: file.path.clone(), reason });
        let entry = |key: &str| file.metadata.get(key).map_or("", String::as_str);
        let damaged = |error: serde_json::Error| fail(format!("its header is damaged: {error}"));
        Ok(Some(Self {
            config: ClassifyConfig::from_toml(config, &file.path.display().to_string())
                .map_err(|error| fail(format!("its configuration: {error}")))?,
            classes: serde_json::from_str(entry(CLASSES)).map_err(damaged)?,
            provenance: serde_json::from_str(entry(PROVENANCE)).map_err(damaged)?,
        }))
    }

    /// The network with the weights of `file`, frozen.
    ///
    /// # Errors
    /// Lists what is missing, unexpected or of another shape.
    pub fn network(&self, file: &WeightsFile, device: &Device) -> Result<Classifier> {
        let network = student(&self.config, self.classes.len(), Builder::new(0, device).frozen())?;
        load_weights(&network, file)?;
        Ok(network)
    }

    /// Description of the network for messages.
    pub fn described(&self) -> String {
        format!("a classifier, {} of {} classes", self.config.student.network, self.classes.len())
    }

    /// Refuses the weights at `path` for data with other `classes`.
    ///
    /// # Errors
    /// Names the first difference.
    pub fn check_classes(&self, path: &Path, classes: &[String]) -> Result<()> {
        if self.classes == classes {
            return Ok(());
        }
        let at = self.classes.iter().zip(classes).take_while(|(ours, theirs)| ours == theirs).count();
        let named = |list: &[String]| list.get(at).cloned().unwrap_or_else(|| "none".to_owned());
        let reason = format!(
            "it knows {} classes, the data has {}; the first difference is class {}: {:?} and {:?}",
            self.classes.len(),
            classes.len(),
            at + 1,
            named(&self.classes),
            named(classes),
        );
        Err(EngineError::Run { path: path.to_owned(), reason })
    }
}

/// Converts to the shortest decimal: 0.05, not the f64 that is the f32 nearest to it.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(value.into())
}

/// Whether the last layer of a file must fit the network's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    Fits,
    /// One for other classes, or none, is left out.
    MayDiffer,
}

/// Loads a whole classifier.
///
/// # Errors
/// Lists every missing, unexpected and mis-shaped name.
pub fn load_weights(model: &Classifier, file: &WeightsFile) -> Result<()> {
    load(model, file, Head::Fits)?;
    Ok(())
}

/// Loads `file` into `model` and names what stays random.
///
/// # Errors
/// Lists every missing, unexpected and mis-shaped name. Batch norms' `num_batches_tracked` is not missed.
pub(super) fn load(
    model: &Classifier,
    file: &WeightsFile,
    head: Head,
) -> std::result::Result<Vec<String>, WeightsError> {
    load_named(model, file, &without_prefix(file), head)
}

/// Loads all but the last layer, of a classifier, of a backbone, or of the backbone of a detector.
///
/// # Errors
/// Lists every missing, unexpected and mis-shaped name. Batch norms' `num_batches_tracked` is not missed.
pub fn load_body(model: &Classifier, file: &WeightsFile) -> std::result::Result<(), WeightsError> {
    let given = match file.tensors.keys().any(|name| name.starts_with(BODY)) {
        true => of_detector(model, file),
        false => without_prefix(file),
    };
    load_named(model, file, &given, Head::MayDiffer).map(drop)
}

/// Loads the tensors `given` of `file` into `model` and names what stays random.
fn load_named(
    model: &Classifier,
    file: &WeightsFile,
    given: &BTreeMap<String, &Tensor>,
    head: Head,
) -> std::result::Result<Vec<String>, WeightsError> {
    let head_prefix = format!("{}.", model.head_prefix());
    let (mut report, mut random, mut fitting) = (Vec::new(), Vec::new(), Vec::new());
    for (name, param) in model.params().iter() {
        let may_differ = head == Head::MayDiffer && name.starts_with(&head_prefix);
        match given.get(&**name) {
            Some(tensor) if tensor.dims() == param.value.dims() => fitting.push((name, *tensor)),
            _ if may_differ => random.push(name.to_string()),
            Some(tensor) => report.push(format!(
                "{name}: {:?} in the network, {:?} in the file",
                param.value.dims(),
                tensor.dims()
            )),
            None => report.push(format!("{name} is missing from the file")),
        }
    }
    // Another network's last layer may have another name.
    let known = |name: &str| model.params().get(name).is_some() || name.ends_with("num_batches_tracked");
    report.extend(given.keys().filter(|name| !known(name)).map(|name| format!("{name} is unexpected")));
    if !report.is_empty() {
        let report = report.iter().map(|line| format!("\n    {line}")).collect();
        return Err(WeightsError::Mismatch { path: file.path.clone(), report });
    }
    file.check_finite()?;
    for (name, tensor) in fitting {
        model.params().set(name, tensor)?;
    }
    Ok(random)
}

/// The file's tensors without the prefix that all of them may have.
fn without_prefix(file: &WeightsFile) -> BTreeMap<String, &Tensor> {
    let wrapped = file.tensors.keys().all(|name| name.starts_with(DATA_PARALLEL));
    let cut = if wrapped { DATA_PARALLEL.len() } else { 0 };
    file.tensors.iter().map(|(name, tensor)| (name[cut..].to_owned(), tensor)).collect()
}

/// The tensors of a detector's backbone, under the names of a classifier.
fn of_detector<'f>(model: &Classifier, file: &'f WeightsFile) -> BTreeMap<String, &'f Tensor> {
    let prefix = match model.params().iter().any(|(name, _)| name.starts_with(FEATURES)) {
        true => FEATURES,
        false => "",
    };
    let own = |(name, tensor): (&String, &'f Tensor)| {
        Some((format!("{prefix}{}", name.strip_prefix(BODY)?), tensor))
    };
    file.tensors.iter().filter_map(own).collect()
}
