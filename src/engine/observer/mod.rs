//! Observers of training: what hears of each step, evaluation and note of a run, and of its end.
//!
//! | module | what lives there |
//! |---|---|
//! | `event` | [`Observer`] and the events |
//! | `log` | [`Log`]: `log.jsonl`, `log.csv` and `eval/` |
//! | `tensorboard` | [`TensorBoard`]: event files |
//! | `page` | [`Page`]: `report.html` |
//! | `clock` | the time of day |
//! | `best` | [`BestWeights`]: `best.safetensors` |
//! | `progress` | [`ShowProgress`]: a bar or lines on stderr |
//!
//! The training loop itself writes checkpoints, the last weights and the outcome; all else is an observer's.

mod best;
mod clock;
mod event;
mod log;
mod page;
mod progress;
mod tensorboard;

pub use best::BestWeights;
pub use event::{Begin, End, Eval, Evaluated, Observer, Step, Written};
pub use log::Log;
pub use page::Page;
pub use progress::ShowProgress;
pub use tensorboard::TensorBoard;

use std::cell::Cell;

use super::error::Result;
use crate::report::run_folder::{BadImageLine, LeftOutLine, RunFolder, SharesLine};

/// The observers of a run, told one after the other.
///
/// ```
/// use std::cell::RefCell;
///
/// use ckd_det::engine::Result;
/// use ckd_det::engine::observer::{Observer, Observers, Step};
///
/// #[derive(Default)]
/// struct Losses(RefCell<Vec<f64>>);
///
/// impl Observer for Losses {
///     fn step(&self, step: &Step<'_>) -> Result<()> {
///         self.0.borrow_mut().push(step.terms.iter().map(|term| term.weighted).sum());
///         Ok(())
///     }
/// }
///
/// let losses = Losses::default();
/// let observers = Observers::of_files().with(&losses);
/// ```
#[derive(Default)]
pub struct Observers<'a> {
    all: Vec<Box<dyn Observer + 'a>>,
    /// Whether only those are told that hear on every process of a run.
    is_apart: Cell<bool>,
}

impl<'a> Observers<'a> {
    /// No observer: a run that writes no log and keeps no best weights.
    pub fn none() -> Self {
        Self::default()
    }

    /// The observers that write a run's files: [`Log`] and [`BestWeights`].
    pub fn of_files() -> Self {
        Self::none().with(Log::default()).with(BestWeights::default())
    }

    /// Adds one more observer.
    #[must_use]
    pub fn with(mut self, observer: impl Observer + 'a) -> Self {
        self.all.push(Box::new(observer));
        self
    }

    /// Tells only those that hear on every process of a run, from now on, where `is_apart`.
    pub(super) fn set_apart(&self, is_apart: bool) {
        self.is_apart.set(is_apart);
    }

    /// Those that are told.
    fn told(&self) -> impl Iterator<Item = &Box<dyn Observer + 'a>> {
        self.all.iter().filter(|observer| !self.is_apart.get() || observer.is_everywhere())
    }

    /// Whether any of those that are told shows a picture of an evaluation.
    pub(super) fn want_picture(&self) -> bool {
        self.told().any(|observer| observer.wants_picture())
    }

    /// Tells all of a note.
    pub fn note(&self, note: &str) {
        self.told().for_each(|observer| observer.note(note));
    }

    pub(super) fn begin(&self, begin: &Begin<'_>) -> Result<()> {
        self.told().try_for_each(|observer| observer.begin(begin))
    }

    pub(super) fn step(&self, step: &Step<'_>) -> Result<()> {
        self.told().try_for_each(|observer| observer.step(step))
    }

    pub(super) fn left_out(&self, line: &LeftOutLine) -> Result<()> {
        self.told().try_for_each(|observer| observer.left_out(line))
    }

    pub(super) fn bad_image(&self, line: &BadImageLine) -> Result<()> {
        self.told().try_for_each(|observer| observer.bad_image(line))
    }

    pub(super) fn eval(&self, eval: &Eval<'_>) -> Result<()> {
        self.told().try_for_each(|observer| observer.eval(eval))
    }

    pub(super) fn shares(&self, shares: &SharesLine) -> Result<()> {
        self.told().try_for_each(|observer| observer.shares(shares))
    }

    /// Tells all that the whole run is finished.
    pub(super) fn finished(&self, folder: &RunFolder) -> Result<()> {
        self.told().try_for_each(|observer| observer.finished(folder))
    }

    /// Tells all of the end, whatever one of them says.
    pub(super) fn end(&self, end: &End) -> Result<()> {
        let results: Vec<Result<()>> = self.told().map(|observer| observer.end(end)).collect();
        results.into_iter().collect()
    }
}

impl std::fmt::Debug for Observers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} observers", self.all.len())
    }
}
