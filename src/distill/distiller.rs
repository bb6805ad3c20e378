//! The interface of a method in training: taps in, loss terms out.

use std::collections::BTreeMap;

use candle_core::Tensor;
use ckd_detectors::box_coder::RegionCoder;
use ckd_detectors::boxes::Xyxy;
use ckd_detectors::param::ParamStore;
use ckd_detectors::taps::{MissingTap, Tap, Taps, UnknownName};
use ckd_kernels::Value;
use ckd_kernels::elementwise::in_f32;

use super::parts::{Parts, PartsError, of_all};

/// A method of distillation, configured.
pub trait Distiller {
    /// The method's name: the first part of its terms' names.
    fn name(&self) -> &str;

    /// The taps that it reads, of the teacher and of the student.
    fn taps(&self) -> Vec<Tap>;

    /// The loss terms of one step. They change nothing: the same lesson gives the same terms.
    ///
    /// # Errors
    /// A tap that either network does not offer; a teacher inside a graph; shapes that do not fit.
    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError>;

    /// Moves what the method remembers from step to step (memory banks), once the terms of a pass are
    /// computed. The heads have not been updated yet.
    ///
    /// # Errors
    /// A tap that either network does not offer; a teacher inside a graph; shapes that do not fit.
    fn after_step(&self, _lesson: &Lesson<'_>) -> Result<(), DistillError> {
        Ok(())
    }

    /// The mean cosine of the teacher's vectors with the student's, which the method projects into their space; `None` of
    /// methods that do not.
    ///
    /// # Errors
    /// Errors of [`terms`](Self::terms).
    fn cosine(&self, _lesson: &Lesson<'_>) -> Result<Option<f64>, DistillError> {
        Ok(None)
    }

    /// Whether the terms look at rows of the other parts of an update ([`Lesson::parts`]).
    fn looks_at_all_parts(&self) -> bool {
        false
    }

    /// Parameters trained along with the student, and memories from step to step. They belong to the training
    /// state and to no exported student.
    fn params(&self) -> Option<&ParamStore> {
        None
    }
}

/// Input of the methods in one step: the taps of both networks on the same images, and the ground truth.
#[derive(Debug, Clone, Copy)]
pub struct Lesson<'a> {
    /// The taps of the teacher.
    pub teacher: &'a Taps,
    /// The taps of the student.
    pub student: &'a Taps,
    /// The true class of each row of the logits: at RoI logits 0 is the background.
    pub labels: &'a [u32],
    /// The objects of each image, in pixels of the padded image.
    pub boxes: &'a [Vec<Xyxy>],
    /// What the box deltas are to become, where a method compares them.
    pub regression: Option<&'a BoxRows>,
    /// The dense heads of both networks, where a method lets one go on for the other.
    pub heads: Option<&'a dyn Heads>,
    /// Padded (height, width) of the images.
    pub image_size: (usize, usize),
    /// The position of each image in the training set.
    pub samples: &'a [u32],
    /// Seed of the step's random numbers.
    pub seed: u64,
    /// The other parts of the update, where a method looks at them.
    pub parts: Option<&'a dyn Parts>,
    /// The entry that is asked: its rows are told from those of others by it.
    pub entry: &'a str,
}

impl<'a> Lesson<'a> {
    /// The taps of both networks, without ground truth yet.
    pub fn new(teacher: &'a Taps, student: &'a Taps) -> Self {
        Self {
            teacher,
            student,
            labels: &[],
            boxes: &[],
            regression: None,
            heads: None,
            image_size: (0, 0),
            samples: &[],
            seed: 0,
            parts: None,
            entry: "",
        }
    }

    /// `rows` of this part and those of all other parts of the update, in order of the parts; `rows` alone where there are no
    /// other parts.
    ///
    /// # Shapes
    /// (B, ...), as in all parts; (the sum of all B, ...).
    pub(super) fn rows_of_update(&self, name: &str, rows: &Value) -> Result<Value, DistillError> {
        match self.parts {
            Some(parts) => Ok(of_all(parts, &format!("{}/{name}", self.entry), rows)?),
            None => Ok(rows.clone()),
        }
    }
}

/// Ground truth beside rows of box deltas, or of distances from points (R, 4).
#[derive(Debug, Clone, PartialEq)]
pub struct BoxRows {
    /// Region that each row's deltas start from.
    pub references: Vec<Xyxy>,
    /// Deltas to the true box, of regions that are an object's.
    pub targets: Vec<Option<[f32; 4]>>,
    /// Probability that the teacher gives its likeliest class of objects.
    pub confidence: Vec<f32>,
    /// Divisor of the task's own box loss.
    pub divisor: f64,
    /// Coder of the deltas.
    pub coder: RegionCoder,
}

/// Access of a lesson to the dense heads of its networks.
pub trait Heads: std::fmt::Debug {
    /// Predictions of the teacher's heads, of which the first `convs` convolutions are the student's, and of the teacher alone;
    /// `entry` is who asks.
    ///
    /// # Errors
    /// Networks without such heads; heads of different widths.
    fn crossed(&self, convs: usize, entry: &str) -> Result<Crossing, DistillError>;
}

/// Predictions for all anchors: logits (N·A, K), deltas (N·A, 4).
#[derive(Debug, Clone)]
pub struct Predictions {
    /// Class logits.
    pub logits: Value,
    /// Box deltas; of points, distances.
    pub deltas: Value,
}

/// Predictions of the teacher's heads from the student's features, and from its own.
#[derive(Debug, Clone)]
pub struct Crossing {
    /// From the student's features.
    pub crossed: Predictions,
    /// From the teacher's own.
    pub teacher: Predictions,
    /// Anchor of each row.
    pub anchors: Vec<Xyxy>,
    /// Coder of the deltas.
    pub coder: RegionCoder,
    /// Whether each row counts.
    pub counts: Vec<bool>,
    /// Divisor of the sums over the batch.
    pub divisor: f64,
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
    /// Weight in the loss.
    pub weight: f64,
}

/// A distillation term could not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
        /// The tap.
        tap: Tap,
    },
    /// Shapes or parameters that do not fit.
    #[error("{method}: {reason}")]
    Invalid {
        /// The method.
        method: &'static str,
        /// The reason, with the shapes.
        reason: String,
    },
    /// A level that is no tap.
    #[error(transparent)]
    UnknownTap(#[from] UnknownName),
    /// A method needs facts that these networks and data do not have.
    #[error("{method}: it needs {what}, which these networks and data do not have")]
    Lacks {
        /// The method.
        method: &'static str,
        /// The facts.
        what: &'static str,
    },
    /// The rows of all parts of the update could not be brought together.
    #[error(transparent)]
    Parts(#[from] PartsError),
    /// An error at a tap.
    #[error("at {tap}: {source}")]
    AtTap {
        /// The tap.
        tap: Tap,
        /// The error.
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
    pub(super) fn invalid(method: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { method, reason: reason.into() }
    }

    pub(super) fn at(self, tap: Tap) -> Self {
        Self::AtTap { tap, source: Box::new(self) }
    }
}

/// The width at `tap`, which a method that trains something must know beforehand.
pub(super) fn width_at(widths: &Widths, tap: Tap) -> Result<Width, DistillError> {
    let missing = || DistillError::MissingTap {
        role: if matches!(tap, Tap::PreActivation(_)) { "teacher" } else { "student" },
        source: MissingTap { tap, offered: widths.keys().copied().collect() },
    };
    widths.get(&tap).copied().ok_or_else(missing)
}

/// The ground truth beside the box deltas that `method` compares.
pub(super) fn box_rows<'a>(method: &'static str, lesson: &Lesson<'a>) -> Result<&'a BoxRows, DistillError> {
    lesson.regression.ok_or(DistillError::Lacks { method, what: "the regions that box deltas start from" })
}

/// The values of teacher and student at `tap`, in f32.
///
/// # Shapes
/// As the networks offer them.
pub(super) fn at_tap(tap: Tap, lesson: &Lesson<'_>) -> Result<(Tensor, Value), DistillError> {
    Ok((teacher_at(tap, lesson)?, student_at(tap, lesson)?))
}

/// The teacher's value at `tap`, in f32.
///
/// # Shapes
/// As the network offers it.
pub(super) fn teacher_at(tap: Tap, lesson: &Lesson<'_>) -> Result<Tensor, DistillError> {
    Ok(in_f32(stored_teacher_at(tap, lesson)?)?.tensor().clone())
}

/// The teacher's value at `tap` in the type that it has in memory.
///
/// # Shapes
/// As the network offers it.
pub(super) fn stored_teacher_at<'a>(tap: Tap, lesson: &Lesson<'a>) -> Result<&'a Value, DistillError> {
    let missing = |source| DistillError::MissingTap { role: "teacher", source };
    let teacher = lesson.teacher.require(tap).map_err(missing)?;
    if teacher.is_tracked() {
        return Err(DistillError::TrackedTeacher { tap });
    }
    Ok(teacher)
}

/// The student's value at `tap`, in f32.
///
/// # Shapes
/// As the network offers it.
pub(super) fn student_at(tap: Tap, lesson: &Lesson<'_>) -> Result<Value, DistillError> {
    Ok(in_f32(stored_student_at(tap, lesson)?)?)
}

/// The student's value at `tap` in the type that it has in memory.
///
/// # Shapes
/// As the network offers it.
pub(super) fn stored_student_at<'a>(tap: Tap, lesson: &Lesson<'a>) -> Result<&'a Value, DistillError> {
    lesson.student.require(tap).map_err(|source| DistillError::MissingTap { role: "student", source })
}
