//! The training loop of one student.

mod budget;
mod dry_run;
mod non_finite;
mod pace;
mod parts;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use ckd_detectors::param::ParamStore;
use ckd_kernels::Gradients;
use ckd_kernels::upload::Uploads;

use super::checkpoint::{self, Best, NetworkBest, Restored, TrainState};
use pace::Pace;

use super::job::{Job, Row, Start, Surroundings, another_log};
use super::observer::{Begin, End, Eval, Evaluated, Step, Written};
use super::outcome::Outcome;
use super::pass::{LossTerm, PartTimes, non_finite};
use super::ranks::{Plan, check_same, from_first, on_first, own_parts, spread};
use super::recorded::{self, Record};
use super::task::{Further, Measured, Setting, Settings, Task};
use super::update::Update;
use super::{EngineError, Result, room, spikes};
use crate::config::{Document, OnNonFinite, Run};
use crate::data::loader::Share;
use crate::data::{BadImage, DataError, Loader, Position, Source};
use crate::distill::Parts;
use crate::fsx;
use crate::optim::groups::grouped;
use crate::optim::{Ema, LearningRate, Optimizer, Slot};
use crate::report::log::digest;
use crate::report::run_folder::{BadImageLine, Line, RunFolder, SharesLine};
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
    batches_per_epoch: u64,
    /// Images of the batches that this process has drawn for the step under way.
    drawn: Vec<Vec<u64>>,
    /// Images of all batches of that step, up to one whose numbers are not finite.
    seen: Vec<u64>,
    /// Images that turned out broken and were not told of yet.
    broken: Vec<BadImage>,
    /// Bad images that the log names.
    bad_images: BTreeSet<PathBuf>,
    /// The losses of the last update.
    terms: Vec<LossTerm>,
    /// Durations of the parts of the update under way, of this process's batches.
    times: PartTimes,
    /// Time of the latest checkpoint.
    saved: Instant,
    /// The order in which gradients travel between processes.
    plan: Rc<Plan>,
    /// Updates after which all processes were last found to hold the same weights and state.
    compared: Cell<Option<u64>>,
    /// Time of the beginning.
    began: Instant,
    pace: Pace,
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
        let began = Instant::now();
        let Job { config, folder, .. } = job;
        let (ranks, checkpoints) = (around.ranks, folder.checkpoints());
        let record = match start {
            Start::Resume if ranks.is_first() && checkpoint::is_any(&checkpoints)? => {
                Some(recorded::check_same(folder, *config)?)
            }
            _ => None,
        };
        let student = around.data.student(config, around.device)?;
        let run = config.run();
        let in_backbone = |name: &str| T::in_backbone(&student, name);
        let optimizer = run.optim.over(grouped(&job.trained(&student), &run.optim, in_backbone))?;
        let networks: Vec<&ParamStore> =
            T::networks(&student).into_iter().map(|network| network.params).collect();
        let ema = run.train.ema_decay.map(|decay| Ema::over(&networks, decay)).transpose()?;
        let mut notes = Vec::new();
        let (stores, own_slots) = (job.trained(&student), slots(&*optimizer, ema.as_ref()));
        let state = from_first(ranks, || match &record {
            Some(record) => {
                let restored = checkpoint::restore(&checkpoints, &stores, &own_slots)?;
                resumed(job, around.data, record, restored, &mut notes)
            }
            None => anew(job, around.data, start, &student, &mut notes),
        })?;
        spread(ranks, tensors_of(&stores, &own_slots))?;
        if ranks.is_first() {
            let bytes = checkpoint::size(&stores, &own_slots);
            notes.extend(room::check(job.claim.folder().path(), bytes)?);
        }
        drop((stores, own_slots));
        let source = around.data.source(config)?;
        let batches_per_epoch = source.batches_per_epoch().max(1) as u64;
        let parts = run.train.parts() as u64;
        let steps_per_epoch = (batches_per_epoch / parts).max(1);
        let mut rate = LearningRate::new(run.optim.lr, &run.schedule, steps_per_epoch);
        if let Some(total) = state.total {
            rate = rate.shortened(total);
        }
        if state.step < rate.total_steps() {
            rehearse(job, around, &student, 1)?;
        }
        let loader =
            loader_from::<T>(source, config, around, position(batches_per_epoch, state.step * parts))?;
        around.observers.begin(&Begin {
            label: &job.label,
            folder,
            step: state.step,
            total: rate.total_steps(),
            resumed: record.is_some(),
            evaluation_due: state.evaluation_due,
            evaluate_every: run.train.eval_every.map(|every| every * rate.unit_steps()),
            log_every: run.train.log_every,
        })?;
        if ranks.is_first() && state.log.is_some() && state.log != digest(&folder.log())? {
            notes.push(another_log(folder));
        }
        notes.iter().for_each(|note| around.observers.note(note));
        let plan = Rc::new(Plan::of(optimizer.parameters()));
        let (shares, drawn, terms, saved) = (Shares::default(), Vec::new(), Vec::new(), Instant::now());
        let bad_images = if ranks.is_first() { bad_images_in(folder) } else { BTreeSet::new() };
        let mut training = Self {
            job,
            around,
            student,
            optimizer,
            ema,
            state,
            rate,
            loader,
            shares,
            batches_per_epoch,
            drawn,
            seen: Vec::new(),
            broken: Vec::new(),
            bad_images,
            terms,
            times: PartTimes::default(),
            saved,
            plan,
            compared: Cell::new(None),
            began,
            pace: Pace::default(),
        };
        training.log_bad_images(around.bad_images, training.state.step)?;
        Ok(training)
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
        let evaluate_every = self.evaluate_every();
        let by_clock =
            Duration::try_from_secs_f64(60.0 * run.train.checkpoint_minutes).unwrap_or(Duration::MAX);
        let is_late = |saved: Instant| !by_clock.is_zero() && saved.elapsed() >= by_clock;
        let mut last = None;
        if run.train.on_non_finite == OnNonFinite::Rewind && self.state.step == 0 {
            self.save()?;
        }
        let mut stop = self.agreed(self.wants_to_stop())?;
        loop {
            if self.state.evaluation_due {
                let evaluation = self.evaluate()?;
                self.state.evaluation_due = false;
                self.save()?;
                last = Some(evaluation);
                stop = self.agreed(self.wants_to_stop())?;
            }
            if self.state.step >= self.rate.total_steps() || self.is_out_of_patience() {
                break;
            }
            self.refuse_if(stop)?;
            self.refuse_if_lost()?;
            let started = Instant::now();
            self.step()?;
            let fitted = self.fit(started.elapsed())?;
            let step = self.state.step;
            let due = |every: Option<u64>| every.is_some_and(|every| every > 0 && step.is_multiple_of(every));
            self.state.evaluation_due = due(evaluate_every) || step >= self.rate.total_steps();
            // Before the evaluation: whatever happens there costs no step.
            stop = self.agreed(self.wants_to_stop())?;
            // The first process has the clock.
            let late = self.agreed(self.around.ranks.is_first() && is_late(self.saved))?;
            let save = fitted || self.state.evaluation_due || due(run.train.checkpoint_every) || late;
            if save || stop {
                if let Err(error) = self.check_weights() {
                    self.after_non_finite(error, None)?;
                    continue;
                }
                self.save()?;
            }
            self.refuse_if(stop)?;
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
            on_first(self.around.ranks, || self.write_weights(network, RunFolder::last, score))?;
        }
        if let Some(detections) = measured.detections() {
            on_first(self.around.ranks, || {
                let json = serde_json::to_vec(detections).expect("detections have a JSON form");
                Ok(fsx::write_atomic(&self.job.folder.val_detections(), &json)?)
            })?;
        }
        if let (Some(ema), Some(average)) = (&self.ema, &average) {
            ema.in_place(|| {
                let mut scores = scores(average).into_iter().enumerate();
                scores.try_for_each(|(network, score)| {
                    on_first(self.around.ranks, || self.write_weights(network, RunFolder::ema, score))
                        .map(drop)
                })
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
            ended: self.ended(),
            fitted: self.state.total,
            teacher: self.state.teacher.clone(),
            log: on_first(self.around.ranks, || Ok(digest(&self.job.folder.log())?))?.flatten(),
        };
        self.refuse_if_lost()?;
        on_first(self.around.ranks, || outcome.write(&self.job.folder))?;
        // Whoever reads the files next finds them.
        self.agreed(false)?;
        Ok(outcome)
    }

    /// Ends the run if its folder was taken away; its state is saved beside it.
    fn refuse_if_lost(&mut self) -> Result<()> {
        let claim = self.job.claim;
        if claim.is_held() {
            return Ok(());
        }
        let (step, whole) = (self.state.step, claim.beside());
        let below = self.job.folder.path().strip_prefix(claim.folder().path()).unwrap_or(Path::new(""));
        let folder = RunFolder::at(whole.path().join(below));
        let saved = recorded::record(&folder, self.job.config, self.around.data)
            .and_then(|()| self.save_in(&folder.checkpoints()));
        let path = claim.folder().path().to_owned();
        let state = match saved {
            Ok(()) => format!(
                "the state after step {step} is saved in {}: rename that to {}, and go on with `{}`",
                whole.path().display(),
                path.display(),
                self.around.command
            ),
            Err(error) => format!("the state after step {step} could not be saved beside it: {error}"),
        };
        Err(EngineError::Lost { path, state })
    }

    /// Whether the user wants this process to stop.
    fn wants_to_stop(&self) -> bool {
        self.around.stop.load(Ordering::Relaxed)
    }

    /// Whether any process of the run says `mine`.
    fn agreed(&self, mine: bool) -> Result<bool> {
        self.around.ranks.any(mine).map_err(|source| self.lost(source))
    }

    /// The error of an operation over all processes.
    fn lost(&self, source: ckd_collective::Error) -> EngineError {
        EngineError::RankLost { step: self.state.step, source }
    }

    /// Ends the run if the user wants it to stop; its state must be on the disk.
    fn refuse_if(&self, stop: bool) -> Result<()> {
        if stop { Err(self.interrupted()) } else { Ok(()) }
    }

    fn interrupted(&self) -> EngineError {
        EngineError::Interrupted { step: self.state.step, command: self.around.command.to_owned() }
    }

    /// The next training batch of this process.
    fn draw(&mut self) -> Result<BatchOf<T>> {
        let batch = self.loader.next().transpose()?.ok_or_else(|| {
            DataError::Setting("the training batches ended, which they never should".to_owned())
        })?;
        self.broken.extend(self.loader.take_broken());
        self.drawn.push(T::image_ids(&batch));
        Ok(batch)
    }

    /// Tells of images that turned out broken.
    fn tell_broken(&mut self, broken: &[BadImage]) -> Result<()> {
        for BadImage { reason, .. } in broken {
            self.around.observers.note(&format!("{reason}; other images take its place"));
        }
        self.log_bad_images(broken, self.state.step + 1)
    }

    /// Logs images that cannot be used and that the log does not name yet.
    fn log_bad_images(&mut self, images: &[BadImage], step: u64) -> Result<()> {
        for BadImage { path, reason } in images {
            if self.bad_images.insert(path.clone()) {
                let line = BadImageLine { step, bad_image: path.clone(), reason: reason.clone() };
                self.around.observers.bad_image(&line)?;
            }
        }
        Ok(())
    }

    /// Makes an update of the weights.
    fn update(&mut self) -> Result<()> {
        let started = Instant::now();
        let waited_before = self.loader.data_wait();
        let step = self.state.step;
        self.times = PartTimes::default();
        let Accumulated { terms, gradients, images, kept } = self.accumulate()?;
        if let Some(factor) = self.run().train.spike_factor {
            let loss = terms.iter().map(|term| term.weighted).sum();
            if let Some(median) = spikes::exceeded(&mut self.state.losses, loss, factor) {
                let what = format!(
                    "the loss, above {factor} (train.spike_factor) times its running median {median:.4},"
                );
                return Err(non_finite(step, &what, loss, &terms));
            }
        }
        let scale = 1.0 / self.parts() as f64;
        let lr = self.rate.at(step);
        let update = Update { gradients: &gradients, lr, scale, step, of: "gradient", terms: &terms };
        let settings = &self.run().optim;
        let gradient_norm = update.apply(&mut *self.optimizer, settings)?;
        drop(gradients);
        self.state.step += 1;
        self.terms.clone_from(&terms);
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
            epoch: self.epoch(),
            took: started.elapsed(),
            waited: self.loader.data_wait() - waited_before,
            times: self.times,
        })
    }

    /// The update that follows the one just made.
    fn further(&mut self, kept: BatchOf<T>, lr: f64, terms: &[LossTerm]) -> Result<()> {
        let step = self.state.step;
        let setting = self.setting(step * self.parts() - 1);
        let further = self.around.data.after_update(&setting, kept, lr)?;
        let Further { gradients, lr } = &further;
        let update = Update { gradients, lr: *lr, scale: 1.0, step, of: "meta-gradient", terms };
        let settings = &self.run().optim;
        update.apply(&mut *self.optimizer, settings)?;
        Ok(())
    }

    fn setting(&self, batch: u64) -> Setting<'_, T> {
        self.setting_among(batch, None)
    }

    /// Context of a pass that may look at the other `parts` of the update.
    fn setting_among<'s>(&'s self, batch: u64, parts: Option<&'s dyn Parts>) -> Setting<'s, T> {
        Setting {
            config: self.job.config,
            student: &self.student,
            lessons: self.job.distillation,
            device: self.around.device,
            batch,
            parts,
        }
    }

    /// Measures the student, and the average of its weights, and notes which networks were never better.
    fn evaluate(&mut self) -> Result<Evaluation<T::Measured>> {
        let started = Instant::now();
        let evaluation = self.measure()?;
        let took = started.elapsed();
        let measured = &evaluation.measured;
        let step = self.state.step;
        let mut best = Vec::new();
        let score = measured.headline();
        self.state.since_best += 1;
        if self.state.best.is_none_or(|best| score > best.score) {
            self.state.best = Some(Best { step, score });
            self.state.since_best = 0;
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
        let picture = match self.around.observers.want_picture() {
            true => self.around.data.evaluation_picture(measured)?,
            false => None,
        };
        let (weights, average) = (evaluated(measured), evaluation.average.as_ref().map(evaluated));
        let eval = Eval {
            step,
            weights: &weights,
            average: average.as_ref(),
            best: &best,
            epoch: self.epoch(),
            took,
            picture: picture.as_ref(),
        };
        self.around.observers.eval(&eval)?;
        Ok(evaluation)
    }

    /// Passes over the training images so far, to a thousandth.
    fn epoch(&self) -> f64 {
        let batches = (self.state.step * self.parts()) as f64;
        (1e3 * batches / self.batches_per_epoch as f64).round() / 1e3
    }

    fn measure(&self) -> Result<Evaluation<T::Measured>> {
        let Job { config, distillation, .. } = *self.job;
        let measure = || match self.around.data.measure(
            config,
            &self.student,
            distillation,
            self.around.evaluating(),
        ) {
            Err(EngineError::Stopped) => Err(self.interrupted()),
            measured => measured.map_err(|error| self.with_step(error)),
        };
        self.check_ranks()?;
        let measured = measure()?;
        let average = self.ema.as_ref().map(|ema| ema.in_place(measure)).transpose()?;
        Ok(Evaluation { measured, average })
    }

    /// Writes a checkpoint.
    fn save(&mut self) -> Result<()> {
        self.check_ranks()?;
        if self.around.ranks.is_first() {
            self.refuse_if_lost()?;
            self.state.log = digest(&self.job.folder.log())?;
            self.save_in(&self.job.folder.checkpoints())?;
        }
        self.saved = Instant::now();
        Ok(())
    }

    /// Checks that all processes hold the same weights and state; once after an update.
    fn check_ranks(&self) -> Result<()> {
        let step = self.state.step;
        if self.compared.replace(Some(step)) == Some(step) {
            return Ok(());
        }
        let (stores, slots) = (self.job.trained(&self.student), slots(&*self.optimizer, self.ema.as_ref()));
        check_same(self.around.ranks, step, tensors_of(&stores, &slots))
            .map_err(|error| self.with_step(error))
    }

    fn save_in(&self, folder: &Path) -> Result<()> {
        let keep = self.run().train.keep_checkpoints;
        let stores = self.job.trained(&self.student);
        let slots = slots(&*self.optimizer, self.ema.as_ref());
        checkpoint::save(folder, &stores, &slots, &self.state, keep)?;
        Ok(())
    }

    /// Metadata for the weights of a network whose evaluation gave this `score`.
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

/// Evaluates the first `images` held-out images: what the last evaluation needs is found to be wrong now, not then.
fn rehearse<T: Task>(
    job: &Job<'_, T>,
    around: &Surroundings<'_, T>,
    student: &T::Model,
    images: usize,
) -> Result<()> {
    let mut config = job.config.clone();
    config.evaluation().max_images = Some(images);
    match around.data.measure(&config, student, None, around.evaluating()) {
        // Nothing was begun; the loop says so.
        Err(EngineError::Stopped) => Ok(()),
        measured => measured.map(drop),
    }
}

/// The bad images that the log of a run names.
fn bad_images_in(folder: &RunFolder) -> BTreeSet<PathBuf> {
    let lines = folder.lines().unwrap_or_default().into_iter();
    lines
        .filter_map(|line| match line {
            Line::BadImage(line) => Some(line.bad_image),
            _ => None,
        })
        .collect()
}

/// Position of the loader after so many batches.
fn position(batches_per_epoch: u64, seen: u64) -> Position {
    Position { epoch: seen / batches_per_epoch, batch: (seen % batches_per_epoch) as usize }
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

/// The loader of the batches from `at` on that this process makes, and sends to its GPU.
fn loader_from<T: Task>(
    source: T::Source,
    config: &T::Config,
    Surroundings { ranks, device, .. }: &Surroundings<'_, T>,
    at: Position,
) -> Result<Loader<T::Source>> {
    let ranks = *ranks;
    let own = own_parts(ranks, config.run().train.parts() as u64)?;
    let share = Share { index: ranks.rank() as u64, of: ranks.size() as u64, run: own.end - own.start };
    Ok(Loader::uploading(source, config.workforce(), at, share, Uploads::to(device)?)?)
}

/// All tensors of a checkpoint.
fn tensors_of<'t>(stores: &'t [&ParamStore], slots: &'t [Slot<'_>]) -> impl Iterator<Item = &'t Tensor> {
    let own = stores.iter().flat_map(|params| params.iter()).map(|(_, param)| param.value.tensor());
    own.chain(slots.iter().map(|slot| slot.tensor))
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
    recorded::record(&job.folder, job.config, task)?;
    if let Some(init) = job.init {
        let random = task.initialise(job.config, student, init)?;
        if !random.is_empty() {
            notes.push(format!("{}: {}", init.path.display(), of_random(&random)));
        }
    }
    let threads = rayon::current_num_threads();
    Ok(TrainState {
        step: 0,
        threads,
        best: None,
        since_best: 0,
        total: job.fitted,
        networks: Vec::new(),
        teacher: job.teacher_hash.clone(),
        evaluation_due: false,
        config: Some(recorded::hash(job.config)),
        log: None,
        left_out: Vec::new(),
        losses: Vec::new(),
    })
}

/// The state of a checkpoint that was restored, if it is one of this job.
///
/// # Errors
/// If it is one of other settings, or of another teacher.
fn resumed<T: Task>(
    job: &Job<'_, T>,
    task: &T,
    record: &Record,
    restored: Option<Restored>,
    notes: &mut Vec<String>,
) -> Result<TrainState> {
    let Some(Restored { path, mut state, notes: found }) = restored else {
        let reason = "its checkpoints are gone while it was about to be resumed".to_owned();
        return Err(EngineError::Run { path: job.folder.checkpoints(), reason });
    };
    notes.extend(found);
    let own = recorded::hash(job.config);
    if let Record::Lost(reason) = record {
        if state.config.as_ref() != Some(&own) {
            return Err(recorded::lost(&job.folder, reason));
        }
        notes.push(format!(
            "{}: {reason}; {} says that the run was started with these settings, so it is written anew",
            job.folder.config().display(),
            path.display()
        ));
        recorded::record(&job.folder, job.config, task)?;
    }
    state.config = Some(own);
    if state.teacher != job.teacher_hash {
        let reason = "the run was started with another teacher; use that one, or start anew without --resume"
            .to_owned();
        return Err(EngineError::Run { path, reason });
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

/// Summary in a line of the tensors that initial weights leave random.
fn of_random(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = match names.len() {
        ..=SHOWN => String::new(),
        count => format!(" and {} more", count - SHOWN),
    };
    format!("these tensors do not come from it and start at random: {shown}{more}")
}
