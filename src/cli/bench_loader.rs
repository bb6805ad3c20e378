//! `ckd-det bench loader CONFIG`: how many images a second an experiment's data comes at, and what that takes.

use std::time::Instant;

use clap::builder::RangedU64ValueParser;
use serde::Serialize;

use super::{UsageError, say};
use crate::config::{Document, Experiment, Loaded};
use crate::data::{Loader, Position};
use crate::engine::task::{Settings, Task};

/// Images a second that the last line of the report counts processors for.
const WANTED: f64 = 100.0;

#[derive(Debug, clap::Args)]
pub(super) struct Setting {
    /// A file, or the name of a configuration (`ckd-det config list`)
    #[arg(value_name = "CONFIG")]
    config: String,
    /// Change a key: a.b=VALUE; data.workers and data.queue say how many threads prepare how many batches
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Batches that count
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    batches: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Measured work of the data's threads.
#[derive(Debug, Serialize)]
struct Report {
    config: String,
    images: usize,
    workers: usize,
    images_per_s: f64,
    /// Processor time of all threads, where the system tells it.
    processor_ms_per_image: Option<f64>,
}

/// Runs the verb.
///
/// # Errors
/// A configuration that cannot be used; missing data; an image that cannot be read.
pub(super) fn run(setting: &Setting) -> anyhow::Result<()> {
    let report = match Experiment::load(&setting.config, &setting.sets)? {
        Experiment::Detect(mut loaded) => {
            // Weights are not needed here.
            loaded.config.student.init = None;
            measured(*loaded, setting.batches)?
        }
        Experiment::Classify(mut loaded) => {
            loaded.config.student.init = None;
            measured(*loaded, setting.batches)?
        }
        Experiment::Cohort(loaded) => measured(*loaded, setting.batches)?,
        Experiment::Pretrain(mut loaded) => {
            loaded.config.student.init = None;
            measured(*loaded, setting.batches)?
        }
    };
    match setting.json {
        true => say(serde_json::to_string(&report)?)?,
        false => report.print()?,
    }
    Ok(())
}

/// Takes the training batches of an experiment as fast as they come.
fn measured<C: Settings + Document>(loaded: Loaded<C>, batches: u64) -> anyhow::Result<Report> {
    let config = loaded.config.without_teacher();
    let loaded = Loaded { config, teacher_experiment: None, ..loaded };
    let task = C::Task::gather(&loaded)?.task;
    let workforce = loaded.config.workforce();
    let mut loader = Loader::over(task.source(&loaded.config)?, workforce, Position::default())?;
    // What was prepared ahead must not count: as many batches are waiting in the end.
    let ahead = workforce.workers + workforce.batches_ahead;
    for _ in 0..ahead {
        loader.next().transpose()?;
    }
    let (began, spent) = (Instant::now(), processor_seconds());
    let mut images = 0;
    for _ in 0..batches {
        let batch = loader.next().ok_or_else(|| UsageError("the data set has no image".to_owned()))??;
        images += C::Task::images(&batch);
    }
    let seconds = began.elapsed().as_secs_f64();
    let spent = processor_seconds().zip(spent).map(|(after, before)| after - before);
    Ok(Report {
        config: loaded.config.run().name.clone(),
        images,
        workers: workforce.workers,
        images_per_s: images as f64 / seconds,
        processor_ms_per_image: spent.map(|seconds| 1e3 * seconds / images as f64),
    })
}

/// Processor time of all threads of the process so far.
#[cfg(unix)]
fn processor_seconds() -> Option<f64> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

#[cfg(not(unix))]
fn processor_seconds() -> Option<f64> {
    None
}

impl Report {
    fn print(&self) -> anyhow::Result<()> {
        say(format!("{}: {} images by {} workers", self.config, self.images, self.workers))?;
        say(format!("{:>10.1} images/s", self.images_per_s))?;
        if let Some(ms) = self.processor_ms_per_image {
            say(format!("{ms:>10.1} ms of processor time an image"))?;
            say(format!("{:>10.1} processors would prepare {WANTED:.0} images/s", WANTED * ms / 1e3))?;
        }
        Ok(())
    }
}
