//! The state of a run: everything that the next step depends on.
//!
//! Random numbers and data order are functions of (seed, step), so weights, the state of the
//! optimiser and the step are all there is. The teacher is not in it: its hash is, and its path is in the run's configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use candle_core::Tensor;
use ckd_detectors::param::{ParamStore, write_in_place};
use serde::{Deserialize, Serialize};

use super::{EngineError, Result};
use crate::fsx;
use crate::optim::Slot;
use crate::report::shares::Shares;
use crate::weights::file::write_safetensors;
use crate::weights::{WeightsError, WeightsFile};

const STATE: &str = "ckd_det.train_state";
const MODEL: &str = "model/";

/// The part of the state that is not tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// Finished updates.
    pub step: u64,
    /// Threads that computed them: results are bit-for-bit the same for the same number.
    pub threads: usize,
    /// The best evaluation so far and its step.
    pub best: Option<Best>,
    /// The best evaluation so far of each network, where several train together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkBest>,
    /// BLAKE3 of the teacher's weights, if there is one.
    pub teacher: Option<String>,
    /// Evaluations in a row without a better score (`train.patience`).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since_best: u64,
    /// Updates of the whole run, where `train.minutes` decided that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Whether an evaluation is to be made before the next update.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub evaluation_due: bool,
    /// Steps that were left out, their losses or gradients not being finite.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<u64>,
    /// The last losses, where spikes are guarded against.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<f64>,
    /// Gradients of the measured steps so far, until they are reported.
    #[serde(default, skip_serializing_if = "Shares::is_empty")]
    pub shares: Shares,
    /// BLAKE3 of the settings of the run; checkpoints of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// BLAKE3 of the log so far, wall times left out, if the run writes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A checkpoint that was put into a network.
#[derive(Debug)]
pub struct Restored {
    /// The file.
    pub path: PathBuf,
    /// State of the checkpoint.
    pub state: TrainState,
    /// Notes for the user: damaged checkpoints that were passed over, a missing hash.
    pub notes: Vec<String>,
}

/// The best evaluation of one of the networks of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkBest {
    /// The folder of its files below the run's.
    pub folder: String,
    /// Best evaluation of the network.
    #[serde(flatten)]
    pub best: Best,
    /// Measurements of that evaluation.
    pub eval: serde_json::Value,
}

/// The best evaluation of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Updates before it.
    pub step: u64,
    /// AP of a detector, or top-1 accuracy of a classifier, from 0 to 1.
    #[serde(alias = "ap")]
    pub score: f64,
}

/// Writes the checkpoint of `state.step` into `folder` and removes all but the newest `keep`. `stores` hold the tensors of
/// the student and of what is trained beside it, `slots` those of the optimiser and of the average of the weights.
pub fn save(
    folder: &Path,
    stores: &[&ParamStore],
    slots: &[Slot<'_>],
    state: &TrainState,
    keep: usize,
) -> Result<PathBuf> {
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    for params in stores {
        let own = params.snapshot()?.into_iter();
        tensors.extend(own.map(|(name, tensor)| (format!("{MODEL}{name}"), tensor)));
    }
    for slot in slots {
        tensors.insert(key(slot), slot.tensor.clone());
    }
    let json = serde_json::to_string(state).expect("a plain structure has a JSON form");
    let path = folder.join(format!("step-{:08}.safetensors", state.step));
    write_safetensors(&path, &tensors, &BTreeMap::from([(STATE.to_owned(), json)]))?;
    for old in all(folder)?.iter().rev().skip(keep.max(1)) {
        fsx::remove(old)?;
    }
    Ok(path)
}

/// Bytes of the tensors of a checkpoint.
pub fn size(stores: &[&ParamStore], slots: &[Slot<'_>]) -> u64 {
    let own = stores.iter().flat_map(|params| params.iter()).map(|(_, param)| param.value.tensor());
    let numbers: usize = own.chain(slots.iter().map(|slot| slot.tensor)).map(Tensor::elem_count).sum();
    (numbers * size_of::<f32>()) as u64
}

/// Whether `folder` holds a checkpoint, good or bad.
///
/// # Errors
/// If it cannot be listed.
pub fn is_any(folder: &Path) -> Result<bool> {
    Ok(!all(folder)?.is_empty())
}

/// Puts the newest checkpoint of `folder` that is whole into `stores` and `slots`; `None` without any. Newer ones that are
/// damaged are set aside under another name.
///
/// # Errors
/// If all are damaged, or one is unreadable, no checkpoint, or one of another network.
pub fn restore(folder: &Path, stores: &[&ParamStore], slots: &[Slot<'_>]) -> Result<Option<Restored>> {
    let mut damaged: Vec<(PathBuf, WeightsError)> = Vec::new();
    for path in all(folder)?.into_iter().rev() {
        let file = match WeightsFile::read(&path) {
            Ok(file) => file,
            Err(problem @ WeightsError::Format { .. }) => {
                damaged.push((path, problem));
                continue;
            }
            Err(problem) => return Err(unusable(path, "make it readable, or move it away", problem)),
        };
        let fail = |reason: String| EngineError::Run { path: path.clone(), reason };
        let Some(state) = file.metadata.get(STATE) else {
            return Err(fail("this is not a checkpoint (no training state in its header)".to_owned()));
        };
        let state: TrainState = serde_json::from_str(state)
            .map_err(|error| fail(format!("its training state is damaged: {error}")))?;
        let mut notes = Vec::new();
        if !file.is_sealed {
            if state.config.is_some() {
                let reason = "the hash of its content is gone from its header".to_owned();
                damaged.push((path.clone(), WeightsError::Format { path, reason }));
                continue;
            }
            notes.push(format!(
                "{} was written by a version whose checkpoints carry no hash: whether it is damaged cannot be told",
                path.display()
            ));
        }
        file.check_finite()?;
        put(file, &path, stores, slots)?;
        for (bad, problem) in damaged {
            let mut kept = bad.clone().into_os_string();
            kept.push(".damaged");
            fsx::rename(&bad, Path::new(&kept))?;
            notes.push(format!(
                "the checkpoint {} is damaged ({problem}); it is kept as {}, and the run goes on from {}",
                bad.display(),
                Path::new(&kept).display(),
                path.display()
            ));
        }
        return Ok(Some(Restored { path, state, notes }));
    }
    match damaged.into_iter().next() {
        None => Ok(None),
        Some((path, problem)) => {
            let advice = "none of the others is whole: start anew without --resume (what is there is kept)";
            Err(unusable(path, advice, problem))
        }
    }
}

fn unusable(path: PathBuf, advice: &str, problem: WeightsError) -> EngineError {
    EngineError::Checkpoint { path, advice: advice.to_owned(), problem: Box::new(problem) }
}

/// Puts the tensors of a checkpoint into `stores` and `slots`.
///
/// # Errors
/// If they are those of another network.
fn put(file: WeightsFile, path: &Path, stores: &[&ParamStore], slots: &[Slot<'_>]) -> Result<()> {
    let fail = |reason: String| EngineError::Run { path: path.to_owned(), reason };
    let mut left = file.tensors;
    let mut restore = |name: String, to: &Tensor| -> Result<()> {
        match left.remove(&name) {
            Some(tensor) if tensor.dims() == to.dims() => Ok(write_in_place(to, &tensor)?),
            Some(tensor) => Err(fail(format!(
                "{name} has shape {:?} where the network has {:?}: it belongs to another network",
                tensor.dims(),
                to.dims()
            ))),
            None => Err(fail(format!("{name} is missing: it belongs to another network"))),
        }
    };
    for (name, param) in stores.iter().flat_map(|params| params.iter()) {
        restore(format!("{MODEL}{name}"), param.value.tensor())?;
    }
    for slot in slots {
        restore(key(slot), slot.tensor)?;
    }
    match left.keys().next() {
        Some(name) => Err(fail(format!("{name} is unknown here: it belongs to another network"))),
        None => Ok(()),
    }
}

/// The name of an optimiser's tensor in a checkpoint.
fn key(Slot { slot, name, .. }: &Slot<'_>) -> String {
    format!("{slot}/{name}")
}

/// All checkpoints in `folder`, oldest first. What a killed write left (`.partial`) is none.
fn all(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |error: io::Error| EngineError::Run {
        path: folder.to_owned(),
        reason: format!("the folder of checkpoints cannot be listed: {error}"),
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("step-") && name.ends_with(".safetensors") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
