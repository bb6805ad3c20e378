//! Distillation: what a student is told about its teacher, one method a file.
//!
//! | file | what lives there |
//! |---|---|
//! | `ckd` | [`ckd()`]: contrastive distillation over rows (RoIs, anchors, samples) |
//! | `rcka`, `lcka`, `fcka` | kernel alignment of feature maps patch by patch ([`patch_cka`]), of logits, of whole maps |
//! | `ka` | [`ka()`]: kernel alignment of two matrices |
//! | `icd` | [`icd()`]: contrast and invariance through trained heads |
//! | `kd`, `dkd`, `dist` | [`kd()`], [`dkd()`], [`dist()`]: logits by divergence, decoupled, by correlation |
//! | `rkd`, `crd` | [`rkd()`]: relations of samples; [`crd()`]: contrast with a memory |
//! | `fitnet`, `at`, `review`, `pkd`, `cwd` | feature maps: through a regressor, attention, review ([`hcl`]), [`pkd()`], [`cwd()`] |
//! | `fgfi`, `fgd`, `context` | feature maps where the objects are |
//! | `ld` | [`ld()`]: distributions of box edges |
//! | `mcl`, `meta` | online learning: [`mcl`]'s losses, the gradient of its meta step |
//! | `bank` | memories of samples: [`ByClass`], [`remember`], [`likeness`] |
//!
//! A [`Distiller`] names the taps that it reads and turns what teacher and student found there into loss
//! [`Term`]s. It knows no detector. The teacher is a constant: a teacher that would get a gradient is an
//! error. What a method trains along with the student (heads, regressors, memories) is in its [`ParamStore`].

mod at;
mod bank;
mod ckd;
mod context;
mod crd;
mod cwd;
mod dist;
mod dkd;
mod fcka;
mod fgd;
mod fgfi;
mod fitnet;
mod icd;
mod ka;
mod kd;
mod layers;
mod lcka;
mod ld;
mod maps;
pub mod mcl;
pub mod meta;
mod pkd;
mod rcka;
mod review;
mod rkd;
mod rows;
mod unit_rows;

pub use at::{At, attention_transfer};
pub use bank::{ByClass, contrast_columns, likeness, remember};
pub use ckd::{Ckd, Negatives, ckd};
pub use crd::{Contrast, Crd, Memory, crd};
pub use cwd::{Cwd, cwd};
pub use dist::{Dist, Probabilities, Relation, dist};
pub use dkd::{Dkd, Part, dkd};
pub use fcka::{AlignmentOf, Fcka};
pub use fgd::{Fgd, FgdWeights, attention_difference, box_masks, focal_difference};
pub use fgfi::{Fgfi, imitation_mask, masked_imitation};
pub use fitnet::{FitNet, Regressor};
pub use icd::{Direction, Icd, IcdPart, IcdSettings, icd};
pub use ka::{Kernel, RowNorm, ka};
pub use kd::{Kd, kd};
pub use lcka::Lcka;
pub use ld::ld;
pub use maps::mean_squared_difference;
pub use pkd::{Pkd, Std, pkd};
pub use rcka::{PatchRows, Rcka, patch_cka};
pub use review::{Abf, ReviewKd, hcl};
pub use rkd::{Rkd, RkdRelation, rkd};

use std::collections::BTreeMap;

use candle_core::Tensor;
use ckd_detectors::boxes::Xyxy;
use ckd_detectors::param::ParamStore;
use ckd_detectors::taps::{MissingTap, Tap, Taps};
use ckd_kernels::Value;
use ckd_kernels::elementwise::scale;

/// A method of distillation, configured.
pub trait Distiller {
    /// The method's name: the first part of its terms' names.
    fn name(&self) -> &str;

    /// The taps that it reads, of the teacher and of the student.
    fn taps(&self) -> Vec<Tap>;

    /// The loss terms of one step.
    ///
    /// # Errors
    /// A tap that either network does not offer; a teacher inside a graph; shapes that do not fit.
    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError>;

    /// What it trains along with the student, and what it remembers from step to step. It belongs to the training
    /// state and to no exported student.
    fn params(&self) -> Option<&ParamStore> {
        None
    }
}

/// What a step gives the methods: what both networks found in the same images, and the truth about them.
#[derive(Debug, Clone, Copy)]
pub struct Lesson<'a> {
    /// What the teacher found.
    pub teacher: &'a Taps,
    /// What the student found.
    pub student: &'a Taps,
    /// The true class of each row of the logits: at RoI logits 0 is the background.
    pub labels: &'a [u32],
    /// The objects of each image, in pixels of the padded image.
    pub boxes: &'a [Vec<Xyxy>],
    /// Padded (height, width) of the images.
    pub image_size: (usize, usize),
    /// The position of each image in the training set.
    pub samples: &'a [u32],
    /// What the step's random numbers follow from.
    pub seed: u64,
}

impl<'a> Lesson<'a> {
    /// What both networks found; nothing is known of the truth yet.
    pub fn new(teacher: &'a Taps, student: &'a Taps) -> Self {
        Self { teacher, student, labels: &[], boxes: &[], image_size: (0, 0), samples: &[], seed: 0 }
    }
}

/// Channels or columns that the networks offer at a tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Width {
    /// The teacher's.
    pub teacher: usize,
    /// The student's.
    pub student: usize,
}

/// The widths at the taps that both networks offer.
pub type Widths = BTreeMap<Tap, Width>;

/// A part of the loss.
#[derive(Debug, Clone)]
pub struct Term {
    /// `METHOD/TAP` and, where a method has several terms there, `/KIND`.
    pub name: String,
    /// The scalar, without its weight.
    pub value: Value,
    /// Its weight in the loss.
    pub weight: f64,
}

/// A distillation term could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum DistillError {
    /// A network does not offer a tap that a method reads.
    #[error("the {role} cannot be distilled there: {source}")]
    MissingTap {
        /// `teacher` or `student`.
        role: &'static str,
        /// The tap, and what there is.
        source: MissingTap,
    },
    /// The teacher's value would get a gradient.
    #[error("the teacher is part of a graph at {tap}; run it frozen, on constants")]
    TrackedTeacher {
        /// Where.
        tap: Tap,
    },
    /// Shapes or parameters that do not fit.
    #[error("{method}: {reason}")]
    Invalid {
        /// The method.
        method: &'static str,
        /// What does not fit, with the shapes.
        reason: String,
    },
    /// An error at a tap.
    #[error("at {tap}: {source}")]
    At {
        /// Where.
        tap: Tap,
        /// What.
        source: Box<DistillError>,
    },
    /// A layer of the method's own failed.
    #[error(transparent)]
    Layer(#[from] ckd_detectors::Error),
    /// An operation failed.
    #[error(transparent)]
    Kernel(#[from] ckd_kernels::Error),
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl DistillError {
    fn invalid(method: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { method, reason: reason.into() }
    }

    fn at(self, tap: Tap) -> Self {
        Self::At { tap, source: Box::new(self) }
    }
}

/// The width at `tap`, which a method that trains something must know beforehand.
fn width_at(widths: &Widths, tap: Tap) -> Result<Width, DistillError> {
    let missing = || DistillError::MissingTap {
        role: "student",
        source: MissingTap { tap, offered: widths.keys().copied().collect() },
    };
    widths.get(&tap).copied().ok_or_else(missing)
}

/// What both networks found at `tap`.
fn at_tap<'a>(tap: Tap, lesson: &Lesson<'a>) -> Result<(&'a Tensor, &'a Value), DistillError> {
    let missing = |role| move |source| DistillError::MissingTap { role, source };
    let teacher = lesson.teacher.require(tap).map_err(missing("teacher"))?;
    let student = lesson.student.require(tap).map_err(missing("student"))?;
    if teacher.is_tracked() {
        return Err(DistillError::TrackedTeacher { tap });
    }
    Ok((teacher.tensor(), student))
}

/// One term a tap: `METHOD/TAP`.
fn term_at_each(
    method: &str,
    taps: &[Tap],
    weight: f64,
    lesson: &Lesson<'_>,
    loss: impl Fn(Tap, &Tensor, &Value) -> Result<Value, DistillError>,
) -> Result<Vec<Term>, DistillError> {
    let term = |&tap: &Tap| {
        let (teacher, student) = at_tap(tap, lesson)?;
        let value = loss(tap, teacher, student).map_err(|error| error.at(tap))?;
        Ok(Term { name: format!("{method}/{tap}"), value, weight })
    };
    taps.iter().map(term).collect()
}

/// A number that divides must be positive.
fn expect_positive(method: &'static str, what: &str, value: f64) -> Result<(), DistillError> {
    match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(DistillError::invalid(method, format!("the {what} must be positive, got {value}"))),
    }
}

/// A scalar of `student` whose gradient is known already (`None` if `student` is not tracked).
fn scalar_of(student: &Value, value: f64, gradient: Option<Tensor>) -> Result<Value, DistillError> {
    scalar_of_all(&[student], value, vec![gradient])
}

/// As [`scalar_of`], of several inputs.
fn scalar_of_all(
    inputs: &[&Value],
    value: f64,
    gradients: Vec<Option<Tensor>>,
) -> Result<Value, DistillError> {
    let device = inputs.first().map_or(&candle_core::Device::Cpu, |input| input.tensor().device());
    let tensor = Tensor::new(value as f32, device)?;
    Ok(Value::operation(inputs, tensor, move |incoming| {
        let factor = f64::from(incoming.reshape(())?.to_scalar::<f32>()?);
        let scaled = |gradient: Tensor| match factor {
            1.0 => Ok(gradient),
            factor => Ok(scale(&Value::constant(gradient), factor)?.tensor().clone()),
        };
        gradients.into_iter().map(|gradient| gradient.map(scaled).transpose()).collect()
    }))
}

/// The constant 0, for a step that has nothing to compare; the student's gradient is 0 there.
fn nothing(student: &Value) -> Result<Value, DistillError> {
    let gradient = student.is_tracked().then(|| student.tensor().zeros_like()).transpose()?;
    scalar_of(student, 0.0, gradient)
}
