//! `ckd-det compare`: several experiments with several seeds, and one table of means and spreads.
//!
//! A run goes on where it was interrupted, and is not made again where configuration, teacher and program are those it was
//! made with; otherwise the old run is kept beside the new one.

mod entry;
mod paired;
mod plan;
mod written;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use candle_core::Device;
use ckd_collective::Solo;

use self::plan::Planned;
use super::experiment::{self, Request};
use super::job::{Row, Start};
use super::observer::Observers;
use super::task::Settings;
use super::{EngineError, Result, recorded};
use crate::config::{Experiment, Loaded};
use crate::machine::cores;
use crate::report::run_folder::RunFolder;
use crate::report::table::Row as _;
pub use entry::{Difference, Entry, Metric, Run};
pub use plan::Runs;
pub use written::{Format, markdown, write};

/// Surroundings of the runs of a comparison.
pub struct Jobs<'a> {
    /// Device of each of the runs that are made at once: the CPU as often as wanted, or GPUs. One run is made on the threads of
    /// the caller, each of several on threads of its own.
    pub devices: &'a [Device],
    /// Set when the user wants to stop.
    pub stop: &'a AtomicBool,
    /// Command that goes on after an interruption.
    pub command: &'a str,
    /// Threads of each of several runs.
    pub threads: usize,
    /// Makes the observers of the run of a name.
    pub observers: &'a (dyn Fn(&str) -> Observers<'a> + Sync),
    /// Hears that the run of a name failed while others go on.
    pub failed: &'a (dyn Fn(&str, &EngineError) + Sync),
}

/// Makes `runs`, and calls `done` with what there is after each.
///
/// # Errors
/// [`EngineError::Experiment`] names the first run that stopped and says why. Runs that are under way come to their end, no
/// other one begins, and all results are kept.
pub fn compare(
    runs: &Runs<'_>,
    jobs: &Jobs<'_>,
    done: impl FnMut(&[Entry]) -> Result<()> + Send,
) -> Result<Vec<Entry>> {
    let planned = runs.planned()?;
    let ended = Mutex::new(Ended { runs: planned.iter().map(|_| None).collect(), error: None, done });
    // Runs that begin with the weights of others wait for them all.
    let before = planned.iter().take_while(|run| !run.is_warm()).count();
    for part in [0..before, before..planned.len()] {
        let next = AtomicUsize::new(part.start);
        let work = |device: &Device| {
            while let Some((index, run)) = next_of(&planned, &part, &next) {
                let result = run.made(jobs, device);
                let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(error) = result.and_then(|result| ended.take(&planned, index, result)) {
                    next.store(part.end, Ordering::Relaxed);
                    ended.stop(run.name(), error, jobs);
                }
            }
        };
        match &jobs.devices[..jobs.devices.len().min(part.len())] {
            [] => {}
            [device] => work(device),
            devices => on_threads(devices, jobs.threads, &work)?,
        }
        if ended.lock().unwrap_or_else(PoisonError::into_inner).error.is_some() {
            break;
        }
    }
    let Ended { runs: made, error, .. } = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = error {
        return Err(error);
    }
    let mut entries = table(&planned, &made);
    // What more steps alone gained, and what methods gained over that.
    let over = |index: usize| usize::from(runs.warm.is_some() && index > 1);
    paired::compare(&mut entries, over, |name| match planned.iter().find(|plan| plan.config == name) {
        Some(Planned { experiment: Experiment::Detect(loaded), .. }) => Some(loaded.as_ref()),
        _ => None,
    })?;
    Ok(entries)
}

/// Does `work` on all devices at once, on so many threads each.
fn on_threads(devices: &[Device], threads: usize, work: &(dyn Fn(&Device) + Sync)) -> Result<()> {
    let (all, at_once) = (cores::allowed(), devices.len());
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
        for (pool, device) in pools.into_iter().zip(devices) {
            scope.spawn(move || pool.install(|| work(device)));
        }
    });
    Ok(())
}

/// The first run of a `part` of the plan that nobody has begun, with its place.
fn next_of<'p>(
    planned: &'p [Planned],
    part: &Range<usize>,
    next: &AtomicUsize,
) -> Option<(usize, &'p Planned)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    part.contains(&index).then(|| (index, &planned[index]))
}

/// Result of a run, and a description of what its numbers measure, if not one model.
type Made = (Run, Option<String>);

impl Planned {
    fn made(&self, jobs: &Jobs<'_>, device: &Device) -> Result<Made> {
        let request = Request {
            device,
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
            Experiment::Pretrain(loaded) => one(loaded.as_ref(), self.seed, &request),
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
        if jobs.devices.len() > 1 && !matches!(error, EngineError::Interrupted { .. } | EngineError::Stopped)
        {
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
    let mut entries: Vec<(String, Option<String>, Vec<Run>)> = Vec::new();
    for (plan, made) in planned.iter().zip(runs) {
        let Some((run, of)) = made else { continue };
        let at = entries.iter().position(|entry| entry.0 == plan.config).unwrap_or_else(|| {
            entries.push((plan.config.clone(), of.clone(), Vec::new()));
            entries.len() - 1
        });
        entries[at].2.push(run.clone());
    }
    entries.into_iter().map(|(name, of, runs)| Entry::new(name, of, runs)).collect()
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
