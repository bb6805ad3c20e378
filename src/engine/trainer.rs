//! The training loop of one student.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_core::Device;
use ckd_detectors::Detector;
use ckd_detectors::init::stream;
use ckd_kernels::Gradients;
use ckd_kernels::graph::add_into;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::checkpoint::{self, Best, TrainState};
use super::evaluate::{detect_all, score, to_device};
use super::optim::Sgd;
use super::pass::{Distillation, LossTerm, training_pass};
use super::schedule::LearningRate;
use super::sources::DataSets;
use super::{EngineError, Result, build};
use crate::config::Config;
use crate::data::sampler::Grouping;
use crate::data::{Loader, LoaderConfig, Position, Purpose};
use crate::eval::BoxMetrics;
use crate::fsx;
use crate::report::log::MetricsLog;
use crate::report::progress::{Progress, StepReport, Verbosity};
use crate::report::table::ModelRow;
use crate::weights::card::{ModelCard, categories_of};
use crate::weights::file::write_safetensors;
use crate::weights::{WeightsFile, load};

/// One student to train.
pub struct Job<'a> {
    /// The experiment.
    pub config: &'a Config,
    /// Where its files go.
    pub folder: PathBuf,
    /// What the progress calls it.
    pub label: String,
    /// Its initial weights, if not random.
    pub init: Option<&'a WeightsFile>,
    /// What it learns from a teacher.
    pub distillation: Option<&'a Distillation>,
    /// BLAKE3 of that teacher's weights.
    pub teacher_hash: Option<String>,
}

/// What all jobs of a run share.
pub struct Surroundings<'a> {
    /// The data.
    pub data: &'a DataSets,
    /// Where to compute.
    pub device: &'a Device,
    /// Whether to say nothing on the way.
    pub quiet: bool,
    /// Set when the user wants the run to stop.
    pub stop: &'a AtomicBool,
    /// What the user typed to start the run, for the advice how to go on.
    pub command: &'a str,
}

/// A trained and evaluated student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its line of a table: accuracy after the last step, and cost.
    pub row: ModelRow,
    /// AP of each class after the last step.
    pub per_class: Vec<ClassResult>,
    /// The best AP at any evaluation and its step; the row above is the last step's all the same.
    pub best: Option<Best>,
    /// Updates.
    pub steps: u64,
}

/// One class's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassResult {
    /// The class.
    pub name: String,
    /// Its AP, a fraction; -1 where nothing was measured.
    pub ap: f64,
    /// Its AP50.
    pub ap50: f64,
}

/// How a job begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At step 0.
    Anew,
    /// At its last checkpoint, or at step 0 if it has none.
    Resume,
}

impl Job<'_> {
    /// The weights after the last step.
    pub fn weights(&self) -> PathBuf {
        self.folder.join("last.safetensors")
    }

    /// The outcome, if the job was finished before with this configuration.
    pub fn finished(&self) -> Option<Outcome> {
        let same =
            recorded_config(&self.folder).is_some_and(|recorded| same_training(&recorded, self.config));
        let outcome = std::fs::read(self.folder.join("outcome.json")).ok()?;
        (same && self.weights().exists()).then(|| serde_json::from_slice(&outcome).ok()).flatten()
    }

    /// Trains to the end, evaluates, and writes everything into the job's folder.
    pub fn run(&self, start: Start, around: &Surroundings) -> Result<Outcome> {
        let Job { config, folder, .. } = self;
        let checkpoints = folder.join("checkpoints");
        let resumed_from = match start {
            Start::Resume => checkpoint::newest(&checkpoints)?,
            Start::Anew => None,
        };
        match &resumed_from {
            Some(_) => self.check_same_config()?,
            None => fsx::write_atomic(&folder.join("config.toml"), config.to_toml().as_bytes())?,
        }

        let student = build::student(config, around.data.train.categories.len(), around.device)?;
        let mut sgd = Sgd::new(student.params(), &config.optim)?;
        let threads = rayon::current_num_threads();
        let mut state = TrainState { step: 0, threads, best: None, teacher: self.teacher_hash.clone() };
        let mut notes = Vec::new();
        if let Some(path) = &resumed_from {
            state = checkpoint::load(path, &student, &sgd)?;
            if state.threads != threads {
                notes.push(format!(
                    "the run was started with {} threads and goes on with {threads}: results agree closely, not bit for bit",
                    state.threads
                ));
                state.threads = threads;
            }
            if state.teacher != self.teacher_hash {
                let reason =
                    "the run was started with another teacher; use that one, or start anew without --resume";
                return Err(EngineError::Run { path: path.clone(), reason: reason.to_owned() });
            }
        } else if let Some(init) = self.init {
            let random = load::init(student.params(), init)?;
            if !random.is_empty() {
                notes.push(format!(
                    "{} gives the trunk; {} tensors start at random values",
                    init.path.display(),
                    random.len()
                ));
            }
        }

        let mut log = MetricsLog::open(&folder.join("log.jsonl"), resumed_from.as_ref().map(|_| state.step))?;
        let accumulate = config.train.accumulate as u64;
        let sizing = Loader::new(around.data.train.clone(), self.loader_config(), Position::default())?;
        let batches_per_epoch = sizing.batches_per_epoch() as u64;
        drop(sizing);
        let rate =
            LearningRate::new(config.optim.lr, &config.schedule, (batches_per_epoch / accumulate).max(1));
        let total = rate.total_steps();
        let seen = state.step * accumulate;
        let position =
            Position { epoch: seen / batches_per_epoch, batch: (seen % batches_per_epoch) as usize };
        let mut loader = Loader::new(around.data.train.clone(), self.loader_config(), position)?;
        let verbosity = match around.quiet {
            true => Verbosity::Quiet,
            false => Verbosity::for_stderr(config.train.log_every),
        };
        let mut progress = Progress::new(total, state.step, &self.label, verbosity);
        for note in notes {
            progress.note(&note);
        }
        let evaluate_every = config.train.eval_every.map(|every| every * rate.unit_steps());
        let mut last_metrics = None;

        while state.step < total {
            let started = Instant::now();
            let waited_before = loader.data_wait();
            let (terms, gradients, images) = self.accumulated(&student, &mut loader, state.step, around)?;
            let scale = 1.0 / accumulate as f64;
            let norm = sgd.gradient_norm(&gradients, scale)?;
            if !norm.is_finite() {
                let losses = terms.iter().map(|term| format!("{} {:.4}", term.name, term.weighted));
                return Err(EngineError::NonFinite {
                    step: state.step,
                    what: "the norm of the gradient".to_owned(),
                    value: norm,
                    losses: losses.collect::<Vec<_>>().join(", "),
                });
            }
            let lr = rate.at(state.step);
            sgd.step(&gradients, lr, scale, norm)?;
            drop(gradients);
            state.step += 1;

            let waited = loader.data_wait() - waited_before;
            let losses: Vec<(&str, f64)> =
                terms.iter().map(|term| (term.name.as_str(), term.weighted)).collect();
            progress.step(&StepReport { losses: &losses, learning_rate: lr, images, data_wait: waited });
            if state.step.is_multiple_of(config.train.log_every.max(1)) || state.step == total {
                log.write(&StepLine::new(state.step, lr, norm, &terms, started.elapsed(), waited, images))?;
            }

            let step = state.step;
            let due = |every: Option<u64>| every.is_some_and(|every| every > 0 && step.is_multiple_of(every));
            let evaluated = due(evaluate_every) || state.step == total;
            if evaluated {
                let metrics = self.evaluate(&student, &mut state, &mut log, &mut progress, around)?;
                last_metrics = Some(metrics);
            }
            let stop = around.stop.load(Ordering::Relaxed) && state.step < total;
            if due(config.train.checkpoint_every) || (evaluated && state.step < total) || stop {
                checkpoint::save(&checkpoints, &student, &sgd, &state, config.train.keep_checkpoints)?;
            }
            if stop {
                progress.finish();
                return Err(EngineError::Interrupted {
                    step: state.step,
                    command: around.command.to_owned(),
                });
            }
        }
        progress.finish();
        let metrics = match last_metrics {
            Some(metrics) => metrics,
            // Stopped after its last step, before its outcome was written.
            None => self.evaluate_student(&student, around)?,
        };
        self.finish(&student, &sgd, &state, metrics, around)
    }

    /// Sums the gradients of one update's batches; terms are their means.
    fn accumulated(
        &self,
        student: &Detector,
        loader: &mut Loader,
        step: u64,
        around: &Surroundings,
    ) -> Result<(Vec<LossTerm>, Gradients, usize)> {
        let accumulate = self.config.train.accumulate as u64;
        let mut terms: Vec<LossTerm> = Vec::new();
        let mut gradients = Gradients::new();
        let mut count = 0;
        for part in 0..accumulate {
            let batch = loader.next().transpose()?.ok_or_else(|| {
                crate::data::DataError::Setting(
                    "the training batches ended, which they never should".to_owned(),
                )
            })?;
            count += batch.batch;
            let (images, targets) = to_device(batch, around.device)?;
            let name = format!("sample/{}", step * accumulate + part);
            let mut random = ChaCha8Rng::seed_from_u64(stream(self.config.seed, &name));
            let pass = training_pass(student, self.distillation, &images, &targets, step, &mut random)?;
            for (name, gradient) in pass.gradients {
                add_into(&mut gradients, name, gradient)?;
            }
            for term in pass.terms {
                let share = term.weighted / accumulate as f64;
                match terms.iter_mut().find(|known| known.name == term.name) {
                    Some(known) => known.weighted += share,
                    None => terms.push(LossTerm { name: term.name, weighted: share }),
                }
            }
        }
        Ok((terms, gradients, count))
    }

    fn evaluate(
        &self,
        student: &Detector,
        state: &mut TrainState,
        log: &mut MetricsLog,
        progress: &mut Progress,
        around: &Surroundings,
    ) -> Result<Measured> {
        let measured = self.evaluate_student(student, around)?;
        let stats = &measured.metrics.stats;
        progress.note(&format!(
            "{} step {}: AP {:.1}  AP50 {:.1}  AP75 {:.1}",
            self.label,
            state.step,
            100.0 * stats[0],
            100.0 * stats[1],
            100.0 * stats[2]
        ));
        log.write(&EvalLine { step: state.step, eval: stats })?;
        let json = serde_json::to_vec_pretty(&measured.metrics).expect("metrics have a JSON form");
        fsx::write_atomic(&self.folder.join(format!("eval/step-{:08}.json", state.step)), &json)?;
        if state.best.is_none_or(|best| stats[0] > best.ap) {
            state.best = Some(Best { step: state.step, ap: stats[0] });
            self.write_weights(&self.folder.join("best.safetensors"), student, state, stats[0], around)?;
        }
        Ok(measured)
    }

    fn evaluate_student(&self, student: &Detector, around: &Surroundings) -> Result<Measured> {
        let evaluation = detect_all(student, &around.data.val, self.config, around.device, |_, _| {})?;
        let metrics = score(&evaluation, &around.data.val_annotations)?;
        Ok(Measured { metrics, ms_per_image: evaluation.ms_per_image, gflops: evaluation.gflops })
    }

    fn finish(
        &self,
        student: &Detector,
        sgd: &Sgd,
        state: &TrainState,
        measured: Measured,
        around: &Surroundings,
    ) -> Result<Outcome> {
        let stats = measured.metrics.stats;
        let outcome = Outcome {
            row: measured.row(&self.label, student),
            per_class: measured
                .metrics
                .per_class
                .iter()
                .map(|class| ClassResult { name: class.name.clone(), ap: class.ap, ap50: class.ap50 })
                .collect(),
            best: state.best,
            steps: state.step,
        };
        self.write_weights(&self.weights(), student, state, stats[0], around)?;
        checkpoint::save(
            &self.folder.join("checkpoints"),
            student,
            sgd,
            state,
            self.config.train.keep_checkpoints,
        )?;
        let json = serde_json::to_vec_pretty(&outcome).expect("an outcome has a JSON form");
        // Last: whoever sees the outcome finds the rest complete.
        fsx::write_atomic(&self.folder.join("outcome.json"), &json)?;
        Ok(outcome)
    }

    fn write_weights(
        &self,
        path: &Path,
        student: &Detector,
        state: &TrainState,
        ap: f64,
        around: &Surroundings,
    ) -> Result<()> {
        let mut provenance = BTreeMap::from([
            ("program".to_owned(), format!("ckd-det {}", env!("CARGO_PKG_VERSION"))),
            ("steps".to_owned(), state.step.to_string()),
            ("ap".to_owned(), format!("{ap:.4}")),
            ("config_blake3".to_owned(), blake3::hash(self.config.to_toml().as_bytes()).to_hex().to_string()),
        ]);
        if let Some(hash) = &state.teacher {
            provenance.insert("teacher_blake3".to_owned(), hash.clone());
        }
        let categories = categories_of(&around.data.train.categories);
        let card = ModelCard { config: self.config.clone(), categories, provenance };
        let tensors = student.params().snapshot()?;
        Ok(write_safetensors(path, &tensors, card.to_metadata())?)
    }

    fn loader_config(&self) -> LoaderConfig {
        let Config { input, data, train, seed, .. } = self.config;
        LoaderConfig {
            purpose: Purpose::Training {
                seed: *seed,
                flip_probability: input.flip_probability,
                short_sides_px: input.short_side_px.clone(),
                grouping: if data.group_by_aspect { Grouping::ByAspect } else { Grouping::None },
            },
            long_side_max_px: input.long_side_px,
            images_per_batch: train.batch_size,
            size_divisor: input.size_divisor as usize,
            workers: data.workers,
            batches_ahead: data.queue,
        }
    }

    fn check_same_config(&self) -> Result<()> {
        let path = self.folder.join("config.toml");
        let run = |reason: String| EngineError::Run { path: path.clone(), reason };
        let Some(recorded) = recorded_config(&self.folder) else {
            return Err(run("the configuration that the run was started with is missing or damaged; start anew without --resume".to_owned()));
        };
        if same_training(&recorded, self.config) {
            return Ok(());
        }
        let (before, now) = (recorded.to_toml(), self.config.to_toml());
        let differing: Vec<String> = before
            .lines()
            .zip(now.lines())
            .filter(|(before, now)| before != now)
            .take(5)
            .map(|(before, now)| format!("  was: {before}\n  now: {now}"))
            .collect();
        Err(run(format!(
            "the run was started with another configuration, so it cannot be resumed with this one:\n{}\nUse the same \
             settings, or start anew without --resume (the old run is kept beside the new one)",
            differing.join("\n")
        )))
    }
}

/// Metrics and cost of one evaluation.
#[derive(Debug, Clone)]
pub struct Measured {
    /// COCO's numbers.
    pub metrics: BoxMetrics,
    /// Median wall time of one image.
    pub ms_per_image: f64,
    /// Multiply-adds of one image, in 10^9.
    pub gflops: f64,
}

impl Measured {
    /// The measured detector's line of a table.
    pub fn row(&self, name: &str, detector: &Detector) -> ModelRow {
        ModelRow {
            name: name.to_owned(),
            stats: self.metrics.stats,
            parameters: detector.params().weight_count() as u64,
            gflops: self.gflops,
            ms_per_image: self.ms_per_image,
        }
    }
}

#[derive(Serialize)]
struct StepLine {
    step: u64,
    lr: f64,
    loss: f64,
    losses: serde_json::Map<String, serde_json::Value>,
    gradient_norm: f64,
    images: usize,
    ms: f64,
    data_wait_ms: f64,
}

#[derive(Serialize)]
struct EvalLine<'a> {
    step: u64,
    eval: &'a [f64; 12],
}

impl StepLine {
    fn new(
        step: u64,
        lr: f64,
        gradient_norm: f64,
        terms: &[LossTerm],
        took: Duration,
        waited: Duration,
        images: usize,
    ) -> Self {
        let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1e4).round() / 10.0;
        Self {
            step,
            lr,
            loss: terms.iter().map(|term| term.weighted).sum(),
            losses: terms.iter().map(|term| (term.name.clone(), term.weighted.into())).collect(),
            gradient_norm,
            images,
            ms: milliseconds(took),
            data_wait_ms: milliseconds(waited),
        }
    }
}

fn recorded_config(folder: &Path) -> Option<Config> {
    let path = folder.join("config.toml");
    Config::from_toml(&std::fs::read_to_string(&path).ok()?, &path.display().to_string()).ok()
}

/// Whether two configurations give the same weights: settings of speed and reporting may differ.
fn same_training(a: &Config, b: &Config) -> bool {
    let plain = |config: &Config| {
        let mut config = config.clone();
        config.data.workers = 0;
        config.data.queue = 0;
        config.train.log_every = 0;
        config.train.checkpoint_every = None;
        config.train.keep_checkpoints = 0;
        config
    };
    plain(a) == plain(b)
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the program at once.
pub fn stop_flag() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // Without handlers a signal ends the program as it always does: nothing is lost but the wish to save.
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, flag.clone());
        let _ = signal_hook::flag::register(signal, flag.clone());
    }
    flag
}
