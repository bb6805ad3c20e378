//! A dry run: what an experiment would take, found by a few updates of each of its parts.

use std::time::Duration;

use super::claim::Claim;
use super::distillation::Distillation;
use super::experiment::Request;
use super::job::{Job, Surroundings, finished};
use super::missing::initial_weights;
use super::observer::Observers;
use super::task::{Gathered, Settings, Task};
use super::teacher::{self, check_folders, folder_of};
use super::{EngineError, Result};
use crate::config::Loaded;
use crate::fsx;
use crate::report::run_folder::RunFolder;
use crate::weights::WeightsFile;

/// Forecast of the time and disk of a part of an experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// The part's name for people.
    pub label: String,
    /// Updates.
    pub steps: u64,
    /// Wall time of one.
    pub step: Duration,
    /// Evaluations.
    pub evaluations: u64,
    /// Images of each.
    pub images: u64,
    /// Wall time of one image.
    pub image: Duration,
    /// Bytes of a checkpoint.
    pub checkpoint: u64,
}

impl Estimate {
    /// Wall time of the whole part.
    pub fn whole(&self) -> Duration {
        let images = self.image.as_secs_f64() * (self.images * self.evaluations) as f64;
        let seconds = self.step.as_secs_f64() * self.steps as f64 + images;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// Makes every check of a run, a few updates and evaluations of images for each part of it, and leaves nothing behind.
/// A teacher that is still to be trained teaches with random weights.
///
/// # Errors
/// Errors of the run that can be known by then.
pub fn dry_run<C: Settings>(loaded: &Loaded<C>, request: &Request<'_>) -> Result<Vec<Estimate>> {
    let gathered = C::Task::gather(loaded)?;
    let config = loaded.resolved();
    check_folders(&config, loaded)?;
    let silent = Observers::none();
    // Somebody else may use the run's folder.
    drop(Claim::of(&folder_of(&config), &silent)?);
    let folder = RunFolder::at(config.run().output.join(format!(".dry-run-{}", std::process::id())));
    let claim = Claim::of(&folder, &silent)?;
    let around = Surroundings {
        data: &gathered.task,
        bad_images: &gathered.bad_images,
        device: request.device,
        ranks: request.ranks,
        observers: &silent,
        stop: request.stop,
        command: request.command,
    };
    let estimates = parts(&config, loaded, (&gathered, &claim), &around, request);
    fsx::empty_folder(folder.path())?;
    estimates
}

fn parts<C: Settings>(
    config: &C,
    loaded: &Loaded<C>,
    (gathered, claim): (&Gathered<C::Task>, &Claim),
    around: &Surroundings<'_, C::Task>,
    request: &Request<'_>,
) -> Result<Vec<Estimate>> {
    let mut estimates = Vec::new();
    if let Some(experiment) = &loaded.teacher_experiment {
        let own = experiment.resolved().on_data_of(config);
        if finished::<C::Task>(&teacher::place(&own, around.data), &own, None, around.observers).is_none() {
            let init = initial_weights(experiment)?;
            estimates.push(job::<C::Task>(claim, &own, init.as_ref(), None, "teacher").estimate(around)?);
        }
    }
    let init = gathered.init.as_deref().map(WeightsFile::read).transpose()?;
    let teacher = match config.has_teacher() {
        true => around.data.teacher(config, around.device)?,
        false => None,
    };
    if let (Some(teacher), Some(weights)) = (&teacher, &gathered.teacher) {
        around.data.load_teacher(config, teacher, WeightsFile::read(weights)?)?;
    }
    let alone = config.without_teacher();
    if config.run().train.compare_alone && teacher.is_some() {
        estimates.push(job::<C::Task>(claim, &alone, init.as_ref(), None, "student alone").estimate(around)?);
    }
    let distillation = match teacher {
        Some(teacher) => {
            let setting = around.data.method_setting(config, &teacher, around.device)?;
            let own = request.methods.iter().map(|make| make(&setting));
            let own = own.collect::<std::result::Result<_, _>>().map_err(EngineError::from)?;
            Distillation::new(config.distill(), own, teacher, &setting)?
        }
        None => None,
    };
    let label = if distillation.is_some() { C::Task::TAUGHT } else { C::Task::LEARNER };
    estimates
        .push(job::<C::Task>(claim, config, init.as_ref(), distillation.as_ref(), label).estimate(around)?);
    Ok(estimates)
}

/// A job whose files go into the claimed folder.
fn job<'a, T: Task>(
    claim: &'a Claim,
    config: &'a T::Config,
    init: Option<&'a WeightsFile>,
    distillation: Option<&'a Distillation<T::Model>>,
    label: &str,
) -> Job<'a, T> {
    let (folder, label) = (claim.folder().clone(), label.to_owned());
    Job { config, folder, claim, label, init, distillation, teacher_hash: None, fitted: None }
}
