//! `ckd-det config diff A B`: the keys whose values differ.

use std::collections::{BTreeMap, BTreeSet};

use super::say;
use crate::config::{ConfigError, Document, Experiment, flat};

/// Prints every key in which the configurations differ, with both values; `sets` are laid over `b`.
///
/// # Errors
/// A configuration that cannot be loaded.
pub(super) fn run(a: &str, b: &str, sets: &[String]) -> anyhow::Result<()> {
    let (before, after) = (values(a, &[])?, values(b, sets)?);
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let said = |value: Option<&String>| value.map_or("not given", String::as_str).to_owned();
    let rows: Vec<[String; 3]> = keys
        .into_iter()
        .filter(|&key| before.get(key) != after.get(key))
        .map(|key| [key.clone(), said(before.get(key)), said(after.get(key))])
        .collect();
    if rows.is_empty() {
        return Ok(say("no key differs")?);
    }
    let head = ["key".to_owned(), a.to_owned(), b.to_owned()];
    let width = |column: usize| {
        [&head].into_iter().chain(&rows).map(|row| row[column].chars().count()).max().unwrap_or(0).min(WIDEST)
    };
    let (keys, firsts) = (width(0), width(1));
    for [key, a, b] in [&head].into_iter().chain(&rows) {
        say(format!("{key:keys$}  {a:firsts$}  {b}"))?;
    }
    Ok(())
}

/// Characters of a column; what is longer reaches beyond it.
const WIDEST: usize = 48;

/// Every value of the configuration, and of the one that trains its teacher.
fn values(name: &str, sets: &[String]) -> Result<BTreeMap<String, String>, ConfigError> {
    Ok(match Experiment::load(name, sets)? {
        Experiment::Detect(loaded) => {
            with_teacher(&loaded.config, loaded.teacher_experiment.map(|own| own.config))
        }
        Experiment::Classify(loaded) => {
            with_teacher(&loaded.config, loaded.teacher_experiment.map(|own| own.config))
        }
        Experiment::Cohort(loaded) => flat(&loaded.config),
        Experiment::Pretrain(loaded) => flat(&loaded.config),
    })
}

fn with_teacher<C: Document + serde::Serialize>(config: &C, teacher: Option<C>) -> BTreeMap<String, String> {
    /// Sections in which a teacher's experiment is its own.
    const OWN: [&str; 7] = ["seed", "name", "optim.", "schedule.", "train.", "input.", "engine."];
    let mut values = flat(config);
    // The keys of a table `train` are said once, with all that they leave as it is.
    if teacher.is_some() {
        values.retain(|key, _| !key.starts_with("teacher.train."));
    }
    for (key, value) in teacher.iter().flat_map(flat) {
        if OWN.iter().any(|part| key.starts_with(part)) {
            values.insert(format!("teacher.train.{key}"), value);
        }
    }
    values
}
