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
use crate::weights::WeightsFile;
use crate::weights::file::write_safetensors;

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
}

/// The best evaluation of one of the networks of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkBest {
    /// The folder of its files below the run's.
    pub folder: String,
    /// Its best evaluation.
    #[serde(flatten)]
    pub best: Best,
    /// What was found there.
    pub eval: serde_json::Value,
}

/// The best evaluation of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Updates before it.
    pub step: u64,
    /// Its AP, or a classifier's top-1 accuracy, from 0 to 1.
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

/// The newest checkpoint in `folder`.
pub fn newest(folder: &Path) -> Result<Option<PathBuf>> {
    Ok(all(folder)?.pop())
}

/// Puts the checkpoint at `path` into `stores` and `slots`.
///
/// # Errors
/// If it is damaged or no checkpoint (says how to go on without it), or one of another network.
pub fn load(path: &Path, stores: &[&ParamStore], slots: &[Slot<'_>]) -> Result<TrainState> {
    let file = WeightsFile::read(path).map_err(|problem| EngineError::Checkpoint {
        path: path.to_owned(),
        advice: advice_without(path),
        problem: Box::new(problem),
    })?;
    let fail = |reason: String| EngineError::Run { path: path.to_owned(), reason };
    let Some(state) = file.metadata.get(STATE) else {
        return Err(fail("this is not a checkpoint (no training state in its header)".to_owned()));
    };
    let state = serde_json::from_str(state)
        .map_err(|error| fail(format!("its training state is damaged: {error}")))?;
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
        None => Ok(state),
    }
}

/// The name of an optimiser's tensor in a checkpoint.
fn key(Slot { slot, name, .. }: &Slot<'_>) -> String {
    format!("{slot}/{name}")
}

/// How to resume without the damaged checkpoint at `path`.
fn advice_without(path: &Path) -> String {
    let before = path.parent().and_then(|folder| all(folder).ok()).unwrap_or_default();
    match before.iter().rev().find(|other| other.as_path() < path) {
        Some(before) => format!("delete it to go on from {}", before.display()),
        None => "there is no earlier one: delete it to start at step 0".to_owned(),
    }
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
