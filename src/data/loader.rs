//! The loader: worker threads build batches ahead of the trainer, which receives them in order.
//!
//! A worker takes the next position, builds that whole batch and puts it on the shelf; the trainer
//! takes batches off the shelf by position. Who builds what depends on the clock, what comes out does
//! not. A worker waits while the shelf is `batches_ahead` positions ahead, so memory is bounded.
//!
//! A [`Source`] says which images form which batch and builds it:
//! [`BoxedImages`](super::boxed_images::BoxedImages) for detectors, [`LabelledImages`](super::labelled::LabelledImages) for classifiers.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ckd_kernels::upload::{Uploads, Values};

use super::error::DataError;
use super::image_policy::BadImage;
use super::position::{Position, Share};

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

    fn panicked(&self, job: &Job, panic: &(dyn Any + Send)) -> DataError {
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
