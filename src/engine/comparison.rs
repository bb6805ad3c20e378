//! `ckd-det compare`: several experiments with several seeds, and one table of means and spreads.
//!
//! A run goes on where it was interrupted, and is not made again where configuration, teacher and program are those it was
//! made with; otherwise the old run is kept beside the new one.

use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use candle_core::Device;
use ckd_collective::Solo;
use serde::Serialize;

use super::experiment::{self, Request};
use super::job::{Row, Start};
use super::observer::Observers;
use super::task::Settings;
use super::{EngineError, Result, recorded};
use crate::config::{ConfigError, Experiment, Loaded};
use crate::fsx;
use crate::machine::cores;
use crate::report::run_folder::RunFolder;
use crate::report::table::Row as _;

/// Results of the runs of a configuration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// The configuration's name.
    pub name: String,
    /// Description of what a run's numbers measure, if not one model: the mean of a cohort's networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Runs, one for each seed.
    pub runs: Vec<Run>,
    /// Mean and spread of each metric, in the order of the runs' metrics.
    pub metrics: Vec<Metric>,
}

/// Result of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// Seed of the run.
    pub seed: u64,
    /// Updates.
    pub steps: u64,
    /// The last evaluation: names and values, in points.
    pub last: Vec<(&'static str, f64)>,
    /// The best evaluation's first metric, in points.
    pub best: Option<f64>,
    /// Folder of the run.
    pub folder: String,
}

/// A metric over the seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metric {
    /// Name of the metric.
    pub name: &'static str,
    /// The mean, in points.
    pub mean: f64,
    /// The standard deviation of the sample, in points; `None` for one run.
    pub deviation: Option<f64>,
}

/// Surroundings of the runs of a comparison, and how many are made at once.
pub struct Jobs<'a> {
    /// Device of all computations.
    pub device: &'a Device,
    /// Set when the user wants to stop.
    pub stop: &'a AtomicBool,
    /// Command that goes on after an interruption.
    pub command: &'a str,
    /// Runs at once, each on threads of its own; one is made on the threads of the caller.
    pub at_once: usize,
    /// Threads of each of several runs.
    pub threads: usize,
    /// Makes the observers of the run of a name.
    pub observers: &'a (dyn Fn(&str) -> Observers<'a> + Sync),
    /// Hears that the run of a name failed while others go on.
    pub failed: &'a (dyn Fn(&str, &EngineError) + Sync),
}

/// Runs `configs` with each of `seeds`, `sets` laid over all, and calls `done` with what there is after each run.
///
/// # Errors
/// [`EngineError::Experiment`] names the first run that stopped and says why. Runs that are under way come to their end, no
/// other one begins, and all results are kept.
pub fn compare(
    configs: &[String],
    seeds: &[u64],
    sets: &[String],
    jobs: &Jobs<'_>,
    done: impl FnMut(&[Entry]) -> Result<()> + Send,
) -> Result<Vec<Entry>> {
    // All are loaded before the first runs: a mistake in the last one shows at once.
    let mut planned = Vec::new();
    for config in configs {
        let name = Path::new(config).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for &seed in seeds {
            planned.push(Planned { config: name.clone(), seed, experiment: load(config, seed, sets)? });
        }
    }
    let next = AtomicUsize::new(0);
    let ended = Mutex::new(Ended { runs: planned.iter().map(|_| None).collect(), error: None, done });
    let work = || {
        while let Some((index, run)) = next_of(&planned, &next) {
            let result = run.made(jobs);
            let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = result.and_then(|result| ended.take(&planned, index, result)) {
                next.store(planned.len(), Ordering::Relaxed);
                ended.stop(run.name(), error, jobs);
            }
        }
    };
    match jobs.at_once.min(planned.len()) {
        ..=1 => work(),
        at_once => on_threads(at_once, jobs.threads, &work)?,
    }
    let Ended { runs, error, .. } = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    error.map_or_else(|| Ok(table(&planned, &runs)), Err)
}

/// Does `work` so many times at once, on so many threads each.
fn on_threads(at_once: usize, threads: usize, work: &(dyn Fn() + Sync)) -> Result<()> {
    let all = cores::allowed();
    let pool = |index: usize| {
        // A run keeps to cores of its own, and so do the threads that it starts.
        let own = cores::share(&all, index, at_once).to_vec();
        let keep = move |_| {
            if !own.is_empty() {
                cores::keep_to(&own);
            }
        };
        rayon::ThreadPoolBuilder::new().num_threads(threads).start_handler(keep).build()
    };
    let pools: std::result::Result<Vec<_>, _> = (0..at_once).map(pool).collect();
    let pools = pools.map_err(|error| EngineError::Alone(format!("no threads for the runs: {error}")))?;
    std::thread::scope(|scope| {
        pools.into_iter().for_each(|pool| drop(scope.spawn(move || pool.install(work))));
    });
    Ok(())
}

/// A run that is to be made.
struct Planned {
    /// Name of its configuration.
    config: String,
    seed: u64,
    experiment: Experiment,
}

/// The first run that nobody has begun, with its place.
fn next_of<'p>(planned: &'p [Planned], next: &AtomicUsize) -> Option<(usize, &'p Planned)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    planned.get(index).map(|run| (index, run))
}

/// Result of a run, and a description of what its numbers measure, if not one model.
type Made = (Run, Option<String>);

impl Planned {
    fn name(&self) -> &str {
        match &self.experiment {
            Experiment::Detect(loaded) => &loaded.config.run.name,
            Experiment::Classify(loaded) => &loaded.config.run.name,
            Experiment::Cohort(loaded) => &loaded.config.run.name,
        }
    }

    fn made(&self, jobs: &Jobs<'_>) -> Result<Made> {
        let request = Request {
            device: jobs.device,
            ranks: &Solo::default(),
            observers: &(jobs.observers)(self.name()),
            start: Start::Resume,
            stop: jobs.stop,
            command: jobs.command,
            methods: &[],
        };
        match &self.experiment {
            Experiment::Detect(loaded) => one(loaded.as_ref(), self.seed, &request),
            Experiment::Classify(loaded) => one(loaded.as_ref(), self.seed, &request),
            Experiment::Cohort(loaded) => one(loaded.as_ref(), self.seed, &request),
        }
    }
}

/// Results of the runs so far.
struct Ended<D> {
    /// In the order of the plan, whenever they ended.
    runs: Vec<Option<Made>>,
    error: Option<EngineError>,
    done: D,
}

impl<D: FnMut(&[Entry]) -> Result<()>> Ended<D> {
    fn take(&mut self, planned: &[Planned], index: usize, made: Made) -> Result<()> {
        self.runs[index] = Some(made);
        (self.done)(&table(planned, &self.runs))
    }

    fn stop(&mut self, name: &str, error: EngineError, jobs: &Jobs<'_>) {
        if jobs.at_once > 1 && !matches!(error, EngineError::Interrupted { .. } | EngineError::Stopped) {
            (jobs.failed)(name, &error);
        }
        self.error.get_or_insert_with(|| EngineError::Experiment {
            name: name.to_owned(),
            source: Box::new(error),
        });
    }
}

/// The entries of the runs that ended.
fn table(planned: &[Planned], runs: &[Option<Made>]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (plan, made) in planned.iter().zip(runs) {
        let Some((run, of)) = made else { continue };
        let at = entries.iter().position(|entry| entry.name == plan.config).unwrap_or_else(|| {
            let name = plan.config.clone();
            entries.push(Entry { name, of: of.clone(), runs: Vec::new(), metrics: Vec::new() });
            entries.len() - 1
        });
        entries[at].runs.push(run.clone());
    }
    entries.iter_mut().for_each(|entry| entry.metrics = metrics(&entry.runs));
    entries
}

/// The configuration with its seed, as a run of its own.
fn load(config: &str, seed: u64, sets: &[String]) -> std::result::Result<Experiment, ConfigError> {
    let name = match Experiment::load(config, sets)? {
        Experiment::Detect(loaded) => loaded.config.run.name,
        Experiment::Classify(loaded) => loaded.config.run.name,
        Experiment::Cohort(loaded) => loaded.config.run.name,
    };
    let own = [format!("seed={seed}"), format!("name={name}_seed{seed}")];
    Experiment::load(config, &[sets, &own].concat())
}

/// A run, and what its numbers are of.
fn one<C: Settings>(loaded: &Loaded<C>, seed: u64, request: &Request) -> Result<Made>
where
    Row<C::Task>: Clone,
{
    let config = loaded.resolved();
    let settings = config.run();
    let folder = RunFolder::at(settings.output.join(&settings.name));
    let fits = recorded::is_same(&folder, &config) && recorded::is_this_program(&folder);
    let start = if fits { Start::Resume } else { Start::Anew };
    let finished = experiment::run(loaded, &Request { start, ..*request })?;
    let run = Run {
        seed,
        steps: finished.student.steps,
        last: finished.student.row.metrics(),
        best: finished.student.best.map(|best| 100.0 * best.score),
        folder: finished.folder.display().to_string(),
    };
    Ok((run, finished.student.row.of_several()))
}

fn metrics(runs: &[Run]) -> Vec<Metric> {
    let names = runs.first().map(|run| run.last.iter().map(|(name, _)| *name)).into_iter().flatten();
    names
        .enumerate()
        .map(|(index, name)| {
            let values: Vec<f64> = runs.iter().filter_map(|run| Some(run.last.get(index)?.1)).collect();
            let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            let deviation = (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt());
            Metric { name, mean, deviation }
        })
        .collect()
}

/// The entries as a Markdown table: mean ± standard deviation of the last evaluations, in points.
pub fn markdown(entries: &[Entry]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for metric in entries.iter().flat_map(|entry| &entry.metrics) {
        if !names.contains(&metric.name) {
            names.push(metric.name);
        }
    }
    let mut text = format!("| configuration | runs | {} |\n|---|---:|", names.join(" | "));
    text += &"---:|".repeat(names.len());
    text.push('\n');
    for entry in entries {
        let of = entry.of.as_ref().map(|of| format!(" ({of})")).unwrap_or_default();
        let _ = write!(text, "| {}{of} | {} |", entry.name, entry.runs.len());
        for name in &names {
            let cell = match entry.metrics.iter().find(|metric| metric.name == *name) {
                // Less than nothing stands for nothing to measure by.
                Some(Metric { mean, .. }) if *mean < 0.0 => "-".to_owned(),
                Some(Metric { mean, deviation: Some(deviation), .. }) => {
                    format!("{mean:.2} ± {deviation:.2}")
                }
                Some(Metric { mean, deviation: None, .. }) => format!("{mean:.2}"),
                None => "-".to_owned(),
            };
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    text
}

/// Writes `compare.json` and `compare.md` into `folder`.
pub fn write(entries: &[Entry], folder: &Path) -> Result<()> {
    let json = serde_json::to_vec_pretty(entries).expect("entries have a JSON form");
    fsx::write_atomic(&folder.join("compare.json"), &json)?;
    Ok(fsx::write_atomic(&folder.join("compare.md"), markdown(entries).as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64, top1: f64) -> Run {
        Run { seed, steps: 1, last: vec![("top-1", top1)], best: None, folder: String::new() }
    }

    #[test]
    fn the_table_has_means_and_sample_deviations() {
        let entry = |name: &str, runs: Vec<Run>| {
            let metrics = metrics(&runs);
            Entry { name: name.to_owned(), of: None, runs, metrics }
        };
        let entries = [
            entry("alone", vec![run(0, 60.0), run(1, 62.0), run(2, 64.0)]),
            entry("ckd", vec![run(0, 65.5)]),
        ];
        assert_eq!(entries[0].metrics[0].deviation, Some(2.0));
        let table = markdown(&entries);
        assert!(table.contains("| alone | 3 | 62.00 ± 2.00 |"), "{table}");
        assert!(table.contains("| ckd | 1 | 65.50 |"), "{table}");
        assert!(table.starts_with("| configuration | runs | top-1 |\n|---|---:|---:|\n"), "{table}");
    }
}
