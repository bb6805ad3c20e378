//! The loader: worker threads build batches ahead of the trainer, which receives them in order.
//!
//! A worker takes the next position, builds that whole batch and puts it on the shelf; the trainer
//! takes batches off the shelf by position. Who builds what depends on the clock, what comes out does
//! not. A worker waits while the shelf is `batches_ahead` positions ahead, so memory is bounded.
//!
//! A [`Source`] says which images form which batch and builds it: [`BoxedImages`] here for detectors,
//! [`LabelledImages`](super::labelled::LabelledImages) for classifiers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ckd_kernels::upload::{Uploads, Values};

use super::batch::{Batch, Item};
use super::box_augment::{BoxAugment, Sample};
use super::dataset::{Dataset, Listed};
use super::draws::Draws;
use super::error::DataError;
use super::image_policy::{BadImage, Tolerance};
use super::sampler::{Aspect, Grouping, ImageDraws, Order, Sampler};
use super::substitutes::{Place, Substitutes};
use super::transform::{Flip, Resize, ResizeRule};

/// Purpose of the batches: training or evaluation.
#[derive(Debug, Clone, PartialEq)]
pub enum Purpose {
    /// Shuffled and augmented; epoch after epoch without end.
    Training {
        /// The seed of the run.
        seed: u64,
        /// Grouping of images that may share a batch.
        grouping: Grouping,
        /// Probability that an image is mirrored, in [0, 1].
        flip_probability: f64,
        /// Each image's short side is one of these, drawn evenly (multi-scale).
        short_sides_px: Vec<u32>,
        /// Other random changes.
        augment: BoxAugment,
    },
    /// Every image once, in the order of the data set, as it is.
    Evaluation {
        /// The short side of every image.
        short_side_px: u32,
    },
}

/// Configuration of the loader.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderConfig {
    /// For training or for evaluation.
    pub purpose: Purpose,
    /// Most pixels along an image's longer side.
    pub long_side_max_px: u32,
    /// Resampling of images, and rounding of their sizes.
    pub resize: Resize,
    /// Resampling for a teacher that resizes otherwise, at the same sizes; takes twice the memory.
    pub teacher_resize: Option<Resize>,
    /// Images in a batch.
    pub images_per_batch: usize,
    /// Height and width of a batch are multiples of this (32 for a feature pyramid).
    pub size_divisor: usize,
    /// Threads that decode.
    pub workers: usize,
    /// Batches built ahead of the trainer; each takes `images * height * width * 12` bytes.
    pub batches_ahead: usize,
}

/// A place in the endless sequence of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// Passes over the data set before this one.
    pub epoch: u64,
    /// Batches before this one in its epoch.
    pub batch: usize,
}

/// The part of the sequence of batches that one of several loaders builds: runs of so many batches, in turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The loader, from 0.
    pub index: u64,
    /// Loaders.
    pub of: u64,
    /// Batches of each turn.
    pub run: u64,
}

impl Share {
    /// All batches.
    pub const WHOLE: Self = Self { index: 0, of: 1, run: 1 };

    /// The first batch of this share that does not come before the batch `number` of the sequence.
    fn at_or_after(self, number: u64) -> u64 {
        let round = self.of * self.run;
        let begins = number / round * round + self.index * self.run;
        match number {
            _ if number < begins => begins,
            _ if number < begins + self.run => number,
            _ => begins + round,
        }
    }
}

/// Source of batches. Everything is a pure function of its arguments.
pub trait Source: Debug + Send + Sync + 'static {
    /// Type of a batch.
    type Batch: Debug + Clone + Send;

    /// The pixels of a batch, which go to a GPU ahead of it.
    fn pixels(batch: &mut Self::Batch) -> Vec<&mut Values>;

    /// Batches in every epoch.
    fn batches_per_epoch(&self) -> usize;

    /// The batches of `epoch`: indices of images.
    fn batches(&self, epoch: u64) -> Vec<Vec<usize>>;

    /// Number of passes over the images.
    fn passes(&self) -> Passes;

    /// Builds the batch of `images`, of which the first is at position `first` of `epoch`.
    ///
    /// # Errors
    /// If an image cannot be used.
    fn build(&self, epoch: u64, first: u64, images: &[usize]) -> Result<Self::Batch, DataError>;

    /// Name of an image in messages: its file.
    fn path(&self, image: usize) -> PathBuf;

    /// Takes the images that broke since it was asked last, and were replaced in their batches.
    fn take_broken(&self) -> Vec<BadImage> {
        Vec::new()
    }
}

/// Number of passes over a source's images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passes {
    /// Epoch after epoch without end.
    Endless,
    /// Once.
    One,
}

/// Threads and memory of a loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workforce {
    /// Threads that build batches.
    pub workers: usize,
    /// Batches built ahead of the trainer.
    pub batches_ahead: usize,
}

/// Batches in order; dropping it stops the workers.
#[derive(Debug)]
pub struct Loader<S: Source> {
    shared: Arc<Shared<S>>,
    workers: Vec<JoinHandle<()>>,
    next: Position,
    taken: u64,
    finished: bool,
    data_wait: Duration,
}

impl Loader<BoxedImages> {
    /// Starts the workers over images with boxes. The first batch is the one at `start`, which a resumed run
    /// takes from [`position`](Self::position) of the interrupted one.
    pub fn new(dataset: Arc<Dataset>, config: LoaderConfig, start: Position) -> Result<Self, DataError> {
        let workforce = Workforce { workers: config.workers, batches_ahead: config.batches_ahead };
        Self::over(BoxedImages::new(dataset, config)?, workforce, start)
    }
}

impl<S: Source> Loader<S> {
    /// Starts the workers over `source`. The first batch is the one at `start`.
    ///
    /// # Errors
    /// Without workers, or room for a batch, or if `start` lies behind the end of its epoch.
    pub fn over(source: S, workforce: Workforce, start: Position) -> Result<Self, DataError> {
        Self::uploading(source, workforce, start, Share::WHOLE, None)
    }

    /// Starts the workers over the batches of `source` that are of `share`, from `start` on. The pixels of a batch are sent
    /// through `uploads` as soon as it is built.
    ///
    /// # Errors
    /// Errors of [`over`](Self::over).
    pub fn uploading(
        source: S,
        workforce: Workforce,
        start: Position,
        share: Share,
        uploads: Option<Uploads>,
    ) -> Result<Self, DataError> {
        let Workforce { workers, batches_ahead } = workforce;
        for (number, name) in [(workers, "workers"), (batches_ahead, "batches_ahead")] {
            if number == 0 {
                return Err(DataError::Setting(format!("{name} must be at least 1")));
            }
        }
        let per_epoch = source.batches_per_epoch();
        if start.batch > per_epoch {
            let Position { epoch, batch } = start;
            return Err(DataError::Setting(format!(
                "it is to resume before batch {batch} of epoch {epoch}, but an epoch has {per_epoch} batches; resume with the data set and batch size the run was started with"
            )));
        }
        let next = start.settled(per_epoch).in_share(per_epoch, share);
        let order =
            Schedule { next, epoch: next.epoch, batches: source.batches(next.epoch), handed_out: 0, share };
        let state = State { order, taken: 0, shelf: BTreeMap::new(), stop: false };
        let shared = Arc::new(Shared {
            source,
            uploads,
            batches_ahead,
            per_epoch,
            share,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let mut loader = Self {
            shared,
            workers: Vec::with_capacity(workers),
            next,
            taken: 0,
            finished: false,
            data_wait: Duration::ZERO,
        };
        for number in 0..workers {
            let shared = Arc::clone(&loader.shared);
            let spawned = thread::Builder::new().name(format!("data-{number}")).spawn(move || shared.work());
            match spawned {
                Ok(worker) => loader.workers.push(worker),
                Err(error) => {
                    return Err(DataError::Setting(format!("thread {number} cannot be started: {error}")));
                }
            }
        }
        Ok(loader)
    }

    /// Batches in every epoch.
    pub fn batches_per_epoch(&self) -> usize {
        self.shared.per_epoch
    }

    /// The position of the batch that comes next: what a checkpoint stores.
    pub fn position(&self) -> Position {
        self.next
    }

    /// Takes the images that broke since it was asked last, and were replaced in their batches.
    pub fn take_broken(&self) -> Vec<BadImage> {
        self.shared.source.take_broken()
    }

    /// Builds the batch at a position of the sequence, whoever's share it is of.
    ///
    /// # Errors
    /// If an image cannot be used.
    pub fn build(&self, at: Position) -> Result<S::Batch, DataError> {
        let Position { epoch, batch } = at.settled(self.shared.per_epoch);
        let batches = self.shared.source.batches(epoch);
        self.shared.source.build(epoch, before(&batches, batch), &batches[batch])
    }

    /// Time that the trainer has waited for data so far.
    pub fn data_wait(&self) -> Duration {
        self.data_wait
    }
}

impl<S: Source> Iterator for Loader<S> {
    type Item = Result<S::Batch, DataError>;

    /// The next batch. After an error, and after the last batch of an evaluation, there is none.
    fn next(&mut self) -> Option<Self::Item> {
        if self.finished || self.shared.is_over(self.next) {
            return None;
        }
        let started = Instant::now();
        let mut state = self.shared.lock();
        let made = loop {
            match state.shelf.remove(&self.taken) {
                Some(made) => break made,
                None => state = self.shared.wait(state),
            }
        };
        self.taken += 1;
        state.taken = self.taken;
        drop(state);
        self.shared.changed.notify_all();
        self.data_wait += started.elapsed();
        self.next = self.next.after(self.shared.per_epoch, self.shared.share);
        self.finished = made.is_err();
        Some(made)
    }
}

impl<S: Source> Drop for Loader<S> {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches its panics; there is nothing left to report here.
            let _ = worker.join();
        }
    }
}

impl Position {
    /// The end of an epoch is the start of the next.
    fn settled(self, per_epoch: usize) -> Self {
        if self.batch >= per_epoch { Self { epoch: self.epoch + 1, batch: 0 } } else { self }
    }

    /// The next position of `share` after this one.
    fn after(self, per_epoch: usize, share: Share) -> Self {
        Self { batch: self.batch + 1, ..self }.settled(per_epoch).in_share(per_epoch, share)
    }

    /// The first position of `share` that does not come before this one.
    fn in_share(self, per_epoch: usize, share: Share) -> Self {
        let batches = per_epoch as u64;
        if batches == 0 {
            return self;
        }
        let number = share.at_or_after(self.epoch * batches + self.batch as u64);
        Self { epoch: number / batches, batch: (number % batches) as usize }
    }
}

/// Refuses settings that make no sense, before any thread runs.
fn check(dataset: &Dataset, config: &LoaderConfig) -> Result<Sampler, DataError> {
    let refuse = |problem: &str| Err(DataError::Setting(problem.to_owned()));
    let Some(images_per_batch) = NonZeroUsize::new(config.images_per_batch) else {
        return refuse("images_per_batch must be at least 1");
    };
    let at_least_one = [
        (config.size_divisor, "size_divisor must be at least 1"),
        (config.long_side_max_px as usize, "long_side_max_px must be at least 1"),
        (dataset.images.len(), "the data set has no image"),
    ];
    if let Some((_, problem)) = at_least_one.iter().find(|(number, _)| *number == 0) {
        return refuse(problem);
    }
    let (order, short_sides) = match &config.purpose {
        Purpose::Training { seed, grouping, flip_probability, short_sides_px, .. } => {
            if !(0.0..=1.0).contains(flip_probability) {
                return refuse("flip_probability must lie in [0, 1]");
            }
            (Order::Shuffled { seed: *seed, grouping: *grouping }, short_sides_px.as_slice())
        }
        Purpose::Evaluation { short_side_px } => (Order::Sequential, std::slice::from_ref(short_side_px)),
    };
    if short_sides.is_empty() || short_sides.contains(&0) {
        return refuse("the short side must be given and be at least 1 pixel");
    }
    let usable = |image: usize| Aspect::of(dataset.images[image].width, dataset.images[image].height);
    let aspects = match (&config.purpose, dataset.listed()) {
        (Purpose::Training { .. }, Listed { usable: places, sizes }) if !places.is_empty() => {
            let annotated = sizes.iter().map(|&(width, height)| Aspect::of(width, height));
            places.iter().zip(annotated).map(|(place, annotated)| place.map_or(annotated, usable)).collect()
        }
        _ => (0..dataset.images.len()).map(usable).collect(),
    };
    Ok(Sampler::new(aspects, images_per_batch, order))
}

/// Images with boxes, resized and flipped.
#[derive(Debug)]
pub struct BoxedImages {
    dataset: Arc<Dataset>,
    config: LoaderConfig,
    sampler: Sampler,
    substitutes: Substitutes,
}

impl Source for BoxedImages {
    type Batch = Batch;

    fn pixels(batch: &mut Batch) -> Vec<&mut Values> {
        std::iter::once(&mut batch.pixels).chain(&mut batch.teacher_pixels).collect()
    }

    fn batches_per_epoch(&self) -> usize {
        self.sampler.batches_per_epoch()
    }

    fn batches(&self, epoch: u64) -> Vec<Vec<usize>> {
        self.sampler.batches(epoch)
    }

    fn passes(&self) -> Passes {
        match self.config.purpose {
            Purpose::Training { .. } => Passes::Endless,
            Purpose::Evaluation { .. } => Passes::One,
        }
    }

    fn build(&self, epoch: u64, first: u64, images: &[usize]) -> Result<Batch, DataError> {
        let decode = |image| self.dataset.pixels(self.usable(image)).map(drop);
        let seed = match self.config.purpose {
            Purpose::Training { seed, .. } => seed,
            Purpose::Evaluation { .. } => 0,
        };
        self.substitutes.batch(images, Place { seed, epoch, first }, decode, |images| {
            let items: Vec<Item> = (first..)
                .zip(images)
                .map(|(position, &image)| self.item(epoch, position, self.usable(image)))
                .collect();
            match &self.config.purpose {
                Purpose::Training { augment, .. } if augment.is_on() => {
                    self.augmented(augment, (seed, epoch, first), items)
                }
                _ => Ok(Batch::load(&self.dataset, &items, self.config.size_divisor)?),
            }
        })
    }

    fn take_broken(&self) -> Vec<BadImage> {
        self.substitutes.take_broken(|image| self.path(image))
    }

    fn path(&self, image: usize) -> PathBuf {
        // One that was left out has no place among the images.
        self.dataset.images.get(self.usable(image)).map_or_else(PathBuf::new, |image| image.path.clone())
    }
}

impl BoxedImages {
    /// Batches of `dataset` as `config` has them.
    ///
    /// # Errors
    /// Without images, or if a setting makes no sense.
    pub fn new(dataset: Arc<Dataset>, config: LoaderConfig) -> Result<Self, DataError> {
        let sampler = check(&dataset, &config)?;
        let substitutes = match config.purpose {
            Purpose::Training { .. } => {
                let listed = dataset.listed().usable.iter().enumerate();
                let left_out =
                    listed.filter(|(_, usable)| usable.is_none()).map(|(image, _)| image).collect();
                let images = dataset.listed().usable.len().max(dataset.images.len());
                Substitutes::of(images, left_out, dataset.tolerance())
            }
            // What is measured is measured whole.
            Purpose::Evaluation { .. } => {
                Substitutes::of(dataset.images.len(), BTreeSet::new(), Tolerance::default())
            }
        };
        Ok(Self { dataset, config, sampler, substitutes })
    }

    /// The data set's index of a training image, which is its place in the annotations.
    fn usable(&self, image: usize) -> usize {
        match self.config.purpose {
            // One that was left out is replaced before it is looked up.
            Purpose::Training { .. } => {
                self.dataset.listed().usable.get(image).copied().flatten().unwrap_or(image)
            }
            Purpose::Evaluation { .. } => image,
        }
    }

    /// The batch of `items` under `augment`.
    fn augmented(
        &self,
        augment: &BoxAugment,
        (seed, epoch, first): (u64, u64, u64),
        items: Vec<Item>,
    ) -> Result<Batch, DataError> {
        let mut samples = Vec::with_capacity(items.len());
        for (position, mut item) in (first..).zip(items) {
            let mut draws = Draws::new(seed, "augment", &[epoch, position]);
            let sample = Sample::of(&self.dataset, item.image)?;
            let other = |draws: &mut Draws| self.other(item.image, draws);
            let (sample, scale) =
                augment.apply(sample, (epoch, item.rule.short_side_px), &mut draws, other)?;
            item.rule = item.rule.scaled(scale);
            samples.push((item, sample));
        }
        Ok(Batch::of_samples(&self.dataset, &samples, self.config.size_divisor))
    }

    /// A random image to go together with the one at index `image`, which takes its place where that is bad.
    fn other(&self, image: usize, draws: &mut Draws) -> Result<Sample, DataError> {
        let listed = &self.dataset.listed().usable;
        let drawn = match listed.is_empty() {
            true => Some(draws.below(self.dataset.images.len())),
            // Among all that are listed: an image that breaks changes no other batch.
            false => listed[draws.below(listed.len())],
        };
        match Sample::of(&self.dataset, drawn.unwrap_or(image)) {
            Ok(sample) => Ok(sample),
            // It is told of in its own turn.
            Err(_) if self.dataset.tolerance().left > 0 => Ok(Sample::of(&self.dataset, image)?),
            Err(error) => Err(error.into()),
        }
    }

    fn item(&self, epoch: u64, position: u64, image: usize) -> Item {
        let LoaderConfig { long_side_max_px, resize, teacher_resize, .. } = self.config;
        let (flip, short_side_px) = match &self.config.purpose {
            Purpose::Evaluation { short_side_px } => (Flip::None, *short_side_px),
            Purpose::Training { seed, flip_probability, short_sides_px, .. } => {
                let draws = ImageDraws::at(*seed, epoch, position);
                let flip = if draws.flip < *flip_probability { Flip::Horizontal } else { Flip::None };
                let pick = (draws.short_side * short_sides_px.len() as f64) as usize;
                (flip, short_sides_px[pick.min(short_sides_px.len() - 1)])
            }
        };
        Item { image, flip, rule: ResizeRule { short_side_px, long_side_max_px, resize }, teacher_resize }
    }
}

#[derive(Debug)]
struct Shared<S: Source> {
    source: S,
    uploads: Option<Uploads>,
    batches_ahead: usize,
    per_epoch: usize,
    share: Share,
    state: Mutex<State<S::Batch>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<B> {
    order: Schedule,
    taken: u64,
    shelf: BTreeMap<u64, Result<B, DataError>>,
    stop: bool,
}

/// Hands out positions one after the other.
#[derive(Debug)]
struct Schedule {
    next: Position,
    /// The epoch that `batches` belongs to.
    epoch: u64,
    batches: Vec<Vec<usize>>,
    handed_out: u64,
    share: Share,
}

/// Batch to be built.
struct Job {
    ticket: u64,
    epoch: u64,
    /// Images before this batch in its epoch.
    first: u64,
    images: Vec<usize>,
}

impl<S: Source> Shared<S> {
    fn work(&self) {
        while let Some(job) = self.next_job() {
            let made = catch_unwind(AssertUnwindSafe(|| self.build(&job)))
                .unwrap_or_else(|panic| Err(self.panicked(&job, panic.as_ref())));
            self.lock().shelf.insert(job.ticket, made);
            self.changed.notify_all();
        }
    }

    fn build(&self, job: &Job) -> Result<S::Batch, DataError> {
        let mut batch = self.source.build(job.epoch, job.first, &job.images)?;
        if let Some(uploads) = &self.uploads {
            S::pixels(&mut batch).into_iter().for_each(|pixels| pixels.send(uploads));
        }
        Ok(batch)
    }

    /// The next batch to build, once there is room for it; `None` when there is no more to do.
    fn next_job(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.stop || self.is_over(state.order.next) {
                return None;
            }
            if state.order.handed_out < state.taken + self.batches_ahead as u64 {
                return Some(state.order.hand_out(&self.source));
            }
            state = self.wait(state);
        }
    }

    fn is_over(&self, at: Position) -> bool {
        self.source.passes() == Passes::One && at.epoch > 0
    }

    fn panicked(&self, job: &Job, panic: &(dyn std::any::Any + Send)) -> DataError {
        let message = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        let images = job.images.iter().map(|&image| self.source.path(image)).collect();
        DataError::Panicked { images, message }
    }

    /// No code that holds the lock can panic half-way, so a poisoned state is still whole.
    fn lock(&self) -> MutexGuard<'_, State<S::Batch>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<S::Batch>>) -> MutexGuard<'a, State<S::Batch>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Schedule {
    fn hand_out(&mut self, source: &impl Source) -> Job {
        let Position { epoch, batch } = self.next;
        if self.epoch != epoch {
            self.epoch = epoch;
            self.batches = source.batches(epoch);
        }
        let first = before(&self.batches, batch);
        let job = Job { ticket: self.handed_out, epoch, first, images: self.batches[batch].clone() };
        self.handed_out += 1;
        self.next = self.next.after(self.batches.len(), self.share);
        job
    }
}

/// Images before a batch in its epoch.
fn before(batches: &[Vec<usize>], batch: usize) -> u64 {
    batches[..batch].iter().map(|images| images.len() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_the_sequence_are_disjoint_and_leave_nothing_out() {
        for (of, run) in [(1, 1), (2, 1), (2, 2), (4, 2), (3, 3)] {
            let mut seen = vec![0; 60];
            for index in 0..of {
                let share = Share { index, of, run };
                let mut number = share.at_or_after(0);
                while number < 60 {
                    seen[number as usize] += 1;
                    assert_eq!(number / run % of, index);
                    assert_eq!(share.at_or_after(number), number);
                    number = share.at_or_after(number + 1);
                }
            }
            assert_eq!(seen, vec![1; 60], "{of} loaders, {run} batches a turn");
        }
    }

    #[test]
    fn shares_run_on_into_the_next_epoch() {
        // Five batches an epoch, two loaders, one batch a turn: the epoch's last batch and the next one's first alternate.
        let share = Share { index: 1, of: 2, run: 1 };
        let mut at = Position::default().in_share(5, share);
        let mut found = Vec::new();
        for _ in 0..5 {
            found.push((at.epoch, at.batch));
            at = at.after(5, share);
        }
        assert_eq!(found, [(0, 1), (0, 3), (1, 0), (1, 2), (1, 4)]);
    }
}
