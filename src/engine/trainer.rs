//! The training loop of one student.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ckd_detectors::Detector;
use ckd_detectors::init::stream;
use ckd_kernels::Gradients;
use ckd_kernels::graph::add_into;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::checkpoint::{self, Best, TrainState};
use super::evaluate::{teacher_images, to_device};
use super::job::{Job, Start, Surroundings};
use super::log_lines::{EvalLine, SharesLine, StepLine, Update};
use super::optim::Sgd;
use super::outcome::{Measured, Outcome};
use super::pass::{LossTerm, Views, training_pass};
use super::schedule::LearningRate;
use super::shares::Shares;
use super::{EngineError, Result, build, recorded};
use crate::config::{Config, Resize};
use crate::data::sampler::{Aspect, Grouping, Order, Sampler};
use crate::data::{DataError, Dataset, Loader, LoaderConfig, Position, Purpose};
use crate::fsx;
use crate::report::log::MetricsLog;
use crate::report::progress::{Progress, StepReport, Verbosity};
use crate::weights::agree::{self, Role};
use crate::weights::card::{ModelCard, categories_of};
use crate::weights::file::write_safetensors;
use crate::weights::load;

/// The folder of checkpoints in a job's folder.
pub(super) const CHECKPOINTS: &str = "checkpoints";

/// A job under way.
pub(super) struct Training<'a> {
    job: &'a Job<'a>,
    around: &'a Surroundings<'a>,
    student: Detector,
    sgd: Sgd,
    state: TrainState,
    rate: LearningRate,
    loader: Loader,
    log: MetricsLog,
    progress: Progress,
    shares: Shares,
}

/// The summed gradients of one update's batches.
struct Accumulated {
    /// Means over the batches.
    terms: Vec<LossTerm>,
    gradients: Gradients,
    images: usize,
}

impl<'a> Training<'a> {
    /// At step 0 of the job, or where its last checkpoint is.
    pub(super) fn begin(job: &'a Job<'a>, start: Start, around: &'a Surroundings<'a>) -> Result<Self> {
        let Job { config, folder, .. } = job;
        let resumed_from = match start {
            Start::Resume => checkpoint::newest(&job.checkpoints())?,
            Start::Anew => None,
        };
        if resumed_from.is_some() {
            recorded::check_same(folder, config)?;
        }
        let student = build::student(config, around.data.train.categories.len(), around.device)?;
        let sgd = Sgd::over(&job.trained(&student), &config.optim)?;
        let mut notes = Vec::new();
        let state = match &resumed_from {
            Some(path) => resumed(job, path, &student, &sgd, &mut notes)?,
            None => anew(job, start, &student, &mut notes)?,
        };
        let log = MetricsLog::open(&folder.join("log.jsonl"), resumed_from.is_some().then_some(state.step))?;

        let batches_per_epoch = batches_per_epoch(config, &around.data.train)?;
        let accumulate = config.train.accumulate as u64;
        let steps_per_epoch = (batches_per_epoch / accumulate).max(1);
        let rate = LearningRate::new(config.optim.lr, &config.schedule, steps_per_epoch);
        let seen = state.step * accumulate;
        let position =
            Position { epoch: seen / batches_per_epoch, batch: (seen % batches_per_epoch) as usize };
        let loader = Loader::new(around.data.train.clone(), loader_config(config), position)?;
        let verbosity = match around.quiet {
            true => Verbosity::Quiet,
            // Without a terminal: a line every tenth of the run, log.jsonl has the rest.
            false => Verbosity::for_stderr((rate.total_steps() / 10).max(1)),
        };
        let mut progress = Progress::new(rate.total_steps(), state.step, &job.label, verbosity);
        for note in notes {
            progress.note(&note);
        }
        Ok(Self { job, around, student, sgd, state, rate, loader, log, progress, shares: Shares::default() })
    }

    /// Trains to the end, evaluates, writes weights and outcome.
    pub(super) fn finish(mut self) -> Result<Outcome> {
        let outcome = self.train();
        self.progress.finish();
        outcome
    }

    fn train(&mut self) -> Result<Outcome> {
        let config = self.job.config;
        let total = self.rate.total_steps();
        let evaluate_every = config.train.eval_every.map(|every| every * self.rate.unit_steps());
        let mut last = None;
        while self.state.step < total {
            self.update()?;
            let step = self.state.step;
            let due = |every: Option<u64>| every.is_some_and(|every| every > 0 && step.is_multiple_of(every));
            let evaluate = due(evaluate_every) || step == total;
            if evaluate {
                last = Some(self.evaluate()?);
            }
            let stop = self.around.stop.load(Ordering::Relaxed) && step < total;
            if due(config.train.checkpoint_every) || evaluate || stop {
                self.save()?;
            }
            if stop {
                return Err(EngineError::Interrupted { step, command: self.around.command.to_owned() });
            }
        }
        if self.shares.passes > 0 {
            self.progress.note(&self.shares.to_string());
        }
        let measured = match last {
            Some(measured) => measured,
            // The run ended between its last checkpoint and its outcome.
            None => self.around.measure(&self.student, config)?,
        };
        self.write_weights(&self.job.weights(), measured.metrics.stats[0])?;
        let outcome = Outcome {
            row: measured.row(&self.job.label, &self.student),
            per_class: measured.per_class(),
            best: self.state.best,
            steps: self.state.step,
            teacher: self.state.teacher.clone(),
        };
        outcome.write(&self.job.folder)?;
        Ok(outcome)
    }

    /// One update of the weights.
    fn update(&mut self) -> Result<()> {
        let started = Instant::now();
        let waited_before = self.loader.data_wait();
        let step = self.state.step;
        let Accumulated { terms, gradients, images } = self.accumulate()?;
        let scale = 1.0 / self.job.config.train.accumulate as f64;
        let gradient_norm = self.sgd.gradient_norm(&gradients, scale)?;
        if !gradient_norm.is_finite() {
            return Err(EngineError::non_finite(step, "the norm of the gradient", gradient_norm, &terms));
        }
        let lr = self.rate.at(step);
        self.sgd.step(&gradients, lr, scale, gradient_norm)?;
        drop(gradients);
        self.state.step += 1;
        if self.state.step == self.job.config.train.share_steps && self.shares.passes > 0 {
            self.progress.note(&self.shares.to_string());
            self.log.write(&SharesLine { step: self.state.step, shares: &self.shares })?;
        }

        let waited = self.loader.data_wait() - waited_before;
        let losses: Vec<(&str, f64)> = terms.iter().map(|term| (term.name.as_str(), term.weighted)).collect();
        self.progress.step(&StepReport { losses: &losses, learning_rate: lr, images, data_wait: waited });
        let step = self.state.step;
        if step.is_multiple_of(self.job.config.train.log_every.max(1)) || step == self.rate.total_steps() {
            let took = started.elapsed();
            let update = Update { lr, gradient_norm, terms: &terms, images, took, waited };
            self.log.write(&StepLine::new(step, &update))?;
        }
        Ok(())
    }

    /// The gradients of one update's batches.
    fn accumulate(&mut self) -> Result<Accumulated> {
        let config = self.job.config;
        let accumulate = config.train.accumulate as u64;
        let mut sum = Accumulated { terms: Vec::new(), gradients: Gradients::new(), images: 0 };
        for part in 0..accumulate {
            let mut batch = self.loader.next().transpose()?.ok_or_else(|| {
                DataError::Setting("the training batches ended, which they never should".to_owned())
            })?;
            sum.images += batch.batch;
            let teachers = teacher_images(&mut batch, self.around.device)?;
            let (images, targets) = to_device(batch, self.around.device)?;
            let step = self.state.step;
            let stream = stream(config.seed, &format!("sample/{}", step * accumulate + part));
            let mut random = ChaCha8Rng::seed_from_u64(stream);
            let pass = build::precision(config).scope(|| {
                let views = Views { student: &images, teacher: teachers.as_ref().unwrap_or(&images) };
                training_pass(&self.student, self.job.distillation, views, &targets, step, &mut random)
            })?;
            self.shares.add(&pass.shares);
            for (name, gradient) in pass.gradients {
                add_into(&mut sum.gradients, name, gradient)?;
            }
            for term in pass.terms {
                let share = term.weighted / accumulate as f64;
                match sum.terms.iter_mut().find(|known| known.name == term.name) {
                    Some(known) => known.weighted += share,
                    None => sum.terms.push(LossTerm { name: term.name, weighted: share }),
                }
            }
        }
        Ok(sum)
    }

    /// Measures the student as it is; keeps it if it is the best so far.
    fn evaluate(&mut self) -> Result<Measured> {
        let measured = self.around.measure(&self.student, self.job.config)?;
        let step = self.state.step;
        let stats = &measured.metrics.stats;
        let [ap, ap50, ap75] = [0, 1, 2].map(|index| 100.0 * stats[index]);
        self.progress
            .note(&format!("{} step {step}: AP {ap:.1}  AP50 {ap50:.1}  AP75 {ap75:.1}", self.job.label));
        self.log.write(&EvalLine { step, eval: stats })?;
        let json = serde_json::to_vec_pretty(&measured.metrics).expect("metrics have a JSON form");
        fsx::write_atomic(&self.job.folder.join(format!("eval/step-{step:08}.json")), &json)?;
        if self.state.best.is_none_or(|best| stats[0] > best.ap) {
            self.state.best = Some(Best { step, ap: stats[0] });
            self.write_weights(&self.job.folder.join("best.safetensors"), stats[0])?;
        }
        Ok(measured)
    }

    fn save(&self) -> Result<()> {
        let keep = self.job.config.train.keep_checkpoints;
        let stores = self.job.trained(&self.student);
        checkpoint::save(&self.job.checkpoints(), &stores, &self.sgd, &self.state, keep)?;
        Ok(())
    }

    fn write_weights(&self, path: &Path, ap: f64) -> Result<()> {
        let config = self.job.config;
        let mut provenance = BTreeMap::from([
            ("program".to_owned(), format!("ckd-det {}", env!("CARGO_PKG_VERSION"))),
            ("steps".to_owned(), self.state.step.to_string()),
            ("ap".to_owned(), format!("{ap:.4}")),
            ("config_blake3".to_owned(), blake3::hash(config.to_toml().as_bytes()).to_hex().to_string()),
        ]);
        if let Some(hash) = &self.state.teacher {
            provenance.insert("teacher_blake3".to_owned(), hash.clone());
        }
        let categories = categories_of(&self.around.data.train.categories);
        let card = ModelCard { config: config.clone(), categories, provenance };
        Ok(write_safetensors(path, &self.student.params().snapshot()?, &card.to_metadata())?)
    }
}

/// The state at step 0, with the configuration recorded and the initial weights in place.
fn anew(job: &Job, start: Start, student: &Detector, notes: &mut Vec<String>) -> Result<TrainState> {
    if start == Start::Resume {
        notes.push(format!("{} has no checkpoint to go on from: starting at step 0", job.folder.display()));
    }
    recorded::record(&job.folder, job.config)?;
    if let Some(init) = job.init {
        agree::check(init, job.config, Role::StudentInit)?;
        let random = load::init(student.params(), init)?;
        if !random.is_empty() {
            notes.push(format!(
                "{} gives the trunk; {} tensors start at random values",
                init.path.display(),
                random.len()
            ));
        }
    }
    let threads = rayon::current_num_threads();
    Ok(TrainState { step: 0, threads, best: None, teacher: job.teacher_hash.clone() })
}

/// The state of the checkpoint at `path`, with its tensors in `student` and `sgd`.
fn resumed(
    job: &Job,
    path: &Path,
    student: &Detector,
    sgd: &Sgd,
    notes: &mut Vec<String>,
) -> Result<TrainState> {
    let mut state = checkpoint::load(path, &job.trained(student), sgd)?;
    if state.teacher != job.teacher_hash {
        let reason = "the run was started with another teacher; use that one, or start anew without --resume"
            .to_owned();
        return Err(EngineError::Run { path: path.to_owned(), reason });
    }
    let threads = rayon::current_num_threads();
    if state.threads != threads {
        notes.push(format!(
            "the run was started with {} threads and goes on with {threads}: results agree closely, not bit for bit",
            state.threads
        ));
        state.threads = threads;
    }
    Ok(state)
}

fn grouping(config: &Config) -> Grouping {
    if config.data.group_by_aspect { Grouping::ByAspect } else { Grouping::None }
}

fn batches_per_epoch(config: &Config, dataset: &Dataset) -> Result<u64> {
    let aspects = dataset.images.iter().map(|image| Aspect::of(image.width, image.height)).collect();
    let size = config
        .train
        .batch_size
        .try_into()
        .map_err(|_| DataError::Setting("train.batch_size must be at least 1".to_owned()))?;
    let order = Order::Shuffled { seed: config.seed, grouping: grouping(config) };
    Ok(Sampler::new(aspects, size, order).batches_per_epoch().max(1) as u64)
}

/// How a teacher sees the images, if there is one that sees them otherwise than the student.
fn teacher_resize(config: &Config) -> Option<Resize> {
    let own = config.teacher_resize();
    (own != config.input.resize && !config.distill.is_empty()).then_some(own)
}

fn loader_config(config: &Config) -> LoaderConfig {
    let Config { input, data, train, seed, .. } = config;
    LoaderConfig {
        purpose: Purpose::Training {
            seed: *seed,
            flip_probability: input.flip_probability,
            short_sides_px: input.short_side_px.clone(),
            grouping: grouping(config),
        },
        long_side_max_px: input.long_side_px,
        resize: input.resize,
        teacher_resize: teacher_resize(config),
        images_per_batch: train.batch_size,
        size_divisor: input.size_divisor as usize,
        workers: data.workers,
        batches_ahead: data.queue,
    }
}
