//! Global distillation without labels: how alike an image is to the images seen last (LightlyTrain's first method, and the
//! global part of its third).
//!
//! ```text
//! p = unit(W mean(s) + b), q = unit(mean(t))              means over the cells
//! loss = mean over images of KL( softmax(q Qᵀ / T) || softmax(p Qᵀ / T) )
//! Q: the last q, newest first; those of the batch at hand are among them
//! ```
//!
//! A queue that is not full yet has rows of zeros, which the released code takes for classes of similarity 0. They are
//! left out here unless `skip_unfilled = false`.

use std::collections::BTreeMap;

use candle_core::Tensor;
use ckd_detectors::init::Init;
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::taps::Tap;
use ckd_kernels::deferred::{defer, exactly};
use ckd_kernels::elementwise::{concatenate, rows};
use ckd_kernels::in_place::overwrite;
use ckd_kernels::memory::numbers;
use ckd_kernels::pool::global_avg_pool;
use ckd_kernels::row_losses::{softened_divergence, weighted_mean};
use ckd_kernels::similarity::{row_products, similarities};
use ckd_kernels::{Error, Value};
use ckd_settings::{Check, section};

use super::distiller::{DistillError, Distiller, Lesson, Term, at_tap, width_at};
use super::method::{Method, MethodSetting};
use super::place::Maps;
use super::projector::{Projector, unit};
use super::scalar::{expect_positive, nothing};

const NAME: &str = "queue";

section! {
    /// Distillation without labels, between images: the student's pooled map through a trained linear layer is to be as
    /// like the teacher's pooled maps of the images seen last as the teacher's own.
    pub struct FeatureQueue with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 1.0,
        /// Divides the cosines.
        pub temperature: f32 = 0.07,
        /// Images that the queue holds. Default: by the number of training images, from 16 of up to 50 to 8192 of more than
        /// 20,000.
        pub rows: Option<usize>,
        /// Leave out what the queue does not hold yet. The released code does not: rows of zeros take part until it is full.
        pub skip_unfilled: bool = true,
    }
}

impl FeatureQueue {
    fn check(&self, check: &mut Check<'_>) {
        check.positive("temperature", self.temperature.into());
        if let Some(rows) = self.rows {
            check.at_least_one("rows", rows);
        }
    }
}

impl Method for FeatureQueue {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "LightlyTrain's distillation, versions 1 and 3";

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(
        &self,
        setting: &MethodSetting<'_>,
        builder: Builder,
    ) -> Result<Box<dyn Distiller>, DistillError> {
        let size = match self.rows {
            Some(rows) if rows >= setting.images && setting.images > 0 => {
                let reason = format!(
                    "rows = {rows}, but there are {} training images; give fewer rows than images",
                    setting.images
                );
                return Err(DistillError::invalid(NAME, reason));
            }
            Some(rows) => rows,
            None => queue_rows(setting.images),
        };
        let mut queues = BTreeMap::new();
        for tap in self.place.taps()? {
            let (width, builder) = (width_at(&setting.widths, tap)?, builder.within(tap));
            let remembered = Remembered::new(&builder, size, width.teacher)?;
            queues.insert(tap, (Projector::new(&builder, width)?, remembered));
        }
        Ok(Box::new(Global { keys: self.clone(), queues, params: builder.finish() }))
    }
}

/// Rows of the queue for a data set of so many images; 0: it is not known how many.
///
/// The authors' table has 16 rows for up to 50 images; a smaller set has half as many as it has images.
pub fn queue_rows(images: usize) -> usize {
    const TABLE: [(usize, usize); 9] = [
        (50, 16),
        (100, 32),
        (250, 64),
        (500, 128),
        (1_000, 256),
        (2_000, 512),
        (4_000, 1_024),
        (10_000, 2_048),
        (20_000, 4_096),
    ];
    const MOST: usize = 8_192;
    match TABLE.iter().find(|(most, _)| images <= *most) {
        // Unknown.
        _ if images == 0 => MOST,
        Some((_, rows)) => (*rows).min((images / 2).max(1)),
        None => MOST,
    }
}

/// The teacher's rows of the images seen last, and how many there are.
#[derive(Debug)]
struct Remembered {
    /// (n, D), newest first.
    rows: Tensor,
    /// One number.
    filled: Tensor,
}

impl Remembered {
    fn new(builder: &Builder, rows: usize, width: usize) -> Result<Self, DistillError> {
        let zero = Init::Constant(0.0);
        Ok(Self {
            rows: builder.buffer("rows", &[rows, width], zero)?,
            filled: builder.buffer("filled", &[1], zero)?,
        })
    }

    /// The queue with the rows of a batch in front, and how many of its rows are filled. Nothing changes.
    fn with(&self, batch: &Tensor) -> Result<(Tensor, usize), Error> {
        let filled = numbers(&self.filled)?.first().copied().unwrap_or(0.0) as usize;
        let size = self.rows.dim(0)?;
        Ok((pushed(&self.rows, batch)?, (filled + batch.dim(0)?).min(size)))
    }

    /// Takes in the rows of a batch, when the side effects of its pass are made.
    fn take_in(&self, batch: &Tensor) -> Result<(), DistillError> {
        let own = Self { rows: self.rows.clone(), filled: self.filled.clone() };
        let apply = move |tensors: &[Tensor]| -> Result<(), Error> {
            let [batch] = exactly(tensors)?;
            let (rows, filled) = own.with(batch)?;
            overwrite(&own.rows, &rows)?;
            overwrite(&own.filled, &Tensor::new(&[filled as f32], own.filled.device())?)
        };
        Ok(defer(vec![batch.clone()], apply)?)
    }
}

/// The queue on maps.
#[derive(Debug)]
struct Global {
    keys: FeatureQueue,
    queues: BTreeMap<Tap, (Projector, Remembered)>,
    params: ParamStore,
}

impl Global {
    /// The teacher's unit rows of a lesson.
    fn targets(teacher: &Tensor) -> Result<Tensor, DistillError> {
        Ok(unit(&global_avg_pool(&Value::constant(teacher.clone()))?)?.tensor().clone())
    }
}

impl Distiller for Global {
    fn name(&self) -> &str {
        NAME
    }

    fn taps(&self) -> Vec<Tap> {
        self.queues.keys().copied().collect()
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        let term = |(&tap, (projector, remembered)): (&Tap, &(Projector, Remembered))| {
            let (teacher, student) = at_tap(tap, lesson)?;
            let value = || {
                let targets = Self::targets(&teacher)?;
                let (mut held, filled) = remembered.with(&targets)?;
                if self.keys.skip_unfilled {
                    held = held.narrow(0, 0, filled)?.contiguous()?;
                }
                queue(&targets, &projector.pooled(&student)?, &held, self.keys.temperature.into())
            };
            let value = value().map_err(|error: DistillError| error.at(tap))?;
            Ok(Term { name: format!("{NAME}/{tap}"), value, weight: self.keys.weight.into() })
        };
        self.queues.iter().map(term).collect()
    }

    fn after_step(&self, lesson: &Lesson<'_>) -> Result<(), DistillError> {
        for (&tap, (_, remembered)) in &self.queues {
            let (teacher, _) = at_tap(tap, lesson)?;
            let take_in = || remembered.take_in(&Self::targets(&teacher)?);
            take_in().map_err(|error: DistillError| error.at(tap))?;
        }
        Ok(())
    }

    fn cosine(&self, lesson: &Lesson<'_>) -> Result<Option<f64>, DistillError> {
        let mut sum = 0.0;
        for (&tap, (projector, _)) in &self.queues {
            let (teacher, student) = at_tap(tap, lesson)?;
            let value = || {
                let targets = Value::constant(Self::targets(&teacher)?);
                let cosines = row_products(&projector.pooled(&student)?, &targets)?;
                Ok(f64::from(weighted_mean(&cosines, None)?.item()?))
            };
            sum += value().map_err(|error: DistillError| error.at(tap))?;
        }
        Ok(Some(sum / self.queues.len().max(1) as f64))
    }

    fn params(&self) -> Option<&ParamStore> {
        Some(&self.params)
    }
}

/// The queue's loss of unit rows; 0 without rows.
///
/// # Shapes
/// `teacher` and `student` (B, D), `queue` (n, D); a scalar.
///
/// # Errors
/// Shapes that do not fit; a temperature that is not positive.
pub fn queue(
    teacher: &Tensor,
    student: &Value,
    queue: &Tensor,
    temperature: f64,
) -> Result<Value, DistillError> {
    expect_positive(NAME, "temperature", temperature)?;
    super::rows::paired(NAME, teacher, student)?;
    if student.tensor().elem_count() == 0 || queue.elem_count() == 0 {
        return nothing(student);
    }
    let queue = Value::constant(queue.clone());
    let alike = |rows: &Value| similarities(rows, &queue, temperature.recip());
    let targets = alike(&Value::constant(teacher.clone()))?;
    Ok(weighted_mean(&softened_divergence(targets.tensor(), &alike(student)?, 1.0)?, None)?)
}

/// A queue with the rows of `batch` in front; the oldest rows go.
///
/// # Shapes
/// `queue` (n, D), `batch` (B, D); (n, D).
///
/// # Errors
/// Rows of another length.
pub fn pushed(queue: &Tensor, batch: &Tensor) -> Result<Tensor, Error> {
    let size = queue.dim(0)? as u32;
    let all = concatenate(&[Value::constant(batch.clone()), Value::constant(queue.clone())], 0)?;
    Ok(rows(&all, &(0..size).collect::<Vec<_>>())?.tensor().clone())
}
