//! The training loop of one student.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use ckd_detectors::param::ParamStore;
use ckd_kernels::Gradients;
use ckd_kernels::graph::add_into;

use super::checkpoint::{self, Best, NetworkBest, TrainState};
use super::job::{Job, Row, Start, Surroundings};
use super::observer::{Begin, End, Eval, Evaluated, Step, Written};
use super::outcome::Outcome;
use super::pass::{LossTerm, precision};
use super::task::{Further, Measured, Setting, Settings, Task};
use super::update::Update;
use super::{EngineError, Result, recorded};
use crate::config::{Document, Run};
use crate::data::{DataError, Loader, Position, Source};
use crate::optim::groups::grouped;
use crate::optim::{Ema, LearningRate, Optimizer, Slot};
use crate::report::run_folder::{RunFolder, SharesLine};
use crate::report::shares::Shares;
use crate::weights::file::write_safetensors;

/// A job under way.
pub(super) struct Training<'a, T: Task> {
    job: &'a Job<'a, T>,
    around: &'a Surroundings<'a, T>,
    student: T::Model,
    optimizer: Box<dyn Optimizer>,
    ema: Option<Ema>,
    state: TrainState,
    rate: LearningRate,
    loader: Loader<T::Source>,
    shares: Shares,
}

impl<T: Task> Job<'_, T> {
    /// Trains to the end, evaluates, and writes everything into the job's folder.
    ///
    /// # Errors
    /// [`EngineError::Interrupted`] once the state is saved, when the user wants
    /// to stop; a non-finite loss; data that cannot be read; a checkpoint that does not fit or is damaged.
    pub fn run(&self, start: Start, around: &Surroundings<'_, T>) -> Result<Outcome<Row<T>>> {
        Training::begin(self, start, around)?.finish()
    }
}

/// The summed gradients of one update's batches.
struct Accumulated<B> {
    /// Means over the batches.
    terms: Vec<LossTerm>,
    gradients: Gradients,
    images: usize,
    /// The last batch, if another update follows.
    kept: Option<B>,
}

/// An evaluation of the weights, and of their average if the run keeps one.
struct Evaluation<M> {
    measured: M,
    average: Option<M>,
}

type BatchOf<T> = <<T as Task>::Source as Source>::Batch;

impl<'a, T: Task> Training<'a, T> {
    /// At step 0 of the job, or where its last checkpoint is.
    pub(super) fn begin(job: &'a Job<'a, T>, start: Start, around: &'a Surroundings<'a, T>) -> Result<Self> {
        let Job { config, folder, .. } = job;
        let resumed_from = match start {
            Start::Resume => checkpoint::newest(&job.folder.checkpoints())?,
            Start::Anew => None,
        };
        if resumed_from.is_some() {
            recorded::check_same(folder, *config)?;
        }
        let student = around.data.student(config, around.device)?;
        let run = config.run();
        let in_backbone = |name: &str| T::in_backbone(&student, name);
        let optimizer = run.optim.over(grouped(&job.trained(&student), &run.optim, in_backbone))?;
        let networks: Vec<&ParamStore> =
            T::networks(&student).into_iter().map(|network| network.params).collect();
        let ema = run.train.ema_decay.map(|decay| Ema::over(&networks, decay)).transpose()?;
        let mut notes = Vec::new();
        let state = match &resumed_from {
            Some(path) => resumed(job, path, &student, &slots(&*optimizer, ema.as_ref()), &mut notes)?,
            None => anew(job, around.data, start, &student, &mut notes)?,
        };
        let source = around.data.source(config)?;
        let batches_per_epoch = source.batches_per_epoch().max(1) as u64;
        let accumulate = run.train.accumulate as u64;
        let steps_per_epoch = (batches_per_epoch / accumulate).max(1);
        let rate = LearningRate::new(run.optim.lr, &run.schedule, steps_per_epoch);
        let seen = state.step * accumulate;
        let position =
            Position { epoch: seen / batches_per_epoch, batch: (seen % batches_per_epoch) as usize };
        let loader = Loader::over(source, config.workforce(), position)?;
        around.observers.begin(&Begin {
            label: &job.label,
            folder,
            step: state.step,
            total: rate.total_steps(),
            resumed: resumed_from.is_some(),
            log_every: run.train.log_every,
        })?;
        notes.iter().for_each(|note| around.observers.note(note));
        Ok(Self { job, around, student, optimizer, ema, state, rate, loader, shares: Shares::default() })
    }

    /// Trains to the end, evaluates, writes weights and outcome.
    pub(super) fn finish(mut self) -> Result<Outcome<Row<T>>> {
        let outcome = self.train();
        let step = self.state.step;
        let end = match &outcome {
            Ok(_) => End::Finished { step },
            Err(EngineError::Interrupted { .. }) => End::Interrupted { step },
            Err(error) => End::Failed { step, message: error.to_string() },
        };
        let heard = self.around.observers.end(&end);
        let outcome = outcome?;
        heard?;
        Ok(outcome)
    }

    /// The settings of the run.
    fn run(&self) -> &'a Run {
        self.job.config.run()
    }

    fn train(&mut self) -> Result<Outcome<Row<T>>> {
        let run = self.run();
        let total = self.rate.total_steps();
        let evaluate_every = run.train.eval_every.map(|every| every * self.rate.unit_steps());
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
            if due(run.train.checkpoint_every) || evaluate || stop {
                self.save()?;
            }
            if stop {
                return Err(EngineError::Interrupted { step, command: self.around.command.to_owned() });
            }
        }
        if self.shares.passes > 0 {
            self.around.observers.note(&self.shares.to_string());
        }
        let Evaluation { measured, average } = match last {
            Some(evaluation) => evaluation,
            // The run ended between its last checkpoint and its outcome.
            None => self.measure()?,
        };
        for (network, score) in scores(&measured).into_iter().enumerate() {
            self.write_weights(network, RunFolder::last, score)?;
        }
        if let (Some(ema), Some(average)) = (&self.ema, &average) {
            ema.in_place(|| {
                let mut scores = scores(average).into_iter().enumerate();
                scores.try_for_each(|(network, score)| self.write_weights(network, RunFolder::ema, score))
            })?;
        }
        let networks = T::networks(&self.student);
        let outcome = Outcome {
            row: measured.row(&self.job.label, &networks),
            ema: average.map(|average| average.row(&self.job.label, &networks)),
            per_class: measured.per_class(),
            best: self.state.best,
            networks: self.state.networks.clone(),
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
        let Accumulated { terms, gradients, images, kept } = self.accumulate()?;
        let scale = 1.0 / self.run().train.accumulate as f64;
        let lr = self.rate.at(step);
        let update = Update { gradients: &gradients, lr, scale, step, of: "gradient", terms: &terms };
        let settings = &self.run().optim;
        let gradient_norm = update.apply(&mut *self.optimizer, settings)?;
        drop(gradients);
        self.state.step += 1;
        if let Some(kept) = kept {
            self.further(kept, lr, &terms)?;
        }
        if let Some(ema) = &mut self.ema {
            ema.update(self.state.step)?;
        }
        if self.state.step == self.run().train.share_steps && self.shares.passes > 0 {
            self.around.observers.note(&self.shares.to_string());
            let shares = SharesLine { step: self.state.step, shares: self.shares.clone() };
            self.around.observers.shares(&shares)?;
        }

        self.around.observers.step(&Step {
            step: self.state.step,
            total: self.rate.total_steps(),
            lr,
            terms: &terms,
            gradient_norm,
            images,
            took: started.elapsed(),
            waited: self.loader.data_wait() - waited_before,
        })
    }

    /// The update that follows the one just made.
    fn further(&mut self, kept: BatchOf<T>, lr: f64, terms: &[LossTerm]) -> Result<()> {
        let step = self.state.step;
        let setting = self.setting(step * self.run().train.accumulate as u64 - 1);
        let further = self.around.data.after_update(&setting, kept, lr)?;
        let Further { gradients, lr } = &further;
        let update = Update { gradients, lr: *lr, scale: 1.0, step, of: "meta-gradient", terms };
        let settings = &self.run().optim;
        update.apply(&mut *self.optimizer, settings)?;
        Ok(())
    }

    fn setting(&self, batch: u64) -> Setting<'_, T> {
        Setting {
            config: self.job.config,
            student: &self.student,
            lessons: self.job.distillation,
            device: self.around.device,
            batch,
        }
    }

    /// The gradients of one update's batches.
    fn accumulate(&mut self) -> Result<Accumulated<BatchOf<T>>> {
        let run = self.run();
        let accumulate = run.train.accumulate as u64;
        let mut sum = Accumulated { terms: Vec::new(), gradients: Gradients::new(), images: 0, kept: None };
        for part in 0..accumulate {
            let batch = self.loader.next().transpose()?.ok_or_else(|| {
                DataError::Setting("the training batches ended, which they never should".to_owned())
            })?;
            sum.images += T::images(&batch);
            let step = self.state.step;
            if part + 1 == accumulate {
                sum.kept = T::kept(self.job.config, &batch, step + 1);
            }
            let setting = self.setting(step * accumulate + part);
            let pass = precision(&run.engine).scope(|| self.around.data.pass(&setting, batch, step))?;
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

    /// Measures the student, and the average of its weights, and notes which networks were never better.
    fn evaluate(&mut self) -> Result<Evaluation<T::Measured>> {
        let evaluation = self.measure()?;
        let measured = &evaluation.measured;
        let step = self.state.step;
        let mut best = Vec::new();
        let score = measured.headline();
        if self.state.best.is_none_or(|best| score > best.score) {
            self.state.best = Some(Best { step, score });
            if measured.each().is_empty() {
                best.push((0, score));
            }
        }
        for (network, (score, eval)) in measured.each().into_iter().enumerate() {
            let folder = T::networks(&self.student)[network].folder.clone();
            let own = NetworkBest { folder, best: Best { step, score }, eval };
            match self.state.networks.get_mut(network) {
                Some(known) if score > known.best.score => *known = own,
                Some(_) => continue,
                None => self.state.networks.push(own),
            }
            best.push((network, score));
        }
        let networks = T::networks(&self.student);
        let written = |(network, score): (usize, f64)| Written {
            network: networks[network].clone(),
            metadata: self.metadata(network, score),
        };
        let best: Vec<Written<'_>> = best.into_iter().map(written).collect();
        let (weights, average) = (evaluated(measured), evaluation.average.as_ref().map(evaluated));
        let eval = Eval { step, weights: &weights, average: average.as_ref(), best: &best };
        self.around.observers.eval(&eval)?;
        Ok(evaluation)
    }

    fn measure(&self) -> Result<Evaluation<T::Measured>> {
        let Job { config, distillation, .. } = *self.job;
        let measure = || self.around.data.measure(config, &self.student, distillation, self.around.device);
        let measured = measure()?;
        let average = self.ema.as_ref().map(|ema| ema.in_place(measure)).transpose()?;
        Ok(Evaluation { measured, average })
    }

    fn save(&self) -> Result<()> {
        let keep = self.run().train.keep_checkpoints;
        let stores = self.job.trained(&self.student);
        let slots = slots(&*self.optimizer, self.ema.as_ref());
        checkpoint::save(&self.job.folder.checkpoints(), &stores, &slots, &self.state, keep)?;
        Ok(())
    }

    /// What travels with the weights of a network that an evaluation gave this `score`.
    fn metadata(&self, network: usize, score: f64) -> BTreeMap<String, String> {
        let config = self.job.config;
        let mut provenance = BTreeMap::from([
            ("program".to_owned(), format!("ckd-det {}", env!("CARGO_PKG_VERSION"))),
            ("steps".to_owned(), self.state.step.to_string()),
            (T::HEADLINE.to_owned(), format!("{score:.4}")),
            ("config_blake3".to_owned(), blake3::hash(config.to_toml().as_bytes()).to_hex().to_string()),
        ]);
        if let Some(hash) = &self.state.teacher {
            provenance.insert("teacher_blake3".to_owned(), hash.clone());
        }
        self.around.data.card(config, network, provenance)
    }

    fn write_weights(&self, network: usize, file: fn(&RunFolder) -> PathBuf, score: f64) -> Result<()> {
        let metadata = self.metadata(network, score);
        let network = &T::networks(&self.student)[network];
        let path = file(&self.job.folder.network(&network.folder));
        Ok(write_safetensors(&path, &network.tensors()?, &metadata)?)
    }
}

/// The findings of an evaluation as observers are told of them.
fn evaluated(measured: &impl Measured) -> Evaluated {
    Evaluated {
        headline: measured.headline(),
        told: measured.told(),
        logged: measured.logged(),
        written: measured.written(),
    }
}

/// The tensors that a checkpoint holds beside the weights.
fn slots<'s>(optimizer: &'s dyn Optimizer, ema: Option<&'s Ema>) -> Vec<Slot<'s>> {
    let averages = ema.into_iter().flat_map(Ema::slots);
    optimizer.slots().into_iter().chain(averages).collect()
}

/// The headline of each network.
fn scores(measured: &impl Measured) -> Vec<f64> {
    match measured.each() {
        each if each.is_empty() => vec![measured.headline()],
        each => each.into_iter().map(|(score, _)| score).collect(),
    }
}

/// The state at step 0, with the configuration recorded and the initial weights in place.
fn anew<T: Task>(
    job: &Job<'_, T>,
    task: &T,
    start: Start,
    student: &T::Model,
    notes: &mut Vec<String>,
) -> Result<TrainState> {
    if start == Start::Resume {
        notes.push(format!(
            "{} has no checkpoint to go on from: starting at step 0",
            job.folder.path().display()
        ));
    }
    recorded::record(&job.folder, job.config)?;
    if let Some(init) = job.init {
        let random = task.initialise(job.config, student, init)?;
        if !random.is_empty() {
            notes.push(format!("{}: {}", init.path.display(), of_random(&random)));
        }
    }
    let threads = rayon::current_num_threads();
    Ok(TrainState { step: 0, threads, best: None, networks: Vec::new(), teacher: job.teacher_hash.clone() })
}

/// The state of the checkpoint at `path`, with its tensors in `student` and `slots`.
fn resumed<T: Task>(
    job: &Job<'_, T>,
    path: &Path,
    student: &T::Model,
    slots: &[Slot<'_>],
    notes: &mut Vec<String>,
) -> Result<TrainState> {
    let mut state = checkpoint::load(path, &job.trained(student), slots)?;
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

/// Which tensors initial weights leave random, in a line.
fn of_random(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = match names.len() {
        ..=SHOWN => String::new(),
        count => format!(" and {} more", count - SHOWN),
    };
    format!("these tensors do not come from it and start at random: {shown}{more}")
}
