//! Runs of a comparison, and what is checked of all before the first one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::{ConfigError, Experiment, Loaded, flat};
use crate::distill::Distill;
use crate::engine::task::{Settings, Task as _};
use crate::engine::{EngineError, Result};
use crate::report::run_folder::RunFolder;

/// Configurations and seeds to compare.
#[derive(Debug, Clone, Copy)]
pub struct Runs<'a> {
    /// Files, or names of configurations.
    pub configs: &'a [String],
    /// Seeds of each configuration.
    pub seeds: &'a [u64],
    /// Keys laid over all configurations, as `--set` takes them.
    pub sets: &'a [String],
    /// Also train each configuration on from the weights of the first one's run of the same seed, with these keys laid over it:
    /// the first one alone, trained on alone, and trained on by the others' methods.
    pub warm: Option<&'a [String]>,
}

/// A run that is to be made.
pub(super) struct Planned {
    /// Name of its line in the table.
    pub(super) config: String,
    pub(super) seed: u64,
    pub(super) experiment: Experiment,
    /// For a run that begins with the weights of another: the experiment with weights that are there.
    needs: Option<Experiment>,
}

/// Keys in which runs must agree that begin with the same weights and are compared.
const ALIKE: [&str; 6] = [
    "student.",
    "schedule.",
    "train.batch_size",
    "train.accumulate",
    "train.images_per_update",
    "train.minutes",
];

/// Keys of a student that a warm start decides.
const DECIDED: [&str; 2] = ["student.init", "student.freeze_at"];

impl Runs<'_> {
    /// The runs in the order in which they are made: those that begin with the weights of others come last.
    ///
    /// # Errors
    /// A mistake in any configuration; two runs of one folder; data and weights that are missing; for a warm start, students
    /// or schedules that differ.
    pub(super) fn planned(&self) -> Result<Vec<Planned>> {
        let mut planned = Vec::new();
        let cold = if self.warm.is_some() { self.configs.get(..1).unwrap_or_default() } else { self.configs };
        for config in cold {
            for &seed in self.seeds {
                let experiment = load(config, seed, self.sets, "")?;
                planned.push(Planned { config: stem(config), seed, experiment, needs: None });
            }
        }
        if let (Some(sets), [first, ..]) = (self.warm, self.configs) {
            for config in self.configs {
                for &seed in self.seeds {
                    planned.push(self.warm_run(first, config, seed, sets)?);
                }
            }
        }
        check(&planned)?;
        Ok(planned)
    }

    /// The run of `config` that begins where the one of `first` ended.
    fn warm_run(&self, first: &str, config: &str, seed: u64, sets: &[String]) -> Result<Planned> {
        let name = stem(config);
        let refuse = |reason: String| EngineError::WarmStart { name: name.clone(), reason };
        let sets = [self.sets, sets].concat();
        let cold = load(first, seed, self.sets, "")?;
        let frozen = match &cold {
            Experiment::Detect(loaded) => Some(loaded.config.student.frozen_stages()),
            _ => None,
        };
        let teaches = |entries: &[Distill]| entries.iter().any(|entry| !entry.is_off());
        let is_alone = match &cold {
            Experiment::Detect(loaded) => !teaches(&loaded.config.distill),
            Experiment::Classify(loaded) => !teaches(&loaded.config.distill),
            Experiment::Pretrain(_) => false,
            Experiment::Cohort(_) => {
                return Err(refuse("the networks of a cohort begin together".to_owned()));
            }
        };
        if !is_alone {
            return Err(refuse(format!(
                "{first} comes first and must be the student alone, but it has a teacher"
            )));
        }
        let needs = load(config, seed, &sets, WARM)?;
        let reference = load(first, seed, &sets, WARM)?;
        if let Some(difference) = difference(&reference, &needs) {
            return Err(refuse(format!(
                "what it gains would not be its methods' alone, for {difference} in {first}: make them alike by --set, or --warm-set"
            )));
        }
        let mut own =
            vec![format!("student.init=run:{}", cold.run().name), "train.compare_alone=false".to_owned()];
        own.extend(frozen.map(|stages| format!("student.freeze_at={stages}")));
        let experiment = load(config, seed, &[sets, own].concat(), WARM)?;
        Ok(Planned { config: name + WARM, seed, experiment, needs: Some(needs) })
    }
}

/// Ending of the names of runs that begin with the weights of others.
const WARM: &str = "_warm";

/// The first key in which experiments differ that must not, with both values.
fn difference(first: &Experiment, other: &Experiment) -> Option<String> {
    let of = |experiment: &Experiment| match experiment {
        Experiment::Detect(loaded) => flat(&loaded.config),
        Experiment::Classify(loaded) => flat(&loaded.config),
        Experiment::Cohort(loaded) => flat(&loaded.config),
        Experiment::Pretrain(loaded) => flat(&loaded.config),
    };
    let (ours, theirs) = (of(other), of(first));
    let matters =
        |key: &&String| ALIKE.iter().any(|part| key.starts_with(part)) && !DECIDED.contains(&key.as_str());
    let said = |value: Option<&String>| value.map_or("not given", String::as_str).to_owned();
    let mut keys = ours.keys().chain(theirs.keys()).filter(matters);
    let key = keys.find(|key| ours.get(*key) != theirs.get(*key))?;
    Some(format!("{key} is {} here and {}", said(ours.get(key)), said(theirs.get(key))))
}

fn stem(config: &str) -> String {
    Path::new(config).file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Refuses two runs of one folder, and data and weights that are missing, before the first run.
fn check(planned: &[Planned]) -> Result<()> {
    let mut seen: BTreeMap<PathBuf, String> = BTreeMap::new();
    for plan in planned {
        let of = format!("{} with seed {}", plan.config, plan.seed);
        if let Some(first) = seen.insert(plan.folder(), of.clone()) {
            return Err(EngineError::SameFolder { path: plan.folder(), first, second: of });
        }
    }
    // The first run checks its own at once.
    let mut checked = planned.first().map(|plan| plan.config.clone());
    for plan in planned {
        if checked.replace(plan.config.clone()).as_ref() == Some(&plan.config) {
            continue;
        }
        let found = match plan.needs.as_ref().unwrap_or(&plan.experiment) {
            Experiment::Detect(loaded) => find(loaded.as_ref()),
            Experiment::Classify(loaded) => find(loaded.as_ref()),
            Experiment::Cohort(loaded) => find(loaded.as_ref()),
            Experiment::Pretrain(loaded) => find(loaded.as_ref()),
        };
        found.map_err(|error| EngineError::Experiment {
            name: plan.name().to_owned(),
            source: Box::new(error),
        })?;
    }
    Ok(())
}

/// Finds and loads what the experiment reads, unless its run has ended.
fn find<C: Settings>(loaded: &Loaded<C>) -> Result<()> {
    let run = loaded.config.run();
    let folder = RunFolder::at(run.output.join(&run.name));
    match folder.outcome().exists() {
        true => Ok(()),
        false => C::Task::gather(loaded).map(drop),
    }
}

impl Planned {
    /// Whether it begins with the weights of another run.
    pub(super) fn is_warm(&self) -> bool {
        self.needs.is_some()
    }

    /// Folder of the run.
    fn folder(&self) -> PathBuf {
        let run = self.experiment.run();
        run.output.join(&run.name)
    }

    pub(super) fn name(&self) -> &str {
        &self.experiment.run().name
    }
}

/// The configuration with its seed, as a run of its own, whose name has `ending` before the seed.
fn load(
    config: &str,
    seed: u64,
    sets: &[String],
    ending: &str,
) -> std::result::Result<Experiment, ConfigError> {
    let name = Experiment::load(config, sets)?.run().name.clone();
    let own = [format!("seed={seed}"), format!("name={name}{ending}_seed{seed}")];
    Experiment::load(config, &[sets, &own].concat())
}
