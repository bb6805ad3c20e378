//! The configuration and the program that a job was started with, kept in its folder: a job goes on with the same
//! configuration only.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::seal::{self, Sealed};
use super::task::{Settings, Task as _};
use super::{EngineError, Result};
use crate::config::flat;
use crate::fsx;
use crate::report::run_folder::RunFolder;

/// Differing keys that an error shows.
const SHOWN: usize = 12;

/// Records `config`, and the hash of the data, in the job's `folder`.
pub(super) fn record<C: Settings>(folder: &RunFolder, config: &C, data: &C::Task) -> Result<()> {
    fsx::write_atomic(&folder.config(), seal::toml(&config.to_toml()).as_bytes())?;
    fsx::write_atomic(&folder.data(), format!("{}\n", data.blake3()).as_bytes())?;
    Ok(fsx::write_atomic(&folder.program(), program().as_bytes())?)
}

/// Whether the job in `folder` was started by this very program, byte for byte.
pub(super) fn is_this_program(folder: &RunFolder) -> bool {
    std::fs::read_to_string(folder.program()).is_ok_and(|recorded| recorded == program())
}

/// The program's version and the BLAKE3 of its file.
fn program() -> String {
    let file = std::env::current_exe().and_then(std::fs::read);
    let hash = file.map_or("unknown".to_owned(), |bytes| blake3::hash(&bytes).to_hex().to_string());
    format!("ckd-det {} {hash}\n", env!("CARGO_PKG_VERSION"))
}

/// Whether the job in `folder` was started with settings that give the same weights as `config`.
pub(super) fn is_same<C: Settings>(folder: &RunFolder, config: &C) -> bool {
    read::<C>(folder).is_ok_and(|recorded| that_matter(&recorded) == that_matter(config))
}

/// Whether the job in `folder` is known to be of other settings than `config`, or of other data.
///
/// A damaged record says nothing.
pub(super) fn is_other<C: Settings>(folder: &RunFolder, config: &C, data: &C::Task) -> bool {
    let is_other_config =
        read::<C>(folder).is_ok_and(|recorded| that_matter(&recorded) != that_matter(config));
    let recorded = std::fs::read_to_string(folder.data());
    is_other_config || recorded.is_ok_and(|hash| hash.trim() != data.blake3())
}

/// Settings of training in which `config` differs from `other`: `key VALUE (OTHER'S VALUE)`.
pub(super) fn other_training<C: Settings>(config: &C, other: &C) -> Vec<String> {
    const TRAINING: [&str; 6] = ["seed", "optim.", "schedule.", "train.", "input.", "engine."];
    let (own, others) = (flat(&that_matter(config)), flat(&that_matter(other)));
    let keys: BTreeSet<&String> = own.keys().chain(others.keys()).collect();
    let of_training = |key: &&String| TRAINING.iter().any(|part| key.starts_with(part));
    let said = |value: Option<&String>| value.map_or("not given", String::as_str).to_owned();
    keys.into_iter()
        .filter(of_training)
        .filter(|&key| key != "train.compare_alone" && own.get(key) != others.get(key))
        .map(|key| format!("{key} {} ({})", said(own.get(key)), said(others.get(key))))
        .collect()
}

/// BLAKE3 of the settings that decide the weights.
pub(super) fn hash(config: &impl Settings) -> String {
    blake3::hash(that_matter(config).to_toml().as_bytes()).to_hex().to_string()
}

/// The record of a run's configuration.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// It is that of the configuration at hand, as far as settings decide the weights.
    Same,
    /// It is lost, for this reason.
    Lost(String),
}

/// The error of going on in `folder` where the record is lost.
pub(super) fn lost(folder: &RunFolder, reason: &str) -> EngineError {
    let reason = format!(
        "this must be the configuration that the run was started with, but {reason}; start anew without --resume"
    );
    EngineError::Run { path: folder.config(), reason }
}

/// Refuses to go on in `folder` with other settings than it was started with.
///
/// # Errors
/// Names every key that differs, with both values.
pub(super) fn check_same<C: Settings>(folder: &RunFolder, config: &C) -> Result<Record> {
    let path = folder.config();
    let refuse = |reason: String| Err(EngineError::Run { path: path.clone(), reason });
    let recorded = match read::<C>(folder) {
        Ok(recorded) => recorded,
        Err(reason) => return Ok(Record::Lost(reason)),
    };
    let differences = differences(&that_matter(&recorded), &that_matter(config));
    if differences.is_empty() {
        return Ok(Record::Same);
    }
    let mut lines: Vec<&str> = differences.iter().take(SHOWN).map(String::as_str).collect();
    let more = format!("and {} more", differences.len().saturating_sub(SHOWN));
    if differences.len() > SHOWN {
        lines.push(&more);
    }
    refuse(format!(
        "the run was started with other settings, so it cannot be resumed with these:\n  {}\nUse the same settings, \
         or start anew without --resume (the old run is kept beside the new one)",
        lines.join("\n  ")
    ))
}

fn read<C: Settings>(folder: &RunFolder) -> std::result::Result<C, String> {
    let path = folder.config();
    let text = std::fs::read_to_string(&path).map_err(|error| format!("it cannot be read ({error})"))?;
    let Sealed::Whole(text) = seal::check_toml(&text) else {
        return Err("it is damaged: it is not what the hash in its last line says".to_owned());
    };
    C::from_toml(text, &path.display().to_string()).map_err(|error| format!("it is damaged:\n{error}"))
}

/// The configuration with settings of speed and reporting, which may change, all alike.
fn that_matter<C: Settings>(config: &C) -> C {
    let mut config = config.clone();
    let (workers, queue, run) = config.speed();
    (*workers, *queue) = (1, 1);
    // Where it lies is no matter, and folders move.
    run.output = PathBuf::new();
    let train = &mut run.train;
    train.log_every = 1;
    train.share_steps = None;
    train.checkpoint_every = None;
    train.checkpoint_minutes = 0.0;
    train.keep_checkpoints = 1;
    train.rank_timeout_s = 1.0;
    config
}

/// `key: was A, now B` for every key whose value differs.
fn differences(before: &impl Settings, now: &impl Settings) -> Vec<String> {
    let (before, now) = (flat(before), flat(now));
    let keys: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let said = |value: Option<&String>| value.map_or("not given", String::as_str).to_owned();
    keys.into_iter()
        .filter(|&key| before.get(key) != now.get(key))
        .map(|key| format!("{key}: was {}, now {}", said(before.get(key)), said(now.get(key))))
        .collect()
}
